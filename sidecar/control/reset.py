"""Resets: forget what one subject has used of a limit, and its block, in the store and on every replica.

The store's counters go first, then all replicas are told: who asks in between may be refused once more by
what its replica remembers, and nobody is refused by it later. Permits that lay in a replica's hands go
back to a state of the counter that is gone, and are worth nothing there.

Who is told what, and how, is `changes`'; what a replica then forgets is the gate's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sidecar.control.changes import Changed, Changes, Conflict, ControlStore
from sidecar.core.control import Epoch
from sidecar.core.model import Limit
from sidecar.core.policy import Policy
from sidecar.core.subjects import Chosen
from sidecar.store import StoreUnavailable

TABLE: Final = "resets"
STEP: Final = 1_000
"""Keys that one command looks at or deletes: less than a millisecond of the server's time."""


class ResetDone(NamedTuple):
    """The change that tells every replica, and how many counters the store had."""

    changed: Changed
    counters: int


class Resets:
    """`store` holds the counters; `policy` is the one in force now, which knows how they are named."""

    def __init__(self, *, store: ControlStore, changes: Changes, policy: Callable[[], Policy]) -> None:
        self._store = store
        self._changes = changes
        self._policy = policy

    async def reset(
        self,
        limit: Limit,
        kind: str,
        value: str,
        *,
        actor: str,
        reason: str = "",
        if_epoch: Epoch | None = None,
    ) -> ResetDone:
        """Forget what a `key`, `tenant` or `address` has used of a limit.

        Some counters cost one command; if a dimension besides is open (hosts, headers), all names in the
        store are looked at, a step at a time. Raises ValueError when the limit does not count by that,
        Conflict before anything was done, and StoreUnavailable; it may be repeated.
        """
        chosen = self._policy().chosen(limit.name, kind, value)
        if if_epoch is not None and if_epoch != (epoch := await self._changes.epoch()):
            raise Conflict("epoch", epoch)
        if chosen.subjects is None:
            counters = await self._search(chosen)
        else:
            counters = await self._delete(chosen.keys)
        changed = await self._changes.change(
            TABLE,
            put=[chosen.field],
            actor=actor,
            action="reset",
            reason=reason,
            detail={"counters": counters},
        )
        return ResetDone(changed, counters)

    async def _search(self, chosen: Chosen) -> int:
        """Delete the counters that only a pattern tells; how many there were."""
        deleted, cursor = 0, b"0"
        while True:
            said = await self._store.command(
                b"SCAN", cursor, b"MATCH", chosen.glob, b"COUNT", b"%d" % STEP, b"TYPE", b"string"
            )
            match said:
                case [bytes(cursor), list(found)]:
                    deleted += await self._delete([key for key in found if chosen.has(key)])
                case _:
                    raise StoreUnavailable("response", "the store's answer has not the shape of SCAN's")
            if cursor == b"0":
                return deleted

    async def _delete(self, keys: Sequence[bytes]) -> int:
        deleted = 0
        for start in range(0, len(keys), STEP):
            said = await self._store.command(b"DEL", *keys[start : start + STEP])
            if not isinstance(said, int):
                raise StoreUnavailable("response", "the store's answer has not the shape of DEL's")
            deleted += said
        return deleted
