"""A loopback endpoint for tests: proper chat completions that are a function of the prompt, and trouble on order.

`trouble(prompt, time)` names what the server does the `time`-th time (from 0) that it is asked the same thing, or nothing for a proper reply:

    busy           429 with Retry-After          hang           no reply for `hang_s`
    broken         500                           cut            half a body
    redirect       307 to another port           not json       text
    HTTP NNN       that status                   wrong shape    JSON that is no chat completion, or no probabilities
    refusal        proper; says REFUSAL          out of range   proper; says 137
    silent         proper; no log-probabilities  filtered       proper; no content, finish_reason content_filter
    free           proper; no usage              endless        a body without end
    drip           a body that comes slowly      packed         a gzip body
    echo           proper; the text is the Authorization header
"""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROPER = ("", "refusal", "out of range", "silent", "filtered", "free", "echo")
Payload = dict[str, Any]


@dataclass(kw_only=True)
class Served:
    """A running server and what it saw. `asked` and `answered` count by canonical payload; only whole proper replies are answers."""

    url: str = ""
    model: str = "judge"
    key: str | None = None
    retry_after: str = "0"
    hang_s: float = 1.0
    trouble: Callable[[str, int], str] = lambda _prompt, _time: ""
    says: Callable[[Payload], str] = lambda payload: f"reply {fingerprint(json.dumps(payload, sort_keys=True))[:8]}"
    seen: Callable[[Payload], str] = lambda payload: prompt_of(payload)  # what the first tokens' probabilities are a function of
    asked: Counter[str] = field(default_factory=Counter[str])
    answered: Counter[str] = field(default_factory=Counter[str])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    elsewhere: list[dict[str, str]] = field(default_factory=list[dict[str, str]])  # headers that followed a redirect
    elsewhere_url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"{self.url}#{self.model}"


@contextmanager
def judge_server(served: Served | None = None) -> Generator[Served]:
    """Serve until the block ends. What the server does is set on `Served`, also while it runs."""
    served = served or Served()
    server, elsewhere = _Server(served, _Chat), _Server(served, _Elsewhere)
    served.url, served.elsewhere_url = (f"http://127.0.0.1:{each.server_port}/v1" for each in (server, elsewhere))
    threads = [threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True) for each in (server, elsewhere)]
    for thread in threads:
        thread.start()
    try:
        yield served
    finally:
        served.closing.set()
        for each, thread in zip((server, elsewhere), threads, strict=True):
            each.shutdown()
            each.server_close()
            thread.join()


