"""The section `credentials`: how requests carry keys and tokens, and what keys and tokens are worth.

Values are in the gate's units; paths are as they were written, and what the files hold is
`config_credentials`'s. Everything but `mode`, `headers` and `query` needs a registry, which `registry` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import field

from sidecar.core.model import Mode
from sidecar.document import credential_notations as written_as
from sidecar.document.notations import DAY_MS, SECOND_MS, Notation, duration_ms
from sidecar.document.section import NAME, PATH, SCOPE, Networks, Section, non_empty, written

MINUTE_MS: Final = 60 * SECOND_MS

_HEADER = written(Notation(written_as.credential_header, "the name of a header"))
_PARAMETER = written(Notation(written_as.parameter, "the name of a query parameter"))
_OWN_ISSUER = written(Notation(written_as.own_issuer, "an https URL"))
_KEY_SET_URL = written(Notation(written_as.key_set_url, "an https URL"))
_ISSUER = written(Notation(written_as.printable(512), "1 to 512 printable characters"))
_AUDIENCE = written(Notation(written_as.printable(256), "1 to 256 printable characters"))
_ALGORITHM = written(
    Notation(written_as.algorithm, f"any of {', '.join(map('`{}`'.format, written_as.ALGORITHMS))}")
)
_CLAIM = written(Notation(written_as.claim, "the name of a claim"))
_CLAIM_OR_NONE = written(Notation(written_as.claim_or_none, "the name of a claim"))
_KEY_FILE = written(Notation(written_as.key_file, "a path", secret=True))
_MINUTE_TO_DAY = written(Notation(duration_ms(MINUTE_MS, DAY_MS), "a duration from 1m to 1d"))
_LEEWAY = written(Notation(duration_ms(0, 5 * MINUTE_MS), "a duration from 0s to 5m"))

JWKS_REFRESH_MS: Final = 10 * MINUTE_MS

QUERY_NAMES: Final = ("api_key", "apikey", "api-key", "access_token", "app_token", "client_secret")


class ServerPairSection(Section, frozen=True):
    id: Annotated[bytes, _HEADER] = b"x-app-id"
    secret: Annotated[bytes, _HEADER] = b"x-app-token"


class ClientPairSection(Section, frozen=True):
    id: Annotated[bytes, _HEADER] = b"x-client-application-id"
    secret: Annotated[bytes, _HEADER] = b"x-client-token"


class QuerySection(Section, frozen=True):
    names: Annotated[
        tuple[Annotated[str, _PARAMETER], ...], non_empty("looks for nothing: leave it out", 32)
    ] = QUERY_NAMES
    mode: Mode | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(set(self.names)) < len(self.names):
            yield "names", "the same parameter twice (case does not count): remove one"


class TenantSection(Section, frozen=True):
    cidrs: Annotated[Networks, non_empty("would shut the tenant out: leave it out for any address")]


class TokensSection(Section, frozen=True):
    issuer: Annotated[str, _OWN_ISSUER]
    audience: Annotated[str, _AUDIENCE]
    keys: Annotated[tuple[Annotated[Path, _KEY_FILE], ...], non_empty("signs nothing: name a PEM file", 16)]
    ttl: Annotated[int, _MINUTE_TO_DAY] = 15 * MINUTE_MS


class JwksSection(Section, frozen=True):
    file: Annotated[Path, PATH] | None = None
    url: Annotated[str, _KEY_SET_URL] | None = None
    refresh: Annotated[int, _MINUTE_TO_DAY] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.file is None) == (self.url is None):
            yield "", "expected exactly one of `file` and `url`"
        elif self.refresh is not None and self.url is None:
            yield "refresh", "a file is read again when it changes: remove it"


class ClaimsSection(Section, frozen=True):
    subject: Annotated[str, _CLAIM] = "sub"
    scopes: Annotated[str, _CLAIM_OR_NONE] = "scope"
    tenant: Annotated[str, _CLAIM_OR_NONE] = ""
    plan: Annotated[str, _CLAIM_OR_NONE] = ""


class JwtSection(Section, frozen=True):
    name: Annotated[str, NAME]
    issuer: Annotated[str, _ISSUER]
    audiences: Annotated[
        tuple[Annotated[str, _AUDIENCE], ...],
        non_empty("would take tokens that are meant for others: name who the tokens are for", 32),
    ]
    algorithms: Annotated[
        tuple[Annotated[str, _ALGORITHM], ...], non_empty("trusts no signature: name the issuer's own")
    ]
    jwks: JwksSection
    leeway: Annotated[int, _LEEWAY] = 30 * SECOND_MS
    claims: ClaimsSection = ClaimsSection()


class CredentialsSection(Section, frozen=True):
    mode: Literal["none", "opaque", "registry"] = "opaque"
    headers: tuple[Annotated[bytes, _HEADER], ...] = (b"x-api-key",)
    bearer: bool = True
    server: ServerPairSection = ServerPairSection()
    client: ClientPairSection = ClientPairSection()
    query: QuerySection = QuerySection()
    roles: dict[
        Annotated[str, NAME],
        Annotated[tuple[Annotated[str, SCOPE], ...], non_empty("grants nothing: leave the role out")],
    ] = field(default_factory=dict)
    tenants: dict[Annotated[str, NAME], TenantSection] = field(default_factory=dict)
    tokens: TokensSection | None = None
    issuers: tuple[JwtSection, ...] = field(default=(), name="jwt")

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.headers and self.mode == "opaque":
            yield "headers", 'an empty list holds no credential: write "mode: none" instead'
        yield from self._same_headers()
        yield from self._same_issuers()

    def _same_headers(self) -> Iterator[tuple[str, str]]:
        read: dict[bytes, str] = {}
        places = [(f"headers[{at}]", name) for at, name in enumerate(self.headers)]
        if self.mode == "registry":
            places += [("server.id", self.server.id), ("server.secret", self.server.secret)]
            places += [("client.id", self.client.id), ("client.secret", self.client.secret)]
            if self.bearer:
                read[b"authorization"] = "bearer"
        for place, name in places:
            if first := read.get(name):
                why = "set `bearer: false`, or remove it" if first == "bearer" else "name another one"
                yield place, f'"{name.decode()}": `{first}` reads this header already: {why}'
            read.setdefault(name, place)

    def _same_issuers(self) -> Iterator[tuple[str, str]]:
        own = None if self.tokens is None else self.tokens.issuer
        for at, one in enumerate(self.issuers):
            if one.issuer == own:
                yield (
                    f"jwt[{at}].issuer",
                    "this gate's own tokens need no entry: `tokens` verifies them; remove it",
                )
            for before, other in enumerate(self.issuers[:at]):
                if one.name == other.name:
                    yield (
                        f"jwt[{at}].name",
                        f'"{one.name}": jwt[{before}] has this name already: take another',
                    )
                if one.issuer == other.issuer:
                    message = (
                        f"jwt[{before}] names this issuer already: merge the two, `audiences` takes several"
                    )
                    yield f"jwt[{at}].issuer", message
