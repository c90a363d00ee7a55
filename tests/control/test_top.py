"""What replicas tell of their heaviest requests, and what comes out when it is added up: on real servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from sidecar.control.changes import ControlStore
from sidecar.control.top import (
    AT_ONCE,
    LISTED,
    MAX_NAME,
    REFRESH_MS,
    STALE_MS,
    TELL_MS,
    TURN_S,
    Names,
    TopAnswer,
    TopReader,
    TopTeller,
)
from sidecar.core.addresses import AddressSet
from sidecar.core.ledger import Ledger
from sidecar.core.model import Dimension, Limit, Match, Reason, Request, Verdict
from sidecar.core.policy import Policy
from sidecar.core.sketch import MINUTE_MS, By, Entry, Tally
from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore
from tests.lanes import passes, run
from tests.stores import StoreServer

T = TypeVar("T")

OK = Verdict(Reason.OK)
LIMITED = Verdict(Reason.RATE_LIMITED, key_id=b"5e4f")


def request(address: str = "203.0.113.9", path: str = "/orders/1", method: str = "GET") -> Request:
    return Request(address=address, method=method, host="shop.example", path=path, headers={})


def policy(*limits: Limit, ipv6_prefix: int = 64) -> Policy:
    none = AddressSet()
    return Policy(
        ledger=Ledger(),
        limits=limits,
        deny=none,
        allow=none,
        exempt=none,
        passes=none,
        ipv6_prefix=ipv6_prefix,
        hash_key=b"k" * 32,
    )


def limit(*paths: str, methods: tuple[str, ...] = ()) -> Limit:
    return Limit("x", (Dimension("ip"),), 1, 1_000, 100, Match(paths=paths, methods=methods))


class Replica:
    """A tally, its teller, and a clock that stands until it is set."""

    def __init__(
        self, store: ControlStore, name: str, *, clock_ms: Callable[[], float] | None = None
    ) -> None:
        self.now_ms = 0.0
        clock_ms = clock_ms or (lambda: self.now_ms)
        self.failures: list[str] = []
        self.tally = Tally(
            names=Names(lambda: self.policy), chance=random.Random(name).random, now_ms=clock_ms()
        )
        self.policy = policy()
        self.teller = TopTeller(
            store=store,
            prefix="pc:",
            replica=name,
            tally=self.tally,
            clock_ms=clock_ms,
            failed=lambda kind, _: self.failures.append(kind),
        )

    def sees(self, count: int, asked: Request, verdict: Verdict = OK) -> None:
        for _ in range(count):
            self.tally.seen(asked, verdict)

    async def after(self, now_ms: float) -> bool:
        """Whether it tells something at this time."""
        self.now_ms = now_ms
        self.tally.turn(now_ms)
        return await self.teller.tell()


def on(server: StoreServer, scenario: Callable[[RedisStore], Coroutine[Any, Any, T]]) -> T:
    async def connected() -> T:
        store = RedisStore(server.url(), patience_s=5.0)
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(connected())


def age(server: StoreServer, replica: str) -> None:
    """Make a replica's summary as old as one that is stale."""
    with server.client() as client:
        client.zincrby("pc:{control}:top_times", -STALE_MS - 1, replica)


def fields(server: StoreServer) -> set[bytes | str]:
    """The replicas that have a summary in the store."""
    with server.client() as client:
        replicas = set(client.hkeys("pc:{control}:top"))
        assert replicas == set(client.zrange("pc:{control}:top_times", 0, -1))
    return replicas


# --- names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/orders/7", "/orders/*"),
        ("/orders", "/orders/*"),
        ("/orders/", "/orders/*"),
        ("/", "/"),
        ("", "malformed"),
        ("/api/v1/login", "/api/*/login"),
        ("/api/v1/other", "/api/*"),
        ("/static/a.png", "*.png"),
        ("/" + "x" * 100 + "/y", "/" + "x" * (MAX_NAME - 2) + "…"),
    ],
)
def test_it_names_a_route_by_the_first_pattern_else_by_the_first_segment(path: str, route: str) -> None:
    known = policy(limit(), limit("/api/*/login", "*.png"))

    assert Names(lambda: known)(request(path=path)) == ("203.0.113.9", route)


def test_it_names_by_the_policy_in_force() -> None:
    known = [policy(limit("/orders/*", methods=("POST",)))]
    names = Names(lambda: known[-1])
    assert names(request(path="/a/b"))[1] == "/a/*"

    known.append(policy(limit("/a/b"), ipv6_prefix=48))

    assert names(request("2001:db8:0:1::7", "/a/b")) == ("2001:db8::/48", "/a/b")


