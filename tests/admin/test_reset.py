"""`POST /v1/reset`: whom it forgets, and whom it refuses to."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.admin.tokens import Role
from sidecar.core.keys import secret_of
from tests.admin.control_plane import control_plane
from tests.stores import StoreServer


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"limit": "per-key", "key": "k1"}, ("per-key", "key", "k1")),
        ({"limit": "per-key", "tenant": "acme"}, ("per-key", "tenant", "acme")),
        ({"limit": "per-ip", "address": "192.0.2.1"}, ("per-ip", "address", "192.0.2.1")),
        ({"limit": "per-ip", "address": "192.0.2.1/32"}, ("per-ip", "address", "192.0.2.1")),
        ({"limit": "per-ip", "address": "::ffff:192.0.2.1"}, ("per-ip", "address", "192.0.2.1")),
        ({"limit": "per-ip", "address": "2001:DB8::9"}, ("per-ip", "address", "2001:db8::/64")),
        ({"limit": "per-ip", "address": "2001:db8::9/128"}, ("per-ip", "address", "2001:db8::/64")),
        ({"limit": "per-ip", "address": "2001:db8::/64"}, ("per-ip", "address", "2001:db8::/64")),
    ],
)
def test_it_tells_whom_to_forget_as_limits_count_them(
    valkey: StoreServer, body: dict[str, str], told: tuple[str, str, str]
) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("POST", "/v1/reset", body | {"reason": "called"}, role=Role.OPERATOR)

            assert answer.status == 200
            assert plane.forgotten == [told]
            assert (answer.json["limit"], answer.json[told[1]], answer.json["counters"]) == (
                told[0],
                told[2],
                3,
            )
            (audited,) = await plane.audit.read(None, 10)
            assert (audited.actor, audited.action, audited.reason) == ("otto", "reset", "called")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"limit": "per-ip"}, "key, tenant or address: expected exactly one"),
        ({"limit": "per-kay", "key": "k1"}, "it has per-ip, per-key, everything"),
        ({"limit": "per-ip", "key": "k1"}, "key: the limit per-ip does not count it"),
        ({"limit": "per-key", "key": secret_of(bytes(32))}, "key: "),
        ({"limit": "per-ip", "address": "192.0.2.0/24"}, "address: "),
        ({"limit": "per-ip", "address": "2001:db8::/48"}, "address: "),
        ({"limit": "per-ip", "address": "2001:db8::/127"}, "address: "),
        ({"limit": "per-ip", "address": "unknown"}, "address: "),
        ({"limit": "per-ip", "address": "192.0.2.1", "for": "1h"}, "`for`"),
        ({"limit": "per-key", "key": "k1", "reason": "\u009b"}, "reason: "),
    ],
)
def test_it_refuses_and_forgets_nothing(valkey: StoreServer, body: object, says: str) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("POST", "/v1/reset", body)

            assert answer.is_problem(400)
            assert says in str(answer.json["detail"])
            assert plane.forgotten == []
            assert await plane.store.command(b"DBSIZE") == 0

    asyncio.run(scenario())
