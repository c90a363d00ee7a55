"""A public plane on a free loopback port over a real store, for the tests of this directory.

Registry and changes are the gate's own, on a real Valkey. Its judge is a double: it proves a secret by comparing
it, lets everybody in who has proved one, and refuses an address for a reason when it is told to. Unfaithful: it
knows no filters and counts nothing.
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import orjson

from sidecar.config import Config, Credentials, Endpoint, Tokens, parse
from sidecar.control.audit import Audit
from sidecar.control.changes import Changes
from sidecar.control.keys import KeyRegistry
from sidecar.core.keys import Kind, Terms
from sidecar.core.model import Reason
from sidecar.core.tokens import SigningKey
from sidecar.public.app import public_app
from sidecar.public.judging import Told
from sidecar.public.refusals import Refusal
from sidecar.public.tokens import IssuedTokens
from sidecar.store.redis import RedisStore, SharedStore
from tests.admin.plane import LOOPBACK, Answer, Client, served
from tests.issuers import AUDIENCE, OURS, ec_key, ed25519_key, pem_of
from tests.stores import StoreServer

PREFIX = "pc:"
TTL_MS = 900_000
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
CALLER = "127.0.0.1"
TOKEN, INTROSPECT, REVOKE = "/oauth/token", "/oauth/introspect", "/oauth/revoke"
KEYS = "/.well-known/jwks.json"
METADATA = "/.well-known/oauth-authorization-server"

ED = SigningKey.from_pem(pem_of(ed25519_key("public plane")))
EC = SigningKey.from_pem(pem_of(ec_key("public plane")))


class Judge:
    """Answers as the check plane would. `secrets` are those of the keys that exist, by id."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.asked: list[dict[str, object]] = []
        self.refuses: dict[str, Reason] = {}
        """By address, whatever the credential."""
        self.fails: Refusal | None = None
        self.open = False
        """Whether a filter opens the paths to who presents nothing."""

    async def ask(self, question: bytes, request_id: str) -> Told:
        if self.fails is not None:
            raise self.fails
        asked = orjson.loads(question)
        self.asked.append(asked)
        headers = asked["headers"]
        key_id, secret = headers.get("x-app-id", ""), headers.get("x-app-token", "")
        proved = ""
        if asked["address"] in self.refuses:
            reason = self.refuses[asked["address"]]
        elif not key_id and not secret:
            reason = Reason.OK if self.open else Reason.CREDENTIAL_MISSING
        elif secret and self.secrets.get(key_id) == secret:
            reason, proved = Reason.OK, key_id
        else:
            reason = Reason.CREDENTIAL_INVALID
        told = {"RateLimit": '"per-ip";r=9;t=1', "X-Request-Id": request_id or "made-here"}
        return Told(reason, reason.status, 7 if reason.status in {429, 503} else 0, proved, told)


class PublicPlane:
    """One public plane, and requests to it. `ahead_ms` is how far the clock was put forward."""

    def __init__(self, store: SharedStore, config: Config) -> None:
        self.config = config
        self.ahead_ms = 0
        self.judge = Judge()
        self.changes = Changes(store=store, prefix=PREFIX)
        self.audit = Audit(store=store, prefix=PREFIX)
        self.registry = KeyRegistry(self.changes, hash_key=lambda: b"k" * 32, now_ms=self.now_ms)
        self.client: Client

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    async def key(self, key_id: str, *scopes: str, kind: Kind = Kind.SERVER, **terms: object) -> str:
        """A new key's secret."""
        whole: Terms = {"label": key_id, "scopes": scopes}
        if kind is Kind.CLIENT:
            whole["origins"] = ("*",)
        if isinstance(expires_ms := terms.get("expires_ms"), int):
            whole["expires_ms"] = expires_ms
        issued = await self.registry.create(kind, whole, key_id=key_id, actor="test")
        self.judge.secrets[key_id] = issued.secret
        return issued.secret

    async def post(
        self,
        path: str,
        form: Mapping[str, str] | str | bytes = "",
        *,
        as_: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, by Basic as the key of this id where one is named."""
        own = dict(FORM) if headers is None else dict(headers)
        if as_:
            own["Authorization"] = basic(as_, self.judge.secrets[as_])
        return await self.client.ask("POST", path, headers=own, body=encoded(form))

    async def token(self, key_id: str, **form: str) -> str:
        answer = await self.post(TOKEN, {"grant_type": "client_credentials", **form}, as_=key_id)
        assert answer.status == 200, answer.text
        token = answer.json["access_token"]
        assert isinstance(token, str)
        return token

    async def introspected(self, key_id: str, token: str) -> dict[str, object]:
        answer = await self.post(INTROSPECT, {"token": token}, as_=key_id)
        assert answer.status == 200, answer.text
        return answer.json

    def sign_with(self, *keys: SigningKey, issuer: str = OURS) -> None:
        """Other signing keys, as a reload brings them."""
        self._switch(replace(self.config.credentials, tokens=Tokens(issuer, AUDIENCE, TTL_MS, keys or (ED,))))

    def define(self, **roles: tuple[str, ...]) -> None:
        """More roles, as a reload brings them."""
        defined = {**self.config.credentials.roles, **roles}
        self._switch(replace(self.config.credentials, roles=defined))

    def trust(self, *cidrs: str) -> None:
        self.config = replace(self.config, trusted_proxies=cidrs)

    def _switch(self, credentials: Credentials) -> None:
        self.config = replace(self.config, credentials=credentials)


READ_WHOLE: Final = {
    b"string": (b"GET",),
    b"hash": (b"HGETALL",),
    b"zset": (b"ZRANGE", b"0", b"-1"),
    b"set": (b"SMEMBERS",),
    b"stream": (b"XRANGE", b"-", b"+"),
}
"""How each type of key is read, its arguments after the key."""


def everything_in(store: StoreServer) -> bytes:
    """Whatever lies in a store, in no order, as Python shows it."""
    found: list[object] = []
    with store.client() as client:
        # redis-py has types for its commands, and none for what runs them.
        run: Callable[..., Any] = client.execute_command
        for key in client.scan_iter():
            command, *arguments = READ_WHOLE[run("TYPE", key)]
            found += [key, run(command, key, *arguments)]
    return repr(found).encode()


def basic(key_id: str, secret: str) -> str:
    pair = f"{quote_plus(key_id)}:{quote_plus(secret)}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def encoded(form: Mapping[str, str] | str | bytes) -> bytes:
    if isinstance(form, bytes):
        return form
    return form.encode() if isinstance(form, str) else urlencode(form).encode()


def credentials() -> Credentials:
    return Credentials(
        mode="registry",
        headers=(b"x-api-key",),
        bearer=True,
        roles={"clerk": ("orders.read", "orders.write")},
        tokens=Tokens(OURS, AUDIENCE, TTL_MS, (ED,)),
    )


@asynccontextmanager
async def public_plane(valkey: StoreServer, endpoint: Endpoint = LOOPBACK) -> AsyncIterator[PublicPlane]:
    """Over an empty store; one signing key, of Ed25519."""
    store = SharedStore(RedisStore(valkey.url(), patience_s=30.0))
    config = replace(parse("", name="test", folder=Path()), credentials=credentials())
    plane = PublicPlane(store, config)
    issued = IssuedTokens(
        credentials=lambda: plane.config.credentials,
        registry=plane.registry,
        changes=plane.changes,
        now_ms=plane.now_ms,
    )
    app = public_app(judge=plane.judge, tokens=issued, config=lambda: plane.config)
    try:
        async with served(app, endpoint) as plane.client:
            yield plane
    finally:
        await store.close()
