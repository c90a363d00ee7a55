"""Load on running gates: requests at a pace on kept connections, and when each was asked and answered.

The clock is this machine's monotonic one. A request is decided somewhere between its start and its answer;
`certainly_busiest` counts only what lies in an interval for certain, and `possibly_before` all that may, so that
neither accuses anybody falsely, however slow the machine is.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Said(NamedTuple):
    """One answer. Times are seconds of the monotonic clock."""

    target: str
    status: int
    start_s: float
    answer_s: float


class Caller(asyncio.Protocol):
    """One connection: asks for its targets in turn, each at its time or as soon as the last answer is there."""

    def __init__(
        self, requests: Sequence[tuple[str, bytes]], *, begin_s: float, end_s: float, every_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self.said: list[Said] = []
        self.ended: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._requests = requests
        self._end_s = end_s
        self._every_s = every_s
        self._due_s = begin_s
        self._turn = 0
        self._start_s = 0.0
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop.call_later(max(0.0, self._due_s - time.monotonic()), self._ask)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, gap, rest = self._data.partition(b"\r\n\r\n")
        if not gap:
            return
        length = _LENGTH.search(head + b"\r\n")
        body = int(length[1]) if length else 0
        if len(rest) < body:
            return
        answer_s = time.monotonic()
        target = self._requests[self._turn % len(self._requests)][0]
        self.said.append(Said(target, int(head[9:12]), self._start_s, answer_s))
        self._data = rest[body:]
        self._turn += 1
        self._due_s += self._every_s
        self._loop.call_later(max(0.0, self._due_s - answer_s), self._ask)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the gate hung up"))

    def _ask(self) -> None:
        if self._transport.is_closing():
            return
        self._start_s = time.monotonic()
        if self._start_s >= self._end_s:
            self.ended.set_result(None)
            self._transport.close()
            return
        self._transport.write(self._requests[self._turn % len(self._requests)][1])


def forwarded(target: str, address: str) -> bytes:
    """What a proxy asks the forward front about a request for `target` by a client at `address`."""
    return (
        f"GET /auth/forward HTTP/1.1\r\nHost: gate\r\nX-Forwarded-For: {address}\r\n"
        f"X-Forwarded-Method: GET\r\nX-Forwarded-Uri: {target}\r\n\r\n"
    ).encode()


async def press(
    ports: Iterable[int],
    requests: Sequence[tuple[str, bytes]],
    *,
    connections: int,
    per_s: float,
    lasting_s: float,
) -> list[Said]:
    """Every answer of `lasting_s` seconds at `per_s` requests a second in all, in the order of the answers.

    `connections` to each of the loopback `ports`. What comes late is asked at once: a stall of this process is
    made up for. Raises ConnectionError when a gate hangs up.
    """
    loop = asyncio.get_running_loop()
    places = [port for port in ports for _ in range(connections)]
    every_s = len(places) / per_s
    begin_s = time.monotonic() + 0.2
    callers = []
    for at, port in enumerate(places):
        mine = [*requests[at % len(requests) :], *requests[: at % len(requests)]]
        offset_s = every_s * at / len(places)
        _, caller = await loop.create_connection(
            lambda mine=mine, offset_s=offset_s: Caller(  # type: ignore[misc]  # bound now, not when called
                mine, begin_s=begin_s + offset_s, end_s=begin_s + lasting_s, every_s=every_s
            ),
            "127.0.0.1",
            port,
        )
        callers.append(caller)
    await asyncio.gather(*(caller.ended for caller in callers))
    return sorted((said for caller in callers for said in caller.said), key=lambda said: said.answer_s)


def possibly_before(admitted: Sequence[Said], one: Said, window_s: float) -> int:
    """The most admissions that the window before this answer may hold: whatever cannot lie outside it only."""
    return sum(
        other.answer_s >= one.start_s - window_s and other.start_s <= one.answer_s for other in admitted
    )


def certainly_busiest(admitted: Sequence[Said], window_s: float) -> int:
    """The most admissions that some interval of this length holds for certain.

    One lies in [t, t + window] for certain if it was asked at t or later and answered by t + window.
    """
    return max(
        (
            sum(one.start_s >= first.start_s and one.answer_s <= first.start_s + window_s for one in admitted)
            for first in admitted
        ),
        default=0,
    )
