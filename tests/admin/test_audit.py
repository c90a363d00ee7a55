"""`GET /v1/audit`, over a real store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.admin.tokens import Role
from tests.admin.control_plane import SECRETS, control_plane
from tests.stores import StoreServer


def test_it_tells_who_did_what_and_why_oldest_first(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await plane.ask(
                "PUT", "/v1/attack", {"on": True, "reason": "flood", "for": "1h"}, role=Role.OPERATOR
            )
            await plane.ask("POST", "/v1/addresses/deny", {"add": ["192.0.2.1"], "reason": "scraper"})
            body = {"limit": "per-ip", "address": "192.0.2.0/24", "permits": 7}
            await plane.ask("PUT", "/v1/overrides", body)
            stale = {"If-Match": '"1-00c0ffee00c0ffee"'}
            await plane.ask("PUT", "/v1/attack", {"on": False}, headers=stale)

            answer = await plane.ask("GET", "/v1/audit", role=Role.VIEWER)
            entries: Any = answer.json["entries"]

            assert [(one["actor"], one["action"], one["outcome"], one["reason"]) for one in entries] == [
                ("otto", "attack.on", "done", "flood"),
                ("anna", "addresses.change", "done", "scraper"),
                ("anna", "override.set", "done", ""),
                ("anna", "attack.off", "refused: epoch", ""),
            ]
            assert entries[0]["until"] is not None
            assert (entries[1]["table"], entries[1]["put"]) == ("deny", ["192.0.2.1/32"])
            assert entries[2]["permits"] == 7
            assert answer.json["after"] == entries[-1]["id"]
            assert not any(secret in answer.text for secret in SECRETS.values())

    asyncio.run(scenario())


def test_it_reads_on_from_where_it_was_and_waits_for_what_comes(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            for _ in range(3):
                await plane.ask("PUT", "/v1/attack", {"on": False})
            newest = await plane.ask("GET", "/v1/audit?limit=2")
            entries: Any = newest.json["entries"]
            after = newest.json["after"]

            nothing = await plane.ask("GET", f"/v1/audit?after={after}")
            waiting = asyncio.create_task(plane.ask("GET", f"/v1/audit?after={after}&wait=30"))
            await asyncio.sleep(0)
            await plane.ask("PUT", "/v1/attack", {"on": True})
            heard: Any = (await waiting).json["entries"]

            assert len(entries) == 2
            assert nothing.json == {"entries": [], "after": after}
            assert [one["action"] for one in heard] == ["attack.on"]

    asyncio.run(scenario())


def test_of_nothing_it_tells_nothing(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            assert (await plane.ask("GET", "/v1/audit")).json == {"entries": [], "after": None}

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "query",
    [
        "after=x",
        "after=1",
        "after=5-0%0A",
        "after=18446744073709551616-0",
        "after=0-99999999999999999999",
        "after=18446744073709551615-18446744073709551615",
        "limit=0",
        "limit=1001",
        "wait=61",
    ],
)
def test_it_refuses_what_it_cannot_read(valkey: StoreServer, query: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("GET", f"/v1/audit?{query}")

            assert answer.is_problem(400)
            assert query.partition("=")[0] in str(answer.json["detail"])

    asyncio.run(scenario())
