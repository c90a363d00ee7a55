"""Explaining while the store is silent: who listed an address is asked once at most, and not when it is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.admin.explain import ExplainRequest
from sidecar.assembly import lists_of, policy_of
from sidecar.config import parse
from sidecar.core.control import LISTS, NO_EPOCH, Book, Delta, Entry, Epoch
from sidecar.core.ledger import Ledger
from sidecar.explain import Explainer
from sidecar.identity import Identity
from sidecar.steps import in_steps
from sidecar.store import StoreUnavailable

ADDRESS = "192.0.2.9"


class SilentStore:
    """Knows how often it was asked for an entry, and answers none."""

    def __init__(self) -> None:
        self.asked = 0

    async def entry(self, table: str, field: str) -> Entry | None:
        self.asked += 1
        raise StoreUnavailable("timeout", f"no answer about {field} of {table}")


@pytest.mark.parametrize(("known", "asked"), [(True, 0), (False, 1)])
def test_it_waits_for_a_silent_store_once_at_most(directory: Path, known: bool, asked: int) -> None:
    store = SilentStore()

    async def scenario() -> list[object]:
        config = parse("limits: []", name="test", folder=directory)
        deltas, before = list[Delta](), NO_EPOCH
        for number, name in enumerate(LISTS, start=1):
            epoch = Epoch(number, "a" * 16)
            deltas.append(Delta(before, epoch, name, 1, 0, b"{}", (f"{ADDRESS}/32",), ()))
            before = epoch
        control = await in_steps(Book().apply_steps(deltas, 1))
        policy = policy_of(config, lists_of(config), control=control, ledger=Ledger(), hash_key=b"k" * 32)
        explainer = Explainer(
            store_url=f"unix://{directory / 'nobody'}?db=0",
            config=lambda: config,
            policy=lambda: policy,
            attack=lambda: False,
            silent=lambda: known,
            look_alone=lambda counter, need: None,
            entry=store.entry,
            identity=lambda: Identity(config.credentials, hash_key=None, warn=print),
            wall_ms=lambda: 1,
        )
        explained = await explainer.explain(ExplainRequest(address=ADDRESS))
        await explainer.close()
        listed = explained["addresses"]
        assert isinstance(listed, list)
        return listed

    listed = asyncio.run(scenario())

    assert [(one["list"], one["source"], one["actor"]) for one in listed if isinstance(one, dict)] == [
        (name, "run_time", None) for name in LISTS
    ]
    assert store.asked == asked
