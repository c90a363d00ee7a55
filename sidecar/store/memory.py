"""A store in this process's memory: the reference in tests, and the fallback in an outage.

Same contract and same answers as the Redis store. Bounded: at most `most` counters are
kept apart; when the table is full of live ones, new subjects share one counter per limit,
which can only refuse more. It does not survive the process and is not shared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from sidecar.core.window import Ask, Counts, Grant, expiry_ms, take
from sidecar.store import CounterAsk

SHARED = b"*shared*"


class MemoryStore:
    """Counters by key, oldest write first. `clock_ms` is any clock in whole milliseconds."""

    def __init__(self, *, clock_ms: Callable[[], int], most: int = 65_536) -> None:
        self._clock_ms = clock_ms
        self._most = most
        self._made = 0
        self._counters: OrderedDict[bytes, tuple[Counts, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counters)

    async def take(self, asks: Sequence[CounterAsk]) -> Sequence[Grant]:
        return [self.take_one(key, ask) for key, ask in asks]

    def take_one(self, key: bytes, ask: Ask) -> Grant:
        """Serve one counter, now."""
        now_ms = self._clock_ms()
        held = self._counters.get(key)
        if held is None and len(self._counters) >= self._most:
            self._expire(now_ms)
            if len(self._counters) >= self._most:
                key = SHARED + key.rpartition(b":")[0]
                held = self._counters.get(key)
        counts = held[0] if held is not None and held[1] > now_ms else None
        self._made += 1
        counts, grant = take(counts, now_ms, ask, made=self._made)
        if counts is None:
            self._counters.pop(key, None)
        else:
            self._counters[key] = (counts, now_ms + expiry_ms(counts, now_ms, ask))
            self._counters.move_to_end(key)
        return grant

    def _expire(self, now_ms: int) -> None:
        """Drop what has expired, a few at a time, from the oldest write on."""
        for _ in range(64):
            if not self._counters:
                return
            key, (_, expires_ms) = next(iter(self._counters.items()))
            if expires_ms > now_ms:
                return
            del self._counters[key]
