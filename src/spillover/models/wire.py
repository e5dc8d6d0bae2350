"""One call to an endpoint, through the `openai` SDK with everything of the SDK that decides by itself turned off.

No retry, no redirect, nothing from the SDK's environment variables, no body that is packed, too long or too slow. An attempt brings JSON or
raises `NoReplyError`, which says whether another is worth it. The key goes into one header and out of every text that came back.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import openai

from spillover.models.addresses import find_key, is_loopback, key_variable
from spillover.records import SpilloverError

LARGEST_REPLY = 10_000_000  # bytes
SHORTEST_KEY = 8  # what is shorter is a word ("none", "EMPTY") that may stand in an answer, not a secret
TRY_AGAIN = frozenset({408, 409, 425, 429})  # and every 3xx and 5xx
NO_USE = {402: "asks for payment", 403: "forbids this", 404: "has no such model, or no such path"}


class NoReplyError(Exception):
    """An attempt without a reply: worth another one, final for this prompt, or for every prompt. `free` where no work was done for it."""

    def __init__(self, reason: str, *, said: str = "", scope: Literal["attempt", "prompt", "every"] = "attempt", free: bool = False, wait_s: float = 0) -> None:
        super().__init__(reason)
        self.reason, self.said, self.scope, self.free, self.wait_s = reason, said, scope, free, wait_s


class Wire:
    """How to reach one base URL. `identity` is what errors call it."""

    def __init__(self, identity: str, base_url: str, timeout_s: float) -> None:
        self.identity, self.base_url, self.timeout_s = identity, base_url, timeout_s
        self.answered = False  # whether it ever replied properly: then a 403 is about one prompt
        self._key = find_key(base_url)

    def open(self) -> openai.OpenAI:
        """A client for any number of threads, to be closed. Proxies of the environment are used, but never to this machine itself."""
        local = is_loopback(urlsplit(self.base_url).hostname or "")
        try:
            transport = openai.DefaultHttpxClient(follow_redirects=False, trust_env=not local, event_hooks={"response": [self._bound]})
        except (ImportError, ValueError):
            raise SpilloverError("the proxy that the environment names cannot be used; set HTTPS_PROXY to an http:// address or unset it") from None
        key = self._key or "none"
        return _Client(base_url=self.base_url, api_key=key, admin_api_key="", timeout=self.timeout_s, max_retries=0, http_client=transport)

    def post(self, client: openai.OpenAI, path: str, payload: dict[str, Any]) -> Any:
        """The JSON that the endpoint answers. Raises NoReplyError."""
        try:
            return json.loads(client.post(path, cast_to=httpx2.Response, body=payload).content)
        except openai.APIStatusError as error:
            raise self._refusal(error.response) from None
        except openai.APITimeoutError:
            raise NoReplyError(f"no reply within {self.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise NoReplyError("no connection" if isinstance(error.__cause__, httpx2.ConnectError) else "the connection was cut") from None
        except (ValueError, RecursionError):
            raise NoReplyError("the reply is not JSON") from None

    def clean(self, text: str) -> str:
        """Text from the endpoint, without the key and without what is no Unicode."""
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
        return text.replace(self._key, "[key]") if self._key and len(self._key) >= SHORTEST_KEY else text

    def _refusal(self, response: httpx2.Response) -> NoReplyError:
        """What a status that is no success means."""
        status = response.status_code
        if status == 401:
            asks = "refuses the key" if self._key else "asks for a key"
            return NoReplyError(f"{self.identity} {asks} (HTTP 401); set {key_variable(self.base_url)} to a key that it takes", scope="every", free=True)
        said = self._said(response)
        if status in NO_USE and not (status == 403 and self.answered):
            why = f"HTTP {status}: {said}" if said else f"HTTP {status}"
            advice = "check the address, the model's name and what the key may do"
            return NoReplyError(f"{self.identity} {NO_USE[status]} ({why}); {advice}", scope="every", free=True)
        if status in TRY_AGAIN or not 400 <= status < 500:
            return NoReplyError(f"HTTP {status}", said=said, free=status < 500, wait_s=_retry_after_s(response.headers.get("retry-after", "")))
        return NoReplyError(f"HTTP {status}", said=said, scope="prompt", free=True)

    def _said(self, response: httpx2.Response) -> str:
        """The message of an error body, if there is one: short, printable, without the key."""
        try:
            body = json.loads(response.content)
            error = body.get("error") or body
            message = error if isinstance(error, str) else error.get("message") or error.get("detail")
        except (ValueError, RecursionError, AttributeError):
            return ""
        text = self.clean(message if isinstance(message, str) else "")
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:160]

    def _bound(self, response: httpx2.Response) -> None:
        """Nothing packed is unpacked, and nothing endless is read."""
        response.headers.pop("content-encoding", None)
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Bounded(response.stream, time.monotonic() + self.timeout_s)


class _Client(openai.OpenAI):
    """The SDK's client, with no header from the environment."""

    @property
    def default_headers(self) -> dict[str, str | openai.Omit]:
        return {"Accept": "application/json", "Accept-Encoding": "identity", "Content-Type": "application/json", "User-Agent": "spillover"}


class _Bounded(httpx2.SyncByteStream):
    """A body of limited size that must be there in time."""

    def __init__(self, stream: httpx2.SyncByteStream, deadline_s: float) -> None:
        self._stream, self._deadline_s = stream, deadline_s

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > LARGEST_REPLY:
                raise NoReplyError(f"a reply of more than {LARGEST_REPLY:,} bytes")
            if time.monotonic() > self._deadline_s:
                raise httpx2.ReadTimeout("the body came too slowly")
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _retry_after_s(header: str) -> float:
    """Seconds to wait: a number of them or a date; 0 for neither."""
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]+)?", header.strip()):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
