"""Signs of life do not wait for work on lists: a replica that is busy is not a lost one."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from sidecar.core.control import Control
from tests.control.fleet_double import Replica, until
from tests.stores import StoreServer

REPLICAS = "pc:{control}:replicas"


def test_it_says_that_it_lives_while_a_change_takes_long(
    valkey: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with Replica(valkey, "pc:", "gate/0") as replica:
            begun, ending = asyncio.Event(), asyncio.Event()

            def long_steps(*_: object) -> Generator[None, None, Control]:
                begun.set()
                while not ending.is_set():
                    yield
                return replica.book.control

            monkeypatch.setattr(replica.book, "apply_steps", long_steps)
            running = asyncio.create_task(replica.follower.run())
            await replica.changes.change("deny", put=["192.0.2.0/24"], actor="a", action="a")
            await begun.wait()
            with valkey.client() as client:
                heard_ms = client.zscore(REPLICAS, "gate/0")
                await until(lambda: client.zscore(REPLICAS, "gate/0") != heard_ms, "a sign of life")
                assert not replica.news

            running.cancel()
            ending.set()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
