"""The check plane on uvloop and real sockets: what a double cannot show."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import uvloop

from sidecar.core.model import Request, Verdict
from sidecar.fronts import Waiter
from sidecar.fronts.heads import HeadTable
from sidecar.fronts.http import CheckProtocol
from sidecar.fronts.plane import CheckPlane
from sidecar.fronts.wire import WireLimits
from tests.fronts.doubles import ALLOWED, KEYS, api, ask_forward, ask_nginx, envoy, forward, nginx, statuses

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]
PATIENCE_S = 60.0


class LateGate:
    """Allows everything, one turn of the loop later when `late`."""

    def __init__(self, *, late: bool = False) -> None:
        self.late = late
        self.asked = 0

    def check(self, _request: Request, waiter: Waiter) -> Verdict | None:
        self.asked += 1
        if not self.late:
            return ALLOWED
        asyncio.get_running_loop().call_soon(waiter.answer, ALLOWED)
        return None


def serve(
    scenario: Callable[[CheckPlane, Connect], Awaitable[None]],
    *,
    gate: LateGate | None = None,
    limits: WireLimits | None = None,
    unix: Path | None = None,
) -> None:
    """Run `scenario` against a plane that listens on loopback, or on the unix socket `unix`."""

    async def run() -> None:
        plane = CheckPlane(
            fronts=(nginx(), envoy(), forward(), api()),
            heads=HeadTable(credential_headers=KEYS),
            check=(gate or LateGate()).check,
            observe=lambda *_told: None,
            limits=limits,
        )
        loop = asyncio.get_running_loop()
        plane.start(loop)
        if unix is None:
            server = await loop.create_server(lambda: CheckProtocol(plane), "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
        else:
            server = await loop.create_unix_server(lambda: CheckProtocol(plane), str(unix))
            port = 0

        async def connect() -> Streams:
            if unix is None:
                return await asyncio.open_connection("127.0.0.1", port)
            return await asyncio.open_unix_connection(str(unix))

        try:
            await asyncio.wait_for(_awaited(scenario(plane, connect)), PATIENCE_S)
        finally:
            plane.stop()
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def _awaited(scenario: Awaitable[None]) -> None:
    await scenario


async def until(done: Callable[[], bool]) -> None:
    """Let the loop turn until something is true; no time need pass."""
    loop = asyncio.get_running_loop()
    while not done():
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


async def turns(count: int) -> None:
    """Let the loop turn so many times."""
    left = iter(range(count))
    await until(lambda: next(left, None) is None)


async def read_answers(reader: asyncio.StreamReader, count: int) -> bytes:
    data = b""
    while len(statuses(data)) < count or not data.endswith(b"\r\n\r\n"):
        more = await reader.read(65536)
        assert more, f"closed after {statuses(data)}"
        data += more
    return data


def test_it_serves_over_tcp() -> None:
    async def scenario(_plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()
        for _ in range(100):
            writer.write(ask_nginx())
            assert statuses(await read_answers(reader, 1)) == [200]
        writer.close()

    serve(scenario)


def test_it_serves_over_a_unix_socket(directory: Path) -> None:
    async def scenario(_plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(ask_forward() * 20)
        assert statuses(await read_answers(reader, 20)) == [200] * 20
        writer.close()

    serve(scenario, unix=directory / "check.sock")


def test_it_answers_a_client_that_pipelines_and_reads_later() -> None:
    gate = LateGate(late=True)

    async def scenario(_plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()

        async def send() -> None:
            for _ in range(200):
                writer.write(ask_nginx() * 100)
                await writer.drain()

        sending = asyncio.create_task(send())
        assert len(statuses(await read_answers(reader, 20_000))) == 20_000
        await sending
        writer.close()

    serve(scenario, gate=gate)

    assert gate.asked == 20_000


def test_it_stops_reading_from_a_client_that_never_reads() -> None:
    gate = LateGate()

    async def scenario(plane: CheckPlane, connect: Connect) -> None:
        _reader, writer = await connect()
        cast(asyncio.Transport, writer.transport).pause_reading()
        sent = 0
        while writer.transport.get_write_buffer_size() < 2**20:
            writer.write(ask_nginx() * 500)
            sent += 500
            await turns(5)
        await turns(500)
        asked = gate.asked
        await turns(500)
        assert gate.asked == asked < sent
        writer.transport.abort()

    serve(scenario, gate=gate)


def test_it_gets_its_refusal_across_though_the_client_still_sends() -> None:
    async def scenario(_plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(b"GET /auth/forward HTTP/1.1\r\nHost: gate\r\nA: " + b"a" * 400_000)
        answer = await reader.read()
        assert statuses(answer) == [431]
        writer.close()

    serve(scenario)


def test_it_closes_after_a_last_answer() -> None:
    async def scenario(plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(ask_nginx(more=["Connection: close"]) + ask_nginx())
        assert statuses(await reader.read()) == [200]
        writer.close()
        await until(lambda: not plane.connections)

    serve(scenario)


def test_it_answers_a_client_that_closes_its_side_first() -> None:
    async def scenario(_plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(ask_nginx() * 3)
        writer.write_eof()
        assert statuses(await reader.read()) == [200] * 3
        writer.close()

    serve(scenario, gate=LateGate(late=True))


def test_it_times_out_a_request_that_does_not_arrive() -> None:
    async def scenario(_plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(ask_forward()[:-1])
        assert statuses(await reader.read()) == [408]
        writer.close()

    serve(scenario, limits=WireLimits(head_s=0.05))


def test_it_turns_connections_away_above_their_number() -> None:
    async def scenario(plane: CheckPlane, connect: Connect) -> None:
        reader, writer = await connect()
        writer.write(ask_nginx())
        await read_answers(reader, 1)
        other, other_writer = await connect()
        assert await other.read() == b""
        assert plane.turned_away == 1
        other_writer.close()
        writer.close()

    serve(scenario, limits=WireLimits(max_connections=1))


def test_it_drains_to_nothing() -> None:
    async def scenario(plane: CheckPlane, connect: Connect) -> None:
        idle, idle_writer = await connect()
        busy, busy_writer = await connect()
        idle_writer.write(ask_nginx())
        await read_answers(idle, 1)
        busy_writer.write(ask_nginx()[:-2])
        await until(lambda: len(plane.connections) == 2)
        await turns(10)

        plane.drain()

        assert await idle.read() == b""
        busy_writer.write(b"\r\n")
        assert b"Connection: close" in await busy.read()
        idle_writer.close()
        busy_writer.close()
        await until(lambda: not plane.connections)

    serve(scenario)
