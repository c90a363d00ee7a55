"""An admin plane on a free loopback port, with an aiohttp client, for the tests of this directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from sidecar.admin.app import admin_app, health_app, start
from sidecar.admin.explain import ExplainRequest
from sidecar.admin.health import Readiness
from sidecar.admin.tokens import Tokens
from sidecar.document.notations import Endpoint, TcpEndpoint

SECRET = "correct-horse"
AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}
LOOPBACK = TcpEndpoint("127.0.0.1", 0)


class Gate:
    """What stands behind the plane: it remembers what it was asked, and fails on demand."""

    def __init__(self) -> None:
        self.ready = True
        self.explained: list[ExplainRequest] = []
        self.fails: Exception | None = None
        self.refused = 0
        self.pauses: list[float] = []

    def metrics_text(self, accept: str) -> tuple[bytes, str]:
        return b"up 1\n", f"text/plain; accepted={accept.replace('/', '-') or 'none'}"

    def readiness(self) -> Readiness:
        return Readiness(self.ready, {"store": "up" if self.ready else "not seen yet"})

    async def explain(self, asked: ExplainRequest) -> Mapping[str, object]:
        if self.fails is not None:
            raise self.fails
        self.explained.append(asked)
        return {"allowed": True, "address": asked.address}

    def count_refusal(self) -> None:
        self.refused += 1

    async def pause(self, pause_s: float) -> None:
        self.pauses.append(pause_s)

    def admin(self) -> web.Application:
        return admin_app(
            metrics_text=self.metrics_text,
            ready=self.readiness,
            explain=self.explain,
            tokens=Tokens([SECRET]),
            refused=self.count_refusal,
            pause=self.pause,
        )

    def health(self) -> web.Application:
        return health_app(metrics_text=self.metrics_text, ready=self.readiness)


class Client:
    """Requests to one plane, answered as (status, headers, parsed body)."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.base = base
        self._session = session

    async def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] = AUTHORIZED, body: bytes | None = None
    ) -> Answer:
        async with self._session.request(
            method, f"{self.base}{path}", headers=headers, data=body
        ) as response:
            is_json = "json" in response.content_type
            return Answer(
                response.status,
                response.headers,
                await response.json(content_type=None) if is_json and method != "HEAD" else {},
                await response.text(),
            )


class Answer:
    def __init__(self, status: int, headers: Mapping[str, str], json: dict[str, object], text: str) -> None:
        self.status = status
        self.headers = headers
        self.json = json
        self.text = text

    def is_problem(self, status: int) -> bool:
        """Whether this is an RFC 9457 error of this status, and says so itself."""
        return (
            self.status == status
            and self.headers["Content-Type"].startswith("application/problem+json")
            and self.json["status"] == status
            and bool(self.json["title"])
            and bool(self.json["detail"])
        )


def base_of(endpoint: Endpoint) -> str:
    return f"http://{endpoint}" if isinstance(endpoint, TcpEndpoint) else "http://gate"


@asynccontextmanager
async def served(app: web.Application, endpoint: Endpoint = LOOPBACK) -> AsyncIterator[Client]:
    """The application on real sockets, and a client of it."""
    serving = await start(app, endpoint, grace_s=1.0)
    connector = None
    if not isinstance(endpoint, TcpEndpoint):
        connector = aiohttp.UnixConnector(str(endpoint.path))
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Client(session, base_of(serving.endpoint))
    finally:
        await serving.shutdown()
