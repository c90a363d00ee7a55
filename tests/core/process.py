"""One process in the core's tests: a ledger whose store answers at once, and counters brought into a state by hand.

Unfaithful: a batch takes no time but what the test gives it, and a state set by hand need not be one that a store
could have answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sidecar.core.bound import Bound
from sidecar.core.ledger import Batch, Counter, Ledger
from sidecar.core.model import Limit
from sidecar.core.window import Ask
from sidecar.store.memory import MemoryStore
from tests.doubles import EPOCH_MS, SWEEP_MS, limit, policy, request

NOW: Final = 5_000.0
LIMIT: Final = limit(permits=10, window_ms=60_000, lease=False)
"""Slices of a second."""


class Waiting:
    """A request that waits; the ledger counts what it lacks."""

    def __init__(self) -> None:
        self.missing = 0


class Process:
    """A ledger and a store that answers at once, by the same clock: milliseconds since a slice began."""

    def __init__(self, *, replicas: int = 1, most: int = 65_536, most_asks: int = 1_000) -> None:
        self.now_ms = 0.0
        self.ledger = Ledger(most=most, most_asks=most_asks)
        self.ledger.replicas = replicas
        self.store = MemoryStore(clock_ms=lambda: EPOCH_MS + int(self.now_ms))

    def counter(self, of: Limit = LIMIT, name: bytes = b"pc:{0}:per-ip:60000/1000:a") -> Counter:
        return Counter(of, of.permits, name, 0)

    def want(self, counter: Counter, *costs: int) -> list[Waiting]:
        waiting = [Waiting() for _ in costs]
        for cost, waiter in zip(costs, waiting, strict=True):
            self.ledger.want(counter, cost, waiter)
        return waiting

    def exchange(self, *, back_ms: float = 0.0) -> Batch:
        """One batch to the store and back; the answer takes `back_ms`."""
        sent_ms = self.now_ms
        batch = self.ledger.collect(0, sent_ms)
        grants = [self.store.take_one(key, ask) for key, ask in batch.asks]
        self.now_ms += back_ms
        self.ledger.apply(batch, grants, sent_ms, self.now_ms)
        self.ledger.settle(batch)
        return batch

    def used(self, counter: Counter) -> int:
        """Permits that the store counts."""
        limit = counter.limit
        look = Ask(10**6, limit.window_ms, limit.slice_ms, 0, 1, block_ms=limit.block_ms)
        return 10**6 - self.store.take_one(counter.key, look).room

    def sweep(self, times: int = 1) -> None:
        for _ in range(times):
            self.now_ms += SWEEP_MS
            self.ledger.sweep(self.now_ms)


def bind(
    *limits: Limit, deny: Sequence[str] = (), exempt: Sequence[str] = (), passes: Sequence[str] = ()
) -> Bound:
    return policy(limits, deny=deny, exempt=exempt, passes=passes).bind(request())


def hold(counter: Counter, permits: int, *, room: int = 0, lapse_ms: float = NOW + 1_000) -> None:
    """Put permits into this process's hands."""
    counter.in_hand, counter.room, counter.lapse_ms, counter.grows_at_ms = (
        permits,
        room,
        lapse_ms,
        NOW + 2_500,
    )


def close(counter: Counter, *, until_ms: float, cost: int = 1) -> None:
    counter.closed_until_ms = counter.retry_at_ms = counter.grows_at_ms = until_ms
    counter.closed_cost = cost
