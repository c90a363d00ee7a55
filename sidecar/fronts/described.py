"""A request described in words, as the message in which each kind of proxy would ask about it.

For explaining and for tests: what a front reads from this is what it reads from its proxy. What the proxy sets
itself replaces what the client sent under that name, as it does in the shipped configurations.

It judges nothing, and knows no proxy beyond the headers that its front reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, assert_never

import orjson

from sidecar.fronts import Head

FrontName = Literal["nginx", "envoy", "forward", "api"]


class Described(NamedTuple):
    """What a client at `address` asks for. `path` is the raw target, query included; "" is no host.

    `headers` are the client's own, and those that an operator's proxy adds (`X-Original-TLS`, a cost).
    """

    address: str
    method: str
    host: str
    path: str
    headers: Mapping[str, str]


def asked_by(front: FrontName, described: Described, *, forwarded: bool = False) -> Head:
    """The message of that front's proxy. `forwarded`: Envoy tells the address in X-Forwarded-For.

    Raises UnicodeEncodeError for a method that is not ASCII, which no proxy would pass on.
    """
    address, method, host, path, _ = described
    match front:
        case "nginx":
            own = {"x-real-ip": address, "x-original-method": method, "x-original-uri": path}
            return _message(
                "GET", "/auth/nginx", described, own | ({"x-forwarded-host": host} if host else {})
            )
        case "envoy":
            own = {"x-forwarded-for" if forwarded else "x-real-ip": address}
            return _message(method, f"/auth/envoy{path}", described, own | ({"host": host} if host else {}))
        case "forward":
            own = {"x-forwarded-for": address, "x-forwarded-method": method, "x-forwarded-uri": path}
            return _message(
                "GET", "/auth/forward", described, own | ({"x-forwarded-host": host} if host else {})
            )
        case "api":
            return Head(b"POST", b"/v1/check", {}, body=orjson.dumps(described._asdict()))
        case _:
            assert_never(front)


def _message(method: str, target: str, described: Described, own: Mapping[str, str]) -> Head:
    headers: dict[bytes, bytes] = {}
    repeated: list[bytes] = []
    for name, value in described.headers.items():
        lower = name.lower().encode()
        if lower == b"content-length":
            lower = b"x-original-length"  # the question itself has no body
        if lower in headers:
            repeated.append(lower)
        headers[lower] = value.strip(" \t").encode()
    headers |= {name.encode(): value.encode() for name, value in own.items()}
    return Head(
        method.encode("ascii"),
        target.encode(),
        headers,
        repeated=tuple(name for name in repeated if name.decode() not in own),
    )
