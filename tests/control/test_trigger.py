"""The trigger on a real store: replicas' beats go in, and what every follower reads comes out.

Beats are written as a replica's own would be, with totals and clock of the test's choice; the thresholds have no
duration, because how long is long enough is the core's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

from sidecar.control.audit import Audit, AuditEntry
from sidecar.control.beats import SILENT_MS
from sidecar.control.changes import Space
from sidecar.control.fleet import Fleet, Member, says
from sidecar.control.trigger import TriggerWatch
from sidecar.core.control import GLOBAL, NO_EPOCH
from sidecar.core.trigger import Thresholds, Turn
from sidecar.store import StoreUnavailable
from tests.control.fleet_double import Replica, shown
from tests.stores import StoreServer

T = TypeVar("T")

PREFIX = "pc:"
THRESHOLDS = Thresholds(refusals_per_s=10, requests_per_s=100, for_ms=0, quiet_ms=0)


class Gate:
    """A gate that looks: it follows when it is told to."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.thresholds: Thresholds | None = THRESHOLDS
        self.silent = False
        self.has_looked = asyncio.Event()
        self.fleet = Fleet(
            store=replica.shared, prefix=PREFIX, gate=replica.name, reached=replica.follower.reached
        )
        self.watch = TriggerWatch(
            members=self._members,
            changes=replica.changes,
            state=lambda: replica.follower.book.control,
            thresholds=lambda: self.thresholds,
        )

    async def _members(self) -> list[Member]:
        self.has_looked.set()
        if self.silent:
            raise StoreUnavailable("timeout", "no answer")
        return await self.fleet.members()

    async def follow(self) -> None:
        assert await self.replica.follower.once()

    async def says(self, *, on: bool, for_ms: int = 0) -> None:
        """A person's word, and it is followed."""
        await self.replica.changes.change(
            "attack",
            put=[GLOBAL],
            payload={"on": on, "reason": "", "actor": "alice"},
            for_ms=for_ms,
            actor="alice",
            action=f"attack.{'on' if on else 'off'}",
        )
        await self.follow()

    async def audit(self) -> list[AuditEntry]:
        return await Audit(store=self.replica.shared, prefix=PREFIX).read(None, 100)


@asynccontextmanager
async def gates(server: StoreServer, number: int = 1) -> AsyncIterator[list[Gate]]:
    """Gates that have followed once. Their own beats count nothing: they are of an older version."""
    found = [Gate(Replica(server, PREFIX, f"gate{at}/1")) for at in range(number)]
    try:
        for gate in found:
            await gate.follow()
        yield found
    finally:
        for gate in found:
            await gate.replica.close()


class Traffic:
    """A replica's beats, a second apart by its own clock and whenever the test likes by the store's."""

    def __init__(self, gate: Gate, name: str = "busy/1") -> None:
        self._store = gate.replica.shared
        self._name = name
        self._seconds = count(1)
        self._requests = self._refusals = 0

    async def second(self, requests: int, refusals: int = 0, *, silent_ms: int = 0) -> None:
        self._requests += requests
        self._refusals += refusals
        say = says(
            self._name,
            name="host",
            version="0.1.0",
            started_ms=0,
            config=lambda: "",
            totals=lambda: (self._requests, self._refusals),
            clock_ms=lambda: next(self._seconds) * 1_000.0,
        )
        time = await self._store.command(b"TIME")
        assert isinstance(time, list)
        seen_ms = int(time[0]) * 1_000 + int(time[1]) // 1_000 - silent_ms
        space, name = Space(PREFIX), self._name.encode()
        await self._store.command(b"ZADD", space.key("replicas"), b"%d" % seen_ms, name)
        await self._store.command(b"HSET", space.key("fleet"), name, say(NO_EPOCH, False))


async def attacked(gate: Gate, traffic: Traffic) -> Turn | None:
    """What the gate's second look turns, when the fleet is above a threshold."""
    await traffic.second(0)
    assert await gate.watch.look() is None
    await traffic.second(150)
    return await gate.watch.look()


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(scenario())


