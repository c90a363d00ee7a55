"""`/v1/addresses/{list}`, over a real store."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sidecar.admin.times import moment
from sidecar.admin.tokens import Role
from sidecar.config import parse
from tests.admin.control_plane import Plane, control_plane
from tests.stores import StoreServer

DENY = "/v1/addresses/deny"
CONFIGURED = ["198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"]


async def listed(plane: Plane, path: str = DENY, **asked: object) -> list[dict[str, Any]]:
    """All entries, page by page."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        query = "&".join(f"{name}={value}" for name, value in {**asked, "cursor": cursor}.items() if value)
        answer = await plane.ask("GET", f"{path}?{query}", role=Role.VIEWER)
        assert answer.status == 200, answer.text
        entries: Any = answer.json["entries"]
        assert len(entries) <= int(str(asked.get("limit", 100)))
        found += entries
        if answer.json["cursor"] is None:
            return found
        cursor = str(answer.json["cursor"])


def test_it_adds_and_removes_in_one_change_in_canonical_text(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await plane.ask("POST", DENY, {"add": ["192.0.2.1", "192.0.2.2"]})
            body = {
                "add": ["2001:DB8::/48", "::ffff:10.0.0.0/104", "192.0.2.9", "192.0.2.9/32"],
                "remove": ["192.0.2.1/32", "192.0.2.200"],
                "reason": "scraper",
                "for": "7d",
            }
            answer = await plane.ask("POST", DENY, body, role=Role.OPERATOR)

            assert answer.status == 200
            assert (answer.json["list"], answer.json["added"], answer.json["removed"]) == ("deny", 3, 1)
            assert str(answer.json["epoch"]).startswith("2-")
            table = await plane.table("deny")
            assert sorted(table) == ["10.0.0.0/8", "192.0.2.2/32", "192.0.2.9/32", "2001:db8::/48"]
            assert table["10.0.0.0/8"].members() == {"reason": "scraper", "actor": "otto"}
            assert table["10.0.0.0/8"].until_ms - table["10.0.0.0/8"].at_ms == 7 * 86_400_000

    asyncio.run(scenario())


def test_it_takes_five_thousand_in_one_change(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            cidrs = [
                f"2001:db8:{high:x}:{low:x}:ffff:ffff:ffff:0/112" for high in range(50) for low in range(100)
            ]

            answer = await plane.ask("POST", DENY, {"add": cidrs})
            one_more = await plane.ask("POST", DENY, {"add": cidrs, "remove": ["192.0.2.1"]})

            assert (answer.status, answer.json["added"]) == (200, 5000)
            assert one_more.is_problem(400)
            assert str(await plane.changes.epoch()).startswith("1-")
            assert len({entry["cidr"] for entry in await listed(plane, limit=1000)}) == 5003

    asyncio.run(scenario())


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 50, 1000])
@pytest.mark.parametrize("entries", [0, 1, 7, 700])
def test_it_lists_each_network_once_the_configurations_first(
    valkey: StoreServer, limit: int, entries: int
) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            added = [f"10.{at >> 8}.{at & 255}.0/24" for at in range(entries)]
            if added:
                await plane.ask("POST", DENY, {"add": added, "reason": "r"})

            found = await listed(plane, limit=limit if entries < 100 else max(limit, 50))

            assert [entry["cidr"] for entry in found[:3]] == CONFIGURED
            assert {entry["source"] for entry in found[:3]} == {"configuration"}
            assert sorted(entry["cidr"] for entry in found[3:]) == sorted(added)
            assert {entry["source"] for entry in found[3:]} <= {"run_time"}

    asyncio.run(scenario())


