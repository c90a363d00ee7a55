"""Bytes in, heads out: HTTP/1.1 requests by llhttp, within bounds, without a socket.

llhttp refuses by itself what smuggles: bare LF, folded lines, blanks before a colon, NUL, Content-Length with
Transfer-Encoding or twice, bad chunk sizes. Refused here besides:

    no Host, or several          RFC 9112, 3.2 (HTTP/1.0 may go without)
    any version but 1.0 and 1.1  llhttp lets 0.9 and 2.0 through
    Transfer-Encoding with 1.0   RFC 9112, 6.1
    Upgrade or CONNECT + body    llhttp would read the body as the next message
    what is too long             414 the target, 431 the head, 413 the body
    a method llhttp lacks        405, since it may be a real one (FRONTS: answered on the Envoy front)

Upgrade and CONNECT end llhttp's work on a connection. The gate never upgrades, so the message counts as any other
and a new parser takes the rest. Trailers are dropped: a header must not come after it was judged.

Memory held for one connection: a head, a body, and one unfinished line, each within its limit plus one piece fed.

It knows no time, no front and no answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

import httptools

from sidecar.fronts import Head

PIECE: Final = 8192
"""Bytes fed at once, at most: between pieces the connection can stop reading."""

_REQUEST_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} (/[!-~]*) HTTP/1\.[01]\r\n")


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds of the check plane: bytes, counts and seconds. Above what the proxies let through themselves."""

    max_head: int = 65536
    max_target: int = 16384
    max_headers: int = 256
    max_body: int = 65536
    max_waiting: int = 64
    """Answers that one connection may be owed before the gate stops reading from it."""
    max_connections: int = 10_000
    head_s: float = 10.0
    """Time to send a request, head and body, and time to take an answer."""
    idle_s: float = 75.0
    linger_s: float = 2.0
    """How long a refused client may take to read why, before the connection is cut."""


class Refusal(NamedTuple):
    """Why the rest of this connection cannot be read. `detail` holds nothing of what the client sent."""

    status: int
    detail: str


class _Abort(Exception):
    """Ends llhttp's work from within a callback, after `refusal` was set."""


