"""Changes as they are read and done again: deltas, pages, and what a store has lost."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.control.changes import Changes, Conflict
from sidecar.core.control import NO_EPOCH, Delta, Epoch
from sidecar.store import StoreUnavailable
from tests.control.fleet_double import dump, fail_over
from tests.control.test_changes import AUDIT, BY, DENY, EPOCH, EXPIRING, LOG, entries, with_changes
from tests.stores import StoreServer

OTHER = Epoch(7, "00c0ffee00c0ffee")
FLOOR = "pc:{control}:floor"


WHOLE = {
    "epoch": str(OTHER),
    "before": str(NO_EPOCH),
    "table": "deny",
    "at": "1",
    "until": "0",
    "payload": "{}",
}
WHOLE |= {"put": "a", "del": ""}


# --- deltas ---------------------------------------------------------------------------


def test_it_reads_deltas_in_their_order_and_only_the_next(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        made = [(await changes.change("deny", put=[str(number)], **BY)).epoch for number in range(6)]

        async def since(epoch: Epoch, most: int) -> list[Epoch]:
            return [delta.epoch for delta in await changes.deltas(epoch, most) or []]

        assert await since(NO_EPOCH, 16) == made
        assert await since(made[2], 16) == made[3:]
        assert (await since(made[2], 2))[:2] == made[3:5]
        assert await since(NO_EPOCH, 2) in (made[:2], made[:3])
        assert await changes.deltas(made[-1], 16) is None

    with_changes(any_store, work)


def test_it_knows_no_deltas_of_another_history_or_a_trimmed_one(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        made = [(await changes.change("deny", put=[str(number)], **BY)).epoch for number in range(6)]
        with any_store.client() as client:
            client.xtrim(LOG, maxlen=3, approximate=False)

        assert [delta.epoch for delta in await changes.deltas(made[2], 16) or []] == made[3:]
        for stranger in (NO_EPOCH, made[0], made[1], made[3]._replace(id="0" * 16), OTHER):
            assert await changes.deltas(stranger, 16) is None

    with_changes(any_store, work)


def test_it_reads_deltas_up_to_a_gap(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        made = [(await changes.change("deny", put=[str(number)], **BY)).epoch for number in range(6)]
        with any_store.client() as client:
            client.xdel(LOG, "4-0")

        assert [delta.epoch for delta in await changes.deltas(made[0], 16) or []] == made[1:3]
        assert await changes.deltas(made[2], 16) is None

    with_changes(any_store, work)


# --- pages ----------------------------------------------------------------------------


def test_it_reads_a_table_page_by_page(any_store: StoreServer) -> None:
    fields = {f"field {number}" for number in range(3_000)}

    async def work(changes: Changes) -> None:
        await changes.change("deny", put=sorted(fields), payload={"n": 1}, **BY)
        found: list[str] = []
        cursor, pages = 0, 0
        while True:
            cursor, page = await changes.page("deny", cursor, 100)
            pages += 1
            found += [field for field, _ in page]
            assert all(entry.members() == {"n": 1} for _, entry in page)
            assert len(page) < 300
            if cursor == 0:
                break

        assert set(found) == fields
        assert pages > 10

    with_changes(any_store, work)


@pytest.mark.parametrize(
    "junk",
    [b"", b"x", b"1 0", b"a b {}", b"1  {}", b"1 %b {}" % (b"9" * 400), b"9" * 5_000 + b" 0 {}", b"-1 0 {}"],
)
def test_it_believes_no_entry_that_is_not_one_of_ours(any_store: StoreServer, junk: bytes) -> None:
    async def work(changes: Changes) -> None:
        with any_store.client() as client:
            client.hset(DENY, "a", junk)
        for read in (changes.entry("deny", "a"), changes.page("deny", 0, 100)):
            with pytest.raises(StoreUnavailable) as caught:
                await read
            assert caught.value.kind == "response"

    with_changes(any_store, work)


@pytest.mark.parametrize(
    "junk", [b"x", b"\xff", b"5", b"5-x", b"-1-00c0ffee00c0ffee", b"9" * 5_000 + b"-00c0ffee00c0ffee"]
)
def test_it_believes_no_epoch_that_is_not_one_of_ours(any_store: StoreServer, junk: bytes) -> None:
    async def work(changes: Changes) -> None:
        with any_store.client() as client:
            client.set(EPOCH, junk)
        for ask in (changes.epoch(), changes.change("deny", put=["a"], if_epoch=OTHER, **BY)):
            with pytest.raises(StoreUnavailable) as caught:
                await ask
            assert caught.value.kind == "response"

    with_changes(any_store, work)


def test_it_believes_no_field_that_is_not_text(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        with any_store.client() as client:
            client.hset(DENY, b"\xff", b"1 0 {}")
        with pytest.raises(StoreUnavailable) as caught:
            await changes.page("deny", 0, 100)
        assert caught.value.kind == "response"

    with_changes(any_store, work)


@pytest.mark.parametrize(
    "junk",
    [
        {"epoch": "1"},
        {"epoch": "junk", "before": "junk"},
        {"x": "y"},
        WHOLE | {"at": "9" * 18},
        WHOLE | {"until": "9" * 400},
        WHOLE | {"at": "9" * 5_000},
    ],
)
def test_it_believes_no_delta_that_is_not_one_of_ours(any_store: StoreServer, junk: dict[Any, Any]) -> None:
    async def work(changes: Changes) -> None:
        with any_store.client() as client:
            client.xadd(LOG, junk, id="1-0")
        with pytest.raises(StoreUnavailable) as caught:
            await changes.deltas(NO_EPOCH, 16)
        assert caught.value.kind == "response"

    with_changes(any_store, work)


# --- keys of which somebody made something else ---------------------------------------


@pytest.mark.parametrize("key", [EPOCH, LOG, AUDIT, EXPIRING, DENY, FLOOR])
def test_it_changes_nothing_where_a_key_is_not_what_it_was(any_store: StoreServer, key: str) -> None:
    async def work(changes: Changes) -> None:
        await changes.change("deny", put=["a"], for_ms=60_000, **BY)
        with any_store.client() as client:
            client.delete(key)
            client.sadd(key, "somebody's")
            before = dump(client)

            with pytest.raises(StoreUnavailable) as caught:
                await changes.change("deny", put=["b"], delete=["a"], for_ms=60_000, **BY)
            assert dump(client) == before
            assert caught.value.kind == "response"
            assert "WRONGTYPE" in str(caught.value)
            assert key in str(caught.value), "it says which"

            client.delete(key)
            await changes.change("deny", put=["b"], **BY)
            assert client.hexists(DENY, "b")

    with_changes(any_store, work)


@pytest.mark.parametrize("fields", [{"put": ["a\nb"]}, {"delete": ["a\n"]}, {"put": [""]}])
def test_it_takes_no_field_that_would_be_another(valkey: StoreServer, fields: dict[str, Any]) -> None:
    async def work(changes: Changes) -> None:
        with pytest.raises(AssertionError, match="it would name other fields"):
            await changes.change("deny", **fields, **BY)

    with_changes(valkey, work)


# --- doing it again -------------------------------------------------------------------


async def lost(changes: Changes, server: StoreServer) -> tuple[list[Delta], dict[bytes, bytes]]:
    """Three changes, of which the store has lost the last two; and what it held before it lost them."""
    await changes.change("deny", put=["a"], for_ms=60_000, **BY)
    with server.client() as client:
        kept = dump(client)
        await changes.change("deny", put=["b", "c"], for_ms=90_000, payload={"n": 1}, **BY)
        await changes.change("deny", put=["d"], delete=["a"], **BY)
        found = await changes.deltas(NO_EPOCH, 16)
        whole = dump(client)
        fail_over(client, kept)
    assert found is not None
    return found, whole


def test_it_does_lost_changes_again_as_they_were(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        deltas, whole = await lost(changes, any_store)
        for delta in deltas[1:]:
            assert await changes.repeat(delta, "gate/0")

        assert await changes.deltas(NO_EPOCH, 16) == deltas
        with any_store.client() as client:
            restored = dump(client)
            for key in (EPOCH, EXPIRING):
                assert restored[key.encode()] == whole[key.encode()]
            assert {key: client.hget(DENY, key) for key in "abcd"} == {
                "a": None,
                "b": b'%d %d {"n":1}' % (deltas[1].at_ms, deltas[1].until_ms),
                "c": b'%d %d {"n":1}' % (deltas[1].at_ms, deltas[1].until_ms),
                "d": b"%d 0 {}" % deltas[2].at_ms,
            }
            told = entries(client, AUDIT)
            assert [(entry["outcome"], entry["epoch"]) for entry in told] == [
                ("done", str(deltas[0].epoch)),
                ("done again", str(deltas[1].epoch)),
                ("done again", str(deltas[2].epoch)),
            ]
            assert '"actor":"gate/0","action":"restore"' in told[1]["what"]

    with_changes(any_store, work)


def test_it_does_a_change_again_only_where_it_was(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        deltas, _ = await lost(changes, any_store)
        with any_store.client() as client:
            before = dump(client)

            assert not await changes.repeat(deltas[2], "gate/0")
            assert dump(client) == before, "nor does the audit tell of what somebody else did"
            assert await changes.repeat(deltas[1], "gate/0")
            assert not await changes.repeat(deltas[1], "gate/1")

    with_changes(any_store, work)


def test_it_does_the_first_change_again_in_an_empty_store(any_store: StoreServer) -> None:
    async def work(changes: Changes) -> None:
        deltas, _ = await lost(changes, any_store)
        with any_store.client() as client:
            fail_over(client, {})
        with pytest.raises(Conflict):
            await changes.change("deny", if_epoch=deltas[0].epoch, **BY)
        for delta in deltas:
            assert await changes.repeat(delta, "gate/0")

        assert await changes.deltas(NO_EPOCH, 16) == deltas

    with_changes(any_store, work)