def test_it_lists_who_added_it_and_leaves_out_what_has_expired(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey, document="") as plane:
            await plane.ask("POST", DENY, {"add": ["192.0.2.1"], "reason": "scraper"})
            soon = moment(time.time_ns() // 1_000_000 + 300)
            await plane.ask("POST", DENY, {"add": ["192.0.2.2"], "until": soon})
            while len(found := await listed(plane)) == 2:
                pass

            assert [(entry["cidr"], entry["reason"], entry["actor"]) for entry in found] == [
                ("192.0.2.1/32", "scraper", "anna")
            ]

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["deny", "allow", "exempt", "pass"])
def test_each_list_is_one_of_its_own(valkey: StoreServer, name: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            await plane.ask("POST", f"/v1/addresses/{name}", {"add": ["192.0.2.1"]})

            listings = {
                other: [entry["cidr"] for entry in await listed(plane, f"/v1/addresses/{other}")]
                for other in ("deny", "allow", "exempt", "pass")
            }

            assert [other for other, cidrs in listings.items() if "192.0.2.1/32" in cidrs] == [name]
            assert "10.1.0.0/16" in listings["pass"]

    asyncio.run(scenario())


def test_pages_of_another_configuration_are_told(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            first = await plane.ask("GET", f"{DENY}?limit=1")
            plane.config = parse("", name="other", folder=plane.config.state_dir)

            assert (await plane.ask("GET", f"{DENY}?cursor={first.json['cursor']}")).is_problem(409)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=many", "cursor=x", "cursor=-1", "cursor=99999999999999999999", "page=2"],
)
def test_it_refuses_pages_that_there_cannot_be(valkey: StoreServer, query: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("GET", f"{DENY}?{query}")

            assert answer.is_problem(400)
            assert query.partition("=")[0] in str(answer.json["detail"])

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/v1/addresses/Deny", "/v1/addresses/overrides", "/v1/addresses"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_there_are_four_lists(valkey: StoreServer, method: str, path: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            body = {"add": ["192.0.2.1"]} if method == "POST" else None

            assert (await plane.ask(method, path, body)).is_problem(404)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "add: nothing to add"),
        ({"add": []}, "add: nothing to add"),
        ({"add": "192.0.2.1"}, "$.add"),
        ({"add": [1]}, "$.add"),
        ({"add": ["192.0.2.1", "10.0.0.1/8", "nonsense"]}, "add[1]: '10.0.0.1/8' has bits beyond"),
        ({"add": ["192.0.2.1", "10.0.0.1/8", "nonsense"]}, "add[2]: 'nonsense'"),
        ({"remove": ["010.0.0.1"]}, "remove[0]: '010.0.0.1'"),
        ({"add": ["a\nb"]}, "add[0]: "),
        ({"add": [f"x{at}" for at in range(30)]}, "and 10 more"),
        ({"add": ["192.0.2.1"], "remove": ["192.0.2.1/32"]}, "192.0.2.1/32 stands in `add`, too"),
        ({"add": ["192.0.2.1"], "for": "1h", "until": "2099-01-01T00:00:00Z"}, "for: `until` says it"),
        ({"add": ["192.0.2.1"], "for": "soon"}, "for: "),
        ({"add": ["192.0.2.1"], "until": "2020-01-01T00:00:00Z"}, "until: "),
        ({"add": ["192.0.2.1"], "until": "2999-01-01T00:00:00Z"}, "until: "),
        ({"add": ["192.0.2.1"], "until": "tomorrow"}, "until: "),
        ({"add": ["192.0.2.1"], "until": "2026-13-01T00:00:00Z"}, "until: "),
        ({"add": ["192.0.2.1"], "until": "2030-01-01T00:00:00"}, "until: "),
        ({"remove": ["192.0.2.1"], "for": "1h"}, "for: "),
        ({"add": ["192.0.2.1"], "reason": "x" * 201}, "$.reason"),
    ],
)
def test_it_refuses_and_changes_nothing(valkey: StoreServer, body: object, says: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("POST", DENY, body)

            assert answer.is_problem(400)
            assert says in str(answer.json["detail"])
            assert await plane.store.command(b"DBSIZE") == 0

    asyncio.run(scenario())
