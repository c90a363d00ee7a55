"""The admin plane over a real store, for the tests of its resources.

Changes, fleet, audit and keys are the gate's own, on a real Valkey. Doubles: the state is read anew from the
store whenever somebody waits for it (unfaithful: nobody follows, nothing arrives late), and whoever forgets
counts only remembers that it was told. Explaining answers the same whatever it is asked.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from sidecar.admin.app import admin_app
from sidecar.admin.decisions import EXAMPLE
from sidecar.admin.explain import Explained, ExplainedAnswer, ExplainRequest, Step
from sidecar.admin.operations import Operations
from sidecar.admin.resources import Controls, control_operations
from sidecar.admin.tokens import Holder, Role, Tokens, digest_of
from sidecar.config import Config, parse
from sidecar.control.audit import Audit
from sidecar.control.changes import Changes, Space
from sidecar.control.fleet import Fleet
from sidecar.control.keys import KeyRegistry
from sidecar.control.reset import ResetDone
from sidecar.control.top import TopAnswer
from sidecar.core.addresses import AddressSet
from sidecar.core.control import EMPTY, LISTS, Control, Entry, Epoch
from sidecar.core.layers import LayeredSet
from sidecar.core.model import Limit
from sidecar.core.sketch import By
from sidecar.store.redis import RedisStore, SharedStore
from tests.admin.plane import Answer, Client, Gate, served
from tests.stores import StoreServer

PREFIX = "pc:"
KNOWN_REQUEST = "r-1"
REFUSED = msgspec.json.encode(EXAMPLE | {"request_id": KNOWN_REQUEST})
"""The one decision that the plane knows."""
GATE = "9b1c64d2e07fa835"
SECRETS = {role: f"secret-of-the-{role.value}" for role in Role}
NAMES = {Role.VIEWER: "vera", Role.OPERATOR: "otto", Role.ADMIN: "anna"}
DOCUMENT = """
attack_mode: {pass: ["10.1.0.0/16"]}
addresses:
  deny: {cidrs: ["198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"]}
limits:
  - {name: per-ip, per: [ip], permits: 100, window: 1m}
  - {name: per-key, per: [key], permits: 1000, window: 1m}
  - {name: everything, per: [global], permits: 100000, window: 1m}
"""


class Roles:
    """One token for each role."""

    def digests(self) -> Mapping[bytes, Holder]:
        return {digest_of(SECRETS[role]): Holder(NAMES[role], role) for role in Role}


class Plane:
    """One admin plane, what it stands on, and requests to it. `fleet_says` adds or moves a replica."""

    def __init__(self, store: SharedStore, config: Config) -> None:
        self.store = store
        self.config = config
        self.state = EMPTY
        self.changes = Changes(store=store, prefix=PREFIX, applied=lambda: self.state.epoch)
        self.fleet = Fleet(store=store, prefix=PREFIX, gate=GATE, reached=self.follow)
        self.audit = Audit(store=store, prefix=PREFIX)
        self.forgotten: list[tuple[str, str, str]] = []
        self.client: Client

    def operations(self) -> Operations:
        return control_operations(
            Controls(
                changes=self.changes,
                fleet=self.fleet,
                audit=self.audit,
                keys=KeyRegistry(self.changes, hash_key=lambda: b"k" * 32, now_ms=now_ms),
                top=self._top,
                resets=self,
                decisions=self._decisions,
                state=lambda: self.state,
                config=lambda: self.config,
            )
        )

    async def _decisions(self, request_id: str) -> list[bytes]:
        return [REFUSED] if request_id == KNOWN_REQUEST else []

    def app(self) -> web.Application:
        gate = Gate()
        return admin_app(
            metrics_text=gate.metrics_text,
            ready=gate.readiness,
            explain=_explain,
            tokens=Tokens([], Roles()),
            operations=self.operations(),
            pause=gate.pause,
        )

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        role: Role = Role.ADMIN,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request with the token of a role; the body as JSON."""
        token = {"Authorization": f"Bearer {SECRETS[role]}"}
        data = body if isinstance(body, bytes) else None if body is None else msgspec.json.encode(body)
        return await self.client.ask(method, path, headers=token | dict(headers or {}), body=data)

    async def follow(self, _: Epoch | None = None) -> None:
        """Read the whole state from the store."""
        epoch = await self.changes.epoch()
        tables = {table: await self.table(table) for table in (*LISTS, "attack", "overrides")}
        self.state = Control(
            epoch=epoch,
            lists={name: LayeredSet([AddressSet(tables[name])]) for name in LISTS},
            attack=tables["attack"],
            overrides=tables["overrides"],
        )

    async def table(self, name: str) -> dict[str, Entry]:
        """A table, whole."""
        cursor, found = 0, dict[str, Entry]()
        while True:
            cursor, entries = await self.changes.page(name, cursor, 1000)
            found |= dict(entries)
            if cursor == 0:
                return found

    async def reset(
        self, limit: Limit, kind: str, value: str, *, actor: str, reason: str, if_epoch: Epoch | None
    ) -> ResetDone:
        changed = await self.changes.change(
            "resets",
            put=[f"{limit.name} {kind}:{value}"],
            actor=actor,
            action="reset",
            reason=reason,
            if_epoch=if_epoch,
        )
        self.forgotten.append((limit.name, kind, value))
        return ResetDone(changed, 3)

    async def fleet_says(
        self, replica: str, epoch: Epoch, *, silent_ms: int = 0, config: str = "c1", stale: bool = False
    ) -> None:
        """A replica's beat, as it would have made it so long ago."""
        gate, _, worker = replica.rpartition("/")
        told: dict[str, object] = {"gate": gate, "worker": int(worker), "name": "host", "version": "0.1.0"}
        told |= {"started": 1_795_323_600_000, "epoch": str(epoch), "stale": stale, "config": config}
        space = Space(PREFIX)
        seen = b"%d" % (now_ms() - silent_ms)
        await self.store.command(b"ZADD", space.key("replicas"), seen, replica.encode())
        await self.store.command(b"HSET", space.key("fleet"), replica.encode(), msgspec.json.encode(told))

    async def _top(self, _: int) -> TopAnswer:
        nobody = dict.fromkeys(By, ())
        return TopAnswer(0, 0, nobody, nobody)


async def _explain(asked: ExplainRequest) -> Mapping[str, object]:
    """An answer of the right shape, about nothing."""
    step = Step(step="request", outcome="passed", detail=f"{asked.method} {asked.path}")
    answer = ExplainedAnswer(front=asked.front, status=200, headers={}, body="")
    explained = Explained(
        allowed=True,
        status=200,
        reason="ok",
        source="memory",
        retry_after_s=None,
        steps=[step],
        credential=None,
        addresses=[],
        limits=[],
        shadow=[],
        answer=answer,
    )
    return msgspec.structs.asdict(explained)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def control_plane(
    valkey: StoreServer, *, document: str = DOCUMENT, patience_s: float = 2.0
) -> AsyncIterator[Plane]:
    """The admin plane on a free port, over this store."""
    store = SharedStore(RedisStore(valkey.url(), patience_s=patience_s))
    try:
        plane = Plane(store, parse(document, name="test", folder=Path("/gate")))
        async with served(plane.app()) as client:
            plane.client = client
            yield plane
    finally:
        await store.close()
