"""A store in this process's memory: the reference in tests, and the fallback in an outage.

Same contract and same answers as the Redis store. Bounded: at most `most` counters are
kept apart; when the table is full of live ones, new subjects share one counter per limit (and
shard), which can only refuse more. It does not survive the process and is not shared.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from sidecar.core.window import Ask, Counts, Grant, expiry_ms, take
from sidecar.store import CounterAsk

SHARED: Final = b"*shared*"
EXPIRED_AT_ONCE: Final = 16
"""How many counters are looked at to make room for one: what a new subject may cost."""


class MemoryStore:
    """Counters by key. `clock_ms` is any clock in whole milliseconds."""

    def __init__(self, *, clock_ms: Callable[[], int], most: int = 65_536) -> None:
        self._clock_ms = clock_ms
        self._most = most
        self._made = 0
        self._counters: OrderedDict[bytes, tuple[Counts, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counters)

    def __contains__(self, key: bytes) -> bool:
        """Whether a state of this counter is kept that has not expired."""
        held = self._counters.get(key)
        return held is not None and held[1] > self._clock_ms()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._counters)

    def forget(self, keys: Iterable[bytes]) -> None:
        """Drop the states of these counters, where there are any."""
        for key in keys:
            self._counters.pop(key, None)

    async def take(self, asks: Sequence[CounterAsk]) -> Sequence[Grant]:
        return [self.take_one(key, ask) for key, ask in asks]

    def take_one(self, key: bytes, ask: Ask) -> Grant:
        """Serve one counter, now."""
        now_ms = self._clock_ms()
        held = self._counters.get(key)
        if held is None and len(self._counters) >= self._most:
            self._expire(now_ms)
            if len(self._counters) >= self._most:
                key = _limit_of(key) + SHARED
                held = self._counters.get(key)
        counts = held[0] if held is not None and held[1] > now_ms else None
        self._made += 1
        counts, grant = take(counts, now_ms, ask, made=self._made)
        if counts is None:
            self._counters.pop(key, None)
        else:
            self._counters[key] = (counts, now_ms + expiry_ms(counts, now_ms, ask))
        return grant

    def _expire(self, now_ms: int) -> None:
        """Drop what has expired among the counters that were looked at longest ago."""
        for _ in range(min(EXPIRED_AT_ONCE, len(self._counters))):
            key, held = self._counters.popitem(last=False)
            if held[1] > now_ms:
                self._counters[key] = held


def _limit_of(key: bytes) -> bytes:
    """The part of a counter's name before the subject, which may itself contain colons.

    >>> _limit_of(b"pc:{0}:per-ip:60000/1000:2001:db8::/64")
    b'pc:{0}:per-ip:60000/1000:'
    """
    space, brace, name = key.partition(b"}:")
    limit, window, _ = name.split(b":", 2)
    return space + brace + limit + b":" + window + b":"
