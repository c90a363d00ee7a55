"""The follower and a real store: deltas, snapshots, lost histories, and a subscription that fails."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import pytest

from sidecar.control.changes import Changed
from sidecar.control.follow import DELTAS, PERIOD_S
from sidecar.core.control import EMPTY, GLOBAL, Control, Entry
from sidecar.store.redis import RedisStore
from tests.control.fleet_double import FaultyStore, Relay, Replica, dump, fail_over, running, shown, until
from tests.control.test_changes import LOG
from tests.stores import StoreServer

PREFIX = "pc:"
ATTACK = "pc:{control}:attack"
ON = {"on": True, "actor": "ann"}
CIDRS = ("192.0.2.0/24", "192.0.2.9/32", "198.51.100.0/24", "2001:db8::/32")
AT_ONCE_S = 0.5 * PERIOD_S
"""Less than a comparison would take, and long enough for two busy cores."""


def networks(first: int, count: int) -> list[str]:
    return [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32" for n in range(first, first + count)]


def denied(control: Control) -> set[str]:
    return set(control.deny.prefixes())


def trim(server: StoreServer, kept: int = 0) -> None:
    with server.client() as client:
        client.xtrim(LOG, maxlen=kept, approximate=False)


async def some_of_everything(replica: Replica) -> Changed:
    await replica.change("deny", *CIDRS, payload={"reason": "spam"})
    await replica.change("allow", CIDRS[0], for_ms=60_000)
    await replica.change("exempt", CIDRS[1])
    await replica.change("pass", CIDRS[2], CIDRS[3])
    await replica.change("deny", CIDRS[1], delete=CIDRS[2:])
    await replica.change("attack", GLOBAL, "tenant:t", payload=ON, for_ms=60_000)
    await replica.change("resets", "per-ip key:a")
    await replica.change("keys", "k_1", payload={"label": "x"})
    return await replica.change("overrides", "per-ip key:a", payload={"permits": 7})


WHOLE = {
    "deny": sorted(CIDRS[:2]),
    "allow": [CIDRS[0]],
    "exempt": [CIDRS[1]],
    "pass": sorted(CIDRS[2:]),
    "attack": {GLOBAL: ON, "tenant:t": ON},
    "overrides": {"per-ip key:a": {"permits": 7}},
}


# --- deltas -----------------------------------------------------------------------------


def test_it_follows_change_by_change(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with (
            Replica(any_store, PREFIX, "gate/0") as replica,
            Replica(any_store, PREFIX, "gate/1") as other,
        ):
            last = await some_of_everything(replica)
            for each in (replica, other):
                assert await each.follower.once()
                assert await each.follower.once()
                assert shown(each.control) == WHOLE
                assert each.epochs == [last.epoch]
                assert each.control.attack_on is True
                assert each.control.attacked == {"tenant:t"}
                assert each.errors == []
            assert dict(other.book.expiring("allow")) == dict(replica.book.expiring("allow")) != {}

    asyncio.run(scenario())


def test_it_tells_what_to_forget(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            await replica.change("resets", "per-ip key:a", "per-ip tenant:t")
            await replica.change("keys", "k_1", "k_2", payload={"label": "x"})
            await replica.change("resets", "per-ip key:b")
            last = await replica.change("keys", "k_3", delete=["k_1", "k_3"], for_ms=60_000)
            await replica.follower.once()
            await replica.change("deny", CIDRS[0])
            await replica.follower.once()

            first, second = replica.news
            assert first.resets == ("per-ip key:a", "per-ip tenant:t", "per-ip key:b")
            assert first.keys is not None
            assert first.keys["k_1"] is None
            assert first.keys["k_2"] is not None
            assert first.keys["k_2"].members() == {"label": "x"}
            assert first.keys["k_3"] == Entry(last.at_ms, last.until_ms, b"{}")
            assert (second.resets, second.keys) == ((), {})

    asyncio.run(scenario())


def test_it_catches_up_with_many_changes(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            for number in range(3 * DELTAS + 5):
                await replica.change("deny", f"10.0.0.{number}/32", delete=[f"10.0.0.{abs(number - 7)}/32"])
            await replica.follower.once()

            assert replica.follower.epoch == await replica.changes.epoch()
            assert denied(replica.control) == {
                f"10.0.0.{number}/32" for number in range(number - 6, number + 1)
            }
            assert all(news.resets is not None for news in replica.news), "change by change"

    asyncio.run(scenario())


# --- snapshots ----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 8])
def test_it_reads_everything_when_the_log_does_not_reach_back(any_store: StoreServer, kept: int) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            last = await some_of_everything(replica)
            trim(any_store, kept)
            assert await replica.follower.once()

            assert shown(replica.control) == WHOLE
            assert replica.epochs == [last.epoch]
            assert [(news.resets, news.keys) for news in replica.news] == [(None, None)], "unknown"
            assert list(replica.book.expiring("allow")) == [CIDRS[0]]

    asyncio.run(scenario())


def test_it_reads_everything_of_another_history(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with (
            Replica(any_store, PREFIX, "gate/0") as mine,
            Replica(any_store, PREFIX, "gate/1") as theirs,
        ):
            await mine.change("deny", CIDRS[0])
            with any_store.client() as client:
                kept = dump(client)
                await mine.change("deny", CIDRS[1])
                await mine.follower.once()
                fail_over(client, kept)
            await theirs.change("deny", CIDRS[2])
            await mine.follower.once()
            await theirs.follower.once()

            assert mine.follower.epoch.number == 2
            assert mine.follower.epoch == theirs.follower.epoch
            assert denied(mine.control) == denied(theirs.control) == {CIDRS[0], CIDRS[2]}
            assert mine.news[-1].resets is None
            assert theirs.news[-1].resets == ()

    asyncio.run(scenario())


def test_it_leaves_out_what_has_expired(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            for table, field in (("deny", CIDRS[0]), ("attack", GLOBAL), ("overrides", "per-ip key:a")):
                await replica.changes.change(
                    table, put=[field], payload={"on": True, "permits": 1}, until_ms=1, actor="", action=""
                )
            trim(any_store)
            await replica.follower.once()

            assert denied(replica.control) == set()
            assert replica.control.overrides == {}
            assert replica.control.attack_on is False

    asyncio.run(scenario())


def test_it_adopts_nothing_when_the_store_fails_in_the_middle(any_store: StoreServer) -> None:
    async def scenario() -> None:
        faulty: list[FaultyStore] = []

        def through(store: RedisStore) -> FaultyStore:
            faulty.append(FaultyStore(store))
            return faulty[-1]

        async with Replica(any_store, PREFIX, "") as writer:
            last = await some_of_everything(writer)
            await writer.change("deny", *networks(0, 3_000))
            last = await writer.change("deny", delete=networks(0, 3_000))
            trim(any_store)
            for faultless in count():
                async with Replica(any_store, PREFIX, "gate/0", through=through) as replica:
                    await replica.follower.once()
                    replica.news.clear()
                    replica.follower.book = type(replica.book)()  # as if it had just started
                    faulty[-1].faultless = faultless
                    whole = await replica.follower.once()
                    if whole:
                        break
                    assert replica.epochs in ([], [last.epoch])
                    assert replica.follower.epoch == replica.control.epoch
                    assert replica.control is EMPTY or shown(replica.control) == WHOLE
                    assert replica.errors == ["connection: the test says so"]
                    assert await replica.follower.once()
                    assert shown(replica.control) == WHOLE
                    assert replica.epochs == [last.epoch]

            assert faultless > 8, "it failed everywhere once"

    asyncio.run(scenario())


def test_it_reads_one_state_while_changes_go_on(any_store: StoreServer) -> None:
    """What is adopted is exactly what was in force at its epoch, although it was read page by page."""

    async def scenario() -> None:
        states: dict[int, set[str]] = {}

        async def go_on(writer: Replica, reader: Replica) -> int:
            """Change a little everywhere, and remember each state, until somebody has read one; how many changes."""
            listed = states[max(states)]
            number = 0
            while not reader.news:
                number += 1
                put = networks(20_000 + 7 * number, 7) + networks(number * 631 % 20_000, 3)
                gone = networks(number * 977 % 19_000, 11) + networks(20_000 + 7 * (number - 9), 2)
                changed = await writer.change("deny", *put, delete=gone)
                listed = (listed - set(gone)) | set(put)
                states[changed.epoch.number] = listed
            return number

        async with Replica(any_store, PREFIX, "") as writer:
            for start in range(0, 20_000, 5_000):
                await writer.change("deny", *networks(start, 5_000))
            states[(await writer.changes.epoch()).number] = set(networks(0, 20_000))
            for name in ("gate/0", "gate/1"):
                trim(any_store)
                async with Replica(any_store, PREFIX, name) as reader:
                    answered, changes = await asyncio.gather(reader.follower.once(), go_on(writer, reader))

                    assert answered
                    assert changes > 10, "while it read"
                    assert reader.news[0].resets is None, "a snapshot"
                    assert denied(reader.control) == states[max(states)]
                    for news in reader.news:
                        assert denied(news.control) == states[news.control.epoch.number]

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["snapshot", "delta"])
@pytest.mark.parametrize(("table", "field"), [("deny", "10.0.0.1/8"), ("overrides", "per-ip address:junk")])
def test_it_follows_on_when_somebody_has_written_nonsense(
    any_store: StoreServer, way: str, table: str, field: str
) -> None:
    async def scenario() -> None:
        async with Replica(any_store, PREFIX, "gate/0") as replica:
            await replica.change("deny", CIDRS[0])
            await replica.follower.once()
            await replica.change(table, field, payload={"permits": 1})
            if way == "snapshot":
                trim(any_store)
            for _ in range(2):
                assert not await replica.follower.once()
            assert [error.partition(":")[0] for error in replica.errors] == ["response"] * 2
            assert denied(replica.control) == denied(replica.book.control) == {CIDRS[0]}
            await replica.change(table, CIDRS[1] if table == "deny" else "per-ip key:a", delete=[field])
            trim(any_store)

            assert await replica.follower.once()
            assert replica.follower.epoch == await replica.changes.epoch()

    asyncio.run(scenario())


# --- the subscription -----------------------------------------------------------------------


def test_it_follows_at_once_and_without_a_subscription_within_a_second(
    any_store: StoreServer, directory: Path
) -> None:
    async def scenario() -> None:
        async with (
            Relay(any_store, directory) as relay,
            Replica(any_store, PREFIX, "gate/0", url=relay.url) as replica,
        ):

            async def learned_s() -> float:
                """After how many seconds it has one more change."""
                epoch = (await replica.change("deny", *CIDRS)).epoch
                return await until(lambda: replica.follower.epoch == epoch, "it follows", within_s=5)

            with running(replica.follower):
                await until(lambda: relay.subscribers == 1, "it listens")
                await until(lambda: len(replica.told) > 0, "it begins")
                assert min([await learned_s() for _ in range(5)]) < AT_ONCE_S
                relay.deaf = True
                assert await learned_s() < 2 * PERIOD_S
                relay.deaf = False
                assert await learned_s() < AT_ONCE_S
                relay.cut()
                await until(lambda: relay.subscribers == 0, "it is cut off")
                assert await learned_s() < 2 * PERIOD_S
                assert replica.errors[0].startswith("connection: ")
                relay.refusing = False
                await until(lambda: relay.subscribers == 1, "it subscribes again", within_s=2 * PERIOD_S)
                assert min([await learned_s() for _ in range(5)]) < AT_ONCE_S

    asyncio.run(scenario())
