"""The public plane's application: OAuth 2.0 endpoints for keys that want short-lived tokens.

    POST /oauth/token        RFC 6749 (4.4)   a token for the key that asks
    POST /oauth/introspect   RFC 7662         what a token is worth now
    POST /oauth/revoke       RFC 7009         take a token back
    GET  /.well-known/jwks.json, /.well-known/oauth-authorization-server

    request --> read --> judged by the gate --> the registry, and a token
                  |
                  └─ cannot be read --> judged all the same, as nobody's --> then told why

    anything else --> judged as nobody's, who need not be anybody --> published, or not there

So an address that is denied, and everybody in attack mode, hears nothing else than that, wherever it asks.

What a verdict is, is `judging`'s; what a token is, is `tokens`'s. How a plane is served is `admin.app`'s `start`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sidecar.config import Config, Tokens
from sidecar.core.addresses import AddressSet
from sidecar.public.judging import Judge, Judging, admitted, let_by
from sidecar.public.published import (
    CACHED_S,
    INTROSPECT_PATH,
    KEYS_PATH,
    METADATA_PATH,
    REVOKE_PATH,
    TOKEN_PATH,
    Published,
)
from sidecar.public.reading import MOST_BODY, Credential, caller_of, credential_of, form_of
from sidecar.public.refusals import NOT_STORED, NotAuthenticated, Refusal, unavailable, unreadable
from sidecar.public.tokens import IssuedTokens
from sidecar.store import StoreUnavailable

ENDPOINTS: Final = frozenset({TOKEN_PATH, INTROSPECT_PATH, REVOKE_PATH})
"""Who is asked here is put to the gate with the credential."""
TOLD: Final = web.RequestKey("told", Mapping[str, str])
"""What the gate wants the client to know, whatever is answered."""

Form = Mapping[str, str]
Act = Callable[[str, Form], Awaitable[Mapping[str, object] | None]]


def public_app(*, judge: Judge, tokens: IssuedTokens, config: Callable[[], Config]) -> web.Application:
    """The whole public plane. `config` is the one in force."""
    judging = Judging(judge, lambda: config().credentials)
    trusted = _Trusted(config)
    app = web.Application(client_max_size=MOST_BODY, middlewares=[_worded, _lets_by(judging, trusted)])
    app.on_response_prepare.append(_headed)
    actions: dict[str, Act] = {
        TOKEN_PATH: tokens.issue,
        INTROSPECT_PATH: tokens.introspect,
        REVOKE_PATH: tokens.revoke,
    }
    for path, act in actions.items():
        app.router.add_post(path, _endpoint(act, judging, trusted))
    _add_published(app, config)
    return app


class _Trusted:
    """The trusted proxies of the configuration in force."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._cidrs: tuple[str, ...] = ()
        self._set = AddressSet()

    def __call__(self) -> AddressSet:
        cidrs = self._config().trusted_proxies
        if cidrs != self._cidrs:
            self._cidrs, self._set = cidrs, AddressSet(cidrs)
        return self._set


def _lets_by(judging: Judging, trusted: Callable[[], AddressSet]) -> Middleware:
    """Put to the gate whatever no endpoint does itself: what is published, and what is not there."""

    @web.middleware
    async def let_by_(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if resource is not None and resource.canonical in ENDPOINTS:
            return await handler(request)
        told = await judging.told(caller_of(request, trusted()), None)
        try:
            let_by(told)
        except Refusal:
            request[TOLD] = told.headers  # not with what caches keep: it is this client's alone
            raise
        return await handler(request)

    return let_by_


def _endpoint(act: Act, judging: Judging, trusted: Callable[[], AddressSet]) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        caller = caller_of(request, trusted())

        async def admit(credential: Credential | None) -> str:
            told = await judging.told(caller, credential)
            request[TOLD] = told.headers
            return admitted(told, credential)

        try:
            form = await form_of(request)
            credential = credential_of(request.headers, form)
        except Refusal as refusal:
            with suppress(NotAuthenticated):
                await admit(None)
            raise refusal from None
        answered = await act(await admit(credential), form)
        if answered is None:
            return web.Response(headers=NOT_STORED)
        return web.Response(body=orjson.dumps(answered), content_type="application/json", headers=NOT_STORED)

    return answer


def _add_published(app: web.Application, config: Callable[[], Config]) -> None:
    made: tuple[Tokens, Published] | None = None

    def published() -> Published:
        nonlocal made
        tokens = config().credentials.tokens
        assert tokens is not None, "a public port without tokens is refused with the document"
        if made is None or made[0] is not tokens:
            made = (tokens, Published.of(tokens))
        return made[1]

    async def keys(_: web.Request) -> web.Response:
        return _cached(published().keys)

    async def metadata(request: web.Request) -> web.Response:
        # RFC 8414 (3.1): the issuer's path comes last. Who knows no path finds it, too.
        document = published()
        if request.match_info["path"] not in {"", document.issuer_path}:
            raise web.HTTPNotFound
        return _cached(document.metadata)

    app.router.add_get(KEYS_PATH, keys)
    app.router.add_get(METADATA_PATH + "{path:(/.*)?}", metadata)


def _cached(document: bytes) -> web.Response:
    return web.Response(
        body=document,
        content_type="application/json",
        headers={"Cache-Control": f"public, max-age={CACHED_S}"},
    )


async def _headed(request: web.Request, response: web.StreamResponse) -> None:
    """What every answer says. No versions of ours: aiohttp would send its own and Python's."""
    response.headers["Server"] = "portcullis"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.update(request.get(TOLD, {}))


@web.middleware
async def _worded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Word every refusal as OAuth does."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.response()
    except StoreUnavailable:
        return unavailable("The store of keys does not answer.").response()
    except web.HTTPException as error:
        response = unreadable(f"{error.reason}.", status=error.status).response()
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response
