"""The feed: once a second, say that this replica lives and read what all replicas follow.

A replica learns how many there are (the share of a limit in an outage, the size of leases),
its rank among them, the fleet's hash key, and whether attack mode is on. Unknown is never
read as "off": a silent or empty store keeps the last known mode, and the last known mode
survives a restart on disk.

It does not change the mode; it only follows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import orjson

from sidecar.store import StoreUnavailable, scripts

PERIOD_S: Final = 1.0
SILENT_MS: Final = 5_000
"""A replica that did not say that it lives for this long is not counted."""
FILE_NAME: Final = "control.json"


class Follows(NamedTuple):
    """What the store said. `attack` is None when it does not say; `hash_key` is b"" when there is none."""

    replicas: int
    rank: int
    hash_key: bytes
    attack: bool | None


class ControlStore(Protocol):
    """Runs one of our scripts. Raises StoreUnavailable."""

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object: ...

    async def command(self, *words: bytes) -> object: ...

    async def close(self) -> None: ...


class Feed:
    """Follows the store and tells `apply` what it says.

    `own_hash_key` says that the hash key came from the environment, so none is made in the store.
    """

    def __init__(
        self,
        *,
        store: ControlStore,
        prefix: str,
        replica: str,
        own_hash_key: bool,
        apply: Callable[[Follows], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._heartbeat = scripts.read("heartbeat")
        space = f"{prefix}{{control}}:"
        self._keys = [f"{space}{name}".encode() for name in ("replicas", "attack", "hash_key")]
        self._replica = replica.encode()
        self._own_hash_key = own_hash_key
        self._apply = apply
        self._failed = failed

    async def once(self) -> bool:
        """One sign of life; whether the store answered."""
        candidate = b"" if self._own_hash_key else os.urandom(32).hex().encode()
        try:
            said = await self._store.script(
                self._heartbeat, self._keys, [self._replica, str(SILENT_MS).encode(), candidate]
            )
        except StoreUnavailable as exc:
            self._failed(exc.kind, str(exc))
            return False
        match said:
            case [int(replicas), int(rank), bytes(hash_key), bytes(mode)]:
                attack = {b"on": True, b"off": False}.get(mode)
                self._apply(Follows(replicas, rank, hash_key, attack))
                return True
            case _:
                self._failed("response", "the store's answer has not the shape of heartbeat's")
                return False

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.once()

    async def sign_off(self) -> None:
        """A clean stop: this replica is not counted any more."""
        try:
            await self._store.command(b"ZREM", self._keys[0], self._replica)
        except StoreUnavailable as exc:
            self._failed(exc.kind, str(exc))
        await self._store.close()


class LastKnown:
    """The last known mode on disk, so that it survives a restart while the store is away."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME

    def read(self) -> bool | None:
        """The mode when it was last written; None when nothing usable is there."""
        try:
            state = orjson.loads(self._path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        match state:
            case {"attack": bool(attack)}:
                return attack
            case _:
                return None

    def write(self, attack: bool) -> None:
        """Replace the file in one step. Raises OSError."""
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(orjson.dumps({"attack": attack}))
        os.replace(fresh, self._path)
