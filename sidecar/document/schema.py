"""The document's schema: which keys there are, what each takes, and its default.

Values are already in the gate's units here (milliseconds, bytes, canonical networks); paths are
still as they were written. What each key means is said in `config_reference`, which refuses to
print when a key here has no sentence there.

The section `credentials` is a file of its own. Does not read files and does not look across sections:
`rules` and `registry` do, and `config` gives the whole its meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from sidecar.core.model import Counts, Dimension, Mode, Outage, Place
from sidecar.document import credential_notations, notations
from sidecar.document.credentials import CredentialsSection
from sidecar.document.notations import (
    DAY_MS,
    MAX_PERMITS,
    SECOND_MS,
    Endpoint,
    Notation,
    TcpEndpoint,
    is_loopback,
)
from sidecar.document.section import (
    HEADER,
    NAME,
    PATH,
    SCOPE,
    Files,
    Networks,
    PrincipalKind,
    Section,
    non_empty,
    written,
)
from sidecar.document.tracing import TracingSection

_ENDPOINT = written(Notation(notations.endpoint, "`host:port` or `unix:path`"))
_ENDPOINT_OR_OFF = written(Notation(notations.endpoint_or_off, "`host:port`, `unix:path` or `off`"))
_STORE_URL = written(Notation(notations.store_url, "`embedded` or a URL", secret=True))
_STORE_PREFIX = written(Notation(notations.store_prefix, "1 to 64 of `A-Z a-z 0-9 _ . : / -`"))
_DIMENSION = written(
    Notation(notations.dimension, "any of `ip`, `key`, `tenant`, `route`, `host`, `global`, `header:<name>`")
)
_WINDOW = written(Notation(notations.duration_ms(SECOND_MS, 31 * DAY_MS), "a duration from 1s to 31d"))
_FOR = written(Notation(notations.duration_ms(SECOND_MS, 60 * 60 * SECOND_MS), "a duration from 1s to 1h"))
_QUIET = written(Notation(notations.duration_ms(10 * SECOND_MS, DAY_MS), "a duration from 10s to 1d"))
_COST = written(Notation(notations.short_cost, "a whole number from 1, `header:<name>` or a mapping"))
_METHOD = written(Notation(notations.method, "an HTTP method"))
_HOST_PATTERN = written(Notation(notations.host_pattern, "a pattern"))
_PATH_PATTERN = written(Notation(notations.path_pattern, "a pattern"))
_MEDIA_TYPE = written(Notation(notations.media_type, "a media type"))
_SIZE = written(Notation(notations.size, "bytes, or a size such as `64KiB`, `10MB`"))
_TLS = written(Notation(notations.tls_version, "`1.0`, `1.1`, `1.2` or `1.3`"))
_NOBODY: Final = "a credential that failed names nobody"
_ORIGIN = written(Notation(credential_notations.origin, "an origin"))
_PATTERN = written(Notation(notations.expression, "a regular expression (RE2)"))
_MATCHES_NOTHING = non_empty("matches nothing: leave it out for any")
_REFUSES_ALL = non_empty("would refuse everything: leave it out")

TRIGGER_FOR_MS: Final = 10 * SECOND_MS
TRIGGER_QUIET_MS: Final = 300 * SECOND_MS
DETECTING_THRESHOLD: Final = 5
DETECTING_HEADERS: Final = (b"user-agent", b"referer")

Permits = Annotated[int, Meta(ge=0, le=MAX_PERMITS)]
Rate = Annotated[int, Meta(ge=1, le=MAX_PERMITS)]
Methods = tuple[Annotated[str, _METHOD], ...]
Scopes = tuple[Annotated[str, SCOPE], ...]


def _pair(cert: Path | None, key: Path | None) -> Iterator[tuple[str, str]]:
    if cert is not None and key is None:
        yield "key", "a certificate needs its private key: set `key` too"
    if key is not None and cert is None:
        yield "cert", "a private key needs its certificate: set `cert` too"


class AdminTlsSection(Section, frozen=True):
    cert: Annotated[Path, PATH] | None = None
    key: Annotated[Path, PATH] | None = None
    client_ca: Annotated[Path, PATH] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _pair(self.cert, self.key)
        if self.client_ca is not None and self.cert is None and self.key is None:
            yield "client_ca", "clients show certificates only over TLS: set `cert` and `key` too"


class PublicTlsSection(Section, frozen=True):
    cert: Annotated[Path, PATH] | None = None
    key: Annotated[Path, PATH] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from _pair(self.cert, self.key)


class ListenSection(Section, frozen=True):
    check: Annotated[tuple[Annotated[Endpoint, _ENDPOINT], ...], non_empty("listens nowhere")] = (
        TcpEndpoint("127.0.0.1", 8080),
    )
    admin: Annotated[Endpoint, _ENDPOINT] = TcpEndpoint("127.0.0.1", 8081)
    health: Annotated[Endpoint | None, _ENDPOINT_OR_OFF] = None
    admin_tls: AdminTlsSection = AdminTlsSection()
    public: Annotated[Endpoint | None, _ENDPOINT_OR_OFF] = None
    public_tls: PublicTlsSection = PublicTlsSection()
    idle_s: Annotated[float, Meta(ge=1, le=3600)] = 75.0
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    grace_s: Annotated[float, Meta(ge=0, le=600)] = 10.0

    def problems(self) -> Iterator[tuple[str, str]]:
        places = [*(("check", place) for place in self.check), ("admin", self.admin), ("health", self.health)]
        places.append(("public", self.public))
        seen: set[str] = set()
        for key, place in places:
            if place is None or (isinstance(place, TcpEndpoint) and place.port == 0):
                continue
            where = str(place).partition("?")[0]
            if where in seen:
                yield key, f'"{where}": stands in `listen` twice'
            seen.add(where)
        if self.admin_tls != AdminTlsSection() and not isinstance(self.admin, TcpEndpoint):
            yield "admin_tls", "of no use on a unix socket: remove it, or let `admin` be a host and a port"
        yield from self._public()

    def _public(self) -> Iterator[tuple[str, str]]:
        tls = self.public_tls != PublicTlsSection()
        if tls and self.public is None:
            yield "public_tls", "there is no public port: set `public`, or remove it"
        elif tls and not isinstance(self.public, TcpEndpoint):
            yield "public_tls", "of no use on a unix socket: remove it, or let `public` be a host and a port"
        elif not tls and isinstance(self.public, TcpEndpoint) and not is_loopback(self.public.host):
            yield (
                "public",
                (
                    f'"{self.public}": credentials would cross the network in the clear: set `public_tls`, or listen '
                    "on 127.0.0.1 or a unix socket behind a proxy with TLS"
                ),
            )


class StoreSection(Section, frozen=True):
    url: Annotated[str, _STORE_URL] = "embedded"
    deadline_ms: Annotated[int, Meta(ge=1, le=10_000)] = 20
    shards: Annotated[int, Meta(ge=1, le=1024)] = 1
    prefix: Annotated[str, _STORE_PREFIX] = "pc:"
    outage: Outage = Outage.LOCAL
    ca: Annotated[Path, PATH] | None = None
    cert: Annotated[Path, PATH] | None = None
    key: Annotated[Path, PATH] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.cert is not None and self.key is None:
            yield "cert", "a client certificate needs its private key: set `key` too"
        if self.key is not None and self.cert is None:
            yield "key", "a private key needs its certificate: set `cert` too"


class TriggerSection(Section, frozen=True):
    refusals_per_s: Rate | None = None
    requests_per_s: Rate | None = None
    for_: Annotated[int, _FOR] | None = field(default=None, name="for")
    quiet: Annotated[int, _QUIET] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.refusals_per_s is None and self.requests_per_s is None:
            for key, value in (("for", self.for_), ("quiet", self.quiet)):
                if value is not None:
                    yield key, "nothing would ever trigger: set `refusals_per_s`, `requests_per_s` or both"


class AttackModeSection(Section, frozen=True):
    status: Annotated[int, Meta(ge=400, le=599)] = 503
    retry_after_s: Annotated[int, Meta(ge=1, le=86_400)] = 60
    passes: Networks = field(default=(), name="pass")
    unknown: Literal["off", "on"] = "off"
    trigger: TriggerSection = TriggerSection()


class ListSection(Section, frozen=True):
    cidrs: Networks = ()
    files: Files = ()


class AddressesSection(Section, frozen=True):
    deny: ListSection = ListSection()
    allow: ListSection = ListSection()
    exempt: ListSection = ListSection()


class EnvoySection(Section, frozen=True):
    address: Literal["real_ip", "forwarded"] = "real_ip"


class FrontsSection(Section, frozen=True):
    envoy: EnvoySection = EnvoySection()


class MatchSection(Section, frozen=True):
    hosts: Annotated[tuple[Annotated[str, _HOST_PATTERN], ...], _MATCHES_NOTHING] = ()
    methods: Annotated[Methods, _MATCHES_NOTHING] = ()
    paths: Annotated[tuple[Annotated[str, _PATH_PATTERN], ...], _MATCHES_NOTHING] = ()
    kinds: Annotated[tuple[PrincipalKind, ...], _MATCHES_NOTHING] = ()
    plans: Annotated[tuple[Annotated[str, NAME], ...], _MATCHES_NOTHING] = ()
    scopes: Annotated[Scopes, _MATCHES_NOTHING] = ()


class CostSection(Section, frozen=True):
    header: Annotated[bytes, HEADER]
    max: Annotated[int, Meta(ge=1, le=MAX_PERMITS)] | None = None


class LimitSection(Section, frozen=True):
    name: Annotated[str, NAME]
    per: Annotated[
        tuple[Annotated[Dimension, _DIMENSION], ...], non_empty('names no subject: write "[global]"')
    ]
    permits: Permits
    window: Annotated[int, _WINDOW]
    slices: Annotated[int, Meta(ge=1, le=1000)] = 60
    match: MatchSection = MatchSection()
    mode: Mode = Mode.ENFORCE
    outage: Outage | None = None
    cost: Annotated[int | bytes, _COST] | CostSection = 1
    block_for: Annotated[int, _WINDOW] | None = None
    lease: Literal["auto", "never"] = "auto"
    plans: dict[Annotated[str, NAME], Permits] = field(default_factory=dict)
    counts: Counts = Counts.REQUESTS

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(set(self.per)) < len(self.per):
            yield "per", "the same dimension twice: remove one"
        if Dimension("global") in self.per and len(self.per) > 1:
            yield "per", '"global" is one counter for everything, so it stands alone: remove it or the others'
        most = self.most_cost()
        for plan, permits in [("", self.permits), *self.plans.items()]:
            if 0 < permits < most:
                whose = f"permits of the plan {plan}" if plan else "permits"
                yield "cost", f"{most}: above the {permits} {whose}, so a request could never pay it"
        if self.counts is Counts.CREDENTIAL_FAILURES:
            yield from self._of_failures()

    def _of_failures(self) -> Iterator[tuple[str, str]]:
        """A credential that failed names nobody, and each failure counts once."""
        for at, dimension in enumerate(self.per):
            if dimension.kind in {"key", "tenant"}:
                yield (
                    f"per[{at}]",
                    f'"{dimension.kind}": {_NOBODY}: count by ip, route, host, global or a header',
                )
        for key in ("kinds", "plans", "scopes"):
            if getattr(self.match, key):
                yield f"match.{key}", f"{_NOBODY}: remove it"
        if self.plans:
            yield "plans", f"{_NOBODY}, so no plan applies: remove it"
        if self.cost != 1:
            yield "cost", "each failed credential counts as one: remove it"

    def most_cost(self) -> int:
        """The largest number of permits that one request takes.

        Where only a header is named, the smallest allowance caps it: more could never be paid.
        """
        if isinstance(self.cost, int):
            return self.cost
        if isinstance(self.cost, CostSection) and self.cost.max is not None:
            return self.cost.max
        return min(filter(None, [self.permits, *self.plans.values()]), default=1)


class FilterSection(Section, frozen=True):
    name: Annotated[str, NAME]
    match: MatchSection = MatchSection()
    mode: Mode = Mode.ENFORCE
    require: Literal["allow"] | None = None
    deny: bool = False
    methods: Annotated[Methods, _REFUSES_ALL] = ()
    content_types: Annotated[tuple[Annotated[str, _MEDIA_TYPE], ...], _REFUSES_ALL] = ()
    max_body: Annotated[int, _SIZE] | None = None
    tls_min: Annotated[str, _TLS] | None = None
    kinds: Annotated[tuple[PrincipalKind, ...], _REFUSES_ALL] = ()
    scopes: Annotated[Scopes, non_empty("demands nothing: leave it out")] = ()
    origins: Annotated[tuple[Annotated[str, _ORIGIN], ...], _REFUSES_ALL] = ()
    patterns: Annotated[tuple[Annotated[str, NAME], ...], non_empty("looks for nothing: leave it out")] = ()
    threshold: Annotated[int, Meta(ge=1, le=1000)] | None = None
    headers: tuple[Annotated[bytes, HEADER], ...] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(set(self.kinds)) < len(self.kinds):
            yield "kinds", "the same kind twice: remove one"
        if self.scopes and set(self.kinds) == {"anonymous"}:
            yield (
                "scopes",
                "nobody anonymous has a scope: remove it, or let `kinds` name server or client too",
            )
        if self.origins and "client" not in self.kinds:
            yield (
                "origins",
                "only client keys are bound to web origins: write `kinds: [client]` too, or remove it",
            )
        if len(set(self.patterns)) < len(self.patterns):
            yield "patterns", "the same set twice would score twice: remove one"
        for key, value in (("threshold", self.threshold), ("headers", self.headers)):
            if value is not None and not self.patterns:
                yield key, "nothing is looked for: name the sets in `patterns`, or remove it"

    def demands(self) -> bool:
        """Whether a request could fail it."""
        lists = self.methods or self.content_types or self.kinds or self.scopes or self.patterns
        return bool(lists or self.require or self.deny or self.tls_min) or self.max_body is not None


class PatternSection(Section, frozen=True):
    name: Annotated[str, NAME]
    pattern: Annotated[str, _PATTERN]
    places: Annotated[tuple[Place, ...], non_empty("looks nowhere: name the places")] = field(name="in")
    severity: Literal["critical", "error", "warning", "notice"] = "critical"

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(set(self.places)) < len(self.places):
            yield "in", "the same place twice: remove one"


Patterns = Annotated[tuple[PatternSection, ...], non_empty("finds nothing: leave the set out", 200)]


class HeadersSection(Section, frozen=True):
    legacy: bool = False


class LogSection(Section, frozen=True):
    refusals_per_s: Annotated[int, Meta(ge=0, le=1000)] = 10
    sample: Annotated[float, Meta(ge=0, le=1)] = 0.0
    allows_per_s: Annotated[int, Meta(ge=1, le=1000)] = 100
    hide: Annotated[tuple[Annotated[str, _PATH_PATTERN], ...], non_empty("hides nothing: leave it out")] = ()


class Document(Section, frozen=True):
    """The whole document; without any key it is a working gate."""

    listen: ListenSection = ListenSection()
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    store: StoreSection = StoreSection()
    state_dir: Annotated[Path, PATH] = Path("portcullis-data")
    trusted_proxies: Networks = ()
    ipv6_prefix: Annotated[int, Meta(ge=32, le=128)] = 64
    attack_mode: AttackModeSection = AttackModeSection()
    addresses: AddressesSection = AddressesSection()
    credentials: CredentialsSection = CredentialsSection()
    fronts: FrontsSection = FrontsSection()
    patterns: dict[Annotated[str, NAME], Patterns] = field(default_factory=dict)
    limits: tuple[LimitSection, ...] = (
        LimitSection(name="per-ip", per=(Dimension("ip"),), permits=100, window=60 * SECOND_MS),
    )
    filters: tuple[FilterSection, ...] = ()
    default: Literal["allow", "deny"] = "allow"
    headers: HeadersSection = HeadersSection()
    log: LogSection = LogSection()
    tracing: TracingSection = TracingSection()
