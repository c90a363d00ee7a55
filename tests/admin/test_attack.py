"""`/v1/attack`, over a real store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.admin.tokens import Role
from tests.admin.control_plane import control_plane
from tests.stores import StoreServer


def test_before_anybody_said_anything_the_configuration_speaks(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey, document="attack_mode: {unknown: on}") as plane:
            answer = await plane.ask("GET", "/v1/attack", role=Role.VIEWER)

            assert answer.json == {
                "epoch": "0-0000000000000000",
                "on": True,
                "known": False,
                "global": None,
                "subjects": [],
                "pass": {"configuration": [], "run_time": 0},
            }

    asyncio.run(scenario())


def test_it_shows_what_was_switched_by_whom_and_until_when(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            on = {"on": True, "reason": "flood", "for": "1h"}
            switched = await plane.ask("PUT", "/v1/attack", on, role=Role.OPERATOR)
            await plane.ask("PUT", "/v1/attack", {"on": True, "tenant": "acme"})
            await plane.ask("PUT", "/v1/attack", {"on": True, "key": "k1"})
            await plane.ask("POST", "/v1/addresses/pass", {"add": ["192.0.2.1"]})

            shown = await plane.ask("GET", "/v1/attack")
            said: Any = shown.json["global"]
            subjects: Any = shown.json["subjects"]

            assert switched.status == 200
            assert (switched.json["on"], switched.json["at"], switched.json["until"]) == (
                True,
                said["at"],
                said["until"],
            )
            assert (shown.json["on"], shown.json["known"]) == (True, True)
            assert (said["on"], said["reason"], said["actor"]) == (True, "flood", "otto")
            assert [(one.get("key"), one.get("tenant"), one["actor"]) for one in subjects] == [
                ("k1", None, "anna"),
                (None, "acme", "anna"),
            ]
            assert shown.json["pass"] == {"configuration": ["10.1.0.0/16"], "run_time": 1}
            assert shown.headers["ETag"] == f'"{shown.json["epoch"]}"'

    asyncio.run(scenario())


def test_off_is_kept_for_everybody_and_removes_the_entry_of_one(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await plane.ask("PUT", "/v1/attack", {"on": True, "tenant": "acme"})

            everybody = await plane.ask("PUT", "/v1/attack", {"on": False, "reason": "over"})
            one = await plane.ask("PUT", "/v1/attack", {"on": False, "tenant": "acme"})
            nobody = await plane.ask("PUT", "/v1/attack", {"on": False, "key": "nobody"})

            assert (everybody.status, one.status, nobody.status) == (200, 200, 200)
            assert one.json["tenant"] == "acme"
            table = await plane.table("attack")
            assert {field: entry.members() for field, entry in table.items()} == {
                "global": {"on": False, "reason": "over", "actor": "anna"}
            }

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "`on`"),
        ({"on": "yes"}, "$.on"),
        ({"on": True, "for": "1 hour"}, 'for: "1 hour": expected a duration'),
        ({"on": True, "for": "0s"}, "for: "),
        ({"on": True, "for": "9999d"}, "for: "),
        ({"on": True, "for": 60}, "$.for"),
        ({"on": True, "tenant": "acme", "key": "k1"}, "key and tenant: expected at most one"),
        ({"on": True, "tenant": "Acme Inc."}, "tenant: "),
        ({"on": True, "tenant": ""}, "tenant: "),
        ({"on": True, "key": "a b"}, "key: "),
        ({"on": True, "key": "k1\n"}, "key: "),
        ({"on": True, "address": "192.0.2.1"}, "`address`"),
        ({"on": True, "reason": "\u0007"}, "reason: "),
        ({"on": False, "tenant": "acme", "for": "1h"}, "for: "),
    ],
)
def test_it_refuses_and_changes_nothing(valkey: StoreServer, body: object, says: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("PUT", "/v1/attack", body)

            assert answer.is_problem(400)
            assert says in str(answer.json["detail"])
            assert await plane.store.command(b"DBSIZE") == 0

    asyncio.run(scenario())