def test_a_replica_tells_its_totals_with_every_beat(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            await Traffic(gate).second(7, 3)
            await gate.replica.shared.command(
                b"HSET", Space(PREFIX).key("fleet"), b"gate0/1", b'{"epoch": []}'
            )

            busy, other = await gate.fleet.members()

            assert (busy.requests, busy.refusals, busy.counted_ms) == (7, 3, 1_000)
            assert (other.requests, other.refusals, other.counted_ms) == (0, 0, 0)

    run(scenario)


def test_it_turns_attack_mode_on_and_off_and_all_gates_follow(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(any_store, 2) as [gate, other]:
            traffic = Traffic(gate)
            turn = await attacked(gate, traffic)
            reason = "150 requests/s: at or above 100 for 0 s"
            assert turn == Turn(True, reason)
            await gate.follow()
            await other.follow()
            assert other.replica.control.attack[GLOBAL].until_ms == 0
            assert shown(other.replica.control)["attack"] == {
                GLOBAL: {"on": True, "reason": reason, "actor": "trigger", "trigger": True}
            }

            await traffic.second(1)
            turn = await gate.watch.look()

            assert turn == Turn(False, "1 requests/s and 0 refusals/s: below the threshold for 0 s")
            await other.follow()
            assert shown(other.replica.control)["attack"] == {
                GLOBAL: {"on": False, "reason": turn.reason, "actor": "trigger", "trigger": True}
            }
            assert [(entry.actor, entry.action, entry.outcome) for entry in await gate.audit()] == [
                ("trigger", "attack.on", "done"),
                ("trigger", "attack.off", "done"),
            ]

    run(scenario)


def test_one_of_many_gates_makes_the_change(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(any_store, 5) as found:
            traffic = Traffic(found[0])
            await traffic.second(0)
            await asyncio.gather(*[gate.watch.look() for gate in found])
            await traffic.second(0, 10)

            turns = await asyncio.gather(*[gate.watch.look() for gate in found])
            again = [await gate.watch.look() for gate in found]  # before they follow

            assert [turn is not None for turn in turns].count(True) == 1
            assert again == [None] * len(found)
            assert [entry.outcome for entry in await found[0].audit()].count("done") == 1

    run(scenario)


def test_it_leaves_a_persons_off_until_it_ends(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            await gate.says(on=False, for_ms=60_000)
            traffic = Traffic(gate)
            assert await attacked(gate, traffic) is None
            assert gate.replica.control.attack_on is False

            await gate.says(on=False, for_ms=1)
            turn = None
            while turn is None:  # until that millisecond is over
                turn = await gate.watch.look()

            assert turn.on

    run(scenario)


def test_it_leaves_a_persons_on(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            await gate.says(on=True)
            traffic = Traffic(gate)
            for _ in range(3):
                await traffic.second(0)
                assert await gate.watch.look() is None

    run(scenario)


def test_a_person_who_was_quicker_is_not_overruled(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey, 2) as [gate, other]:
            await other.says(on=False)

            turn = await attacked(gate, Traffic(gate))

            assert turn is None
            await gate.follow()
            assert gate.replica.control.attack_on is False
            assert [entry.actor for entry in await gate.audit()] == ["alice"]

    run(scenario)


def test_a_store_that_lost_what_is_known_here_decides_nothing(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            await gate.says(on=True, for_ms=1)
            await gate.replica.shared.command(b"DEL", Space(PREFIX).key("epoch"))

            assert await attacked(gate, Traffic(gate)) is None
            assert len(await gate.audit()) == 1

    run(scenario)


def test_it_looks_anew_after_a_silent_store(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            traffic = Traffic(gate)
            await traffic.second(0)
            await gate.watch.look()
            gate.silent = True
            assert await gate.watch.look() is None
            gate.silent = False

            await traffic.second(150)
            assert await gate.watch.look() is None
            await traffic.second(150)
            assert await gate.watch.look() is not None

    run(scenario)


def test_it_decides_nothing_while_a_real_store_is_away(start_valkey: Callable[..., StoreServer]) -> None:
    server = start_valkey()

    async def scenario() -> None:
        async with gates(server) as [gate]:
            traffic = Traffic(gate)
            await traffic.second(0)
            await gate.watch.look()
            await traffic.second(150)
            server.server.stop()

            assert await gate.watch.look() is None

    run(scenario)


def test_it_does_not_count_lost_replicas(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            traffic, lost = Traffic(gate), Traffic(gate, "lost/1")
            for requests in (0, 150, 300):
                await traffic.second(1)
                await lost.second(requests, silent_ms=SILENT_MS + 1_000)
                assert await gate.watch.look() is None

    run(scenario)


def test_it_follows_the_configuration(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            gate.thresholds = None
            traffic = Traffic(gate)
            assert await attacked(gate, traffic) is None
            assert not gate.has_looked.is_set()

            gate.thresholds = THRESHOLDS._replace(requests_per_s=200)
            assert await attacked(gate, traffic) is None
            gate.thresholds = THRESHOLDS
            assert await attacked(gate, traffic) is not None

    run(scenario)


def test_it_looks_until_it_is_cancelled(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with gates(valkey) as [gate]:
            running = asyncio.create_task(gate.watch.run())
            await gate.has_looked.wait()

            running.cancel()
            (ended,) = await asyncio.gather(running, return_exceptions=True)

            assert isinstance(ended, asyncio.CancelledError)

    run(scenario)
