"""`GET /v1/fleet`, and what `wait` says of it, over a real store."""

from __future__ import annotations

import asyncio
from typing import Any

from sidecar.admin.tokens import Role
from sidecar.core.control import NO_EPOCH
from tests.admin.control_plane import control_plane
from tests.stores import StoreServer


def test_it_shows_each_replica_and_how_far_it_is(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await plane.ask("PUT", "/v1/attack", {"on": False})
            await plane.ask("PUT", "/v1/attack", {"on": False})
            epoch = await plane.changes.epoch()
            await plane.fleet_says("g1/0", epoch)
            await plane.fleet_says("g1/1", NO_EPOCH, config="c2")
            await plane.fleet_says("g2/0", NO_EPOCH, silent_ms=60_000, config="c3")
            await plane.fleet_says("g3/0", NO_EPOCH, silent_ms=600_000)

            answer = await plane.ask("GET", "/v1/fleet", role=Role.VIEWER)
            replicas: Any = answer.json["replicas"]

            assert answer.json["epoch"] == str(epoch)
            assert [(one["replica"], one["state"], one["behind"]) for one in replicas] == [
                ("g1/0", "current", 0),
                ("g1/1", "behind", 2),
                ("g2/0", "lost", 2),
            ]
            assert (replicas[1]["gate"], replicas[1]["worker"], replicas[1]["name"]) == ("g1", 1, "host")
            assert replicas[1]["started"] == "2026-11-22T05:00:00.000Z"
            assert 60 <= replicas[2]["lag_s"] < 90
            assert answer.json["configurations"] == 2

    asyncio.run(scenario())


def test_one_that_is_ahead_of_this_gate_says_which_epoch_is_current(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            ahead = NO_EPOCH._replace(number=9)
            await plane.fleet_says("g1/0", ahead)

            answer = await plane.ask("GET", "/v1/fleet")

            assert answer.json["epoch"] == str(ahead)
            assert answer.headers["ETag"] == f'"{ahead}"'

    asyncio.run(scenario())


def test_a_change_that_waits_names_who_is_missing(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await plane.fleet_says("g1/0", NO_EPOCH._replace(number=9))
            await plane.fleet_says("g2/0", NO_EPOCH)

            answer = await plane.ask("PUT", "/v1/attack?wait=0.05", {"on": True})
            confirmed: Any = answer.json["confirmed"]

            assert (confirmed["everywhere"], confirmed["replicas"]) == (False, 2)
            assert [(one["replica"], one["state"]) for one in confirmed["missing"]] == [("g2/0", "behind")]

    asyncio.run(scenario())
