"""Who gets in, how refusals look, and how the plane is served, over real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import aiohttp
import pytest
import uvloop

from sidecar.admin.app import (
    MAX_PAUSES,
    PAUSE_S,
    BindingRefused,
    admin_app,
    check_binding,
    start,
)
from sidecar.admin.door import MAX_CONNECTIONS
from sidecar.admin.tls import tls_context
from sidecar.admin.tokens import Tokens
from sidecar.config import AdminTls
from sidecar.document.notations import Endpoint, TcpEndpoint, UnixEndpoint
from tests.admin.plane import LOOPBACK, SECRET, Gate, served
from tests.certificates import Certificates

Run = Callable[[Coroutine[None, None, None]], None]

EXPLAIN = b'{"address": "203.0.113.9"}'


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {SECRET}",
        SECRET,
        f"Bearer {SECRET}x",
        f"Bearer {SECRET} {SECRET}",
        "Bearer \u00fc",
    ],
)
def test_it_refuses_who_has_no_right_token_slowly_and_counts_it(authorization: str | None) -> None:
    async def scenario() -> None:
        gate = Gate()
        headers = {} if authorization is None else {"Authorization": authorization}
        async with served(gate.admin()) as client:
            answer = await client.ask("POST", "/v1/explain", headers=headers, body=EXPLAIN)

            assert answer.is_problem(401)
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="portcullis"'
            assert (gate.refused, gate.pauses, gate.explained) == (1, [PAUSE_S], [])

    asyncio.run(scenario())


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_it_lets_in_who_has_the_token(scheme: str) -> None:
    async def scenario() -> None:
        gate = Gate()
        async with served(gate.admin()) as client:
            answer = await client.ask(
                "POST", "/v1/explain", headers={"Authorization": f"{scheme} {SECRET}"}, body=EXPLAIN
            )

            assert answer.status == 200
            assert (gate.refused, gate.pauses) == (0, [])

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["/", "/v1/unknown", "/metrics/", "//metrics", "/metrics/../v1/explain"])
def test_without_a_token_nobody_learns_what_there_is(path: str) -> None:
    async def scenario() -> None:
        async with served(Gate().admin()) as client:
            assert (await client.ask("GET", path, headers={})).is_problem(401)

    asyncio.run(scenario())


def test_with_a_token_errors_are_problems() -> None:
    async def scenario() -> None:
        async with served(Gate().admin()) as client:
            assert (await client.ask("GET", "/v1/unknown")).is_problem(404)
            wrong_method = await client.ask("GET", "/v1/explain")
            assert wrong_method.is_problem(405)
            assert wrong_method.headers["Allow"] == "POST"

    asyncio.run(scenario())


def test_guessing_cannot_fill_the_waiting_room() -> None:
    async def scenario() -> None:
        gate = Gate()
        release = asyncio.Event()

        async def pause(pause_s: float) -> None:
            gate.pauses.append(pause_s)
            await release.wait()

        app = admin_app(
            metrics_text=gate.metrics_text,
            ready=gate.readiness,
            explain=gate.explain,
            tokens=Tokens([SECRET]),
            pause=pause,
        )
        async with served(app) as client:
            guesses = [
                asyncio.create_task(client.ask("GET", "/v1/x", headers={})) for _ in range(MAX_PAUSES + 10)
            ]
            while sum(guess.done() for guess in guesses) < 10:
                await asyncio.wait(
                    [guess for guess in guesses if not guess.done()], return_when=asyncio.FIRST_COMPLETED
                )
            assert len(gate.pauses) == MAX_PAUSES
            assert (await client.ask("POST", "/v1/explain", body=EXPLAIN)).status == 200

            release.set()
            answers = await asyncio.gather(*guesses)
            assert all(answer.is_problem(401) for answer in answers)

    asyncio.run(scenario())


LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


@LOOPS
def test_one_connection_too_many_closes_the_oldest(run: Run) -> None:
    async def scenario() -> None:
        async with served(Gate().health()) as client, AsyncExitStack() as stack:
            host, port = client.base.removeprefix("http://").split(":")
            readers = []
            for _ in range(MAX_CONNECTIONS):
                reader, writer = await asyncio.open_connection(host, int(port))
                stack.callback(writer.close)
                writer.write(b"GET /livez HTTP/1.1\r\n")  # and never the rest
                readers.append(reader)

            assert (await client.ask("GET", "/livez")).status == 200
            with suppress(ConnectionResetError):
                assert await readers[0].read() == b""
            assert not readers[-1].at_eof()

    run(scenario())


@LOOPS
def test_a_burst_waits_in_the_kernel(run: Run) -> None:
    async def scenario() -> None:
        async with served(Gate().health()) as client, Descriptors() as descriptors:
            with ExitStack() as stack:
                burst(stack, client.base)
                before = descriptors.count()

                assert (await client.ask("GET", "/livez")).status == 200
                # Those of who asks are its own two sides.
                assert descriptors.most <= before + MAX_CONNECTIONS + 2

    run(scenario())


@LOOPS
def test_who_never_shakes_hands_takes_room_like_any_other(certificates: Certificates, run: Run) -> None:
    tls = tls_context(AdminTls(certificates.server_cert, certificates.server_key, None), "listen.admin_tls")

    async def scenario() -> None:
        serving = await start(Gate().health(), LOOPBACK, grace_s=1.0, tls=tls)
        base = f"https://{serving.endpoint}"
        trusted = ssl.create_default_context(cafile=certificates.ca)
        async with aiohttp.ClientSession() as session, Descriptors() as descriptors:
            with ExitStack() as stack:
                silent = burst(stack, base)
                before = descriptors.count()
                async with session.get(f"{base}/livez", ssl=trusted) as response:
                    assert response.status == 200

                assert descriptors.most <= before + MAX_CONNECTIONS + 2
                # Whoever came after them found them all accepted, and took one place.
                assert [is_open(each) for each in silent].count(True) == MAX_CONNECTIONS - 1
        await serving.shutdown()
        assert all(task is asyncio.current_task() for task in asyncio.all_tasks())

    run(scenario())


def burst(stack: ExitStack, base: str) -> list[socket.socket]:
    """Twice as many silent connections as there is room for, before the plane can accept one."""
    host, port = base.partition("://")[2].split(":")
    return [
        stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(2 * MAX_CONNECTIONS)
    ]


def is_open(connection: socket.socket) -> bool:
    """Whether the other side has not ended it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


