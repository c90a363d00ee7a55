"""What an operator does from anywhere: changes made at the store, as any gate's admin plane makes them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sidecar.control.changes import Changed, Changes
from sidecar.store.redis import RedisStore
from tests.stores import StoreServer

PATIENCE_S = 30.0


def change(
    store: StoreServer,
    table: str,
    *,
    put: Sequence[str] = (),
    delete: Sequence[str] = (),
    payload: dict[str, object] | None = None,
    for_ms: int = 0,
    prefix: str = "pc:",
) -> Changed:
    """One change of one control table."""

    async def make() -> Changed:
        connected = RedisStore(store.url(), patience_s=PATIENCE_S)
        try:
            return await Changes(store=connected, prefix=prefix).change(
                table, put=put, delete=delete, payload=payload, for_ms=for_ms, actor="test", action="test"
            )
        finally:
            await connected.close()

    return asyncio.run(make())


def attack(store: StoreServer, on: bool) -> Changed:
    """Switch attack mode for all."""
    return change(store, "attack", put=["global"], payload={"on": on, "actor": "test", "reason": ""})
