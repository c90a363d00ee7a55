"""The document's schema: which keys there are, what each takes, and its default.

Values are already in the gate's units here (milliseconds, bytes, canonical networks); paths are
still as they were written. What each key means is said in `config_reference`, which refuses to
print when a key here has no sentence there.

Keys marked `_LATER` belong to the design but need a part that this version does not have; they
are refused by name rather than as unknown.

Does not read files and does not look across sections: `config` gives the whole its meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, field

from sidecar.core.model import Dimension, Mode, Outage
from sidecar.document import notations
from sidecar.document.notations import DAY_MS, MAX_PERMITS, SECOND_MS, Endpoint, Notation, TcpEndpoint


def _written(notation: Notation) -> Meta:
    return Meta(extra={"notation": notation})


def _non_empty(why: str) -> Meta:
    return Meta(extra={"empty": why})


_NAME = _written(Notation(notations.name, "a name"))
_CIDR = _written(Notation(notations.cidr, "a network or an address"))
_PATH = _written(Notation(notations.file_path, "a path"))
_ENDPOINT = _written(Notation(notations.endpoint, "`host:port` or `unix:path`"))
_ENDPOINT_OR_OFF = _written(Notation(notations.endpoint_or_off, "`host:port`, `unix:path` or `off`"))
_STORE_URL = _written(Notation(notations.store_url, "`embedded` or a URL", secret=True))
_STORE_PREFIX = _written(Notation(notations.store_prefix, "1 to 64 of `A-Z a-z 0-9 _ . : / -`"))
_HEADER = _written(Notation(notations.header_name, "the name of a header"))
_DIMENSION = _written(
    Notation(notations.dimension, "any of `ip`, `key`, `route`, `host`, `global`, `header:<name>`")
)
_WINDOW = _written(Notation(notations.duration_ms(SECOND_MS, 31 * DAY_MS), "a duration from 1s to 31d"))
_FOR = _written(Notation(notations.duration_ms(SECOND_MS, 60 * 60 * SECOND_MS), "a duration from 1s to 1h"))
_QUIET = _written(Notation(notations.duration_ms(10 * SECOND_MS, DAY_MS), "a duration from 10s to 1d"))
_COST = _written(Notation(notations.short_cost, "a whole number from 1, `header:<name>` or a mapping"))
_METHOD = _written(Notation(notations.method, "an HTTP method"))
_HOST_PATTERN = _written(Notation(notations.host_pattern, "a pattern"))
_PATH_PATTERN = _written(Notation(notations.path_pattern, "a pattern"))
_MEDIA_TYPE = _written(Notation(notations.media_type, "a media type"))
_SIZE = _written(Notation(notations.size, "bytes, or a size such as `64KiB`, `10MB`"))
_TLS = _written(Notation(notations.tls_version, "`1.0`, `1.1`, `1.2` or `1.3`"))
_MATCHES_NOTHING = _non_empty("matches nothing: leave it out for any")
_REFUSES_ALL = _non_empty("would refuse everything: leave it out")
_LATER = _written(Notation(notations.registry_needed, "", later=True))

TRIGGER_FOR_MS: Final = 10 * SECOND_MS
TRIGGER_QUIET_MS: Final = 300 * SECOND_MS

Permits = Annotated[int, Meta(ge=0, le=MAX_PERMITS)]
Rate = Annotated[int, Meta(ge=1, le=MAX_PERMITS)]
Networks = tuple[Annotated[str, _CIDR], ...]
Files = tuple[Annotated[Path, _PATH], ...]
Methods = tuple[Annotated[str, _METHOD], ...]
Later = Annotated[None, _LATER]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the document."""


class AdminTlsSection(Section, frozen=True):
    cert: Annotated[Path, _PATH] | None = None
    key: Annotated[Path, _PATH] | None = None
    client_ca: Annotated[Path, _PATH] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.cert is not None and self.key is None:
            yield "key", "a certificate needs its private key: set `key` too"
        if self.key is not None and self.cert is None:
            yield "cert", "a private key needs its certificate: set `cert` too"
        if self.client_ca is not None and self.cert is None and self.key is None:
            yield "client_ca", "clients show certificates only over TLS: set `cert` and `key` too"


class ListenSection(Section, frozen=True):
    check: Annotated[tuple[Annotated[Endpoint, _ENDPOINT], ...], _non_empty("listens nowhere")] = (
        TcpEndpoint("127.0.0.1", 8080),
    )
    admin: Annotated[Endpoint, _ENDPOINT] = TcpEndpoint("127.0.0.1", 8081)
    health: Annotated[Endpoint | None, _ENDPOINT_OR_OFF] = None
    admin_tls: AdminTlsSection = AdminTlsSection()
    public: Later = None
    idle_s: Annotated[float, Meta(ge=1, le=3600)] = 75.0
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    grace_s: Annotated[float, Meta(ge=0, le=600)] = 10.0

    def problems(self) -> Iterator[tuple[str, str]]:
        places = [*(("check", place) for place in self.check), ("admin", self.admin), ("health", self.health)]
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