def test_it_names_ipv6_by_its_network_and_nobody_as_he_is() -> None:
    names = Names(policy)

    assert names(request("2001:db8:0:1::7"))[0] == "2001:db8:0:1::/64"
    assert names(request("unknown"))[0] == "unknown"


# --- the sum --------------------------------------------------------------------


def test_it_adds_up_what_all_replicas_saw(any_store: StoreServer) -> None:
    async def scenario(store: RedisStore) -> TopAnswer:
        one, other, idle = (Replica(store, name) for name in ("gate/0", "gate/1", "gate/2"))
        one.sees(5, request())
        one.sees(3, request("192.0.2.1", "/login"), LIMITED)
        other.sees(2, request("192.0.2.1"))
        other.sees(4, request(), LIMITED)
        assert await one.after(20_000.0)
        assert await other.after(90_000.0)
        assert not await idle.after(90_000.0)
        return await TopReader(store=store, prefix="pc:").read(10)

    answer = on(any_store, scenario)

    assert (answer.since_s, answer.replicas) == (90, 2)
    assert answer.heaviest == {
        By.ADDRESS: (Entry("203.0.113.9", 9, 0), Entry("192.0.2.1", 5, 0)),
        By.KEY: (Entry("5e4f", 7, 0),),
        By.ROUTE: (Entry("/orders/*", 11, 0), Entry("/login/*", 3, 0)),
    }
    assert answer.refused == {
        By.ADDRESS: (Entry("203.0.113.9", 4, 0), Entry("192.0.2.1", 3, 0)),
        By.KEY: (Entry("5e4f", 7, 0),),
        By.ROUTE: (Entry("/orders/*", 4, 0), Entry("/login/*", 3, 0)),
    }


def test_an_empty_store_has_nobody_in_it(valkey: StoreServer) -> None:
    answer = on(valkey, lambda store: TopReader(store=store, prefix="pc:").read(10))

    assert (answer.since_s, answer.replicas) == (0, 0)
    assert set(answer.heaviest.values()) == set(answer.refused.values()) == {()}


def test_it_shows_as_many_as_asked_for_of_more_than_one_piece_of_replicas(valkey: StoreServer) -> None:
    replicas = 2 * AT_ONCE + 1

    async def scenario(store: RedisStore) -> TopAnswer:
        for number in range(replicas):
            replica = Replica(store, f"gate/{number}")
            for host in range(2 * LISTED):
                replica.sees(1, request(f"10.0.{number}.{host}"))
            replica.sees(2, request())
            assert await replica.after(1_000.0)
        return await TopReader(store=store, prefix="pc:").read(3)

    answer = on(valkey, scenario)

    assert answer.replicas == replicas
    addresses = answer.heaviest[By.ADDRESS]
    assert len(addresses) == 3
    assert addresses[0] == Entry("203.0.113.9", 2 * replicas, 0)
    assert addresses[1].at_least == 1  # the others may have seen it, too, and not have listed it
    assert addresses[1].at_most == 1 + replicas - 1


def test_a_full_summary_is_small(valkey: StoreServer) -> None:
    async def scenario(store: RedisStore) -> None:
        replica = Replica(store, "gate/0")
        for number in range(1_000):
            asked = request(f"2001:db8:ffff:{number:x}:ffff:ffff:ffff:ffff", f"/{number:0100}")
            replica.tally.seen(asked, Verdict(Reason.RATE_LIMITED, key_id=b"%032x" % number))
        await replica.after(1_000.0)

    on(valkey, scenario)

    with valkey.client() as client:
        value = client.hget("pc:{control}:top", "gate/0")
    assert value is not None
    assert len(value) < 40_000


# --- when ------------------------------------------------------------------------


def test_it_tells_what_is_new_and_refreshes_what_is_not(valkey: StoreServer) -> None:
    async def scenario(store: RedisStore) -> None:
        replica = Replica(store, "gate/0")
        assert not await replica.after(TELL_MS)
        replica.sees(1, request())
        assert await replica.after(2 * TELL_MS)
        assert not await replica.after(3 * TELL_MS)
        replica.sees(1, request())
        assert await replica.after(4 * TELL_MS)
        assert not await replica.after(4 * TELL_MS + REFRESH_MS - 1)
        assert await replica.after(4 * TELL_MS + REFRESH_MS)

    on(valkey, scenario)

    assert fields(valkey) == {b"gate/0"}


