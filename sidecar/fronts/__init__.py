"""Fronts: how each kind of proxy asks, and in which form it is answered.

    proxy ──bytes──> wire.MessageReader ──Head──> Front.read ──Request──> the gate
    proxy <──bytes── http.CheckProtocol <─bytes── Front.write <─Verdict──────┘

`http` owns the connection: order, limits, time. `wire` turns bytes into heads, `heads` remembers the ones
that come again and again. One small file per proxy protocol (`nginx`, `envoy`, `forward`, `api`) says which
headers carry which datum and what the proxy does with an answer; `datum` reads one header's value, `credentials` what
the client presents, `answers` formats what the protocols share.

A front reads only its own headers: what another proxy would have set, the client may have sent.

Nothing here decides: a front finds out what was asked and puts the verdict into words. It knows no
rule, counter or store.
"""

from __future__ import annotations

from typing import Final, Protocol

from sidecar.core.model import Request, Verdict

UNKNOWN_ADDRESS: Final = "unknown"
"""The one shared subject of all requests whose client's address is absent or unreadable."""


class Head:
    """One HTTP message as it came over the wire, before a front has made sense of it.

    method, target  the request line's, bytes as sent
    headers         lower-case name -> value without surrounding blanks; lines of one name are joined by ", "
    repeated        names that came more than once, except X-Forwarded-For, whose lines are one list by definition
    body            complete, with the transfer coding undone; trailers are dropped
    keep_alive      whether the connection may serve another request after this one
    """

    __slots__ = ("body", "headers", "keep_alive", "method", "repeated", "target")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: dict[bytes, bytes],
        repeated: tuple[bytes, ...] = (),
        body: bytes = b"",
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.repeated = repeated
        self.body = body
        self.keep_alive = keep_alive


class Unreadable(Exception):
    """What came is no question that could be put to the gate; answered with `status`, and nobody is charged.

    Its text is for the one who sent it. `methods` goes into a 405's `Allow`.
    """

    def __init__(self, status: int, detail: str, methods: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.methods = methods


class Waiter(Protocol):
    """Who waits for a verdict that the gate could not give at once."""

    def answer(self, verdict: Verdict) -> None:
        """Called once, on the loop, after the `check` that returned None; does nothing if the client has gone."""
        ...


class Front(Protocol):
    """One proxy protocol. `read` and `write` are pure and cheap: they run for every request.

    name           of the closed set `nginx`, `envoy`, `forward`, `api`
    index          row of the metrics' flat array, in that order
    path           where it is asked: exactly there, or anywhere below when it ends in "/"
    single_valued  lower-case headers that make a request malformed when they come twice
    """

    @property
    def name(self) -> str: ...
    @property
    def index(self) -> int: ...
    @property
    def path(self) -> bytes: ...
    @property
    def single_valued(self) -> frozenset[bytes]: ...

    def read(self, head: Head) -> Request:
        """What the proxy asks about. What cannot be judged has `malformed` set, with a reason free of
        the client's text. Raises Unreadable when there is no question at all."""
        ...

    def write(self, request: Request, verdict: Verdict, request_id: bytes, keep_alive: bool) -> bytes:
        """The whole HTTP response in the form that this proxy understands."""
        ...

    def refuse(self, request: Request, verdict: Verdict, request_id: bytes, keep_alive: bool) -> bytes:
        """The response to what never became a question: a parser's refusal, or Unreadable."""
        ...
