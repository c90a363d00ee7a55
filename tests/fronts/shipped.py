"""The shipped proxy configurations in front of a real gate, and clients that have an address of their own.

A `House` is client side to application: a proxy started with its file from `k8s/fronts`, the gate, the application.
Exchanged in the files are addresses, and the timeouts unless a test is about them: on a busy machine a gate that
is well can be silent for 200 ms. For the same reason the gates of these tests wait long for their store.

What is proved with it stands in the `test_*_live` files.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, Final

import uvloop
from aiohttp import WSMsgType, web

from tests.application import Application, application
from tests.certificates import Certificates
from tests.gates import Gate, gate
from tests.proxies import Proxy, caddy, envoy, nginx
from tests.servers import Answer, Headers, eventually, free_port, pairs

SHIPPED: Final = Path(__file__).resolve().parent.parent.parent / "k8s" / "fronts"
NGINX: Final = SHIPPED / "nginx.conf"
ENVOY: Final = SHIPPED / "envoy.yaml"
CADDY: Final = SHIPPED / "Caddyfile"

PATIENT_STORE: Final = "store: {deadline_ms: 10000}"
"""What is counted must be counted in the store, however slow this machine is just now."""

RULES: Final = """
log: {refusals_per_s: 1000}
addresses: {deny: {cidrs: ["127.0.0.66"]}}
limits: [{name: per-ip, per: [ip], permits: 3, window: 31d}]
filters:
  - {name: orders, match: {methods: [POST], paths: ["/orders/*"]}, content_types: [application/json], max_body: 1000}
  - {name: reports, match: {paths: ["/reports/*"]}, methods: [GET, HEAD]}
  - {name: internal, match: {paths: ["/internal/*"]}, deny: true}
