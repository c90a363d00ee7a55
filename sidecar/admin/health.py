"""`/metrics`, `/livez` and `/readyz`: what needs no token, because it tells no secret.

`/livez` answers 200 as long as the event loop turns. `/readyz` answers 200 when traffic may come and
503 when not, with the checks that say why. They are the whole of `listen.health`.

This module does not find out whether the gate is ready: it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson
from aiohttp import web


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether traffic may come, and what was looked at: a name and a word for each check."""

    ready: bool
    checks: Mapping[str, str]


def add_health(
    app: web.Application,
    *,
    metrics_text: Callable[[str], tuple[bytes, str]],
    ready: Callable[[], Readiness],
) -> None:
    """Give `app` the three resources.

    `metrics_text` takes the Accept header and returns the body and its content type.
    """

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = metrics_text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def livez(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        readiness = ready()
        return web.Response(
            status=200 if readiness.ready else 503,
            body=orjson.dumps({"ready": readiness.ready, "checks": dict(readiness.checks)}),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    app.router.add_get("/metrics", metrics)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
