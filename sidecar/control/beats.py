"""Beats: once a second a replica says that it lives and what it has, and learns of the others.

A beat tells how many replicas there are (the share of a limit in an outage, the size of leases), the rank of
this one, the fleet's hash key, the store's time and its epoch (`lua/heartbeat.lua`).

Fewer replicas than before are believed only when the store has said so for a while: after an
outage everybody else looks dead until their next sign of life, and a share that is too large
would admit too much.

What follows from the epoch is `follow`'s business.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from sidecar.control.changes import ControlStore, Space
from sidecar.core.control import FOLLOWED, Epoch
from sidecar.store import StoreUnavailable, scripts

SILENT_MS: Final = 5_000
"""A replica that did not say that it lives for this long is not counted."""
LOST_MS: Final = 300_000
"""Nor is it waited for any more after this long."""
EXPIRED_PER_BEAT: Final = 100

_HASH_KEY: Final = re.compile(rb"(?:[0-9a-f]{64})?")
_POLICY: Final = re.compile(rb"^maxmemory_policy:(allkeys-[a-z-]+)", re.MULTILINE)


class Follows(NamedTuple):
    """What a beat said. `hash_key` is 64 hexadecimal digits, or b"" when there is none."""

    replicas: int
    rank: int
    hash_key: bytes


class Beats:
    """One replica's signs of life.

    replica       its id; "" only reads, and is not counted
    says          what it says of itself, as JSON, given the epoch that it has and whether it is stale
    own_hash_key  the hash key came from the environment, so none is made in the store
    counted       told what each beat said
    store_error   told the kind and the text of what the store answers wrongly
    clock_ms      monotonic; `wall_ms` is the clock of this machine, used until the store has told its own
    warn          told once what an operator should change about the store; None does not look
    """

    def __init__(
        self,
        *,
        store: ControlStore,
        prefix: str,
        replica: str,
        says: Callable[[Epoch, bool], bytes],
        own_hash_key: bool,
        counted: Callable[[Follows], None],
        store_error: Callable[[str, str], None],
        clock_ms: Callable[[], float],
        wall_ms: Callable[[], float],
        warn: Callable[[str], None] | None,
    ) -> None:
        self._store = store
        self._heartbeat = scripts.read("heartbeat")
        space = Space(prefix)
        names = ("replicas", "fleet", "hash_key", "epoch", "expiring", "floor", *FOLLOWED)
        self._keys = [space.key(name) for name in names]
        self._replica = replica
        self._says = says
        self._own_hash_key = own_hash_key
        self._tell_counted = counted
        self._store_error = store_error
        self._clock_ms = clock_ms
        self._offset_ms = wall_ms() - clock_ms()
        self._warn = warn
        self._candidate = b"" if own_hash_key else os.urandom(32).hex().encode()
        self._counted = (1, 0)
        self._fewer_since_s: float | None = None

    def store_ms(self) -> int:
        """The time by the store's clock."""
        return int(self._clock_ms() + self._offset_ms)

    async def beat(self, epoch: Epoch, *, stale: bool) -> Epoch | None:
        """Say that this replica lives; the store's epoch. Raises StoreUnavailable."""
        says = self._says(epoch, stale) if self._replica else b""
        sent_ms = self._clock_ms()
        try:
            said = await self._store.script(self._heartbeat, self._keys, self._arguments(says, epoch))
        except StoreUnavailable:
            self._fewer_since_s = None
            raise
        match said:
            case [int(replicas), int(rank), bytes(hash_key), bytes(theirs), int(now_ms)]:
                self._offset_ms = now_ms - (sent_ms + self._clock_ms()) / 2
                self._tell_counted(Follows(*self._count(replicas, rank), self._usable(hash_key)))
            case _:
                raise StoreUnavailable("response", "the store's answer has not the shape of heartbeat's")
        try:
            return Epoch.parse(theirs.decode("ascii", "replace")) if theirs else None
        except ValueError as exc:
            raise StoreUnavailable("response", f"{self._keys[3].decode()} in the store: {exc}") from exc

    async def sign_off(self, epoch: Epoch) -> None:
        """This replica is not counted any more. Raises StoreUnavailable."""
        if self._replica:
            await self._store.script(self._heartbeat, self._keys, self._arguments(b"", epoch))

    def _arguments(self, says: bytes, epoch: Epoch) -> list[bytes]:
        numbers = [b"%d" % SILENT_MS, b"%d" % LOST_MS]
        counts = [b"%d" % EXPIRED_PER_BEAT, b"%d" % epoch.number]
        names = [name.encode() for name in FOLLOWED]
        return [self._replica.encode(), *numbers, self._candidate, says, *counts, *names]

    def _count(self, replicas: int, rank: int) -> tuple[int, int]:
        """How many replicas to reckon with, and which of them this one is."""
        now_s = asyncio.get_running_loop().time()
        if replicas >= self._counted[0]:
            self._counted, self._fewer_since_s = (replicas, rank), None
        elif self._fewer_since_s is None:
            self._fewer_since_s = now_s
        elif now_s - self._fewer_since_s >= SILENT_MS / 1000:
            self._counted, self._fewer_since_s = (replicas, rank), None
        return self._counted

    def _usable(self, hash_key: bytes) -> bytes:
        """The fleet's hash key; b"" for one that no replica made. It is offered again to a store that lost it."""
        if self._own_hash_key:
            return b""
        if not _HASH_KEY.fullmatch(hash_key):
            self._store_error("response", f"{self._keys[2].decode()} in the store is no hash key: delete it")
            return b""
        self._candidate = hash_key or self._candidate
        return hash_key

    async def look_at_policy(self) -> None:
        """Warn, once, of a store that may forget control keys when its memory is full."""
        if self._warn is None:
            return
        try:
            said = await self._store.command(b"INFO", b"memory")
        except StoreUnavailable as exc:
            if exc.kind == "response":  # it forbids the question: nothing to say
                self._warn = None
            return
        if isinstance(said, bytes) and (found := _POLICY.search(said)):
            policy = found[1].decode()
            self._warn(
                f"the store's maxmemory-policy is {policy}: when its memory is full it may forget counters, attack "
                "mode and the fleet's hash key; set it to noeviction"
            )
        self._warn = None