class StoreSection(Section, frozen=True):
    url: Annotated[str, _STORE_URL] = "embedded"
    deadline_ms: Annotated[int, Meta(ge=1, le=10_000)] = 20
    shards: Annotated[int, Meta(ge=1, le=1024)] = 1
    prefix: Annotated[str, _STORE_PREFIX] = "pc:"
    outage: Outage = Outage.LOCAL
    ca: Annotated[Path, _PATH] | None = None
    cert: Annotated[Path, _PATH] | None = None
    key: Annotated[Path, _PATH] | None = None

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


def _credentials_mode(value: object) -> str:
    if value == "registry":
        raise ValueError(f'{notations.REGISTRY_NEEDED} or take "opaque"')
    if value not in {"none", "opaque"}:
        raise ValueError("expected none or opaque")
    return str(value)


class CredentialsSection(Section, frozen=True):
    mode: Annotated[str, _written(Notation(_credentials_mode, "`none` or `opaque`"))] = "opaque"
    headers: Annotated[
        tuple[Annotated[bytes, _HEADER], ...], _non_empty('holds no credential: write "mode: none" instead')
    ] = (b"x-api-key",)

    def problems(self) -> Iterator[tuple[str, str]]:
        if len(set(self.headers)) < len(self.headers):
            yield "headers", "the same header twice (case does not count): remove one"


class EnvoySection(Section, frozen=True):
    address: Literal["real_ip", "forwarded"] = "real_ip"


class FrontsSection(Section, frozen=True):
    envoy: EnvoySection = EnvoySection()


class MatchSection(Section, frozen=True):
    hosts: Annotated[tuple[Annotated[str, _HOST_PATTERN], ...], _MATCHES_NOTHING] = ()
    methods: Annotated[Methods, _MATCHES_NOTHING] = ()
    paths: Annotated[tuple[Annotated[str, _PATH_PATTERN], ...], _MATCHES_NOTHING] = ()
    kinds: Later = None
    plans: Later = None
    scopes: Later = None


class CostSection(Section, frozen=True):
    header: Annotated[bytes, _HEADER]
    max: Annotated[int, Meta(ge=1, le=MAX_PERMITS)] | None = None


def _counts(value: object) -> str:
    if value == "credential_failures":
        raise ValueError(f'{notations.REGISTRY_NEEDED} or take "requests"')
    if value != "requests":
        raise ValueError("expected requests")
    return "requests"


class LimitSection(Section, frozen=True):
    name: Annotated[str, _NAME]
    per: Annotated[
        tuple[Annotated[Dimension, _DIMENSION], ...], _non_empty('names no subject: write "[global]"')
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
    plans: dict[Annotated[str, _NAME], Permits] = {}
    counts: Annotated[str, _written(Notation(_counts, "`requests`"))] = "requests"

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
    name: Annotated[str, _NAME]
    match: MatchSection = MatchSection()
    mode: Mode = Mode.ENFORCE
    require: Literal["allow"] | None = None
    deny: bool = False
    methods: Annotated[Methods, _REFUSES_ALL] = ()
    content_types: Annotated[tuple[Annotated[str, _MEDIA_TYPE], ...], _REFUSES_ALL] = ()
    max_body: Annotated[int, _SIZE] | None = None
    tls_min: Annotated[str, _TLS] | None = None
    scopes: Later = None
    kinds: Later = None
    patterns: Later = None

    def demands(self) -> bool:
        """Whether a request could fail it."""
        lists = self.methods or self.content_types
        return bool(lists or self.require or self.deny or self.tls_min) or self.max_body is not None


class HeadersSection(Section, frozen=True):
    legacy: bool = False


class LogSection(Section, frozen=True):
    refusals_per_s: Annotated[int, Meta(ge=0, le=1000)] = 10


class Document(Section, frozen=True):
    """The whole document; without any key it is a working gate."""

    listen: ListenSection = ListenSection()
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    store: StoreSection = StoreSection()
    state_dir: Annotated[Path, _PATH] = Path("portcullis-data")
    trusted_proxies: Networks = ()
    ipv6_prefix: Annotated[int, Meta(ge=32, le=128)] = 64
    attack_mode: AttackModeSection = AttackModeSection()
    addresses: AddressesSection = AddressesSection()
    credentials: CredentialsSection = CredentialsSection()
    fronts: FrontsSection = FrontsSection()
    limits: tuple[LimitSection, ...] = (
        LimitSection(name="per-ip", per=(Dimension("ip"),), permits=100, window=60 * SECOND_MS),
    )
    filters: tuple[FilterSection, ...] = ()
    default: Literal["allow", "deny"] = "allow"
    headers: HeadersSection = HeadersSection()
    log: LogSection = LogSection()
