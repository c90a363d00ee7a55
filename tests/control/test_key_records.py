"""Reading the registry's records for requests: in one moment with the epoch that they are of."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from sidecar.control.changes import Changes
from sidecar.control.keys import KeyRecords
from sidecar.core.control import NO_EPOCH, Epoch
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore
from tests.stores import StoreServer

PREFIX: Final = "pc:"


def read(
    server: StoreServer, *key_ids: str, applied: Epoch = NO_EPOCH, changes: int = 2
) -> list[bytes | None] | None:
    """The payloads of records, after as many changes to `k_a`."""

    async def scenario() -> list[bytes | None] | None:
        store = RedisStore(server.url(), patience_s=30.0)
        try:
            made = Changes(store=store, prefix=PREFIX)
            for number in range(changes):
                await made.change("keys", put=["k_a"], payload={"n": number}, actor="a", action="x")
            found = await KeyRecords(store, PREFIX, applied=lambda: applied).records(key_ids)
            return None if found is None else [entry.payload if entry else None for entry in found]
        finally:
            await store.close()

    return asyncio.run(scenario())


def test_it_reads_records_in_the_order_of_the_question(valkey: StoreServer) -> None:
    assert read(valkey, "k_b", "k_a", "k_c") == [None, b'{"n":1}', None]


def test_it_finds_nobody_in_a_store_without_keys(valkey: StoreServer) -> None:
    assert read(valkey, "k_a", changes=0) == [None]


@pytest.mark.parametrize(("number", "believed"), [(1, True), (2, True), (3, False)])
def test_it_believes_no_store_that_lost_what_was_seen(
    valkey: StoreServer, number: int, believed: bool
) -> None:
    found = read(valkey, "k_a", applied=Epoch(number, "a" * 16))

    assert found == ([b'{"n":1}'] if believed else None)


def test_it_believes_no_store_that_lost_everything(valkey: StoreServer) -> None:
    assert read(valkey, "k_a", changes=0, applied=Epoch(1, "a" * 16)) is None


def test_it_says_so_when_the_epoch_is_none(valkey: StoreServer) -> None:
    with valkey.client() as client:
        client.set(f"{PREFIX}{{control}}:epoch", b"junk")

    with pytest.raises(StoreUnavailable):
        read(valkey, "k_a", changes=0)
