"""What all connections of one process's check plane share: fronts, gate, limits, the sweep and the stop.

It opens no socket: `connect` is the protocol factory for whoever does.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from sidecar.core.model import Request, Verdict
from sidecar.fronts import Front, Waiter
from sidecar.fronts.heads import HeadTable
from sidecar.fronts.lone_head import lone_head_reader
from sidecar.fronts.wire import WireLimits

SWEEP_S: Final = 1.0
"""How often connections are looked after: how late an idle or slow one may be noticed."""

Check = Callable[[Request, Waiter], Verdict | None]
Observe = Callable[[int, Request, Verdict, bytes, float], None]


class Connection(Protocol):
    """What the plane wants of a connection."""

    def inspect(self, now_s: float) -> None:
        """Close, refuse or cut off what has taken too long."""
        ...

    def last_call(self) -> None:
        """Close with the next answer, if there is one."""
        ...

    def drain(self) -> None:
        """Answer what is under way, then close."""
        ...

    def abort(self) -> None:
        """Close now, whatever is under way."""
        ...


class CheckPlane:
    """Shared by the connections of one process.

    check        the gate: a verdict, or None and `Waiter.answer` later
    observe      told of every verdict: front's index, request, verdict, request id, seconds since its bytes arrived;
                 may be exchanged, so that who wants to know more costs nothing while nobody does
    clock        seconds, monotonic
    read_alone   the one request that some bytes are, when it is that simple (see `lone_head`)
    connections  the open ones
    turned_away  how many connections were closed at once, because there were `max_connections`
    """

    __slots__ = (
        "_below",
        "_exact",
        "_id_prefix",
        "_ids",
        "_loop",
        "_timer",
        "check",
        "clock",
        "connections",
        "draining",
        "heads",
        "limits",
        "observe",
        "read_alone",
        "turned_away",
    )

    def __init__(
        self,
        *,
        fronts: Sequence[Front],
        heads: HeadTable,
        check: Check,
        observe: Observe,
        limits: WireLimits | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.check: Final = check
        self.observe = observe
        self.clock: Final = clock
        self.limits: Final = limits or WireLimits()
        self.read_alone: Final = lone_head_reader(self.limits)
        self.connections: Final[set[Connection]] = set()
        self.draining = False
        self.turned_away = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._id_prefix = b"%b-" % os.urandom(6).hex().encode()
        self._ids = itertools.count(1)
        self.use(fronts=fronts, heads=heads)

    def use(self, *, fronts: Sequence[Front], heads: HeadTable) -> None:
        """Read and answer with these from the next request on.

        `heads` is a new table: what an old one remembers was read by the old fronts.
        """
        self.heads = heads
        self._exact = {front.path: front for front in fronts if not front.path.endswith(b"/")}
        self._below = tuple((front.path, front) for front in fronts if front.path.endswith(b"/"))

    def front_of(self, target: bytes) -> Front | None:
        """The front asked by a request target, whose query says nothing; None when no front is there."""
        front = self._exact.get(target)
        if front is not None:
            return front
        for path, front in self._below:
            if target.startswith(path):
                return front
        return self._exact.get(target.partition(b"?")[0])

    def new_id(self) -> bytes:
        """A request id: unique in this process by its counter, elsewhere by the process's random prefix."""
        return b"%b%x" % (self._id_prefix, next(self._ids))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after the connections from now on."""
        self._loop = loop
        self._timer = loop.call_later(SWEEP_S, self._sweep)

    def last_call(self) -> None:
        """Before `drain`: every answer is its connection's last, and idle connections stay open a little while.

        A request may be on its way on any of them; closing one then would be a reset for its client. A busy
        proxy learns from an answer that the connection ends, and an idle one has nothing to lose.
        """
        self.draining = True
        for connection in tuple(self.connections):
            connection.last_call()

    def drain(self) -> None:
        """Begin a graceful stop: idle connections close, every other one closes with its next answer."""
        self.draining = True
        for connection in tuple(self.connections):
            connection.drain()

    def stop(self) -> None:
        """Cut off what is left, and look after nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in tuple(self.connections):
            connection.abort()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back from the loop itself, not from within the gate's answer."""
        assert self._loop is not None, "start() comes before the first connection"
        self._loop.call_soon(callback)

    def _sweep(self) -> None:
        now_s = self.clock()
        for connection in tuple(self.connections):
            connection.inspect(now_s)
        assert self._loop is not None
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)
