"""What the configuration says about credentials: how they come, and whose tokens are worth what.

The values are the section `credentials` with its files read: private keys that sign, key sets that verify.
They may be pickled. No repr shows a private key, and `public` is what a digest may be made of.

Fetches nothing: where a key set has a URL, the URL is the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.config_files import Folder
from sidecar.core.credentials import HeaderPair
from sidecar.core.model import Mode
from sidecar.document.credentials import (
    JWKS_REFRESH_MS,
    QUERY_NAMES,
    CredentialsSection,
    JwtSection,
    TokensSection,
)
from sidecar.document.walk import Problem, shown

if TYPE_CHECKING:  # loaded where a document has keys: it brings cryptography, a third of a second
    from sidecar.core.tokens import SigningKey

_PATH: Final = "credentials"
_SERVER: Final = HeaderPair(b"x-app-id", b"x-app-token")
_CLIENT: Final = HeaderPair(b"x-client-application-id", b"x-client-token")


@dataclass(frozen=True, slots=True)
class QueryNames:
    """Query parameters, in lower case, that carry credentials and should not: logs keep them."""

    names: frozenset[str] = frozenset(QUERY_NAMES)
    mode: Mode = Mode.SHADOW


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens issued here. The first key signs, all are trusted."""

    issuer: str
    audience: str
    ttl_ms: int
    keys: tuple[SigningKey, ...]


@dataclass(frozen=True, slots=True)
class JwksUrl:
    """A key set that is fetched, and how often."""

    url: str
    refresh_ms: int


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """The claims of a token that are read, and as what; "" is not read."""

    subject: str = "sub"
    scopes: str = "scope"
    tenant: str = ""
    plan: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A foreign issuer whose tokens are credentials. `jwks` is its key set as JSON text, or where to fetch it."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...]
    leeway_ms: int
    claims: ClaimNames
    jwks: str | JwksUrl = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """How requests say who asks.

    mode            "none", "opaque" or "registry"
    headers         lower-case names of headers each of which carries a whole credential
    bearer          whether `Authorization: Bearer` is read; never without a registry
    server, client  pairs of headers; with a registry only
    roles           role -> scopes
    tenants         tenant -> canonical networks that its keys work from
    tokens          None when none are issued here
    """

    mode: str
    headers: tuple[bytes, ...]
    bearer: bool = False
    server: HeaderPair = _SERVER
    client: HeaderPair = _CLIENT
    query: QueryNames = QueryNames()
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tenants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens: Tokens | None = None
    issuers: tuple[Issuer, ...] = ()

    def public(self) -> object:
        """All of it but private keys: a key stands there as its public half."""
        if self.tokens is None:
            return self
        keys = [(key.kid, key.algorithm, dict(key.public_jwk)) for key in self.tokens.keys]
        return replace(self, tokens=replace(self.tokens, keys=())), keys


def credentials_of(section: CredentialsSection, folder: Folder, problems: list[Problem]) -> Credentials:
    """The section with its files; what is wrong with them is appended to `problems`."""
    registry = section.mode == "registry"
    mode = section.query.mode or (Mode.ENFORCE if registry else Mode.SHADOW)
    return Credentials(
        mode=section.mode,
        headers=section.headers,
        bearer=registry and section.bearer,
        server=HeaderPair(section.server.id, section.server.secret),
        client=HeaderPair(section.client.id, section.client.secret),
        query=QueryNames(frozenset(section.query.names), mode),
        roles=section.roles,
        tenants={name: tuple(dict.fromkeys(tenant.cidrs)) for name, tenant in section.tenants.items()},
        tokens=None if section.tokens is None else _tokens(section.tokens, folder, problems),
        issuers=tuple(_issuer(one, at, folder, problems) for at, one in enumerate(section.issuers)),
    )


def _tokens(section: TokensSection, folder: Folder, problems: list[Problem]) -> Tokens:
    from sidecar.core.tokens import SigningKey  # noqa: PLC0415 - see above

    keys: dict[str, SigningKey] = {}
    for at, name in enumerate(section.keys):
        place = f"{_PATH}.tokens.keys[{at}]"
        pem = folder.content(name, place, "the key")
        if pem is None:
            continue
        try:
            key = SigningKey.from_pem(pem)
        except ValueError as exc:
            problems.append(Problem(place, f"{_named(name)}: the file {exc}"))
            continue
        if key.kid in keys:
            problems.append(Problem(place, f"{_named(name)}: this key stands here already: remove one"))
        keys[key.kid] = key
    return Tokens(section.issuer, section.audience, section.ttl, tuple(keys.values()))


def _issuer(section: JwtSection, at: int, folder: Folder, problems: list[Problem]) -> Issuer:
    jwks: str | JwksUrl = ""
    if section.jwks.file is not None:
        jwks = _key_set(section, f"{_PATH}.jwt[{at}].jwks.file", folder, problems)
    elif section.jwks.url is not None:
        refresh_ms = JWKS_REFRESH_MS if section.jwks.refresh is None else section.jwks.refresh
        jwks = JwksUrl(section.jwks.url, refresh_ms)
    claims = section.claims
    return Issuer(
        name=section.name,
        issuer=section.issuer,
        audiences=section.audiences,
        algorithms=section.algorithms,
        leeway_ms=section.leeway,
        claims=ClaimNames(claims.subject, claims.scopes, claims.tenant, claims.plan),
        jwks=jwks,
    )


def _key_set(section: JwtSection, place: str, folder: Folder, problems: list[Problem]) -> str:
    from sidecar.core.tokens import KeySet  # noqa: PLC0415 - as above

    assert section.jwks.file is not None
    text = folder.text(section.jwks.file, place, "the key set")
    if text is None:
        return ""
    try:
        KeySet.parse(text, section.algorithms)
    except ValueError as exc:
        problems.append(Problem(place, f"{_named(section.jwks.file)}: {exc}"))
    return text


def _named(path: Path) -> str:
    return shown(str(path))
