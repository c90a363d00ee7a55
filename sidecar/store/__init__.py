"""The Store protocol: where replicas share their counters.

The contract, for every store:

- `take` serves a batch in one step per counter: give back, then grant, on the store's own clock.
  It answers in the order of the asks. One counter may come twice; the second ask sees the first.
- A batch is carried out at most once. When its outcome is unknown, `StoreUnavailable` is raised,
  and the caller drops the give-backs of that batch instead of repeating them.
- Nobody cancels a `take` that is under way: its reply would be read by the next caller.

What waits, batches, deadlines and the circuit breaker are the gate's business, not a store's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from sidecar.core.ledger import GrantRow
from sidecar.core.window import Ask, Grant


class CounterAsk(NamedTuple):
    """One ask of a batch: the counter's name in the store and what is asked of it."""

    key: bytes
    ask: Ask


class StoreUnavailable(Exception):
    """The store did not answer, or not in a way that can be used. `kind` is a closed set:
    `timeout`, `connection`, `response`, `other`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Store(Protocol):
    async def take(self, asks: Sequence[CounterAsk]) -> Sequence[Grant]:
        """Serve one batch of counters that live together. Raises StoreUnavailable."""
        ...


class Pinged(Protocol):
    """What can be asked for a sign of life."""

    async def ping(self) -> None: ...


class Lane(Pinged, Protocol):
    """What carries one shard's batches."""

    async def take(self, asks: Sequence[tuple[bytes, Ask]]) -> Iterable[GrantRow]: ...

    async def close(self) -> None: ...
