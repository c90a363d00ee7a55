"""This replica's share of the limits, counted in memory: what decides while the store is silent.

Of a limit each replica takes floor(permits / replicas), and the first replicas by rank the remainder. The
windows outlive the end of an outage, so that a store that comes and goes does not fill them anew.

When an outage begins and ends is `gate`'s.
"""

from __future__ import annotations

from collections.abc import Callable

from sidecar.core.ledger import Counter
from sidecar.core.subjects import Chosen
from sidecar.core.window import Ask, Grant
from sidecar.store.memory import MemoryStore


class Share:
    """`rank` is this replica's among `replicas()`; `most` bounds the counters. Full, new subjects share one."""

    def __init__(self, *, replicas: Callable[[], int], clock_ms: Callable[[], float], most: int) -> None:
        self.rank = 0
        self._replicas = replicas
        self._clock_ms = clock_ms
        self._windows = MemoryStore(clock_ms=lambda: int(clock_ms()), most=most)

    def take(self, counter: Counter, want: int, need: int) -> Grant:
        """Take from the share of a limit.

        What the store granted ahead may have been spent after it fell silent and before that was noticed,
        or may lie in hand still. It counts here, too: else an outage would admit that much more than
        twice the permits.
        """
        if carried := self._carried(counter):
            self._windows.take_one(counter.key, self._ask(counter, carried, 1)._replace(block_ms=0))
            counter.left = 0
        return self._windows.take_one(counter.key, self._ask(counter, want, need))

    def look(self, counter: Counter, need: int) -> Grant:
        """What the share of a limit has left; takes nothing."""
        ask = self._ask(counter, 0, need)
        permits = max(0, ask.permits - self._carried(counter))
        return self._windows.take_one(counter.key, ask._replace(permits=permits))

    def forget(self, chosen: Chosen) -> None:
        """Forget what a subject has used."""
        self._windows.forget(chosen.keys or [key for key in self._windows if chosen.has(key)])

    def _carried(self, counter: Counter) -> int:
        """Permits granted ahead that the share does not know of yet, and that its window still counts."""
        return counter.left if self._clock_ms() < counter.lapse_ms + counter.limit.window_ms else 0

    def _ask(self, counter: Counter, want: int, need: int) -> Ask:
        limit = counter.limit
        replicas = self._replicas()
        share = counter.permits // replicas + (1 if self.rank < counter.permits % replicas else 0)
        return Ask(share, limit.window_ms, limit.slice_ms, want, need, block_ms=limit.block_ms)
