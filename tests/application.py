"""The application behind the proxies: a real server that remembers what reached it.

    GET  /anything       200, a line of text
    GET  /status/403     that status, with a body of the application's own
    POST /anything       200, the body that was sent

As a program it serves; imported, it starts that program and asks it what it has seen. It limits
nothing and knows no gate.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop
from aiohttp import web

from tests.servers import Server, accepts, ask, free_port, short_directory

ROOT: Final = Path(__file__).resolve().parent.parent
SEEN: Final = "/-/seen"
KEPT: Final = 1000


class Seen(NamedTuple):
    """One request as it reached the application; header names in lower case, in order."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body_length: int

    def header(self, name: str) -> str | None:
        """The value of a header that came at most once."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None


@dataclass(frozen=True)
class Application:
    """The running application, as a test sees it."""

    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def seen(self) -> list[Seen]:
        """The last requests that reached it, oldest first, 1000 at most."""
        rows = self._ask("GET")["requests"]
        return [Seen(row[0], row[1], tuple((name, value) for name, value in row[2]), row[3]) for row in rows]

    def count(self) -> int:
        """How many requests reached it since the last `forget`."""
        count = self._ask("GET")["count"]
        assert isinstance(count, int)
        return count

    def forget(self) -> None:
        self._ask("DELETE")

    def _ask(self, method: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(ask(self.port, SEEN, method=method).body)
        return answer


@contextmanager
def application() -> Iterator[Application]:
    """An application of its own, on a free port."""
    port = free_port()
    command = (sys.executable, "-m", "tests.application", str(port))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with (
        short_directory() as directory,
        Server("application", command, directory=directory, ready=lambda: accepts(port), env=env),
    ):
        yield Application(port)


class Memory:
    """What has reached the application, and its answers."""

    def __init__(self) -> None:
        self.count = 0
        self.requests: deque[Seen] = deque(maxlen=KEPT)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == SEEN:
            return self._seen(request)
        body = await request.read()
        headers = tuple((name.lower(), value) for name, value in request.headers.items())
        self.count += 1
        self.requests.append(Seen(request.method, request.raw_path, headers, len(body)))

        if request.path.startswith("/status/"):
            status = int(request.path.removeprefix("/status/"))
            return web.Response(status=status, text="the application's own answer\n")
        if request.method == "POST":
            return web.Response(body=body, content_type=request.content_type)
        return web.Response(text=f"the application at {request.raw_path}\n", headers={"X-Application": "yes"})

    def _seen(self, request: web.BaseRequest) -> web.Response:
        if request.method == "DELETE":
            self.count = 0
            self.requests.clear()
        return web.json_response({"count": self.count, "requests": list(self.requests)})


async def serve(port: int) -> None:
    """Serve until the process is told to end."""
    runner = web.ServerRunner(web.Server(Memory().answer), handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
