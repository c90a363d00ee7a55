"""Doubles for the check plane: a gate, a transport, a loop and a clock that behave, in virtual time.

Unfaithful: `Wire` takes what is written at once (until told that the client reads no more), and closes without
a turn of the loop between; `Loop` runs callbacks only when told to. Real sockets are in `test_http_sockets`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from sidecar.core.addresses import AddressSet
from sidecar.core.credentials import HeaderPair
from sidecar.core.model import Dimension, Limit, Quota, Reason, Request, Verdict
from sidecar.fronts import Front, Head, Waiter
from sidecar.fronts.api import ApiFront
from sidecar.fronts.credentials import CredentialReader, opaque, registry
from sidecar.fronts.envoy import EnvoyFront
from sidecar.fronts.forward import ForwardFront
from sidecar.fronts.heads import HeadTable
from sidecar.fronts.http import CheckProtocol
from sidecar.fronts.nginx import NginxFront
from sidecar.fronts.plane import CheckPlane
from sidecar.fronts.wire import WireLimits

KEYS = (b"x-api-key",)
OPAQUE = opaque(KEYS)
REGISTRY = registry(
    headers=KEYS,
    bearer=True,
    server=HeaderPair(b"x-app-id", b"x-app-token"),
    client=HeaderPair(b"x-client-application-id", b"x-client-token"),
)
TRUSTED = AddressSet(["10.0.0.0/8"])

PER_IP = Limit("per-ip", (Dimension("ip"),), permits=100, window_ms=60_000, slice_ms=1000)
BURST = Limit("burst", (Dimension("ip"),), permits=10, window_ms=1_500, slice_ms=25)
QUOTAS = (Quota(PER_IP, 50, 30), Quota(BURST, 9, 1))
POLICY = b'"per-ip";q=100;w=60, "burst";q=10'

ALLOWED = Verdict(Reason.OK, quotas=QUOTAS, policy_header=POLICY)
LIMITED = Verdict(
    Reason.RATE_LIMITED,
    quotas=QUOTAS,
    policy_header=POLICY,
    retry_after_s=30,
    violated=("per-ip",),
    rule="per-ip",
)
ATTACKED = Verdict(Reason.ATTACK_MODE, retry_after_s=60)
NO_KEY = Verdict(Reason.CREDENTIAL_MISSING)
WRONG_METHOD = Verdict(Reason.METHOD, methods=("GET", "HEAD"))


READABLE = {
    "access-control-allow-origin": "https://app.example",
    "vary": "Origin",
    "access-control-expose-headers": "RateLimit, RateLimit-Policy, Retry-After, X-Request-Id",
}
"""What a refusal says besides to a page of this origin."""


def readable(refusal: Verdict) -> Verdict:
    """The same refusal, for a page of READABLE's origin."""
    found = copy(refusal)
    found.allow_origin = b"https://app.example"
    return found


def known(verdict: Verdict) -> Verdict:
    """The same verdict on a principal of whom everything is known."""
    found = copy(verdict)
    found.identity = b"X-Portcullis-Key: k_1\r\nX-Portcullis-Tenant: acme\r\nX-Portcullis-Plan: gold\r\n"
    return found


def nginx(credentials: CredentialReader = OPAQUE) -> NginxFront:
    return NginxFront(credentials=credentials, legacy_headers=False)


def envoy(credentials: CredentialReader = OPAQUE, *, forwarded: bool = False) -> EnvoyFront:
    return EnvoyFront(
        credentials=credentials,
        trusted=TRUSTED,
        envoy_address="forwarded" if forwarded else "real_ip",
        legacy_headers=False,
    )


def forward(credentials: CredentialReader = OPAQUE) -> ForwardFront:
    return ForwardFront(credentials=credentials, trusted=TRUSTED, legacy_headers=False)


def api(credentials: CredentialReader = OPAQUE) -> ApiFront:
    return ApiFront(credentials=credentials, legacy_headers=False)


def head(target: bytes, headers: dict[bytes, bytes], *, method: bytes = b"GET", body: bytes = b"") -> Head:
    return Head(method, target, headers, body=body)


class Answer(NamedTuple):
    """One HTTP response, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return cast("dict[str, object]", json.loads(self.body))


def told(answer: Answer) -> list[str]:
    """Who the application is told that the client is: key, tenant, plan."""
    return [answer.headers[f"x-portcullis-{name}"] for name in ("key", "tenant", "plan")]


def parse(data: bytes, *, bodiless: bool = False) -> list[Answer]:
    """All responses in `data`, which must hold nothing else."""
    found = []
    while data:
        raw, blank, data = data.partition(b"\r\n\r\n")
        assert blank, raw
        first, *lines = raw.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        pairs = [line.split(": ", 1) for line in lines]
        names = [name.lower() for name, _ in pairs]
        assert len(set(names)) == len(names), f"a header came twice: {names}"
        headers = {name.lower(): value for name, value in pairs}
        length = 0 if bodiless or status == "100" else int(headers["content-length"])
        assert len(data) >= length
        found.append(Answer(int(status), headers, data[:length]))
        data = data[length:]
    return found


def only(data: bytes, *, bodiless: bool = False) -> Answer:
    (answer,) = parse(data, bodiless=bodiless)
    return answer


def statuses(data: bytes) -> list[int]:
    """The statuses in `data`, whatever the bodies are."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