class MessageReader:
    """Reads one connection. After `feed`, look at:

    messages   heads of complete requests, in order; the reader forgets them when the caller clears the list
    refusal    set when nothing more can be read; the messages before it are good
    mid        whether a request has begun and is not complete
    continues  whether that request's body waits for a `100 Continue`; the caller resets it
    target     of the request that is under way or was refused, as far as known
    """

    __slots__ = (
        "_body",
        "_head_done",
        "_headers",
        "_keep_alive",
        "_limits",
        "_parser",
        "_received",
        "_repeated",
        "_surplus",
        "_trailed",
        "continues",
        "messages",
        "mid",
        "refusal",
        "target",
    )

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self.messages: list[Head] = []
        self.refusal: Refusal | None = None
        self.mid = False
        self.continues = False
        self.target = b""
        self._headers: dict[bytes, bytes] = {}
        self._repeated: tuple[bytes, ...] = ()
        self._surplus = 0
        self._trailed: dict[bytes, bytes] | None = None
        """The headers of a chunked request, out of the way of its trailers."""
        self._body = b""
        self._head_done = False
        self._keep_alive = False
        self._received = 0

    def feed(self, data: bytes) -> None:
        """Read up to PIECE bytes. Never raises; nothing may be fed after a refusal."""
        messages = self.messages
        before = len(messages)
        was_mid = self.mid
        if was_mid:
            self._received += len(data)
        rest = data
        try:
            while rest:
                try:
                    self._parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    rest = rest[upgrade.args[0] :]
                    self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserInvalidMethodError:
            at_start = not was_mid and len(messages) == before
            self._refuse_method(data if at_start else b"")
        except httptools.HttpParserError as error:
            if self.refusal is None:
                if isinstance(error.__context__, BaseException) and not isinstance(error.__context__, _Abort):
                    raise error.__context__ from None  # a defect of ours, not of what came
                self.refusal = Refusal(400, "not HTTP/1.1 as it should be")
        else:
            if self.mid and was_mid and len(messages) == before:
                self._bound_unfinished()

    @property
    def bodiless(self) -> bool:
        """Whether the request under way is a HEAD, whose answer has no body."""
        return self.mid and self._parser.get_method() == b"HEAD"

    # --- llhttp's callbacks, in the order in which they come ---

    def on_message_begin(self) -> None:
        self.mid = True
        self.target = b""
        self._received = 0

    def on_url(self, part: bytes) -> None:
        self.target = target = self.target + part if self.target else part
        if len(target) > self._limits.max_target:
            self._abort(414, "the target is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self._headers
        if name in headers:
            self._repeat(name, value)
        else:
            headers[name] = value.rstrip()  # llhttp lets no other blanks through than HTTP's

    def on_headers_complete(self) -> None:
        parser = self._parser
        headers = self._headers
        limits = self._limits
        if len(headers) + self._surplus > limits.max_headers:
            self._abort(431, "too many headers")
        if self._received > limits.max_head - 2 * PIECE:
            size = len(self.target) + sum(len(name) + len(value) + 4 for name, value in headers.items())
            if size > limits.max_head:
                self._abort(431, "the head is too long")
        keep_alive = parser.should_keep_alive()
        if keep_alive and b"connection" not in headers and b"proxy-connection" not in headers:
            version = "1.1"  # to llhttp no other is kept alive unasked; asking it formats a string
        else:
            version = parser.get_http_version()
        if version == "1.1":
            if b"host" not in headers:
                self._abort(400, "no Host header")
            self._keep_alive = keep_alive
        elif version == "1.0":
            if b"transfer-encoding" in headers:
                self._abort(400, "a transfer coding in HTTP/1.0")
            self._keep_alive = False
        else:
            self._abort(400, "neither HTTP/1.1 nor HTTP/1.0")
        if self._repeated and b"host" in self._repeated:
            self._abort(400, "several Host headers")
        self._head_done = True
        if b"content-length" in headers or b"transfer-encoding" in headers:
            self._expect_body(version)

    def on_body(self, part: bytes) -> None:
        self._body = body = self._body + part if self._body else part
        if len(body) > self._limits.max_body:
            self._abort(413, "the body is too long")

    def on_message_complete(self) -> None:
        headers, self._headers = self._headers, {}
        if self._trailed is not None:
            headers, self._trailed = self._trailed, None
        self.messages.append(
            Head(
                self._parser.get_method(),
                self.target,
                headers,
                self._repeated,
                self._body,
                self._keep_alive,
            )
        )
        self.mid = False
        self.continues = False
        self._head_done = False
        if self._repeated or self._surplus:
            self._repeated = ()
            self._surplus = 0
        if self._body:
            self._body = b""

    # --- what they share ---

    def _repeat(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return
        self._surplus += 1
        if self._surplus > self._limits.max_headers:
            self._abort(431, "too many headers")
        self._headers[name] += b", " + value.rstrip()
        if name != b"x-forwarded-for":
            self._repeated += (name,)

    def _expect_body(self, version: str) -> None:
        headers = self._headers
        chunked = b"transfer-encoding" in headers
        length = 0 if chunked else int(headers[b"content-length"])
        if not chunked and not length:
            return
        if self._parser.should_upgrade():
            self._abort(400, "a body after Upgrade or CONNECT")
        if length > self._limits.max_body:
            self._abort(413, "the body is too long")
        if version == "1.1" and headers.get(b"expect", b"").lower() == b"100-continue":
            self.continues = True
        if chunked:
            self._trailed = headers
            self._headers = {}

    def _bound_unfinished(self) -> None:
        """A line that llhttp has not handed over yet counts by the bytes received for this request."""
        limits = self._limits
        if len(self._headers) + self._surplus > limits.max_headers:
            self.refusal = Refusal(431, "too many headers")
        elif not self._head_done:
            if self._received > limits.max_head:
                self.refusal = Refusal(431, "the head is too long")
        elif self._received > limits.max_head + 2 * limits.max_body:
            self.refusal = Refusal(413, "the body is too long")

    def _refuse_method(self, line: bytes) -> None:
        """llhttp gives up before the target; the whole line shows whether it was a request at all."""
        if found := _REQUEST_LINE.match(line):
            self.target = found[1]
            self.refusal = Refusal(405, "an unknown method")
        else:
            self.refusal = Refusal(400, "not HTTP/1.1 as it should be")

    def _abort(self, status: int, detail: str) -> None:
        self.refusal = Refusal(status, detail)
        raise _Abort
