"""The feed: once a second, say that this replica lives and read what all replicas follow.

A replica learns how many there are (the share of a limit in an outage, the size of leases),
its rank among them, the fleet's hash key, and whether attack mode is on. Unknown is never
read as "off": a silent or empty store keeps the last known mode, and the last known mode
survives a restart on disk.

Fewer replicas than before are believed only when the store has said so for a while: after an
outage everybody else looks dead until their next sign of life, and a share that is too large
would admit too much.

It does not change the mode; it only follows.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import orjson

from sidecar.store import StoreUnavailable, scripts

PERIOD_S: Final = 1.0
SILENT_MS: Final = 5_000
"""A replica that did not say that it lives for this long is not counted."""
FILE_NAME: Final = "control.json"

_HASH_KEY: Final = re.compile(rb"(?:[0-9a-f]{64})?")
_POLICY: Final = re.compile(rb"^maxmemory_policy:(allkeys-[a-z-]+)", re.MULTILINE)


class Follows(NamedTuple):
    """What the store said. `attack` is None when it does not say; `hash_key` is 64 hexadecimal digits,
    or b"" when there is none."""

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

    replica       this replica's id; "" only reads, and is not counted
    own_hash_key  the hash key came from the environment, so none is made in the store
    failed        told the kind and the text of what went wrong, each time
    warn          told once what an operator should change about the store; None does not look
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
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._heartbeat = scripts.read("heartbeat")
        space = f"{prefix}{{control}}:"
        self._keys = [f"{space}{name}".encode() for name in ("replicas", "attack", "hash_key")]
        self._replica = replica.encode()
        self._own_hash_key = own_hash_key
        self._apply = apply
        self._failed = failed
        self._warn = warn
        self._candidate = b"" if own_hash_key else os.urandom(32).hex().encode()
        self._counted = (1, 0)
        self._fewer_since_s: float | None = None

    async def once(self) -> bool:
        """One sign of life; whether the store answered."""
        try:
            said = await self._store.script(
                self._heartbeat, self._keys, [self._replica, str(SILENT_MS).encode(), self._candidate]
            )
        except StoreUnavailable as exc:
            self._fewer_since_s = None
            self._failed(exc.kind, str(exc))
            return False
        match said:
            case [int(replicas), int(rank), bytes(hash_key), bytes(mode)]:
                attack = {b"on": True, b"off": False}.get(mode)
                self._apply(Follows(*self._count(replicas, rank), self._usable(hash_key), attack))
            case _:
                self._failed("response", "the store's answer has not the shape of heartbeat's")
                return False
        await self._look_at_policy()
        return True

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.once()

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
            self._failed("response", f"{self._keys[2].decode()} in the store is no hash key: delete it")
            return b""
        self._candidate = hash_key or self._candidate
        return hash_key

    async def _look_at_policy(self) -> None:
        """Warn, once, of a store that may forget attack mode or the hash key when its memory is full."""
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
        """Replace the file in one step; several processes may. Raises OSError."""
        fresh = self._path.with_suffix(f".{os.getpid()}")
        with fresh.open("wb") as file:
            file.write(orjson.dumps({"attack": attack}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._path)
