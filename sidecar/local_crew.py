"""A crew of one: the replica in the same process as the admin plane.

It decides nothing itself; with more workers it is `workers.WorkerCrew`'s place.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from sidecar.config import Config
from sidecar.control.follow import Follower
from sidecar.core.ledger import Counter
from sidecar.core.policy import Policy
from sidecar.core.window import Grant
from sidecar.decision_log import DecisionLog
from sidecar.document.notations import Endpoint
from sidecar.identity import Identity
from sidecar.listeners import close_check, endpoint_of, open_check
from sidecar.metrics import Layout, Metrics
from sidecar.replica import Replica


class LocalCrew:
    """One replica, in this process."""

    def __init__(
        self,
        config: Config,
        *,
        store_url: str,
        hash_key: bytes | None,
        gate_id: str,
        layout: Layout,
        log: DecisionLog,
    ) -> None:
        self._endpoints = config.listen.check
        self._opened: list[Endpoint] = []
        self._listeners: list[socket.socket] = []
        self._started = False
        self._metrics = Metrics(layout)
        self._replica = Replica(
            config,
            store_url=store_url,
            hash_key=hash_key,
            replica_id=f"{gate_id}/1",
            keeps=True,
            metrics=self._metrics,
            log=log,
        )

    @property
    def follower(self) -> Follower:
        return self._replica.follower

    async def start(self) -> Sequence[Endpoint]:
        for endpoint in self._endpoints:
            listener = open_check(endpoint)
            self._listeners.append(listener)
            self._opened.append(endpoint_of(endpoint, listener))
        await self._replica.start(self._listeners)
        self._started = True
        return self._opened

    async def switch(self, config: Config, layout: Layout) -> None:
        self._replica.switch(await self._replica.prepare(config, layout))

    async def stop(self, grace_s: float) -> None:
        if self._started:
            await self._replica.stop(grace_s)
        close_check(self._opened, self._listeners)

    async def decisions(self, request_id: str) -> list[bytes]:
        return self._replica.decisions(request_id)

    def snapshots(self) -> list[list[int]]:
        self._replica.keep_books()
        return [self._metrics.values()]

    def checks(self) -> dict[str, str]:
        return {"store": "ok" if self._replica.gate.store_up else "outage policy"}

    def attack(self) -> bool:
        return self._replica.gate.attack

    def fleet_key(self) -> bytes | None:
        return self._replica.fleet_key

    def look_alone(self, counter: Counter, need: int) -> Grant | None:
        return self._replica.gate.share.look(counter, need)

    @property
    def identity(self) -> Identity:
        return self._replica.identity

    def policy(self) -> Policy:
        return self._replica.gate.policy