def fingerprint(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def prompt_of(payload: Payload) -> str:
    return payload["messages"][-1]["content"]


def top_tokens(prompt: str, trouble: str = "") -> list[tuple[str, float]]:
    """Twenty tokens and their log-probabilities, a function of the prompt: integers, some with a space, and words.

    A prompt that asks for "the number N" gets nearly all of its probability on N.
    """
    stream = random.Random(fingerprint(prompt))
    if trouble == "refusal":
        weights = {"REF": 0.9, "CODE": 0.02, "I": 0.01, "50": 0.001}
    elif trouble == "out of range":
        weights = {"137": 0.9, "101": 0.05, "-5": 0.01, "\u0665": 0.01, "5.0": 0.01, "1_0": 0.005, "+5": 0.005}
    elif named := re.search(r"the number (\d+)", prompt):
        weights = {named[1]: 0.99, " " + named[1]: 0.005, "The": 0.001}
    else:
        numbers = stream.sample(range(101), 12)
        weights = {str(number): stream.random() for number in numbers} | {f" {numbers[0]}": stream.random()}
        weights |= {word: 0.3 * stream.random() for word in ("The", "Score", "CODE", "REF", "I", "**", "\u0665\u0665")}
    total = math.fsum(weights.values()) / 0.98
    return sorted(((token, math.log(weight / total)) for token, weight in weights.items()), key=lambda pair: -pair[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, served: Served, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.served = served

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    @property
    def served(self) -> Served:
        assert isinstance(self.server, _Server)
        return self.server.served

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(length or len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class _Elsewhere(_Handler):
    """Where redirects lead: it notes who came."""

    def do_POST(self) -> None:
        self.served.elsewhere.append(dict(self.headers))
        self.send(200, b"{}")

    def do_GET(self) -> None:
        self.do_POST()


class _Chat(_Handler):
    def do_POST(self) -> None:
        served = self.served
        payload: Payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = json.dumps(payload, sort_keys=True)
        with served.lock:
            time = served.asked[name]
            served.asked[name] += 1
            served.headers.append(dict(self.headers))
        trouble = served.trouble(prompt_of(payload), time)
        if self.path != "/v1/chat/completions":
            trouble = "HTTP 404"
        if served.key is not None and self.headers.get("Authorization") != f"Bearer {served.key}":
            trouble = "HTTP 401"
        if trouble not in PROPER:
            with suppress(OSError):
                self.misbehave(trouble, payload, time)
            return
        self.send(200, json.dumps(self.completion(payload, trouble)).encode())
        with served.lock:
            served.answered[name] += 1

    def completion(self, payload: Payload, trouble: str) -> Payload:
        """A proper reply."""
        top = top_tokens(self.served.seen(payload), trouble)
        scored = payload.get("logprobs") is True
        text = top[0][0] if scored else "I cannot do that." if trouble == "refusal" else self.served.says(payload)
        if trouble == "echo":
            text = f"you sent {self.headers.get('Authorization')}"
        listed = [{"token": token, "logprob": logprob, "bytes": list(token.encode())} for token, logprob in top][: payload.get("top_logprobs", 0)]
        choice: Payload = {
            "index": 0,
            "message": {"role": "assistant", "content": None if trouble == "filtered" else text, "refusal": None},
            "logprobs": {"content": [{**listed[0], "top_logprobs": listed}]} if scored and trouble not in ("silent", "filtered") else None,
            "finish_reason": "content_filter" if trouble == "filtered" else "length" if scored else "stop",
        }
        usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
        made: Payload = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": payload["model"], "choices": [choice]}
        return made if trouble == "free" else {**made, "usage": usage}

    def misbehave(self, trouble: str, payload: Payload, time: int) -> None:
        served = self.served
        proper = self.completion(payload, "")
        body = json.dumps(proper).encode()
        error = json.dumps({"error": {"message": f"no good\x1b[31m: {self.headers.get('Authorization')}", "type": "t"}}).encode()
        match trouble:
            case "busy":
                self.send(429, error, {"Retry-After": served.retry_after})
            case "broken":
                self.send(500, b"<html>oops</html>")
            case "hang":
                served.closing.wait(served.hang_s)
                self.close_connection = True
            case "cut":
                self.send(200, body[: len(body) // 2], length=len(body))
                self.close_connection = True
            case "redirect":
                self.send(307, b"", {"Location": f"{served.elsewhere_url}/chat/completions"})
            case "not json":
                self.send(200, [b"<html>one moment</html>", body[:-20], b"", b"\xff\xfe\x00", b"[" * 100_000][time % 5])
            case "wrong shape":
                self.send(200, json.dumps(_wrong(proper, int(fingerprint(prompt_of(payload))[:4], 16) + time)).encode())
            case "endless" | "drip":
                self.send(200, b"", length=10**12)
                while not served.closing.wait(0.05 if trouble == "drip" else 0):
                    self.wfile.write(b" " * (1 if trouble == "drip" else 1_000_000))
                    self.wfile.flush()
            case "packed":
                self.send(200, gzip.compress(body), {"Content-Encoding": "gzip"})
            case _:
                self.send(int(trouble.removeprefix("HTTP ")), error)


def _wrong(proper: Payload, which: int) -> Any:
    """JSON of another shape, one of several."""
    choice = proper["choices"][0]

    def with_top(*top: Any) -> Payload:
        return {**proper, "choices": [{**choice, "logprobs": {"content": [{"token": "5", "logprob": 0, "top_logprobs": list(top)}]}}]}

    shapes: list[Any] = [
        {},
        [],
        None,
        "57",
        57,
        {"error": {"message": "one moment"}},
        {**proper, "choices": []},
        {**proper, "choices": None},
        {**proper, "choices": [None]},
        {**proper, "choices": [{**choice, "message": "57"}]},
        {**proper, "choices": [{**choice, "message": {"content": 57}}]},
        {**proper, "choices": [{**choice, "message": {"content": [{"type": "text", "text": "57"}]}}]},
        {**proper, "choices": [{**choice, "finish_reason": 7}]},
    ]
    if choice["logprobs"]:
        shapes += [
            with_top({"token": "57", "logprob": 0.5}),
            with_top({"token": "57", "logprob": math.nan}),
            with_top({"token": "57", "logprob": -math.inf}),
            with_top({"token": "57", "logprob": "-0.1"}),
            with_top({"token": "57", "logprob": True}),
            with_top({"token": "57", "logprob": None}),
            with_top({"token": 57, "logprob": -0.1}),
            with_top({"token": "57"}),
            with_top("57"),
            with_top({"token": "57", "logprob": -0.1}, {"token": "58", "logprob": -0.1}),
            {**proper, "choices": [{**choice, "logprobs": "none"}]},
        ]
    return shapes[which % len(shapes)]
