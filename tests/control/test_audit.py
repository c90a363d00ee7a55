"""The audit trail as it is read: forward from an entry, or the newest; waiting for what is to come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sidecar.control.audit import LOOK_S, Audit
from sidecar.control.changes import Changes, Conflict
from sidecar.core.control import Epoch
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore, SharedStore
from tests.stores import StoreServer

KEY = "pc:{control}:audit"


def with_audit(server: StoreServer, work: Callable[[Audit, Changes], Awaitable[None]]) -> None:
    async def worked() -> None:
        store = SharedStore(RedisStore(server.url(), patience_s=5.0))
        try:
            await work(Audit(store=store, prefix="pc:"), Changes(store=store, prefix="pc:"))
        finally:
            await store.close()

    asyncio.run(worked())


async def made(changes: Changes, count: int) -> list[str]:
    """So many changes; their epochs."""
    return [
        str((await changes.change("deny", put=[str(number)], actor="ann", action="addresses.change")).epoch)
        for number in range(count)
    ]


def test_it_tells_who_did_what_and_what_came_of_it(any_store: StoreServer) -> None:
    async def work(audit: Audit, changes: Changes) -> None:
        changed = await changes.change(
            "attack",
            put=["global"],
            for_ms=60_000,
            actor="ann",
            action="attack.on",
            reason="größe",
            detail={"n": [1]},
        )
        with pytest.raises(Conflict):
            await changes.change("attack", if_epoch=Epoch(9, "a" * 16), actor="bob", action="attack.off")
        done, refused = await audit.read(None, 10)

        assert (done.actor, done.action, done.outcome, done.reason) == ("ann", "attack.on", "done", "größe")
        assert (done.epoch, done.at_ms, done.until_ms) == (
            str(changed.epoch),
            changed.at_ms,
            changed.until_ms,
        )
        assert done.detail == {"table": "attack", "put": ["global"], "n": [1]}
        assert (refused.actor, refused.action, refused.outcome) == ("bob", "attack.off", "refused: epoch")
        assert (refused.epoch, refused.until_ms) == (str(changed.epoch), 0)
        assert done.id < refused.id or len(done.id) < len(refused.id)

    with_audit(any_store, work)


def test_it_reads_the_newest_oldest_first(any_store: StoreServer) -> None:
    async def work(audit: Audit, changes: Changes) -> None:
        assert await audit.read(None, 10) == []
        epochs = await made(changes, 7)

        assert [entry.epoch for entry in await audit.read(None, 10)] == epochs
        assert [entry.epoch for entry in await audit.read(None, 3)] == epochs[-3:]

    with_audit(any_store, work)


def test_it_reads_on_page_by_page(any_store: StoreServer) -> None:
    async def work(audit: Audit, changes: Changes) -> None:
        epochs = await made(changes, 7)
        after, found = "0-0", []
        while page := await audit.read(after, 3):
            assert len(page) <= 3
            found += [entry.epoch for entry in page]
            after = page[-1].id

        assert found == epochs
        more = await made(changes, 1)
        assert [entry.epoch for entry in await audit.read(after, 3)] == more

    with_audit(any_store, work)


def test_it_waits_for_what_is_to_come(any_store: StoreServer) -> None:
    async def work(audit: Audit, changes: Changes) -> None:
        loop = asyncio.get_running_loop()
        await made(changes, 1)
        (last,) = await audit.read(None, 1)
        begun_s = loop.time()
        assert await audit.read(last.id, 10, wait_s=0.1) == []
        assert loop.time() - begun_s < 0.1 + 4 * LOOK_S

        waiting = asyncio.create_task(audit.read(last.id, 10, wait_s=10))
        await asyncio.sleep(0)
        epochs = await made(changes, 1)
        assert [entry.epoch for entry in await waiting] == epochs
        assert loop.time() - begun_s < 5

    with_audit(any_store, work)


@pytest.mark.parametrize(
    "after",
    [
        "",
        "x",
        "1",
        "1-",
        "-1",
        "1-1-1",
        "(1-1",
        "+",
        "$",
        "1-1\n",
        "٥-5",
        "9" * 21 + "-0",
        f"{2**64}-0",
        f"0-{2**64}",
    ],
)
def test_it_refuses_what_is_no_id(valkey: StoreServer, after: str) -> None:
    async def work(audit: Audit, changes: Changes) -> None:
        with pytest.raises(ValueError, match="is no id"):
            await audit.read(after, 10)

    with_audit(valkey, work)


@pytest.mark.parametrize(
    "junk",
    [
        {"x": "y"},
        {"what": "junk"},
        {"what": "[]", "at": "1", "outcome": "", "epoch": "", "until": "0"},
        {"what": "{}", "at": "9" * 18, "outcome": "", "epoch": "", "until": "0"},
    ],
)
def test_it_believes_no_entry_that_is_not_one_of_ours(any_store: StoreServer, junk: dict[Any, Any]) -> None:
    async def work(audit: Audit, changes: Changes) -> None:
        with any_store.client() as client:
            client.xadd(KEY, junk)
        with pytest.raises(StoreUnavailable) as caught:
            await audit.read(None, 10)
        assert caught.value.kind == "response"

    with_audit(any_store, work)
