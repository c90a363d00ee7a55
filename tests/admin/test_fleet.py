"""`GET /v1/fleet`, and what `wait` says of it, over a real store."""

from __future__ import annotations

import asyncio
from typing import Any, cast

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


def test_the_store_says_which_epoch_is_current_whatever_this_gate_knows(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            changed = await plane.changes.change("attack", put=["global"], actor="anna", action="attack.on")
            await plane.fleet_says("g1/0", plane.state.epoch)

            answer = await plane.ask("GET", "/v1/fleet")
            (replica,) = cast("list[dict[str, object]]", answer.json["replicas"])

            assert plane.state.epoch == NO_EPOCH, "this gate cannot follow"
            assert answer.json["epoch"] == str(changed.epoch)
            assert answer.headers["ETag"] == f'"{changed.epoch}"'
            assert (replica["state"], replica["behind"]) == ("behind", 1)

    asyncio.run(scenario())


def test_who_keeps_another_state_than_the_stores_is_behind(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            changed = await plane.changes.change("attack", put=["global"], actor="anna", action="attack.on")
            await plane.fleet_says("g1/0", changed.epoch)
            await plane.fleet_says("g1/1", changed.epoch, stale=True)
            await plane.fleet_says("g2/0", NO_EPOCH._replace(number=9))

            replicas: Any = (await plane.ask("GET", "/v1/fleet")).json["replicas"]

            assert [(one["replica"], one["state"], one["behind"]) for one in replicas] == [
                ("g1/0", "current", 0),
                ("g1/1", "behind", 0),
                ("g2/0", "behind", 0),
            ]

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
