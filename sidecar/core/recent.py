"""A bounded table of what was asked for lately: two generations, no bookkeeping per look-up.

What is asked for again moves to the young generation; when that is full it becomes the old one.
Each newcomer pushes one out of the old, so that no request pays for a whole generation at once.

It does not tell what it forgets: nothing may depend on being remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keys to values, at most `most` of them.

    >>> table = Recent[str, int](4)
    >>> for number, name in enumerate("abcdefgh"): table.add(name, number)
    >>> table.get("h"), table.get("a"), len(table) <= 4
    (7, None, True)
    """

    __slots__ = ("_most", "_old", "_young")

    def __init__(self, most: int) -> None:
        self._most = max(1, most // 2)
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def __iter__(self) -> Iterator[V]:
        yield from self._young.values()
        yield from self._old.values()

    def get(self, key: K) -> V | None:
        value = self._young.get(key)
        if value is None and self._old:
            value = self._old.pop(key, None)
            if value is not None:
                self.add(key, value)
        return value

    def add(self, key: K, value: V) -> None:
        young, old = self._young, self._old
        if old:
            old.popitem()
        if len(young) >= self._most:
            self._old, self._young = young, {}
            young = self._young
        young[key] = value

    def __contains__(self, key: K) -> bool:
        return key in self._young or key in self._old

    def drop(self, key: K) -> None:
        """Forget one."""
        self._young.pop(key, None)
        self._old.pop(key, None)
