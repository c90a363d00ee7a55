"""Changes: one verb on real servers. A change is whole or not at all, and the audit says which."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import orjson
import pytest
import redis

from sidecar.control.changes import LOG_KEPT, MOST_FIELDS, TOLD_FIELDS, Changes, Conflict, Space
from sidecar.core.control import NO_EPOCH, Delta, Entry, Epoch
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore
from tests.control.fleet_double import dump
from tests.stores import StoreServer

T = TypeVar("T")

EPOCH = "pc:{control}:epoch"
LOG = "pc:{control}:log"
AUDIT = "pc:{control}:audit"
EXPIRING = "pc:{control}:expiring"
DENY = "pc:{control}:deny"
RESETS = "pc:{control}:resets"
OTHER = Epoch(7, "00c0ffee00c0ffee")
BY: Final[dict[str, Any]] = {"actor": "ann", "action": "addresses.change"}


def with_changes(
    server: StoreServer, work: Callable[[Changes], Awaitable[T]], *, applied: Epoch = NO_EPOCH
) -> T:
    """What `work` makes of the changes at a server."""

    async def worked() -> T:
        store = RedisStore(server.url(), patience_s=5.0)
        try:
            return await work(Changes(store=store, prefix="pc:", applied=lambda: applied))
        finally:
            await store.close()

    return asyncio.run(worked())


def entries(client: redis.Redis, key: str) -> list[dict[str, str]]:
    """The entries of a stream as text."""
    found: Any = client.xrange(key)
    return [{name.decode(): value.decode() for name, value in members.items()} for _, members in found]


def server_ms(client: redis.Redis) -> int:
    time = client.time()
    assert isinstance(time, tuple)
    return int(time[0]) * 1000 + int(time[1]) // 1000


async def refused(work: Awaitable[object]) -> Conflict:
    with pytest.raises(Conflict) as caught:
        await work
    return caught.value


# --- a change ---------------------------------------------------------------------


def test_it_changes_fields_and_leaves_a_delta_and_an_audit_entry(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        first = await changes.change("deny", put=["a", "b"], payload={"reason": "x"}, **BY)
        second = await changes.change(
            "deny", put=["c"], delete=["a", "z"], reason="spam", detail={"ticket": 7}, **BY
        )
        entry = await changes.entry("deny", "b")

        assert (first.epoch.number, second.epoch.number) == (1, 2)
        assert (first.added, first.removed) == (2, 0)
        assert (second.added, second.removed) == (1, 1)
        assert entry == Entry(first.at_ms, 0, b'{"reason":"x"}')
        assert entry.written() == await changes.raw("deny", "b")
        assert await changes.entry("deny", "a") is None
        assert await changes.size("deny") == 2
        assert await changes.epoch() == second.epoch
        assert await changes.deltas(NO_EPOCH, 16) == [
            Delta(NO_EPOCH, first.epoch, "deny", first.at_ms, 0, b'{"reason":"x"}', ("a", "b"), ()),
            Delta(first.epoch, second.epoch, "deny", second.at_ms, 0, b"{}", ("c",), ("a", "z")),
        ]
        with any_store.client() as client:
            assert abs(server_ms(client) - second.at_ms) < 5_000
            told = entries(client, AUDIT)
            assert [(entry["outcome"], entry["epoch"], entry["at"], entry["until"]) for entry in told] == [
                ("done", str(first.epoch), str(first.at_ms), "0"),
                ("done", str(second.epoch), str(second.at_ms), "0"),
            ]
            assert orjson.loads(told[1]["what"]) == {
                **BY,
                "reason": "spam",
                "table": "deny",
                "put": ["c"],
                "deleted": ["a", "z"],
                "ticket": 7,
            }

    with_changes(any_store, work)


def test_it_starts_before_the_first_change(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        assert await changes.epoch() == NO_EPOCH
        assert await changes.deltas(NO_EPOCH, 16) is None
        assert await changes.page("deny", 0, 100) == (0, [])
        assert await changes.size("deny") == 0

    with_changes(any_store, work)


def test_it_deletes_before_it_puts(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        await changes.change("deny", put=["a", "b"], for_ms=60_000, payload={"n": 1}, **BY)
        changed = await changes.change("deny", put=["a"], delete=["a", "b"], payload={"n": 2}, **BY)

        assert await changes.entry("deny", "a") == Entry(changed.at_ms, 0, b'{"n":2}')
        assert (changed.added, changed.removed) == (1, 2)
        with any_store.client() as client:
            assert client.zcard(EXPIRING) == 0

    with_changes(any_store, work)


def test_it_keeps_the_order_of_the_fields(any_store: StoreServer) -> None:
    put = [f"field {number}" for number in (3, 1, 2, 9, 0)]

    async def work(changes: Changes) -> None:
        await changes.change("overrides", put=put, delete=["größe", 'quo"te\\', "a b"], **BY)

        deltas = await changes.deltas(NO_EPOCH, 1)
        assert deltas is not None
        assert deltas[0].put == tuple(put)
        assert deltas[0].delete == ("größe", 'quo"te\\', "a b")

    with_changes(any_store, work)


def test_it_makes_a_change_of_many_fields_at_once(any_store: StoreServer) -> None:
    half = MOST_FIELDS // 2
    fields = [f"2001:db8:ffff:ffff:{number:x}::/80" for number in range(MOST_FIELDS)]

    async def work(changes: Changes) -> None:
        first = await changes.change("deny", put=fields, for_ms=60_000, demand="absent", **BY)
        second = await changes.change("deny", put=fields[:half], delete=fields[half:], **BY)
        deltas = await changes.deltas(first.epoch, 1)

        assert first.added == MOST_FIELDS
        assert (second.added, second.removed) == (0, half)
        assert await changes.size("deny") == half
        assert deltas is not None
        assert deltas[0].delete == tuple(fields[half:])
        with any_store.client() as client:
            assert client.zcard(EXPIRING) == 0
            what = orjson.loads(entries(client, AUDIT)[1]["what"])
        assert what["put"] == fields[:TOLD_FIELDS]
        assert (what["put_count"], what["deleted_count"]) == (half, half)

    with_changes(any_store, work)


def test_it_tells_events_and_keeps_nothing_of_them(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        changed = await changes.change("resets", put=["per-ip key:a"], for_ms=1_000, **BY)

        deltas = await changes.deltas(NO_EPOCH, 1)
        assert deltas is not None
        assert (deltas[0].table, deltas[0].put) == ("resets", ("per-ip key:a",))
        assert (changed.added, changed.removed) == (0, 0)
        with any_store.client() as client:
            assert not client.exists(RESETS)
            assert not client.exists(EXPIRING)
            assert len(entries(client, AUDIT)) == 1

    with_changes(any_store, work)


def test_it_publishes_the_new_epoch(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        with any_store.client() as client:
            pubsub: Any = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py has no types for it
            pubsub.subscribe("pc:{control}:epochs")
            assert pubsub.get_message(timeout=5.0) is not None
            changed = await changes.change("deny", put=["a"], **BY)
            await refused(changes.change("deny", put=["a"], demand="absent", **BY))

            message = pubsub.get_message(timeout=5.0)
            assert message is not None
            assert message["data"] == str(changed.epoch).encode()
            assert pubsub.get_message(timeout=0.0) is None
            pubsub.close()

    with_changes(any_store, work)


def test_it_numbers_above_what_this_process_has(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> tuple[Epoch, Epoch]:
        return (await changes.change("deny", **BY)).epoch, (await changes.change("deny", **BY)).epoch

    first, second = with_changes(any_store, work, applied=Epoch(57, "0" * 16))
    third, _ = with_changes(any_store, work, applied=Epoch(3, "0" * 16))

    assert (first.number, second.number, third.number) == (58, 59, 60)
    assert len({first.id, second.id, third.id}) == 3


def test_it_refuses_too_many_fields(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        with pytest.raises(AssertionError):
            await changes.change("deny", put=["a"] * MOST_FIELDS, delete=["b"], **BY)

    with_changes(any_store, work)


# --- how long -----------------------------------------------------------------------


def test_it_lets_fields_stand_for_a_while_or_until_a_time(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        a_while = await changes.change("deny", put=["a"], for_ms=90_000, **BY)
        until = await changes.change("deny", put=["b"], until_ms=1_900_000_000_123, **BY)
        both = await changes.change("deny", put=["c"], for_ms=1, until_ms=1_900_000_000_123, **BY)

        assert a_while.until_ms == a_while.at_ms + 90_000
        assert until.until_ms == 1_900_000_000_123
        assert both.until_ms == both.at_ms + 1
        for field, changed in (("a", a_while), ("b", until)):
            entry = await changes.entry("deny", field)
            assert entry is not None
            assert entry.until_ms == changed.until_ms
        deltas = await changes.deltas(NO_EPOCH, 16)
        assert deltas is not None
        assert [delta.until_ms for delta in deltas] == [a_while.until_ms, until.until_ms, both.until_ms]
        with any_store.client() as client:
            expiring: Any = client.zrange(EXPIRING, 0, -1, withscores=True)
            assert dict(expiring) == {
                b"deny\na": a_while.until_ms,
                b"deny\nb": until.until_ms,
                b"deny\nc": both.until_ms,
            }
            assert [entry["until"] for entry in entries(client, AUDIT)][1] == "1900000000123"

    with_changes(any_store, work)


def test_it_forgets_the_end_of_what_is_put_or_deleted(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        await changes.change("deny", put=["a", "b", "c"], for_ms=90_000, **BY)
        later = await changes.change("deny", put=["a"], for_ms=900_000, **BY)
        await changes.change("deny", put=["b"], delete=["c"], **BY)

        with any_store.client() as client:
            assert client.zrange(EXPIRING, 0, -1, withscores=True) == [(b"deny\na", later.until_ms)]

    with_changes(any_store, work)


# --- demands ------------------------------------------------------------------------

ENDED_MS = 1_000
"""A time that is over."""


@pytest.mark.parametrize(
    ("put", "delete", "demand", "holds"),
    [
        (["new"], [], "absent", True),
        (["ended"], [], "absent", True),
        (["new", "ended"], [], "absent", True),
        (["stands"], [], "absent", False),
        (["lasts"], [], "absent", False),
        (["new", "lasts"], [], "absent", False),
        (["stands"], [], "present", True),
        (["stands", "lasts"], ["new"], "present", True),
        (["ended"], [], "present", False),
        (["stands", "new"], [], "present", False),
        ([], ["stands"], "present", True),
        ([], ["new"], "present", False),
        ([], ["stands", "ended"], "present", False),
        ([], ["new"], "absent", True),
    ],
)
def test_it_changes_what_is_absent_or_present(
    any_store: StoreServer, put: list[str], delete: list[str], demand: str, holds: bool
) -> None:
    async def work(changes: Changes) -> None:
        await changes.change("deny", put=["stands"], **BY)
        await changes.change("deny", put=["lasts"], for_ms=60_000, **BY)
        await changes.change("deny", put=["ended"], until_ms=ENDED_MS, **BY)
        change = changes.change("deny", put=put, delete=delete, demand=demand, **BY)  # type: ignore[arg-type]  # drawn

        if holds:
            assert (await change).epoch.number == 4
        else:
            assert (await refused(change)).why == demand

    with_changes(any_store, work)


def test_it_changes_only_the_epoch_that_is_demanded(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        first = await changes.change("deny", put=["a"], if_epoch=NO_EPOCH, **BY)
        second = await changes.change("deny", put=["b"], if_epoch=first.epoch, **BY)
        for wrong in (first.epoch, NO_EPOCH, second.epoch._replace(id="0" * 16), OTHER):
            conflict = await refused(changes.change("deny", put=["c"], if_epoch=wrong, **BY))

            assert (conflict.why, conflict.epoch) == ("epoch", second.epoch)

    with_changes(any_store, work)


def test_it_changes_only_the_value_that_was_read(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        assert (await refused(changes.change("keys", put=["k"], if_value=b"1 0 {}", **BY))).why == "value"
        await changes.change("keys", put=["k"], payload={"n": 1}, **BY)
        seen = await changes.raw("keys", "k")
        await changes.change("keys", put=["k"], payload={"n": 2}, if_value=seen, **BY)
        assert (await refused(changes.change("keys", put=["k"], if_value=seen, **BY))).why == "value"
        assert (await refused(changes.change("keys", delete=["k"], if_value=seen, **BY))).why == "value"
        seen = await changes.raw("keys", "k")
        assert seen is not None
        assert seen.endswith(b' 0 {"n":2}')
        assert (await changes.change("keys", delete=["k"], if_value=seen, **BY)).removed == 1

    with_changes(any_store, work)


@pytest.mark.parametrize(
    "demanded",
    [
        {"if_epoch": OTHER},
        {"demand": "absent"},
        {"demand": "present", "put": ["a", "new"]},
        {"if_value": b"1 0 {}"},
    ],
)
def test_it_changes_nothing_when_it_refuses(any_store: StoreServer, demanded: dict[str, object]) -> None:
    async def work(changes: Changes) -> None:
        changed = await changes.change("deny", put=["a", "b"], for_ms=60_000, **BY)
        with any_store.client() as client:
            before = dump(client)
            audit_before = entries(client, AUDIT)
            what = {"put": ["a"], "delete": ["b"], "for_ms": 1, "payload": {"x": 1}, **demanded}
            conflict = await refused(changes.change("deny", reason="why", **what, **BY))  # type: ignore[arg-type]  # drawn
            after = dump(client)

            assert conflict.epoch == changed.epoch
            assert {key for key in after if after[key] != before.get(key)} == {AUDIT.encode()}
            *others, last = entries(client, AUDIT)
            assert others == audit_before
            assert (last["outcome"], last["epoch"]) == (f"refused: {conflict.why}", str(changed.epoch))
            told = orjson.loads(last["what"])
            assert (told["actor"], told["reason"], told["put"]) == ("ann", "why", what["put"])

    with_changes(any_store, work)


def test_it_changes_nothing_when_the_memory_is_full(start_valkey: Callable[..., StoreServer]) -> None:
    server = start_valkey(maxmemory_policy="noeviction")

    async def work(changes: Changes) -> None:
        await changes.change("deny", put=["a"], **BY)
        with server.client() as client:
            before = dump(client)
            client.config_set("maxmemory", 1)
            with pytest.raises(StoreUnavailable) as caught:
                await changes.change("deny", put=["b"], **BY)
            client.config_set("maxmemory", 0)

            assert caught.value.kind == "response"
            assert dump(client) == before

    with_changes(server, work)


# --- what is kept ---------------------------------------------------------------------


def test_it_bounds_the_log_and_the_audit(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        with any_store.client() as client:
            pipeline = client.pipeline(transaction=False)
            for number in range(1, LOG_KEPT + 1):
                pipeline.xadd(LOG, {"epoch": f"{number}-{'a' * 16}"}, id=f"{number}-0")
            pipeline.set(EPOCH, f"{LOG_KEPT}-{'a' * 16}")
            for _ in range(100_000 // 500):
                pipeline.eval("for _ = 1, 500 do redis.call('XADD', KEYS[1], '*', 'a', '1') end", 1, AUDIT)
            pipeline.execute()
            for _ in range(200):
                await changes.change("deny", put=["a"], **BY)

            assert client.xlen(LOG) == LOG_KEPT
            kept: Any = client.xrange(LOG)
            assert (kept[0][0], kept[-1][0]) == (b"201-0", b"%d-0" % (LOG_KEPT + 200))
            assert 100_000 <= client.xlen(AUDIT) <= 100_100

    with_changes(any_store, work)


def test_it_drops_the_log_of_a_history_that_was_lost(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        for field in "abc":
            await changes.change("deny", put=[field], **BY)
        with any_store.client() as client:
            client.delete(EPOCH)
            changed = await changes.change("deny", put=["d"], **BY)

            assert changed.epoch.number == 1
            assert [entry["epoch"] for entry in entries(client, LOG)] == [str(changed.epoch)]

    with_changes(any_store, work)


def test_it_goes_on_after_a_log_whose_end_was_lost(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        first = await changes.change("deny", put=["a"], **BY)
        with any_store.client() as client:
            client.xtrim(LOG, maxlen=0, approximate=False)
            second = await changes.change("deny", put=["b"], **BY)
            client.delete(EPOCH)
            client.xtrim(LOG, maxlen=0, approximate=False)
            third = await changes.change("deny", put=["c"], **BY)

        assert (second.epoch.number, third.epoch.number) == (2, 1)
        assert await changes.deltas(first.epoch, 16) is None

    with_changes(any_store, work)


def test_it_keeps_everything_under_one_hash_tag(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        for table in ("attack", "deny", "allow", "exempt", "pass", "keys", "overrides", "resets"):
            await changes.change(table, put=["a"], for_ms=60_000, **BY)
            await changes.change(table, put=["b"], **BY)
        with any_store.client() as client:
            keys = sorted(key.decode() for key in client.scan_iter())

            assert all(key.startswith("pc:{control}:") for key in keys)
            assert [client.ttl(key) for key in keys] == [-1] * len(keys)
            assert Space("pc:").key("epoch") == EPOCH.encode()

    with_changes(any_store, work)