"""
"""One refusal of each kind; a window in which no permit returns while a test runs."""


@dataclass(frozen=True)
class Refused:
    """A request that RULES refuse, and the answer that its client should get."""

    status: int
    code: str
    target: str
    method: str = "GET"
    content_type: str = "application/json"
    body: bytes | None = None
    address: str | None = None

    def __str__(self) -> str:
        return f"{self.status}-{self.code}"

    def by(self, house: House) -> Answer:
        headers = {} if self.body is None else {"Content-Type": self.content_type}
        return house.ask(
            self.target, method=self.method, headers=headers, body=self.body, address=self.address
        )


REFUSED: Final = (
    Refused(400, "malformed", "/orders/a%2fb"),
    Refused(403, "address_denied", "/", address="127.0.0.66"),
    Refused(403, "path", "/internal/keys?all"),
    Refused(405, "method", "/reports/1", method="DELETE"),
    Refused(413, "body_size", "/orders/1", method="POST", body=b"x" * 1001),
    Refused(415, "content_type", "/orders/1", method="POST", body=b"<a/>", content_type="text/xml"),
)

# --- the parts of a house -----------------------------------------------------


def start_nginx(
    running: ExitStack,
    *,
    gate: str,
    application: str,
    patient: bool = True,
    also: Mapping[str, str] | None = None,
    tls: Certificates | None = None,
) -> Proxy:
    """nginx with the shipped file; `gate` is `host:port` or `unix:path`."""
    port = free_port()
    replace = {
        "listen 80;": f"listen 127.0.0.1:{port}{' ssl' if tls else ''};",
        "server 127.0.0.1:8080;": f"server {gate};",
        "127.0.0.1:9000": application,
        "/var/log/nginx/access.log": "access.log",
    }
    if patient:
        replace |= {
            "proxy_connect_timeout 50ms;": "proxy_connect_timeout 10s;",
            "proxy_read_timeout    200ms;": "proxy_read_timeout 10s;",
            "proxy_send_timeout    200ms;": "proxy_send_timeout 10s;",
        }
    if tls:
        files = f"ssl_certificate {tls.server_cert}; ssl_certificate_key {tls.server_key};"
        replace["listen 80;"] += f" {files} ssl_protocols TLSv1.2 TLSv1.3;"
    return running.enter_context(nginx(NGINX, {**replace, **(also or {})}, port=port))


def start_envoy(
    running: ExitStack,
    *,
    gate: str,
    application: str,
    patient: bool = True,
    also: Mapping[str, str] | None = None,
    tls: Certificates | None = None,
) -> Proxy:
    """Envoy with the shipped file, when it answers; `gate` is `host:port` or `unix:path`."""
    port = free_port()
    host, _, gate_port = gate.rpartition(":")
    endpoint = "{socket_address: {address: 127.0.0.1, port_value: %s}}"
    pipe = f"{{pipe: {{path: {gate_port}}}}}"
    replace = {
        "{address: 0.0.0.0, port_value: 10000}": f"{{address: 127.0.0.1, port_value: {port}}}",
        endpoint % 8080: pipe if host == "unix" else endpoint % gate_port,
        endpoint % 9000: endpoint % application.rpartition(":")[2],
    }
    if host == "unix":
        replace["type: STRICT_DNS"] = "type: STATIC"
    if patient:
        replace |= {"timeout: 0.2s": "timeout: 10s", "connect_timeout: 0.05s": "connect_timeout: 10s"}
    if tls:
        context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
        chain = f"certificate_chain: {{filename: {tls.server_cert}}}"
        files = f"{{{chain}, private_key: {{filename: {tls.server_key}}}}}"
        options = f'{{"@type": {context}, common_tls_context: {{tls_certificates: [{files}]}}}}'
        replace["- filters:"] = (
            f"- transport_socket: {{name: tls, typed_config: {options}}}\n          filters:"
        )
    return running.enter_context(envoy(ENVOY, {**replace, **(also or {})}, port=port))


def start_caddy(
    running: ExitStack,
    *,
    gate: str,
    application: str,
    patient: bool = True,
    also: Mapping[str, str] | None = None,
    tls: Certificates | None = None,
) -> Proxy:
    """Caddy with the shipped file; `gate` is `host:port`, or `unix//path` as Caddy writes it."""
    port = free_port()
    scheme = "https" if tls else "http"
    files = f"\n\ttls {tls.server_cert} {tls.server_key}" if tls else ""
    replace = {
        "\n:80 {": f"\n{{\n\tadmin off\n\tauto_https off\n}}\n\n{scheme}://:{port} {{\n\tbind 127.0.0.1{files}",
        "reverse_proxy 127.0.0.1:8080": f"reverse_proxy {gate}",
        "127.0.0.1:9000": application,
    }
    if patient:
        replace |= {
            "dial_timeout 50ms": "dial_timeout 10s",
            "response_header_timeout 200ms": "response_header_timeout 10s",
        }
    return running.enter_context(caddy(CADDY, {**replace, **(also or {})}, port=port))


START: Final = {"nginx": start_nginx, "envoy": start_envoy, "caddy": start_caddy}

# --- clients ------------------------------------------------------------------

_hosts = itertools.count(257)


def fresh_address() -> str:
    """A loopback address that no client of this run has had: a subject without a past."""
    number = next(_hosts)
    return f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Client:
    """A client at a loopback address of its own, on one connection as long as the proxy keeps it."""

    def __init__(self, port: int, address: str, *, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        source = (address, 0)
        self._connection = (
            HTTPConnection("127.0.0.1", port, timeout=60, source_address=source)
            if tls is None
            else HTTPSConnection("127.0.0.1", port, timeout=60, source_address=source, context=tls)
        )

    def ask(
        self, target: str = "/", *, method: str = "GET", headers: Headers = (), body: bytes | None = None
    ) -> Answer:
        given = pairs(headers)
        named = {name.lower() for name, _ in given}
        connection = self._connection
        connection.putrequest(method, target, skip_host="host" in named, skip_accept_encoding=True)
        for name, value in given:
            connection.putheader(name, value)
        if body is not None and not named & {"content-length", "transfer-encoding"}:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def close(self) -> None:
        self._connection.close()


@dataclass(frozen=True)
class House:
    """A proxy with the gate and the application behind it."""

    proxy: Proxy
    gate: Gate
    application: Application

    @contextmanager
    def client(self, address: str | None = None) -> Iterator[Client]:
        client = Client(self.proxy.port, address or fresh_address())
        try:
            yield client
        finally:
            client.close()

    def ask(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        headers: Headers = (),
        body: bytes | None = None,
        address: str | None = None,
    ) -> Answer:
        """One request of a client of its own, never seen before unless `address` says otherwise."""
        with self.client(address) as client:
            return client.ask(target, method=method, headers=headers, body=body)

    def logged(self, answer: Answer) -> dict[str, Any]:
        """What the gate's decision log says of a refusal."""
        name = answer.headers["X-Request-Id"]
        eventually(lambda: any(event.get("request_id") == name for event in self.gate.events()), name)
        return next(event for event in self.gate.events() if event.get("request_id") == name)


