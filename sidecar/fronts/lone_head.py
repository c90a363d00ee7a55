"""A whole head that arrives alone, the usual case, read sooner: an eighth less for the whole way from bytes to bytes.

`wire.MessageReader` takes requests in any pieces. A proxy's question comes in one piece, without a body, while
nothing else is under way. Then llhttp need only say that the bytes are well formed and hand over the headers;
the rest follows from the bytes as a whole:

    one request    as many different names as lines: a second request would bring lines that are no headers,
                   a repeated header one name less
    complete       the data ends in an empty line, and no body is announced
    kept alive     no Connection header says anything but keep-alive (llhttp heeds Proxy-Connection too)

Whatever does not fit is read by MessageReader, which alone refuses, and which is this one's oracle in the tests: None
here only means "not so simple". Nothing is kept from one head to the next, so all connections share one reader.

It knows no connection, and no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httptools

from sidecar.fronts import Head
from sidecar.fronts.wire import PIECE, WireLimits

_KEEP_ALIVE: Final = (None, b"keep-alive", b"Keep-Alive")


class _Callbacks:
    """What httptools looks for in a protocol. A function, not a method: it runs once for each header."""

    def __init__(self, on_header: Callable[[bytes, bytes], None]) -> None:
        self.on_header = on_header


def lone_head_reader(limits: WireLimits) -> Callable[[bytes], Head | None]:
    """A function that reads the one request that is exactly its argument; None for all that is not so simple."""
    longest = min(PIECE, limits.max_head, limits.max_target)
    most_lines = limits.max_headers
    headers: dict[bytes, bytes] = {}

    def on_header(name: bytes, value: bytes) -> None:
        headers[name.lower()] = value.rstrip()  # llhttp lets no other blanks through than HTTP's

    callbacks = _Callbacks(on_header)
    feed = httptools.HttpRequestParser(callbacks).feed_data

    def read(data: bytes) -> Head | None:
        nonlocal feed, headers
        if not data.endswith(b"\r\n\r\n") or len(data) > longest:
            return None
        try:
            feed(data)
            method, target, rest = data.split(b" ", 2)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError):
            feed = httptools.HttpRequestParser(callbacks).feed_data
            headers = {}
            return None
        found, headers = headers, {}
        if (
            len(found) == data.count(b"\r\n") - 2
            and len(found) <= most_lines
            and rest.startswith(b"HTTP/1.1\r\n")
            and b"host" in found
            and b"transfer-encoding" not in found
            and found.get(b"content-length", b"0") == b"0"
            and found.get(b"connection") in _KEEP_ALIVE
            and found.get(b"proxy-connection") in _KEEP_ALIVE
        ):
            return Head(method, target, found)
        # The parser may be waiting for a body, or may have ended its connection.
        feed = httptools.HttpRequestParser(callbacks).feed_data
        return None

    return read
