"""The open resources, over real sockets."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from tests.admin.plane import Gate, served

PLANES = pytest.mark.parametrize("plane", ["admin", "health"])


def application(gate: Gate, plane: str) -> web.Application:
    return gate.admin() if plane == "admin" else gate.health()


@PLANES
def test_it_is_alive_without_a_token(plane: str) -> None:
    async def scenario() -> None:
        async with served(application(Gate(), plane)) as client:
            answer = await client.ask("GET", "/livez", headers={})

            assert (answer.status, answer.text) == (200, "ok\n")

    asyncio.run(scenario())


@PLANES
def test_it_is_ready_or_says_why_not(plane: str) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with served(application(gate, plane)) as client:
            ready = await client.ask("GET", "/readyz", headers={})
            gate.ready = False
            unready = await client.ask("GET", "/readyz", headers={})

            assert (ready.status, ready.json) == (200, {"ready": True, "checks": {"store": "up"}})
            assert (unready.status, unready.json) == (
                503,
                {"ready": False, "checks": {"store": "not seen yet"}},
            )

    asyncio.run(scenario())


@PLANES
def test_metrics_are_negotiated_and_need_no_token(plane: str) -> None:
    async def scenario() -> None:
        async with served(application(Gate(), plane)) as client:
            answer = await client.ask("GET", "/metrics", headers={"Accept": "text/x"})

            assert (answer.status, answer.text) == (200, "up 1\n")
            assert answer.headers["Content-Type"] == "text/plain; accepted=text-x"

    asyncio.run(scenario())


def test_the_health_port_has_nothing_else() -> None:
    async def scenario() -> None:
        async with served(Gate().health()) as client:
            for path in ("/", "/v1/explain", "/v1/", "/metrics/"):
                assert (await client.ask("GET", path)).is_problem(404)
            answer = await client.ask("POST", "/metrics")
            assert answer.is_problem(405)
            assert answer.headers["Allow"] == "GET,HEAD"

    asyncio.run(scenario())


def test_no_version_of_the_server_is_told() -> None:
    async def scenario() -> None:
        async with served(Gate().health()) as client:
            assert (await client.ask("HEAD", "/livez")).headers["Server"] == "portcullis"

    asyncio.run(scenario())
