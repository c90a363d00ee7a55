"""The fleet: who decides, which epoch each has, and waiting until all have one.

A replica says with every beat who it is and what it has applied. One that fell silent is *lost*: nobody
can say what it admits, so a wait names it, until it has been silent for five minutes.

It changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal, NamedTuple

import orjson

from sidecar.control.beats import LOST_MS, SILENT_MS
from sidecar.control.changes import ControlStore, Space
from sidecar.core.control import NO_EPOCH, Epoch
from sidecar.store import StoreUnavailable

LOOK_S: Final = 0.01
"""How often somebody who waits looks, at first; each look waits a tenth longer."""
MOST_LOOK_S: Final = 0.25
SETTLE_S: Final = 5.0
"""How long a change waits for the processes of its own gate."""


class Member(NamedTuple):
    """A replica as it last said of itself.

    replica     `<gate>/<worker>`: the gate is one start of one installation
    name        the host or pod
    config      digest of the configuration in force there
    lost        silent for longer than a sign of life takes
    stale       it keeps what it knows, because it cannot follow what the store says
    requests    decided there so far, and `refusals` of them but for attack mode's own
    counted_ms  when these were counted, by the replica's own clock; 0 when it does not say
    """

    replica: str
    gate: str
    worker: int
    name: str
    version: str
    started_ms: int
    epoch: Epoch
    config: str
    seen_ms: int
    now_ms: int
    lost: bool
    stale: bool
    requests: int
    refusals: int
    counted_ms: int


class Missing(NamedTuple):
    """A replica that has not said that it has an epoch."""

    replica: str
    state: Literal["behind", "lost"]
    epoch: Epoch
    silent_ms: int


class Confirmed(NamedTuple):
    """Who was asked, and who has not said yes: nobody, when the change is everywhere."""

    replicas: int
    missing: tuple[Missing, ...]


def says(
    replica: str,
    *,
    name: str,
    version: str,
    started_ms: int,
    config: Callable[[], str],
    totals: Callable[[], tuple[int, int]],
    clock_ms: Callable[[], float],
) -> Callable[[Epoch, bool], bytes]:
    """What a replica says of itself with every beat.

    `totals` are requests and refusals so far, see `Member`; `clock_ms` is monotonic.
    """
    gate, _, worker = replica.rpartition("/")
    fixed = {"gate": gate, "worker": int(worker), "name": name, "version": version, "started": started_ms}

    def say(epoch: Epoch, stale: bool) -> bytes:
        requests, refusals = totals()
        counted = {"requests": requests, "refusals": refusals, "counted": int(clock_ms())}
        return orjson.dumps({**fixed, "epoch": str(epoch), "stale": stale, "config": config(), **counted})

    return say


class Fleet:
    """The replicas of one store. `gate` is this gate's own id; `reached` waits until this process has an epoch."""

    def __init__(
        self,
        *,
        store: ControlStore,
        prefix: str,
        gate: str,
        reached: Callable[[Epoch], Awaitable[None]],
    ) -> None:
        self._store = store
        self._space = Space(prefix)
        self._gate = gate
        self._reached = reached

    async def members(self) -> list[Member]:
        """All that are waited for, by their ids. Raises StoreUnavailable."""
        signs = await self._store.command(b"ZRANGE", self._space.key("replicas"), b"0", b"-1", b"WITHSCORES")
        told = await self._store.command(b"HGETALL", self._space.key("fleet"))
        time = await self._store.command(b"TIME")
        if not (isinstance(signs, list) and isinstance(told, list) and isinstance(time, list)):
            raise StoreUnavailable("response", "the store's answer about the fleet has another shape")
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        says_of = dict(zip(told[::2], told[1::2], strict=True))
        found = []
        for replica, seen in zip(signs[::2], signs[1::2], strict=True):
            if replica not in says_of:
                continue  # it signed off between the two questions
            try:
                member = _member(replica.decode(), int(float(seen)), now_ms, says_of[replica])
            except (ValueError, OverflowError) as exc:
                raise StoreUnavailable("response", "a sign of life in the store is not one of ours") from exc
            if now_ms - member.seen_ms < LOST_MS:
                found.append(member)
        return sorted(found)

    async def confirm(self, epoch: Epoch, wait_s: float) -> Confirmed:
        """Wait until every replica has this epoch or a later one, or for so long. Raises StoreUnavailable.

        A lost replica is not waited for: it is named when all others have the epoch.
        """
        return await self._wait(epoch, wait_s, lambda _: True)

    async def settled(self, epoch: Epoch) -> bool:
        """Wait until this gate's own processes have it; whether they have. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._reached(epoch)
        except TimeoutError:
            return False
        confirmed = await self._wait(epoch, SETTLE_S, lambda member: member.gate == self._gate)
        return not any(missing.state == "behind" for missing in confirmed.missing)

    async def _wait(self, epoch: Epoch, wait_s: float, concerns: Callable[[Member], bool]) -> Confirmed:
        loop = asyncio.get_running_loop()
        until_s, pause_s = loop.time() + wait_s, LOOK_S
        while True:
            members = [member for member in await self.members() if concerns(member)]
            missing = tuple(
                Missing(
                    member.replica,
                    "lost" if member.lost else "behind",
                    member.epoch,
                    member.now_ms - member.seen_ms,
                )
                for member in members
                if member.stale
                or member.epoch.number < epoch.number
                or (member.epoch.number == epoch.number and member.epoch != epoch)
            )
            if not any(one.state == "behind" for one in missing) or loop.time() >= until_s:
                return Confirmed(len(members), missing)
            await asyncio.sleep(min(pause_s, max(0.001, until_s - loop.time())))
            pause_s = min(pause_s * 1.1, MOST_LOOK_S)


def _member(replica: str, seen_ms: int, now_ms: int, told: bytes) -> Member:
    """What a replica says of itself; an older version may say less."""
    try:
        says_ = orjson.loads(told)
        epoch = Epoch.parse(says_["epoch"])
        numbers = [int(says_.get(name, 0)) for name in ("started", "requests", "refusals", "counted")]
    except (ValueError, KeyError, TypeError, AttributeError):
        says_, epoch, numbers = {}, NO_EPOCH, [0, 0, 0, 0]
    started_ms, requests, refusals, counted_ms = numbers
    gate, _, worker = replica.rpartition("/")
    return Member(
        replica,
        gate,
        int(worker) if worker.isdigit() else 0,
        str(says_.get("name", "")),
        str(says_.get("version", "")),
        started_ms,
        epoch,
        str(says_.get("config", "")),
        seen_ms,
        now_ms,
        now_ms - seen_ms > SILENT_MS,
        says_.get("stale") is True,
        requests,
        refusals,
        counted_ms,
    )
