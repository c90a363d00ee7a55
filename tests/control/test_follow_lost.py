"""The follower and a store that has lost something: changes are done again, attack mode is said again."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from sidecar.control.follow import REMEMBERED, REMEMBERED_FIELDS
from sidecar.core.control import GLOBAL
from sidecar.store.redis import RedisStore
from tests.control.fleet_double import FaultyStore, Replica, dump, fail_over, shown
from tests.control.test_changes import AUDIT, EPOCH, LOG, entries
from tests.control.test_follow_store import (
    CIDRS,
    ON,
    PREFIX,
    WHOLE,
    denied,
    networks,
    some_of_everything,
    trim,
)
from tests.stores import StoreServer

ATTACK = "pc:{control}:attack"


# --- a store that has lost something -------------------------------------------------------


def test_it_does_again_what_the_store_has_lost(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            await replica.change("deny", CIDRS[0], payload={"reason": "kept"})
            with any_store.client() as client:
                kept = dump(client)
                last = await some_of_everything(replica)
                await replica.follower.once()
                before, log, tables = (
                    replica.control,
                    entries(client, LOG),
                    dump(client, "pc:{control}:[!afr]*"),
                )
                fail_over(client, kept)
                assert await replica.follower.once()

                assert client.get(EPOCH) == str(last.epoch).encode()
                assert entries(client, LOG) == log
                assert set(dump(client, "pc:{control}:[!afr]*")) - {b"pc:{control}:floor"} == set(tables)
                outcomes = [entry["outcome"] for entry in entries(client, AUDIT)]
                assert outcomes == ["done"] + ["done again"] * 9
            assert replica.control is before
            assert replica.stales == []
            trim(any_store)
            async with Replica(any_store, PREFIX, "gate/1") as other:
                await other.follower.once()
                assert shown(other.control) == shown(before) == WHOLE
                assert other.control.attack == before.attack, "at the same time, for the same time"

    asyncio.run(scenario())


def test_it_does_everything_again_in_an_empty_store(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            last = await some_of_everything(replica)
            await replica.follower.once()
            with any_store.client() as client:
                fail_over(client, {})
                assert await replica.follower.once()

                assert client.get(EPOCH) == str(last.epoch).encode()
            async with Replica(any_store, PREFIX, "gate/1") as other:
                await other.follower.once()
                assert shown(other.control) == WHOLE

    asyncio.run(scenario())


def test_two_replicas_do_it_again_once(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as one, Replica(any_store, PREFIX, "gate/1") as two:
            await one.change("deny", CIDRS[0])
            with any_store.client() as client:
                kept = dump(client)
                for number in range(20):
                    await one.change("deny", f"10.0.0.{number}/32")
                last = await one.changes.epoch()
                await asyncio.gather(one.follower.once(), two.follower.once())
                fail_over(client, kept)
                assert all(await asyncio.gather(one.follower.once(), two.follower.once()))

                outcomes = [entry["outcome"] for entry in entries(client, AUDIT)]
                assert outcomes == ["done"] + ["done again"] * 20
                assert client.get(EPOCH) == str(last).encode()
            assert one.follower.epoch == two.follower.epoch == last

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("changes", "fields"), [(REMEMBERED + 1, 1), (REMEMBERED_FIELDS // 5_000 + 1, 5_000)]
)
def test_it_keeps_what_it_can_no_longer_do_again(valkey: StoreServer, changes: int, fields: int) -> None:
    async def scenario() -> None:
        async with Replica(valkey, PREFIX, "gate/0") as replica:
            with valkey.client() as client:
                states = []
                for number in range(changes):
                    states.append(dump(client))
                    await replica.change("deny", *networks(number * fields, fields))
                await replica.follower.once()
                fail_over(client, states[0])
                assert await replica.follower.once()
                assert not client.exists(EPOCH)
                assert len(replica.stales) == 1
                assert len(replica.control.deny) == changes * fields
                fail_over(client, states[1])
                assert await replica.follower.once()

                assert client.get(EPOCH) == str(replica.follower.epoch).encode()
                assert replica.stales[1:] == [""]

    asyncio.run(scenario())


def test_it_does_nothing_again_from_before_a_snapshot(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            with any_store.client() as client:
                first = await replica.change("deny", CIDRS[0])
                kept = dump(client)
                await replica.change("deny", CIDRS[1])
                await replica.follower.once()
                for cidr in CIDRS[2:]:
                    await replica.change("deny", cidr)
                trim(any_store)
                await replica.follower.once()
                fail_over(client, kept)
                await replica.follower.once()

                # It could do one of them again, but not all, and half a history is none.
                assert client.get(EPOCH) == str(first.epoch).encode()
            assert len(replica.stales) == 1
            assert denied(replica.control) == set(CIDRS)

    asyncio.run(scenario())


# --- the last word on attack mode -----------------------------------------------------------


async def lost_and_changed(server: StoreServer, replica: Replica, for_ms: int = 0) -> None:
    """The store has lost all, attack mode among it, and then something else was changed."""
    await replica.change("attack", GLOBAL, payload=ON, for_ms=for_ms)
    await replica.follower.once()
    with server.client() as client:
        fail_over(client, {})
    await replica.change("deny", CIDRS[0])


def test_it_says_attack_mode_again_to_a_store_that_has_lost_it(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with (
            Replica(any_store, PREFIX, "gate/0") as replica,
            Replica(any_store, PREFIX, "gate/1") as other,
        ):
            await lost_and_changed(any_store, replica, for_ms=60_000)
            said = replica.control.attack[GLOBAL]
            assert all(await asyncio.gather(replica.follower.once(), other.follower.once()))
            await other.follower.once()

            entry = await replica.changes.entry("attack", GLOBAL)
            assert entry is not None
            assert entry[1:] == said[1:]
            for each in (replica, other):
                assert each.control.attack_on is True
                assert denied(each.control) == {CIDRS[0]}
            assert replica.follower.epoch == other.follower.epoch
            with any_store.client() as client:
                told = [entry["outcome"] for entry in entries(client, AUDIT)]
                assert told == ["done", "done"]

    asyncio.run(scenario())


def test_many_say_attack_mode_again_once(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as one, Replica(any_store, PREFIX, "gate/1") as two:
            await one.change("attack", GLOBAL, payload=ON)
            await two.follower.once()
            with any_store.client() as client:
                await lost_and_changed(any_store, one)
                await asyncio.gather(one.follower.once(), two.follower.once())
                await asyncio.gather(one.follower.once(), two.follower.once())

                assert client.hlen(ATTACK) == 1
                done = [entry for entry in entries(client, AUDIT) if entry["outcome"] == "done"]
                assert len(done) == 2
            assert one.follower.epoch == two.follower.epoch
            assert one.control.attack_on is two.control.attack_on is True

    asyncio.run(scenario())


@pytest.mark.parametrize("carried_out", [False, True])
def test_it_says_attack_mode_again_although_the_store_fails_in_between(
    any_store: StoreServer, carried_out: bool
) -> None:
    async def scenario() -> None:
        faulty: list[FaultyStore] = []

        def through(store: RedisStore) -> FaultyStore:
            faulty.append(FaultyStore(store))
            return faulty[-1]

        for faultless in count():
            with any_store.client() as client:
                fail_over(client, {})
            async with Replica(any_store, PREFIX, "gate/0", through=through) as replica:
                await lost_and_changed(any_store, replica)
                faulty[-1].carried_out = carried_out
                faulty[-1].faultless = faultless
                unharmed = await replica.follower.once()
                faulty[-1].faultless = -1
                assert replica.control.attack_on is True
                assert await replica.follower.once()

                assert await replica.changes.entry("attack", GLOBAL) is not None, faultless
                assert replica.follower.epoch == await replica.changes.epoch()
                if unharmed:
                    break

    asyncio.run(scenario())


def test_nobody_is_left_behind_by_a_store_that_begins_anew(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, "pc:", "old/1") as old, Replica(any_store, "pc:", "new/1") as new:
            for number in range(5):
                await old.changes.change("deny", put=[f"10.{number}.0.0/16"], actor="a", action="a")
            with any_store.client() as client:
                client.delete(LOG)  # so that it reads everything, and can repeat nothing
                assert await old.follower.once()
                fail_over(client, {})
            assert await old.follower.once()
            changed = await new.changes.change(
                "attack", put=[GLOBAL], payload={"on": True}, actor="b", action="b"
            )
            for replica in (old, new):
                assert await replica.follower.once()

            assert changed.epoch.number > 5
            assert [replica.control.attack_on for replica in (old, new)] == [True, True]
            assert [bool(why) for why in old.stales] == [True, False]
            assert old.listener.replacements[0][1] == changed.epoch

    asyncio.run(scenario())