def test_it_takes_its_summary_back_when_nothing_is_left_in_it(valkey: StoreServer) -> None:
    async def scenario(store: RedisStore) -> None:
        replica = Replica(store, "gate/0")
        replica.sees(1, request())
        assert await replica.after(1_000.0)
        assert await replica.after(6 * MINUTE_MS)
        assert not await replica.after(7 * MINUTE_MS)

    on(valkey, scenario)

    assert fields(valkey) == set()


def test_a_replica_that_died_is_not_counted_and_the_next_one_removes_it(any_store: StoreServer) -> None:
    async def scenario(store: RedisStore) -> tuple[int, set[bytes | str], set[bytes | str]]:
        dead, living = Replica(store, "dead/0"), Replica(store, "living/0")
        for replica in (dead, living):
            replica.sees(1, request())
            await replica.after(1_000.0)
        age(any_store, "dead/0")
        answer = await TopReader(store=store, prefix="pc:").read(10)
        before = fields(any_store)
        living.sees(1, request())
        await living.after(6_000.0)
        return answer.replicas, before, fields(any_store)

    counted, before, after = on(any_store, scenario)

    assert counted == 1
    assert before == {b"dead/0", b"living/0"}
    assert after == {b"living/0"}


def test_everything_expires_when_nobody_tells_any_more(valkey: StoreServer) -> None:
    async def scenario(store: RedisStore) -> None:
        replica = Replica(store, "gate/0")
        replica.sees(1, request())
        await replica.after(1_000.0)

    on(valkey, scenario)

    with valkey.client() as client:
        for key in client.scan_iter():
            assert 0 < client.pttl(key) <= STALE_MS
        assert set(client.scan_iter()) == {b"pc:{control}:top", b"pc:{control}:top_times"}


# --- what goes wrong -------------------------------------------------------------


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"since_s": 1}',
        b'{"since_s": -1, "heaviest": {}, "refused": {}}',
        b'{"since_s":1,"heaviest":{"addresses":[[["a",-1,0]],0],"keys":[[],0],"routes":[[],0]},"refused":{}}',
    ],
)
def test_it_leaves_out_what_it_cannot_read(valkey: StoreServer, junk: bytes) -> None:
    async def scenario(store: RedisStore) -> TopAnswer:
        replica = Replica(store, "gate/0")
        other = Replica(store, "gate/1")
        for one in (replica, other):
            one.sees(1, request())
            await one.after(1_000.0)
        await store.command(b"HSET", b"pc:{control}:top", b"gate/1", junk)
        await store.command(b"HDEL", b"pc:{control}:top", b"gate/2")
        return await TopReader(store=store, prefix="pc:").read(10)

    answer = on(valkey, scenario)

    assert answer.replicas == 1
    assert answer.heaviest[By.ADDRESS] == (Entry("203.0.113.9", 1, 0),)


class ScriptedStore:
    """Counts the summaries that it gets; raises what the test has put into `fails`."""

    def __init__(self) -> None:
        self.fails: StoreUnavailable | None = None
        self.put = 0

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
        assert script.name == "top"
        return await self.command()

    async def command(self, *_: bytes) -> object:
        if self.fails is not None:
            raise self.fails
        self.put += 1
        return 1

    async def close(self) -> None:
        """Nothing is open."""


def test_it_goes_on_telling_after_an_outage() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        store = ScriptedStore()
        replica = Replica(store, "gate/0", clock_ms=lambda: loop.time() * 1000)
        task = loop.create_task(replica.teller.run())
        replica.sees(1, request())
        store.fails = StoreUnavailable("timeout", "no answer")
        await passes(2 * TELL_MS + 3_000 * TURN_S)
        assert (store.put, replica.failures) == (0, ["timeout", "timeout"])

        store.fails = None
        await passes(TELL_MS)

        assert store.put == 1
        task.cancel()

    run(scenario())


def test_who_reads_learns_of_an_outage() -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        store.fails = StoreUnavailable("connection", "nobody there")
        reader = TopReader(store=store, prefix="pc:")

        with pytest.raises(StoreUnavailable, match="nobody there"):
            await reader.read(10)
        store.fails = None
        with pytest.raises(StoreUnavailable, match="TIME"):
            await reader.read(10)

    asyncio.run(scenario())
