"""The registry of keys on a real Valkey: what is written, who wins a race, and that no secret is left there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

import orjson
import pytest
import redis

from sidecar.control.changes import Changes, Conflict
from sidecar.control.keys import TRIES, KeyMissing, KeyPage, KeyRegistry
from sidecar.core import keys
from sidecar.core.control import Entry, Epoch
from sidecar.core.keys import FieldRefused, KeyUnreadable, Kind, Terms
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore
from tests.stores import StoreServer

HASH_KEY: Final = b"the fleet's hash key, of 32 bytes"
NOW_MS: Final = 1_795_323_600_000
HOUR_MS: Final = 3_600_000
TABLE: Final = "pc:{control}:keys"
BILLING: Final[Terms] = {"label": "billing", "tenant": "acme", "plan": "gold", "scopes": ("orders.write",)}


class Bench:
    """A registry on a server, and what a test wants to look at beside it."""

    def __init__(self, store: RedisStore, client: redis.Redis) -> None:
        self.now_ms = NOW_MS
        self.client = client
        self.changes = Meddled(store=store, prefix="pc:")
        self.registry = KeyRegistry(self.changes, hash_key=lambda: HASH_KEY, now_ms=lambda: self.now_ms)

    def audit(self) -> list[dict[str, object]]:
        """What the audit says, oldest first, with the outcome."""
        entries: Any = self.client.xrange(
            "pc:{control}:audit"
        )  # redis-py types it for every protocol at once
        return [{**orjson.loads(said[b"what"]), "outcome": said[b"outcome"].decode()} for _, said in entries]

    async def all_pages(self, most: int, tenant: str = "") -> list[KeyPage]:
        pages = [await self.registry.page(most=most, tenant=tenant)]
        while pages[-1].cursor:
            pages.append(await self.registry.page(cursor=pages[-1].cursor, most=most, tenant=tenant))
        return pages


class Meddled(Changes):
    """Changes in which somebody else is quicker: `meddle` runs after each look at a record."""

    meddle: Callable[[], Awaitable[object]] | None = None

    async def raw(self, table: str, field: str) -> bytes | None:
        value = await super().raw(table, field)
        if self.meddle is not None:
            await self.meddle()
        return value


def registry(changes: Changes, random_bytes: Callable[[int], bytes] = os.urandom) -> KeyRegistry:
    return KeyRegistry(changes, hash_key=lambda: HASH_KEY, now_ms=lambda: NOW_MS, random_bytes=random_bytes)


def on(server: StoreServer, scenario: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        store = RedisStore(server.url(), patience_s=5)
        try:
            with server.client() as client:
                await scenario(Bench(store, client))
        finally:
            await store.close()

    asyncio.run(run())


def test_a_created_key_is_the_one_that_is_read_and_only_its_secret_matches(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        issued = await bench.registry.create(Kind.SERVER, BILLING, actor="anna")
        other = await bench.registry.create(Kind.SERVER, BILLING, actor="anna")
        read = await bench.registry.get(issued.key.id)

        assert read == issued.key
        assert read.changed_ms == issued.changed.at_ms
        assert keys.holds_secret(issued.secret)
        assert keys.proved_until_ms(read, issued.secret.encode(), HASH_KEY, bench.now_ms) == 0
        assert keys.proved_until_ms(read, other.secret.encode(), HASH_KEY, bench.now_ms) is None
        assert issued.secret not in repr(issued)
        (said, _) = bench.audit()
        told = {name: said[name] for name in ("actor", "action", "key", "label", "tenant", "outcome")}
        assert told == {
            "actor": "anna",
            "action": "key.create",
            "key": read.id,
            "label": "billing",
            "tenant": "acme",
            "outcome": "done",
        }

    on(valkey, scenario)


def test_an_id_that_was_chosen_is_given_once(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.registry.create(Kind.SERVER, BILLING, key_id="billing", actor="anna")
        with pytest.raises(Conflict) as caught:
            await bench.registry.create(Kind.SERVER, {"label": "other"}, key_id="billing", actor="bob")

        assert caught.value.why == "absent"
        assert await bench.registry.get("billing") == first.key

    on(valkey, scenario)


def test_an_id_that_is_made_is_made_again_when_somebody_has_it(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        numbers = count()

        def seldom_new(length: int) -> bytes:
            return (next(numbers) // 4).to_bytes(length)

        repeating = registry(bench.changes, seldom_new)
        ids = [(await repeating.create(Kind.SERVER, BILLING, actor="anna")).key.id for _ in range(3)]

        assert len(set(ids)) == 3

        with pytest.raises(Conflict):
            await registry(bench.changes, random_bytes=bytes).create(Kind.SERVER, BILLING, actor="anna")

    on(valkey, scenario)


def test_bad_terms_change_nothing(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        made = await bench.registry.create(Kind.SERVER, BILLING, actor="anna")
        before = valkey_of(bench)
        for attempt in (
            bench.registry.create(Kind.SERVER, {"label": ""}, actor="anna"),
            bench.registry.create(Kind.CLIENT, BILLING, actor="anna"),
            bench.registry.create(Kind.SERVER, BILLING, key_id="a.b", actor="anna"),
            bench.registry.update(made.key.id, {"cidrs": ("10.0.0.1/8",)}, actor="anna"),
            bench.registry.update(made.key.id, {"expires_ms": NOW_MS - 1}, actor="anna"),
        ):
            with pytest.raises(FieldRefused):
                await attempt

        assert valkey_of(bench) == before

    on(valkey, scenario)


def valkey_of(bench: Bench) -> dict[bytes, bytes]:
    """Everything in the store."""
    return {name: bench.client.dump(name) or b"" for name in sorted(bench.client.scan_iter())}


@pytest.mark.parametrize(
    ("terms", "action", "fields"),
    [
        ({"enabled": False}, "key.disable", ["enabled"]),
        ({"enabled": True}, "key.enable", []),
        ({"enabled": False, "plan": "basic"}, "key.update", ["plan", "enabled"]),
        (
            {"label": "b", "scopes": (), "expires_ms": NOW_MS + 1},
            "key.update",
            ["label", "scopes", "expires"],
        ),
        ({"cidrs": ("10.0.0.0/8",)}, "key.update", ["cidrs"]),
    ],
)
def test_an_update_says_what_was_done_and_which_fields_changed(
    valkey: StoreServer, terms: Terms, action: str, fields: list[str]
) -> None:
    async def scenario(bench: Bench) -> None:
        made = await bench.registry.create(Kind.SERVER, BILLING, actor="anna")

        kept = await bench.registry.update(made.key.id, terms, actor="bob")

        assert await bench.registry.get(made.key.id) == kept.key
        assert kept.changed.epoch.number == made.changed.epoch.number + 1
        said = bench.audit()[-1]
        assert (said["actor"], said["action"], said["fields"]) == ("bob", action, fields)

    on(valkey, scenario)


def test_of_two_who_change_one_key_none_undoes_what_the_other_did(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        key_id = (await bench.registry.create(Kind.SERVER, BILLING, actor="anna")).key.id
        other = registry(Changes(store=bench.changes._store, prefix="pc:"))
        scopes: list[str] = []

        async def meddle() -> None:
            if len(scopes) < TRIES - 1:
                scopes.append(f"s{len(scopes)}")
                await other.update(key_id, {"scopes": tuple(scopes)}, actor="bob")

        bench.changes.meddle = meddle
        kept = await bench.registry.update(key_id, {"plan": "basic"}, actor="anna")

        assert (kept.key.plan, kept.key.scopes) == ("basic", tuple(scopes))
        assert len(scopes) == TRIES - 1
        assert [said["outcome"] for said in bench.audit()].count("refused: value") == TRIES - 1

    on(valkey, scenario)


def test_who_is_never_quick_enough_is_told(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        key_id = (await bench.registry.create(Kind.SERVER, BILLING, actor="anna")).key.id
        other = registry(Changes(store=bench.changes._store, prefix="pc:"))
        numbers = count()

        async def meddle() -> None:
            await other.update(key_id, {"label": f"bob's {next(numbers)}"}, actor="bob")

        bench.changes.meddle = meddle
        with pytest.raises(Conflict) as caught:
            await bench.registry.update(key_id, {"plan": "basic"}, actor="anna")

        assert caught.value.why == "value"
        bench.changes.meddle = None
        now = await bench.registry.get(key_id)
        assert (now.label, now.plan) == (f"bob's {TRIES - 1}", "gold")

    on(valkey, scenario)


def test_who_is_deleted_meanwhile_does_not_come_back(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        key_id = (await bench.registry.create(Kind.SERVER, BILLING, actor="anna")).key.id

        async def meddle() -> None:
            bench.client.hdel(TABLE, key_id)

        bench.changes.meddle = meddle
        with pytest.raises(KeyMissing):
            await bench.registry.update(key_id, {"enabled": True}, actor="anna")

        assert not bench.client.hexists(TABLE, key_id)

    on(valkey, scenario)


def test_it_demands_the_epoch_that_the_operator_saw(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        made = await bench.registry.create(Kind.SERVER, BILLING, actor="anna")
        key_id, seen = made.key.id, made.changed.epoch
        later = (
            await bench.registry.update(key_id, {"plan": "a"}, actor="anna", if_epoch=seen)
        ).changed.epoch

        attempts: list[Callable[[Epoch], Awaitable[object]]] = [
            lambda epoch: bench.registry.update(key_id, {"plan": "b"}, actor="bob", if_epoch=epoch),
            lambda epoch: bench.registry.rotate(key_id, grace_ms=0, actor="bob", if_epoch=epoch),
            lambda epoch: bench.registry.delete(key_id, actor="bob", if_epoch=epoch),
            lambda epoch: bench.registry.create(Kind.SERVER, BILLING, actor="bob", if_epoch=epoch),
        ]
        for attempt in attempts:
            with pytest.raises(Conflict) as caught:
                await attempt(seen)
            assert (caught.value.why, caught.value.epoch) == ("epoch", later)

        assert (await bench.registry.get(key_id)).plan == "a"

    on(valkey, scenario)


def test_a_rotation_gives_a_second_secret_until_the_grace_ends(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        first = await bench.registry.create(Kind.SERVER, BILLING, actor="anna")
        second = await bench.registry.rotate(first.key.id, grace_ms=HOUR_MS, actor="anna")
        read = await bench.registry.get(first.key.id)

        def valid(now_ms: int) -> list[bool]:
            presented = [issued.secret.encode() for issued in (first, second)]
            return [keys.proved_until_ms(read, secret, HASH_KEY, now_ms) is not None for secret in presented]

        assert read == second.key
        assert valid(NOW_MS + HOUR_MS - 1) == [True, True]
        assert valid(NOW_MS + HOUR_MS) == [False, True]
        assert bench.audit()[-1]["fields"] == ["secrets"]

        third = await bench.registry.rotate(first.key.id, grace_ms=0, actor="anna")
        assert len(third.key.secrets) == 1

    on(valkey, scenario)


def test_a_deleted_key_is_gone(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        key_id = (await bench.registry.create(Kind.SERVER, BILLING, actor="anna")).key.id
        changed = await bench.registry.delete(key_id, actor="bob")

        assert changed.removed == 1
        for attempt in (
            bench.registry.get(key_id),
            bench.registry.delete(key_id, actor="bob"),
            bench.registry.rotate(key_id, grace_ms=0, actor="bob"),
            bench.registry.update(key_id, {"enabled": True}, actor="bob"),
        ):
            with pytest.raises(KeyMissing, match=key_id):
                await attempt

    on(valkey, scenario)


def test_an_expired_key_is_shown_and_may_be_used_longer(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        terms: Terms = {**BILLING, "expires_ms": NOW_MS + HOUR_MS}
        key_id = (await bench.registry.create(Kind.SERVER, terms, actor="anna")).key.id
        bench.now_ms += 2 * HOUR_MS

        (page,) = await bench.all_pages(10)
        assert [key.expired(bench.now_ms) for key in page.keys] == [True]
        renewed = await bench.registry.update(key_id, {"expires_ms": 0}, actor="anna")
        assert not renewed.key.expired(bench.now_ms)

    on(valkey, scenario)


@pytest.mark.parametrize("damaged", [b"", b"x", b"1 0", b"1 0 {}", b"1 0 {", b"a b {}"])
def test_a_damaged_record_is_named_and_can_only_be_deleted(valkey: StoreServer, damaged: bytes) -> None:
    async def scenario(bench: Bench) -> None:
        bench.client.hset(TABLE, "broken", damaged)
        for attempt in (
            bench.registry.get("broken"),
            bench.registry.update("broken", {"enabled": True}, actor="anna"),
            bench.registry.rotate("broken", grace_ms=0, actor="anna"),
        ):
            with pytest.raises(KeyUnreadable, match='"broken"'):
                await attempt
        assert bench.client.hget(TABLE, "broken") == damaged

    on(valkey, scenario)


def test_a_listing_names_what_it_cannot_read_and_shows_the_rest(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        made = await bench.registry.create(Kind.SERVER, BILLING, actor="anna")
        bench.client.hset(TABLE, "broken", b'1 0 {"tenant":"acme"}')
        for tenant in ("", "acme"):
            (page,) = await bench.all_pages(10, tenant)
            assert ([key.id for key in page.keys], page.unreadable) == ([made.key.id], ["broken"])

        assert (await bench.registry.delete("broken", actor="anna")).removed == 1

    on(valkey, scenario)


def test_nothing_is_made_while_the_hash_key_is_not_known(valkey: StoreServer) -> None:
    def unknown() -> bytes:
        raise StoreUnavailable("connection", "it has not told the fleet's hash key yet")

    async def scenario(bench: Bench) -> None:
        key_id = (await bench.registry.create(Kind.SERVER, BILLING, actor="anna")).key.id
        early = KeyRegistry(bench.changes, hash_key=unknown, now_ms=lambda: NOW_MS)
        for attempt in (
            early.create(Kind.SERVER, BILLING, actor="anna"),
            early.rotate(key_id, grace_ms=0, actor="anna"),
        ):
            with pytest.raises(StoreUnavailable, match="hash key"):
                await attempt

        assert bench.client.hlen(TABLE) == 1
        assert not (await early.update(key_id, {"enabled": False}, actor="anna")).key.enabled

    on(valkey, scenario)


def test_no_secret_is_left_in_the_store(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        issued = [await bench.registry.create(Kind.SERVER, BILLING, actor="anna") for _ in range(3)]
        key_id = issued[0].key.id
        issued += [await bench.registry.rotate(key_id, grace_ms=HOUR_MS, actor="anna") for _ in range(3)]
        await bench.registry.update(key_id, {"plan": "basic"}, actor="anna")
        await bench.registry.delete(issued[1].key.id, actor="anna")
        with seen_by(bench.client) as everything:
            hashes = [secret.hash.encode() for one in issued for secret in one.key.secrets]

            assert hashes[-1] in everything  # it looks where it should
            assert not keys.holds_secret(everything.decode(errors="replace"))
            assert not any(one.secret.removeprefix("pcs_").encode() in everything for one in issued)
        assert not any(one in orjson.dumps(bench.audit()) for one in hashes)

    on(valkey, scenario)


@contextmanager
def seen_by(client: redis.Redis) -> Iterator[bytes]:
    """All names and values of a store, of every kind."""
    found: list[object] = []
    for name in client.scan_iter():
        found.append(name)
        match client.type(name):
            case b"string":
                found.append(client.get(name))
            case b"hash":
                found.append(client.hgetall(name))
            case b"stream":
                found.append(client.xrange(name))
            case b"zset":
                found.append(client.zrange(name, 0, -1))
            case kind:
                raise AssertionError(f"{name!r} is a {kind!r}")
    yield repr(found).encode()


def test_many_keys_are_listed_in_bounded_pages(valkey: StoreServer) -> None:
    total = 20_000

    async def scenario(bench: Bench) -> None:
        made = keys.created("k_0", Kind.SERVER, BILLING, "a" * 64, NOW_MS)
        entry = Entry(NOW_MS, 0, orjson.dumps(keys.record(made))).written()
        for first in range(0, total, 10_000):
            entries: Any = {f"k_{number}": entry for number in range(first, first + 10_000)}
            bench.client.hset(TABLE, mapping=entries)

        pages = await bench.all_pages(1_000)
        of_nobody = await bench.all_pages(1_000, "nobody")

        assert max(len(page.keys) for page in pages) == 1_000
        found = sorted(key.id for page in pages for key in page.keys)
        assert found == sorted(f"k_{number}" for number in range(total))
        assert not any(page.keys for page in of_nobody)
        assert len(of_nobody) >= total / 11_000

    on(valkey, scenario)


def test_the_keys_of_one_tenant_are_found_among_others(valkey: StoreServer) -> None:
    async def scenario(bench: Bench) -> None:
        for number in range(60):
            terms: Terms = {"label": f"number {number}", "tenant": f"t{number % 3}"}
            await bench.registry.create(Kind.SERVER, terms, actor="anna")

        pages = await bench.all_pages(7, "t1")
        found = [key for page in pages for key in page.keys]

        assert all(len(page.keys) <= 7 for page in pages)
        assert {key.tenant for key in found} == {"t1"}
        assert len(found) == len({key.id for key in found}) == 20

    on(valkey, scenario)
