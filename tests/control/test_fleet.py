"""The fleet: who is there, who has an epoch, and who has not said so; on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import orjson
import pytest

from sidecar.control import fleet as fleet_module
from sidecar.control.beats import LOST_MS, SILENT_MS
from sidecar.control.fleet import Confirmed, Fleet, Member, Missing, says
from sidecar.core.control import NO_EPOCH, Epoch
from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore, SharedStore
from tests.control.fleet_double import Replica, running
from tests.stores import StoreServer

T = TypeVar("T")

REPLICAS = "pc:{control}:replicas"
FLEET = "pc:{control}:fleet"
FIFTH = Epoch(5, "a" * 16)
SIXTH = Epoch(6, "b" * 16)


class Bench:
    """A fleet of one store, and replicas that say what the test wants."""

    def __init__(self, server: StoreServer, store: SharedStore, gate: str) -> None:
        self.server = server
        self.waited: list[Epoch] = []
        self.here = asyncio.Event()
        self.here.set()
        self.fleet = Fleet(store=store, prefix="pc:", gate=gate, reached=self._reached)

    async def _reached(self, epoch: Epoch) -> None:
        self.waited.append(epoch)
        await self.here.wait()

    def said(self, replica: str, epoch: Epoch = NO_EPOCH, *, silent_ms: int = 0, text: bytes = b"") -> None:
        """A replica said this, so long ago."""
        told = says(
            replica if "/" in replica else "g/0",
            name="host",
            version="1.2",
            started_ms=7,
            config=lambda: "digest",
            totals=lambda: (30, 4),
            clock_ms=lambda: 1_500.7,
        )(epoch, False)
        with self.server.client() as client:
            seconds, microseconds = client.time()
            now_ms = seconds * 1000 + microseconds // 1000
            client.zadd(REPLICAS, {replica: now_ms - silent_ms})
            client.hset(FLEET, replica, text or told)


def with_fleet(server: StoreServer, work: Callable[[Bench], Awaitable[T]], *, gate: str = "g") -> T:
    async def worked() -> T:
        store = SharedStore(RedisStore(server.url(), patience_s=5.0))
        try:
            return await work(Bench(server, store, gate))
        finally:
            await store.close()

    return asyncio.run(worked())


def names(missing: tuple[Missing, ...]) -> list[tuple[str, str]]:
    return [(one.replica, one.state) for one in missing]


# --- who is there ---------------------------------------------------------------------------


def test_it_lists_the_replicas_as_they_said(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        bench.said("h/1", FIFTH, silent_ms=SILENT_MS + 500)
        bench.said("g/10", SIXTH)
        bench.said("a/b/2", FIFTH, silent_ms=LOST_MS - 5_000)
        bench.said("z/0", SIXTH, silent_ms=LOST_MS + 1)
        one, two, three = await bench.fleet.members()

        assert one.replica == "a/b/2"
        assert (one.gate, one.worker, one.epoch, one.lost) == ("a/b", 2, FIFTH, True)
        assert two == Member(
            replica="g/10",
            gate="g",
            worker=10,
            name="host",
            version="1.2",
            started_ms=7,
            epoch=SIXTH,
            config="digest",
            seen_ms=two.seen_ms,
            now_ms=two.now_ms,
            lost=False,
            stale=False,
            requests=30,
            refusals=4,
            counted_ms=1_500,
        )
        assert 0 <= two.now_ms - two.seen_ms < SILENT_MS
        assert (three.replica, three.lost) == ("h/1", True)

    with_fleet(any_store, work)


@pytest.mark.parametrize(
    "text",
    [
        b"junk",
        b"[]",
        b"null",
        b"{}",
        b'{"epoch":"x"}',
        b'{"epoch":5}',
        b'{"epoch":"5-aaaaaaaaaaaaaaaa"}',
        b'{"epoch":"5-aaaaaaaaaaaaaaaa","started":null}',
        b'{"epoch":"5-aaaaaaaaaaaaaaaa","started":"x"}',
    ],
)
def test_it_lists_a_replica_that_says_something_else(any_store: StoreServer, text: bytes) -> None:
    async def work(bench: Bench) -> None:
        bench.said("g/1", text=text)
        (member,) = await bench.fleet.members()

        assert (member.replica, member.gate, member.worker, member.started_ms) == ("g/1", "g", 1, 0)
        assert member.epoch in (NO_EPOCH, FIFTH)
        assert not member.lost

    with_fleet(any_store, work)


def test_it_lists_a_replica_of_a_strange_name(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        assert await bench.fleet.members() == []
        bench.said("strange name")
        (member,) = await bench.fleet.members()

        assert (member.replica, member.gate, member.worker) == ("strange name", "", 0)

    with_fleet(any_store, work)


@pytest.mark.parametrize(("replica", "seen"), [(b"\xff", 1.0), (b"g/0", float("inf"))])
def test_it_believes_no_sign_of_life_that_is_not_one_of_ours(
    any_store: StoreServer, replica: bytes, seen: float
) -> None:
    async def work(bench: Bench) -> None:
        with any_store.client() as client:
            client.zadd(REPLICAS, {replica: seen})
            client.hset(FLEET, replica, "{}")
        with pytest.raises(StoreUnavailable) as caught:
            await bench.fleet.members()
        assert caught.value.kind == "response"

    with_fleet(any_store, work)


def test_it_leaves_out_one_that_signs_off_while_it_asks(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        bench.said("g/0", SIXTH)
        bench.said("g/1", FIFTH)
        with any_store.client() as client:
            client.hdel(FLEET, "g/1")

        assert [member.replica for member in await bench.fleet.members()] == ["g/0"]
        assert await bench.fleet.confirm(SIXTH, 10) == Confirmed(1, ())

    with_fleet(any_store, work)


# --- who has it -----------------------------------------------------------------------------


def test_it_is_everywhere_when_all_have_it_or_more(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        bench.said("g/0", FIFTH)
        bench.said("g/1", SIXTH)

        assert await bench.fleet.confirm(FIFTH, 10) == Confirmed(2, ())

    with_fleet(any_store, work)


def test_it_names_who_has_not_said_so(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        bench.said("g/0", SIXTH)
        bench.said("g/1", FIFTH)
        bench.said("g/2", Epoch(6, "c" * 16))
        bench.said("g/3", FIFTH, silent_ms=SILENT_MS + 700)
        bench.said("g/4", SIXTH, silent_ms=SILENT_MS + 700)
        confirmed = await bench.fleet.confirm(SIXTH, 0)

        assert confirmed.replicas == 5
        assert names(confirmed.missing) == [("g/1", "behind"), ("g/2", "behind"), ("g/3", "lost")]
        assert confirmed.missing[0].epoch == FIFTH
        assert SILENT_MS + 700 <= confirmed.missing[2].silent_ms < SILENT_MS + 5_000

    with_fleet(any_store, work)


def test_it_waits_for_who_is_behind_and_not_for_who_is_lost(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        bench.said("g/0", SIXTH)
        bench.said("g/1", FIFTH)
        bench.said("g/2", FIFTH, silent_ms=SILENT_MS + 1)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        loop.call_later(0.1, bench.said, "g/1", SIXTH)
        confirmed = await bench.fleet.confirm(SIXTH, 10)

        assert 0.1 <= loop.time() - begun_s < 5
        assert names(confirmed.missing) == [("g/2", "lost")]

    with_fleet(any_store, work)


def test_it_waits_no_longer_than_it_was_told(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        bench.said("g/1", FIFTH)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        confirmed = await bench.fleet.confirm(SIXTH, 0.1)

        assert 0.1 <= loop.time() - begun_s < 1
        assert names(confirmed.missing) == [("g/1", "behind")]

    with_fleet(any_store, work)


def test_it_does_not_wait_for_who_signed_off(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        async with Replica(any_store, "pc:", "g/1") as stays:
            async with Replica(any_store, "pc:", "g/0") as leaves:
                await leaves.follower.once()
            changed = await stays.change("deny", "192.0.2.0/24")
            await stays.follower.once()

            assert await bench.fleet.confirm(changed.epoch, 10) == Confirmed(1, ())

    with_fleet(any_store, work)


def test_it_follows_a_change_through_real_replicas(any_store: StoreServer) -> None:
    async def work(bench: Bench) -> None:
        async with Replica(any_store, "pc:", "g/0") as one, Replica(any_store, "pc:", "h/0") as two:
            for replica in (one, two):
                await replica.follower.once()
            with running(one.follower), running(two.follower):
                changed = await one.change("deny", "192.0.2.0/24")
                confirmed = await bench.fleet.confirm(changed.epoch, 10)

            assert confirmed == Confirmed(2, ())
            assert one.follower.epoch == two.follower.epoch == changed.epoch

    with_fleet(any_store, work)


# --- this gate's own ------------------------------------------------------------------------


def test_it_is_settled_when_this_gate_has_it(any_store: StoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_module, "SETTLE_S", 0.1)

    async def work(bench: Bench) -> None:
        bench.said("g/0", SIXTH)
        bench.said("h/0", FIFTH)
        assert await bench.fleet.settled(SIXTH), "another gate is not waited for"
        bench.said("g/1", FIFTH, silent_ms=SILENT_MS + 1)
        assert await bench.fleet.settled(SIXTH), "nor one that is lost"
        bench.said("g/2", FIFTH)
        assert not await bench.fleet.settled(SIXTH)
        bench.said("g/2", SIXTH)
        assert bench.waited == [SIXTH] * 3
        bench.here.clear()
        assert not await bench.fleet.settled(SIXTH), "this very process has not"

    with_fleet(any_store, work)


def test_it_believes_no_nonsense() -> None:
    class Nonsense:
        async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
            raise AssertionError

        async def command(self, *words: bytes) -> object:
            return b"OK"

        async def close(self) -> None:
            pass

    async def scenario() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await Fleet(
                store=Nonsense(), prefix="pc:", gate="g", reached=lambda _: asyncio.sleep(0)
            ).members()
        assert caught.value.kind == "response"

    asyncio.run(scenario())


# --- what lies in the store -----------------------------------------------------------------


def test_its_keys_expire_and_lie_under_one_hash_tag(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, "pc:", "g/0") as replica:
            await replica.change("deny", "192.0.2.0/24", for_ms=60_000)
            await replica.follower.once()
            with any_store.client() as client:
                ttls = {key.decode(): client.pttl(key) for key in client.scan_iter()}

        assert all(key.startswith("pc:{control}:") for key in ttls)
        expiring = {key for key, ttl in ttls.items() if ttl != -1}
        assert expiring == {REPLICAS, FLEET}
        assert all(LOST_MS - 60_000 < ttls[key] <= LOST_MS for key in expiring)
        assert ttls["pc:{control}:hash_key"] == -1

    asyncio.run(scenario())


def test_it_counts_ranks_agrees_and_forgets(any_store: StoreServer) -> None:
    async def scenario() -> None:
        replicas = [Replica(any_store, "pc:", name) for name in ("c", "a", "b", "")]
        with any_store.client() as client:
            client.zadd(REPLICAS, {"dead": 5, "z": 5})
            client.hset(FLEET, mapping={"dead": "x", "z": "x"})
            for replica in replicas * 2:
                assert await replica.follower.once()

            told = [replica.told[-1] for replica in replicas]
            assert [(follows.replicas, follows.rank) for follows in told] == [(3, 2), (3, 0), (3, 1), (3, 0)]
            assert len({follows.hash_key for follows in told}) == 1
            assert client.zrange(REPLICAS, 0, -1) != []
            assert set(client.hkeys(FLEET)) == {b"a", b"b", b"c"}
            assert orjson.loads(client.hget(FLEET, "a") or b"") == {"epoch": str(NO_EPOCH)}
            for replica in replicas:
                await replica.close()
            assert not client.exists(REPLICAS)
            assert not client.exists(FLEET)

    asyncio.run(scenario())


def test_it_sweeps_what_has_expired_but_the_last_word_on_attack_mode(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Replica(any_store, "pc:", "g/0") as replica:
            expired = {"deny": ["10.0.0.1/32", "10.0.0.2/32"], "attack": ["global", "key:a"], "keys": ["k"]}
            for table, fields in expired.items():
                await replica.changes.change(table, put=fields, until_ms=5, actor="", action="")
            await replica.change("deny", "10.0.0.3/32", for_ms=60_000)
            with any_store.client() as client:
                client.zadd("pc:{control}:expiring", {"unknown\nx": 5, "deny\nwith\nline": 5})
                assert await replica.follower.once()

                assert client.hkeys("pc:{control}:deny") == [b"10.0.0.3/32"]
                assert client.hkeys("pc:{control}:attack") == [b"global"]
                assert client.hkeys("pc:{control}:keys") == [b"k"], "their registry knows"
                assert client.zrange("pc:{control}:expiring", 0, -1) == [b"deny\n10.0.0.3/32"]

    asyncio.run(scenario())