class Timer:
    def cancel(self) -> None:
        pass


@dataclass
class Loop:
    """Callbacks wait until `run`."""

    ready: list[Callable[[], None]] = field(default_factory=list)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.ready.append(callback)

    def call_later(self, _delay_s: float, _callback: Callable[[], None]) -> Timer:
        return Timer()

    def run(self) -> None:
        while self.ready:
            self.ready.pop(0)()


@dataclass
class Gate:
    """Says what `verdicts` has for the address, else allows; addresses in `slow` wait for `answer_all`."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    asked: list[Request] = field(default_factory=list)
    waiting: list[tuple[Request, Waiter]] = field(default_factory=list)
    allowed: int = 0

    def check(self, request: Request, waiter: Waiter) -> Verdict | None:
        self.asked.append(request)
        if request.malformed is None and request.address in self.slow:
            self.waiting.append((request, waiter))
            return None
        return self.judge(request)

    def judge(self, request: Request) -> Verdict:
        if request.malformed is not None:
            return Verdict(Reason.MALFORMED)
        verdict = self.verdicts.get(request.address, ALLOWED)
        self.allowed += verdict.allowed
        return verdict

    def answer(self, index: int) -> None:
        request, waiter = self.waiting.pop(index)
        waiter.answer(self.judge(request))

    def answer_all(self) -> None:
        while self.waiting:
            self.answer(0)


class Wire(asyncio.Transport):
    """The transport of one connection; `sent` is what the client got."""

    def __init__(self) -> None:
        super().__init__()
        self.protocol: CheckProtocol
        self.sent = b""
        self.writes = 0
        self.reading = True
        self.closed = False
        self.half_closed = False
        self.aborted = False
        self.room: int | None = None
        """Bytes that the client still takes; None: any number."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        assert not self.half_closed
        self.writes += 1
        self.sent += data
        if self.room is not None:
            self.room -= len(data)
            if self.room < 0:
                self.protocol.pause_writing()

    def takes_again(self) -> None:
        self.room = None
        self.protocol.resume_writing()

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    @property
    def over(self) -> bool:
        """No further answer will come."""
        return self.closed or self.half_closed


class Plane:
    """A check plane with every front, a gate, and as many connections as a test opens."""

    def __init__(
        self,
        *,
        gate: Gate | None = None,
        limits: WireLimits | None = None,
        remember: bool = True,
        credentials: CredentialReader = OPAQUE,
    ) -> None:
        self.gate = gate or Gate()
        self.clock = Clock()
        self.loop = Loop()
        self.observed: list[tuple[int, Request, Verdict, bytes, float]] = []
        self.heads = HeadTable(credential_headers=credentials.names, room=4096 if remember else 0)
        fronts: tuple[Front, ...] = (
            nginx(credentials),
            envoy(credentials),
            forward(credentials),
            api(credentials),
        )
        self.plane = CheckPlane(
            fronts=fronts,
            heads=self.heads,
            check=self.gate.check,
            observe=lambda *told: self.observed.append(told),
            limits=limits,
            clock=self.clock,
        )
        self.plane.start(cast(asyncio.AbstractEventLoop, self.loop))

    def connect(self) -> Wire:
        wire = Wire()
        wire.protocol = CheckProtocol(self.plane)
        wire.protocol.connection_made(wire)
        return wire

    def send(self, wire: Wire, *pieces: bytes) -> bytes:
        """Feed the pieces, as far as the gate reads them, and say what was sent in return."""
        before = len(wire.sent)
        for piece in pieces:
            if not wire.closed:
                wire.protocol.data_received(piece)
        self.loop.run()
        return wire.sent[before:]

    def sweep(self, after_s: float) -> None:
        self.clock.now_s += after_s
        for connection in tuple(self.plane.connections):
            connection.inspect(self.clock.now_s)


def ask_forward(
    address: str = "203.0.113.9", *, method: str = "GET", uri: str = "/", more: Iterable[str] = ()
) -> bytes:
    """A question on the forward front, complete."""
    lines = (
        "GET /auth/forward HTTP/1.1",
        "Host: gate",
        f"X-Forwarded-For: {address}",
        f"X-Forwarded-Method: {method}",
        f"X-Forwarded-Uri: {uri}",
        "X-Forwarded-Host: shop.example",
        *more,
    )
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def ask_nginx(address: str = "203.0.113.9", *, uri: str = "/", more: Iterable[str] = ()) -> bytes:
    """A question on the nginx front, complete."""
    lines = (
        "GET /auth/nginx HTTP/1.1",
        "Host: gate",
        f"X-Real-IP: {address}",
        "X-Original-Method: GET",
        f"X-Original-URI: {uri}",
        "X-Forwarded-Host: shop.example",
        *more,
    )
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def ask_envoy(
    address: str = "203.0.113.9", *, method: str = "GET", target: str = "/", more: Iterable[str] = ()
) -> bytes:
    """A question on the envoy front, complete."""
    lines = (f"{method} /auth/envoy{target} HTTP/1.1", "Host: shop.example", f"X-Real-IP: {address}", *more)
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def ask_api(document: object, *, more: Iterable[str] = ()) -> bytes:
    """A question on the api front, complete."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = ("POST /v1/check HTTP/1.1", "Host: gate", f"Content-Length: {len(body)}", *more)
    return "\r\n".join((*lines, "", "")).encode("latin-1") + body
