"""Resets on a real store: the subject's counters go, nobody else's, and all replicas are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from sidecar.control.changes import Changes, Conflict
from sidecar.control.reset import Resets
from sidecar.core.control import NO_EPOCH, Epoch
from sidecar.core.decide import judge, lacking
from sidecar.core.ledger import Ledger
from sidecar.core.model import Limit, Match, Mode, Request, Source
from sidecar.core.policy import Policy
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore
from tests.controls import control
from tests.doubles import limit, policy, request
from tests.stores import StoreServer

T = TypeVar("T")

HOUR_MS = 3_600_000
LIMITS = (
    limit("per-ip", 3, HOUR_MS),
    limit("by-route", 4, HOUR_MS, per=["ip", "route"], match=Match(paths=("/a", "/b*?/[x]"))),
    limit("by-host", 5, HOUR_MS, per=["host", "ip"]),
    limit("per-key", 6, HOUR_MS, per=["key"]),
    limit("by-header", 7, HOUR_MS, per=["header:x-part", "key"]),
    limit("seen", 8, HOUR_MS, mode=Mode.SHADOW),
)


class Waiting:
    missing = 0


class Replica:
    """One process on a real store: every request is judged after at most one batch."""

    def __init__(self, store: RedisStore, limits: Sequence[Limit] = LIMITS, shards: int = 3) -> None:
        self.store = store
        self.ledger = Ledger(shards=shards)
        self.policy: Policy = policy(limits, ledger=self.ledger)
        self.now_ms = 0.0

    async def ask(self, asker: Request) -> bool:
        bound = self.policy.bind(asker)
        for _ in range(5):
            verdict = judge(bound, False, self.now_ms, Source.STORE)
            if verdict is not None:
                return verdict.allowed
            for counter, cost in lacking(bound, self.now_ms):
                self.ledger.want(counter, cost, Waiting())
            await self.exchange()
        raise AssertionError("never judged")

    async def exchange(self) -> None:
        for shard in range(self.ledger.shards):
            batch = self.ledger.collect(shard, self.now_ms)
            if batch.asks:
                grants = await self.store.take(batch.asks)
                self.ledger.apply(batch, grants, self.now_ms, self.now_ms)
                self.ledger.settle(batch)


class Plane:
    """A replica, and who resets."""

    def __init__(self, server: StoreServer, limits: Sequence[Limit] = LIMITS) -> None:
        self.store = RedisStore(server.url(), patience_s=5)
        self.replica = Replica(self.store, limits)
        self.changes = Changes(store=self.store, prefix="pc:")
        self.resets = Resets(store=self.store, changes=self.changes, policy=lambda: self.replica.policy)

    async def reset(self, name: str, kind: str, value: str, if_epoch: Epoch | None = None) -> int:
        """Reset, and let the replica learn of it; how many counters the store had."""
        rule = next(rule for rule in LIMITS if rule.name == name)
        before = await self.changes.epoch()
        done = await self.resets.reset(rule, kind, value, actor="alice", reason="asked", if_epoch=if_epoch)
        deltas = await self.changes.deltas(before, 10)
        assert deltas is not None
        assert [(delta.table, delta.epoch) for delta in deltas] == [("resets", done.changed.epoch)]
        for field in deltas[0].put:
            limit_name, _, subject = field.partition(" ")
            rules = self.replica.policy
            self.replica.policy = rules.forget(rules.chosen(limit_name, *subject.split(":", 1)))
        return done.counters

    async def until_refused(self, asker: Request) -> int:
        for admitted in range(100):
            if not await self.replica.ask(asker):
                return admitted
        raise AssertionError("never refused")


def on(server: StoreServer, scenario: Callable[[Plane], Coroutine[Any, Any, T]]) -> T:
    async def play() -> T:
        plane = Plane(server)
        try:
            return await scenario(plane)
        finally:
            await plane.store.close()

    return asyncio.run(play())


def counters(server: StoreServer) -> set[str]:
    with server.client() as client:
        found = [key for key in client.keys("pc:*") if isinstance(key, bytes)]
    return {key.decode() for key in found if b"{control}" not in key}


def test_it_forgets_what_an_address_has_used_and_nothing_else(any_store: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        asker, other = request("192.0.2.1"), request("192.0.2.11")
        spent = [await plane.until_refused(one) for one in (asker, other)]
        before = counters(any_store)

        forgotten = await plane.reset("per-ip", "address", "192.0.2.1")

        gone = before - counters(any_store)
        again = [await plane.until_refused(one) for one in (asker, other)]
        assert spent == [3, 3]
        assert forgotten == 1
        assert [name.rpartition(":")[2] for name in gone] == ["192.0.2.1"]
        assert ":per-ip:" in next(iter(gone))
        assert again == [2, 0], "the five of by-host stand"

    on(any_store, scenario)


@pytest.mark.parametrize(
    ("name", "kind", "asker", "others"),
    [
        ("per-ip", "address", request("2001:db8::1"), [request("2001:db8:0:1::1")]),
        ("by-route", "address", request("192.0.2.1", path="/b*?/[x]"), [request("192.0.2.11", path="/a")]),
        ("by-host", "address", request("192.0.2.1"), [request("192.0.2.11", host="192.0.2.1")]),
        ("per-key", "key", request(key=b"k1"), [request(key=b"k2")]),
        (
            "by-header",
            "key",
            request(key=b"k1", headers={b"x-part": b"a|b*"}),
            [request(key=b"k2", headers={b"x-part": b"k1"})],
        ),
        ("seen", "address", request("192.0.2.1"), [request("192.0.2.2")]),
    ],
)
def test_it_finds_the_counters_of_every_kind(
    valkey: StoreServer, name: str, kind: str, asker: Request, others: list[Request]
) -> None:
    async def scenario(plane: Plane) -> None:
        for one in (asker, *others):
            await plane.replica.ask(one)
        before = counters(valkey)
        whose = plane.replica.policy.key_id(asker.key).decode() if asker.key else asker.address
        charged = plane.replica.policy.bind(asker)
        expected = {
            counter.key.decode()
            for counter, _ in (*charged.charges, *charged.shadow_charges)
            if counter.limit.name == name
        }

        forgotten = await plane.reset(name, kind, whose)

        assert before - counters(valkey) == expected
        assert forgotten == len(expected) == 1

    on(valkey, scenario)


def test_it_forgets_more_counters_than_one_command_looks_at(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        mine = [request("192.0.2.1", host=f"h{number}") for number in range(1_500)]
        with valkey.client() as client:
            pipe = client.pipeline()
            for number in range(3_000):
                pipe.set(f"pc:{{0}}:by-host:3600000/60000:h{number}|192.0.2.2", b"x")
            for asker in mine:
                keys = [counter.key for counter, _ in plane.replica.policy.bind(asker).charges]
                pipe.set(next(key for key in keys if b":by-host:" in key), b"x")
            pipe.execute()

        forgotten = await plane.reset("by-host", "address", "192.0.2.1")

        assert forgotten == 1_500
        assert len(counters(valkey)) == 3_000

    on(valkey, scenario)


def test_it_forgets_a_block(valkey: StoreServer) -> None:
    blocking = limit("per-ip", 1, 1_000, block_ms=HOUR_MS)

    async def scenario(_: Plane) -> None:
        plane = Plane(valkey, [blocking])
        asker = request("192.0.2.1")
        before = [await plane.replica.ask(asker) for _ in range(3)]

        await plane.reset("per-ip", "address", "192.0.2.1")
        after = [await plane.replica.ask(asker) for _ in range(2)]

        await plane.store.close()
        assert before == [True, False, False]
        assert after == [True, False]

    on(valkey, scenario)


def test_it_takes_back_no_permits_that_were_granted_before(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        asker = request("192.0.2.1")
        await plane.replica.ask(asker)
        ((counter, _), *_) = plane.replica.policy.bind(asker).charges
        counter.in_hand = 1  # as if another limit had refused

        await plane.reset("per-ip", "address", "192.0.2.1")

        assert await plane.until_refused(asker) == 3

    on(valkey, scenario)


def test_it_changes_nothing_when_another_epoch_is_current(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        await plane.replica.ask(request("192.0.2.1"))
        await plane.reset("per-ip", "address", "192.0.2.9", if_epoch=NO_EPOCH)
        before = counters(valkey)

        with pytest.raises(Conflict) as raised:
            await plane.reset("per-ip", "address", "192.0.2.1", if_epoch=NO_EPOCH)

        assert raised.value.epoch == await plane.changes.epoch()
        assert counters(valkey) == before

    on(valkey, scenario)


def test_it_says_what_it_cannot_tell(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        for name, kind, value in (("per-key", "tenant", "acme"), ("per-ip", "address", "192.0.2.0/24")):
            with pytest.raises(ValueError, match="count"):
                await plane.reset(name, kind, value)

        assert await plane.changes.epoch() == NO_EPOCH

    on(valkey, scenario)


def test_it_fails_when_the_store_is_silent(start_valkey: Callable[[], StoreServer]) -> None:
    store = start_valkey()

    async def scenario(plane: Plane) -> None:
        store.server.kill()
        with pytest.raises(StoreUnavailable):
            await plane.resets.reset(LIMITS[0], "address", "192.0.2.1", actor="alice")

    on(store, scenario)


# --- overrides on the same script -----------------------------------------------


def test_it_counts_on_when_permits_change(any_store: StoreServer) -> None:
    """Overrides by the real script: the counts stand, whatever the permits are."""

    async def scenario(_: Plane) -> None:
        plane = Plane(any_store, [limit("per-ip", 3, HOUR_MS)])
        asker, got = request("192.0.2.1"), []
        for permits in (None, 5, 4, 0, 2, 7, None, 8):
            overrides = {} if permits is None else {"per-ip address:192.0.2.0/24": permits}
            plane.replica.policy = plane.replica.policy.under(control(overrides=overrides))
            got.append(await plane.until_refused(asker))
        await plane.store.close()

        assert got == [3, 2, 0, 0, 0, 2, 0, 1]

    on(any_store, scenario)
