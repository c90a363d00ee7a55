"""The admin plane's applications, and how they are served.

    client ──> connection limit ──> TLS ──> problems ──> token (not for health) ──> frame ──> resource

A refused token costs the one who tries a tenth of a second. At most `MAX_PAUSES` requests wait at a
time; beyond that a refusal is answered at once, so that guessing fills neither memory nor the
connections of who has a token.

This module does not know what a resource answers, and it does not open the check plane.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.admin.door import Door
from sidecar.admin.explain import ExplainRequest, explained
from sidecar.admin.frame import HOLDER, add_operations
from sidecar.admin.health import Readiness, add_health
from sidecar.admin.openapi import described
from sidecar.admin.operations import AnyOperation
from sidecar.admin.problems import Problem, problem, problem_of
from sidecar.admin.tokens import Tokens
from sidecar.document.notations import Endpoint, TcpEndpoint, UnixEndpoint
from sidecar.listeners import endpoint_of, open_check

MAX_BODY: Final = 64 * 1024
MAX_PAUSES: Final = 32
PAUSE_S: Final = 0.1
LOG_EVERY_S: Final = 1.0

OPEN_PATHS: Final = frozenset({"/metrics", "/livez", "/readyz"})

_log = logging.getLogger("portcullis.admin")


class BindingRefused(Exception):
    """The admin plane was to be opened to others without a token that the operator chose."""


def admin_app(
    *,
    metrics_text: Callable[[str], tuple[bytes, str]],
    ready: Callable[[], Readiness],
    explain: Callable[[ExplainRequest], Awaitable[Mapping[str, object]]],
    tokens: Tokens,
    operations: Iterable[AnyOperation] = (),
    refused: Callable[[], None] = lambda: None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> web.Application:
    """The whole admin plane: `operations`, explain, the document of both, and what is open.

    `refused` is called for every request without a right token.
    """
    app = web.Application(
        client_max_size=MAX_BODY, middlewares=[_problems, _guard(tokens, refused=refused, pause=pause)]
    )
    app.on_response_prepare.append(_anonymous)
    add_health(app, metrics_text=metrics_text, ready=ready)
    add_operations(app, described([*operations, *explained(explain)]))
    return app


def health_app(
    *, metrics_text: Callable[[str], tuple[bytes, str]], ready: Callable[[], Readiness]
) -> web.Application:
    """The three open resources alone, for `listen.health`."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_problems])
    app.on_response_prepare.append(_anonymous)
    add_health(app, metrics_text=metrics_text, ready=ready)
    return app


async def _anonymous(_: web.Request, response: web.StreamResponse) -> None:
    """Name no versions of ours: aiohttp would send its own and Python's."""
    response.headers["Server"] = "portcullis"


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Word every error as a problem. The outermost: what nobody expected is logged, and tells nothing."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return problem_of(error)
    except Problem as error:
        return problem(error.status, error.detail, error.members)
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        return problem(500, "The gate failed to answer; its log says why.")


def _guard(
    tokens: Tokens, *, refused: Callable[[], None], pause: Callable[[float], Awaitable[None]]
) -> Middleware:
    pausing = unlogged = 0
    quiet_until_s = float("-inf")

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal pausing, unlogged, quiet_until_s
        # By the resource that was found, not by the path: both must mean the same.
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in OPEN_PATHS:
            return await handler(request)
        lines = request.headers.getall("Authorization", [])
        scheme, _, presented = lines[0].partition(" ") if len(lines) == 1 else ("", "", "")
        if scheme.lower() == "bearer" and (holder := tokens.accept(presented.strip())):
            request[HOLDER] = holder
            return await handler(request)

        refused()
        unlogged += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= quiet_until_s:
            _log.warning(
                "%d without a right token, last from %s", unlogged, request.remote or "the unix socket"
            )
            unlogged, quiet_until_s = 0, now_s + LOG_EVERY_S
        if pausing < MAX_PAUSES:
            pausing += 1
            try:
                await pause(PAUSE_S)
            finally:
                pausing -= 1
        response = problem(401, "This needs an admin token: Authorization: Bearer <token>.")
        response.headers["WWW-Authenticate"] = 'Bearer realm="portcullis"'
        return response

    return guard


def check_binding(endpoint: Endpoint, *, has_token: bool) -> None:
    """Refuse to open the admin plane beyond this host unless the operator set a token.

    A generated token is no such choice: nobody would know that the plane is open.
    Raises BindingRefused, whose text says what to do.
    """
    if isinstance(endpoint, TcpEndpoint) and not has_token and not _is_loopback(endpoint.host):
        raise BindingRefused(
            f"listen.admin: {endpoint} is open to other hosts; set PORTCULLIS_ADMIN_TOKEN or "
            "PORTCULLIS_ADMIN_TOKENS_FILE, or listen on 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Serving:
    """An application that is being served. `endpoint` has the port that was really taken."""

    def __init__(self, runner: web.AppRunner, door: Door, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._runner = runner
        self._door = door

    def secure(self, tls: ssl.SSLContext) -> None:
        """Let the next handshakes be made with this; connections keep what theirs was made with."""
        self._door.tls = tls

    async def shutdown(self) -> None:
        """Take no more connections, let requests in flight end within the grace, close the rest."""
        await self._door.close()
        await self._runner.cleanup()
        if isinstance(self.endpoint, UnixEndpoint):
            self.endpoint.path.unlink(missing_ok=True)


async def start(
    app: web.Application, endpoint: Endpoint, *, grace_s: float, tls: ssl.SSLContext | None = None
) -> Serving:
    """Serve `app`, over TLS if given. Raises OSError when the endpoint cannot be opened.

    aiohttp bounds neither the number of connections nor the time that a request may take to arrive: the door
    bounds the number.
    """
    assert tls is None or isinstance(endpoint, TcpEndpoint), "refused with the configuration"
    listener = open_check(endpoint)
    runner = web.AppRunner(
        app,
        access_log=None,  # the decision log is ours; who asks for metrics is nobody's interest
        handle_signals=False,  # the composition root does
        keepalive_timeout=75.0,
        shutdown_timeout=grace_s,
    )
    await runner.setup()
    assert runner.server is not None, "set up, and no server"
    return Serving(runner, Door(listener, runner.server, tls), endpoint_of(endpoint, listener))