class Descriptors:
    """The most descriptors that this process had at any turn of the loop."""

    most = 0

    def count(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    async def __aenter__(self) -> Descriptors:
        self._look()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._next.cancel()

    def _look(self) -> None:
        self.most = max(self.most, self.count())
        self._next = asyncio.get_running_loop().call_soon(self._look)


@pytest.mark.parametrize(
    "endpoint",
    [
        TcpEndpoint("127.0.0.1", 8081),
        TcpEndpoint("127.8.8.8", 8081),
        TcpEndpoint("::1", 8081),
        TcpEndpoint("localhost", 8081),
        UnixEndpoint(Path("admin.sock")),
    ],
)
def test_it_may_listen_on_this_host_with_a_token_of_its_own(endpoint: Endpoint) -> None:
    check_binding(endpoint, has_token=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "2001:db8::1", "gate.example.org", ""])
def test_it_leaves_this_host_only_with_a_token_that_was_chosen(host: str) -> None:
    check_binding(TcpEndpoint(host, 8081), has_token=True)

    with pytest.raises(BindingRefused, match="PORTCULLIS_ADMIN_TOKEN"):
        check_binding(TcpEndpoint(host, 8081), has_token=False)


@LOOPS
def test_it_says_which_port_it_took(run: Run) -> None:
    async def scenario() -> None:
        async with served(Gate().admin()) as client:
            assert not client.base.endswith(":0")
            assert (await client.ask("GET", "/livez")).status == 200

    run(scenario())


@LOOPS
def test_it_listens_on_a_unix_socket_with_its_mode_and_leaves_nothing(directory: Path, run: Run) -> None:
    path = directory / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))

    async def scenario() -> None:
        async with served(Gate().admin(), UnixEndpoint(path, 0o600)) as client:
            assert (await client.ask("GET", "/livez")).status == 200
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(scenario())

    assert os.listdir(directory) == []


def test_it_takes_no_socket_from_a_gate_that_lives(directory: Path) -> None:
    async def scenario() -> None:
        endpoint = UnixEndpoint(directory / "admin.sock")
        async with served(Gate().admin(), endpoint) as client:
            with pytest.raises(OSError, match="in use"):
                await start(Gate().admin(), endpoint, grace_s=1.0)
            assert (await client.ask("GET", "/livez")).status == 200

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_an_error() -> None:
    async def scenario() -> None:
        serving = await start(Gate().admin(), LOOPBACK, grace_s=1.0)
        with pytest.raises(OSError, match="in use"):
            await start(Gate().admin(), serving.endpoint, grace_s=1.0)
        await serving.shutdown()

    asyncio.run(scenario())


async def accepts_connections(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:  # refused, or reset in the middle of the closing
        return False
    writer.close()
    return True


def test_a_shutdown_lets_a_request_in_flight_end() -> None:
    async def scenario() -> None:
        gate = Gate()
        entered, release = asyncio.Event(), asyncio.Event()

        async def explain(_: object) -> dict[str, object]:
            entered.set()
            await release.wait()
            return {}

        app = admin_app(
            metrics_text=gate.metrics_text, ready=gate.readiness, explain=explain, tokens=Tokens([SECRET])
        )
        serving = await start(app, LOOPBACK, grace_s=5.0)
        assert isinstance(serving.endpoint, TcpEndpoint)
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.endpoint.port)
        writer.write(
            b"POST /v1/explain HTTP/1.1\r\nHost: gate\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s"
            % (SECRET.encode(), len(EXPLAIN), EXPLAIN)
        )
        await entered.wait()

        shutdown = asyncio.create_task(serving.shutdown())
        while await accepts_connections(serving.endpoint.port):
            pass
        release.set()

        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await shutdown
        writer.close()

    asyncio.run(scenario())
