"""Where an endpoint is and which key it gets: one address, one environment variable, so a key goes nowhere else.

A user name or password in an address is refused and never printed. Nothing is sent from here.
"""

from __future__ import annotations

import ipaddress
import os
import re
from urllib.parse import SplitResult, urlsplit

from spillover.records import SpilloverError


def parse_address(address: str) -> tuple[str, str]:
    """`https://HOST/v1#MODEL` as (base URL, model). Raises SpilloverError for anything else; a user name or password is never printed."""
    url, _, model = address.partition("#")
    personal = "@" in url or re.search(".@.*/", model)  # a password may hold a "#"
    if personal or "?" in url:
        what = "a user name or password" if personal else "a query"
        raise SpilloverError(f"the address of an endpoint holds {what}; write it as https://HOST/v1#MODEL, and put a key into its environment variable")
    refusal = SpilloverError(f"{address!r} is no address of an endpoint; write it as https://HOST/v1#MODEL")
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and _is_host(parts) and parts.port != 0
    except ValueError:
        raise refusal from None
    if not named or not re.fullmatch(r"[!-\[\]-~]+", url) or not model.isprintable() or model != model.strip():
        raise refusal
    if not model:
        raise SpilloverError(f"the address {url} names no model; write it as {url}#MODEL")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}", model


def key_variable(base_url: str) -> str:
    """The environment variable that holds an endpoint's key: SPILLOVER_KEY_ and its host, and its port where the URL names one.

    A dot is written as one underscore and a dash as two, so that no two hosts share a variable (a host name holds no underscore, see `find_key`).
    """
    parts = urlsplit(base_url)
    place = f"{parts.hostname}" if parts.port is None else f"{parts.hostname}_{parts.port}"
    return "SPILLOVER_KEY_" + re.sub("[^A-Z0-9]", "_", place.upper().replace("-", "__"))


def find_key(base_url: str) -> str | None:
    """The key of this endpoint and of no other. Raises SpilloverError when it would go in plain text over a network."""
    name, parts = key_variable(base_url), urlsplit(base_url)
    if not os.environ.get(name) and (parts.scheme, parts.netloc) == ("https", "api.openai.com"):
        name = "OPENAI_API_KEY"
    key = os.environ.get(name, "").strip()
    if not key:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SpilloverError(f"{name} holds a character that no key has; set it again")
    if "_" in (parts.hostname or ""):
        raise SpilloverError(f"{parts.hostname} holds an underscore, as no host name does; the key in {name} is not sent there")
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise SpilloverError(f"the key in {name} would go to {base_url} in plain text; use https, or unset {name} if it needs no key")
    return key


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_host(parts: SplitResult) -> bool:
    """Whether a host is named. Raises ValueError for brackets around what is no address."""
    name = parts.hostname or ""
    if "[" in parts.netloc:
        return bool(ipaddress.IPv6Address(name))
    return re.fullmatch(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", name) is not None
