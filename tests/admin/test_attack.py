"""`/v1/attack`, over a real store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.admin.attack import MOST_SHOWN, MOST_SUBJECTS
from sidecar.admin.tokens import Role
from sidecar.control.changes import MOST_FIELDS
from sidecar.core.keys import secret_of
from tests.admin.control_plane import Plane, control_plane
from tests.stores import StoreServer

SECRET = secret_of(bytes(range(32)))


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
                "more": False,
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
        ({"on": True, "key": SECRET}, "key: "),
        ({"on": True, "reason": f"revoked {SECRET}"}, "reason: "),
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
            assert SECRET not in answer.text
            assert await plane.store.command(b"DBSIZE") == 0

    asyncio.run(scenario())


async def under_attack(plane: Plane, count: int) -> None:
    """So many tenants, told as they would be one by one."""
    for first in range(0, count, MOST_FIELDS):
        names = [f"tenant:t{number:05}" for number in range(first, min(count, first + MOST_FIELDS))]
        await plane.changes.change(
            "attack", put=names, payload={"on": True}, actor="anna", action="attack.on"
        )
    await plane.follow()


def test_it_shows_no_more_than_it_may_and_any_one_that_is_named(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await under_attack(plane, MOST_SHOWN)
            all_ = await plane.ask("GET", "/v1/attack")
            await plane.ask("PUT", "/v1/attack", {"on": True, "tenant": "z"})
            first = await plane.ask("GET", "/v1/attack")
            last: Any = (await plane.ask("GET", "/v1/attack?tenant=z")).json
            nobody: Any = (await plane.ask("GET", "/v1/attack?key=z")).json
            both = await plane.ask("GET", "/v1/attack?key=z&tenant=z")

            names = [f"t{number:05}" for number in range(MOST_SHOWN)]
            for answer, more in ((all_, False), (first, True)):
                subjects: Any = answer.json["subjects"]
                assert [one["tenant"] for one in subjects] == names
                assert answer.json["more"] is more
            assert ([one["tenant"] for one in last["subjects"]], last["more"]) == (["z"], False)
            assert (nobody["subjects"], nobody["more"]) == ([], False)
            assert both.is_problem(400)

    asyncio.run(scenario())


def test_it_takes_no_more_subjects_than_replicas_are_to_hold(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await plane.ask("PUT", "/v1/attack", {"on": False})
            await under_attack(plane, MOST_SUBJECTS)

            one_more = await plane.ask("PUT", "/v1/attack", {"on": True, "tenant": "z"})
            again = await plane.ask("PUT", "/v1/attack", {"on": True, "tenant": "t00001"})
            everybody = await plane.ask("PUT", "/v1/attack", {"on": True})
            off = await plane.ask("PUT", "/v1/attack", {"on": False, "tenant": "t00001"})
            instead = await plane.ask("PUT", "/v1/attack", {"on": True, "tenant": "z"})

            assert one_more.is_problem(409)
            assert "switch it off for some" in str(one_more.json["detail"])
            assert (again.status, everybody.status, off.status, instead.status) == (200, 200, 200, 200)

    asyncio.run(scenario())