@contextmanager
def house(
    kind: str,
    document: str,
    *,
    store_url: str | None = None,
    patient: bool = True,
    also: Mapping[str, str] | None = None,
) -> Iterator[House]:
    """`kind` in front of a gate with `document`, in front of an application, all of its own."""
    with ExitStack() as running:
        behind = running.enter_context(application())
        asked = running.enter_context(gate(f"{PATIENT_STORE}\n{document}", store_url=store_url))
        proxy = START[kind](
            running, gate=asked.address, application=behind.address, patient=patient, also=also
        )
        built = House(proxy, asked, behind)
        # Envoy listens before it knows its clusters.
        eventually(lambda: built.ask().status == 200, f"{kind} lets a request through")
        behind.forget()
        yield built


def configure(gate: Gate, rules: str) -> None:
    """Give a gate other rules; it follows as soon as it has read them."""
    lines = gate.document.read_text().splitlines()
    own = [line for line in lines if line.startswith(("listen:", "workers:", "state_dir:"))]
    gate.document.write_text("\n".join([*own, PATIENT_STORE, rules]))
    gate.server.signal(signal.SIGHUP)


def problem(answer: Answer) -> dict[str, Any]:
    """The problem document of a refusal, whose members must agree with the answer's head."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer
    document: dict[str, Any] = json.loads(answer.body)
    assert document["status"] == answer.status, answer
    assert document["request_id"] == answer.headers["X-Request-Id"], answer
    return document


# --- load ---------------------------------------------------------------------

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CLOSE: Final = re.compile(rb"(?i)\r\nconnection: *close")


def load(port: int, requests: int, *, connections: int = 16, address: str = "127.0.0.1") -> Counter[int]:
    """The statuses of so many requests of one client on kept connections.

    Raises what breaks a connection in the middle of an answer.
    """
    turns = iter(range(requests))
    return uvloop.run(_load(port, connections, address, lambda: next(turns, None) is not None))


def load_while(port: int, act: Callable[[], None], *, connections: int = 8) -> Counter[int]:
    """The statuses of the requests that are sent, one after the other on each connection, while `act` runs."""

    async def run() -> Counter[int]:
        acting = asyncio.create_task(asyncio.to_thread(act))
        statuses = await _load(port, connections, "127.0.0.1", lambda: not acting.done())
        await acting
        return statuses

    return uvloop.run(run())


async def _load(port: int, connections: int, address: str, more: Callable[[], bool]) -> Counter[int]:
    statuses: Counter[int] = Counter()

    async def one() -> None:
        while more():
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            while True:
                writer.write(b"GET /load HTTP/1.1\r\nHost: shop.example\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                assert length is not None, head
                await reader.readexactly(int(length[1]))
                statuses[int(head[9:12])] += 1
                if _CLOSE.search(head) or not more():
                    break
            writer.close()
            await writer.wait_closed()

    await asyncio.gather(*(one() for _ in range(connections)))
    return statuses


# --- what else lives on either side -------------------------------------------


def connections_to(port: int) -> set[int]:
    """The local ports of the established TCP connections to a loopback port: each is one connection."""
    established = "01"
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    peers = ((row[1].split(":"), row[2].split(":")) for row in rows if row[3] == established)
    return {int(local[1], 16) for local, remote in peers if int(remote[1], 16) == port}


class Shouting:
    """An application that speaks WebSocket: it says everything back in capitals."""

    def __init__(self) -> None:
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Shouting:
        self._runner = web.ServerRunner(web.Server(self._answer))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            if message.type is WSMsgType.TEXT:
                await answer.send_str(message.data.upper())
        return answer


def spoken(port: int, lines: bytes) -> bytes:
    """What comes back for these bytes, sent as they are, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(lines)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)
