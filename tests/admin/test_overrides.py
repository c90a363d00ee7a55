"""`/v1/overrides`, over a real store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.admin.tokens import Role
from sidecar.core.keys import secret_of
from tests.admin.control_plane import control_plane
from tests.stores import StoreServer

SECRET = secret_of(bytes(range(32)))


@pytest.mark.parametrize(
    ("limit", "subject", "field"),
    [
        ("per-key", {"key": "k1"}, "per-key key:k1"),
        ("per-key", {"tenant": "acme"}, "per-key tenant:acme"),
        ("per-ip", {"address": "192.0.2.1"}, "per-ip address:192.0.2.1/32"),
        ("per-ip", {"address": "2001:DB8::/48"}, "per-ip address:2001:db8::/48"),
        ("per-ip", {"address": "2001:db8::9"}, "per-ip address:2001:db8::/64"),
    ],
)
def test_it_sets_shows_and_unsets(
    valkey: StoreServer, limit: str, subject: dict[str, str], field: str
) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            body = {"limit": limit, **subject, "permits": 7, "reason": "launch", "for": "1h"}
            made = await plane.ask("PUT", "/v1/overrides", body, role=Role.OPERATOR)
            shown = await plane.ask("GET", "/v1/overrides", role=Role.VIEWER)
            table = await plane.table("overrides")
            gone = await plane.ask("POST", "/v1/overrides/unset", {"limit": limit, **subject})
            again = await plane.ask("POST", "/v1/overrides/unset", {"limit": limit, **subject})

            canonical = dict([field.partition(" ")[2].split(":", 1)])
            assert (made.status, made.json["limit"], made.json["permits"]) == (200, limit, 7)
            assert {name: made.json[name] for name in canonical} == canonical
            assert {field: entry.members() for field, entry in table.items()} == {
                field: {"permits": 7, "reason": "launch", "actor": "otto"}
            }
            entries: Any = shown.json["overrides"]
            assert entries == [
                {
                    **canonical,
                    "limit": limit,
                    "permits": 7,
                    "reason": "launch",
                    "actor": "otto",
                    "at": made.json["at"],
                    "until": made.json["until"],
                }
            ]
            assert shown.json["cursor"] is None
            assert gone.status == 200
            assert again.is_problem(404)
            assert await plane.table("overrides") == {}

    asyncio.run(scenario())


def test_one_of_a_limit_that_has_gone_can_still_be_unset(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey, document="limits: []") as plane:
            await plane.changes.change(
                "overrides", put=["gone key:k1"], payload={"permits": 1}, actor="a", action="x"
            )

            assert (
                await plane.ask("POST", "/v1/overrides/unset", {"limit": "gone", "key": "k1"})
            ).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"limit": "per-ip", "permits": 1}, "key, tenant or address: expected exactly one"),
        ({"limit": "per-key", "permits": 1, "key": "k1", "tenant": "acme"}, "key and tenant"),
        ({"limit": "per-kay", "permits": 1, "key": "k1"}, "it has per-ip, per-key, everything"),
        ({"limit": "per-ip", "permits": 1, "key": "k1"}, "key: the limit per-ip does not count it"),
        ({"limit": "per-ip", "permits": 1, "tenant": "acme"}, "tenant: the limit per-ip does not count it"),
        ({"limit": "per-key", "permits": 1, "address": "192.0.2.1"}, "address: the limit per-key"),
        ({"limit": "everything", "permits": 1, "key": "k1"}, "counts per global"),
        ({"limit": "per-ip", "permits": 1, "address": "10.0.0.1/8"}, "address: "),
        ({"limit": "per-key", "permits": -1, "key": "k1"}, "$.permits"),
        ({"limit": "per-key", "permits": 1_000_000_001, "key": "k1"}, "$.permits"),
        ({"limit": "per-key", "permits": 1.5, "key": "k1"}, "$.permits"),
        ({"limit": "per-key", "permits": 1, "key": "k 1"}, "key: "),
        ({"limit": "per-key", "permits": 1, "key": SECRET}, "key: "),
        ({"limit": SECRET, "permits": 1, "key": "k1"}, "limit: "),
        ({"limit": "per-key", "permits": 1, "key": "k1", "reason": SECRET}, "reason: "),
        ({"limit": "per-key", "permits": 1, "key": "k1", "for": "1y"}, "for: "),
        ({"limit": "per-key", "key": "k1"}, "`permits`"),
    ],
)
def test_it_refuses_and_changes_nothing(valkey: StoreServer, body: object, says: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("PUT", "/v1/overrides", body)

            assert answer.is_problem(400)
            assert says in str(answer.json["detail"])
            assert await plane.store.command(b"DBSIZE") == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "body",
    [
        {"limit": "per-ip"},
        {"limit": "a b", "key": "k1"},
        {"limit": "per-ip\nx", "key": "k1"},
        {"key": "k1"},
        {"limit": "per-key", "key": "k1", "permits": 1},
    ],
)
def test_it_unsets_only_what_can_be_named(valkey: StoreServer, body: object) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            assert (await plane.ask("POST", "/v1/overrides/unset", body)).is_problem(400)

    asyncio.run(scenario())
