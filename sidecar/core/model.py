"""The words of the project as values: Request, Verdict, Reason, Limit, Filter.

Values only. How a request is read off the wire is the fronts' business, which
rules apply to it is `policy`'s, and what is answered is `decide`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple


class Reason(Enum):
    """Why a request was answered as it was: a closed set, in the order of the decision.

    Each member knows the HTTP status that the decision stands for and whether it allows.
    """

    OK = ("ok", 200)
    EXEMPT = ("exempt", 200)
    MALFORMED = ("malformed", 400)
    ATTACK_MODE = ("attack_mode", 503)
    ADDRESS_DENIED = ("address_denied", 403)
    ADDRESS_NOT_ALLOWED = ("address_not_allowed", 403)
    HOST = ("host", 403)
    PATH = ("path", 403)
    METHOD = ("method", 405)
    CONTENT_TYPE = ("content_type", 415)
    BODY_SIZE = ("body_size", 413)
    TLS_VERSION = ("tls_version", 403)
    CREDENTIAL_IN_QUERY = ("credential_in_query", 400)
    PATTERN = ("pattern", 403)
    CREDENTIAL_MISSING = ("credential_missing", 401)
    CREDENTIAL_INVALID = ("credential_invalid", 401)
    CREDENTIAL_DISABLED = ("credential_disabled", 403)
    CREDENTIAL_ADDRESS = ("credential_address", 403)
    KIND = ("kind", 403)
    ORIGIN = ("origin", 403)
    SCOPE = ("scope", 403)
    NOT_OPENED = ("not_opened", 403)
    RATE_LIMITED = ("rate_limited", 429)
    STORE_UNAVAILABLE = ("store_unavailable", 503)

    def __init__(self, code: str, status: int) -> None:
        self.code: Final = code
        self.status: Final = status
        self.allowed: Final = status == 200
        self.index: int = len(type(self).__members__)
        """Position in the set: the row of the metrics' flat array."""


class Source(Enum):
    """What decided: this process's memory, the store, or the outage policy."""

    MEMORY = "memory"
    STORE = "store"
    OUTAGE = "outage"

    def __init__(self, label: str) -> None:
        self.label: Final = label
        self.index: int = len(type(self).__members__)


class Mode(Enum):
    """Whether a rule refuses or only reports what it would have refused."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


class Counts(Enum):
    """What a limit counts: requests, or credentials that were tried and are not valid."""

    REQUESTS = "requests"
    CREDENTIAL_FAILURES = "credential_failures"


class Outage(Enum):
    """What a limit does while the store is silent."""

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


class Dimension(NamedTuple):
    """One part of a limit's subject: `ip`, `key`, `tenant`, `route`, `host`, `global` or `header`."""

    kind: str
    header: bytes = b""
    """Lower-case header name for kind `header`, else empty."""


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a rule concerns: every demand that is present must match.

    `hosts` and `paths` are patterns in which `*` matches anything, `/` included; `/x/*` also
    matches `/x`. Case-sensitive, but hosts are compared in lower case. Empty means "any".
    """

    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    """`anonymous`, `client` or `server`: of the credential; so `plans`, and `scopes`, of which one is enough."""
    plans: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()

    @property
    def who(self) -> bool:
        """Whether it depends on who asks."""
        return bool(self.kinds or self.plans or self.scopes)


class Severity(Enum):
    """How bad it is that a pattern matches. The value is the score, as in the OWASP core rule set."""

    CRITICAL = 5
    ERROR = 4
    WARNING = 3
    NOTICE = 2


class Place(Enum):
    """Where a pattern looks."""

    PATH = "path"
    QUERY = "query"
    """As sent."""
    VALUES = "values"
    """Of the query, decoded."""
    HEADERS = "headers"
    """The ones that the filter names."""


class Suspicion(NamedTuple):
    """One pattern: an RE2 expression, the places where it looks, and its severity. `name` is `<set>/<name>`."""

    name: str
    expression: str
    places: tuple[Place, ...]
    severity: Severity


@dataclass(frozen=True, slots=True)
class Detecting:
    """What a filter looks for: patterns, the score from which on it objects, and headers (lower-case names)."""

    suspicions: tuple[Suspicion, ...]
    threshold: int
    headers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """How many permits a request takes: `fixed`, or what the proxy says in `header`, at most `most`.

    A header that is absent costs 1; one that is not a whole number from 1 costs `most`.
    """

    fixed: int = 1
    header: bytes = b""
    most: int = 1


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `permits` in any interval of `window_ms`, for each subject.

    `window_ms` is cut into slices of `slice_ms`; see `window` for what that guarantees.
    """

    name: str
    per: tuple[Dimension, ...]
    permits: int
    window_ms: int
    slice_ms: int
    match: Match = Match()
    mode: Mode = Mode.ENFORCE
    outage: Outage = Outage.LOCAL
    cost: Cost = Cost()
    block_ms: int = 0
    lease: bool = True
    plans: Mapping[str, int] = field(default_factory=dict)
    """Other permits for the principals of a plan."""
    counts: Counts = Counts.REQUESTS


@dataclass(frozen=True, slots=True)
class Filter:
    """Demands on the request itself; every filter that matches must be content.

    `None` (or False, or an empty tuple) means that the filter does not demand it.
    """

    name: str
    match: Match = Match()
    mode: Mode = Mode.ENFORCE
    require_allow: bool = False
    deny: bool = False
    methods: tuple[str, ...] = ()
    content_types: tuple[str, ...] = ()
    max_body: int | None = None
    """Bytes."""
    tls_min: str | None = None
    """`1.0`, `1.1`, `1.2` or `1.3`."""
    kinds: tuple[str, ...] = ()
    """The kinds of principals that may pass, and to whom it opens what it matches."""
    scopes: tuple[str, ...] = ()
    """All of them are demanded."""
    origins: tuple[str, ...] = ()
    """Rules for the web origin of client keys and preflights, see `origins`."""
    detecting: Detecting | None = None


class Request:
    """What a front read off the wire. Shared and reused for equal bytes: treat as immutable.

    address          canonical text of the client's address, or "unknown"
    method, host     as the client sent them (host in lower case, without port)
    path             canonical path (see `paths`), str
    content_type     media type as sent, or None
    content_length   bytes, or None when the proxy did not say
    tls              `1.2`, `1.3`, ... or None when the proxy did not say
    query            raw, without the question mark; may hold a secret: never logged, never stored
    key              the credential as presented (see `credentials`), or None; never logged, never stored
    headers          lower-case name -> value, bytes, as the proxy passed them
    request_id       the client's X-Request-Id when it is fit to pass on, else None
    malformed        why the request cannot be judged, or None
    bodiless         the answer must carry no body (HEAD)
    cost             what an application asked for (`/v1/check`), or None
    bound            what `policy` found for this request last time, or None
    patterns         names of what filters found in it whose threshold was reached, for the log only
    """

    content_type: bytes | None = None
    content_length: int | None = None
    tls: str | None = None
    query = b""
    key: bytes | None = None
    request_id: bytes | None = None
    malformed: str | None = None
    bodiless = False
    cost: int | None = None
    bound: object | None = None
    patterns: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        address: str,
        method: str,
        host: str,
        path: str,
        headers: Mapping[bytes, bytes],
        content_type: bytes | None = None,
        content_length: int | None = None,
        tls: str | None = None,
        query: bytes = b"",
        key: bytes | None = None,
        request_id: bytes | None = None,
        malformed: str | None = None,
        bodiless: bool = False,
        cost: int | None = None,
    ) -> None:
        self.address = address
        self.method = method
        self.host = host
        self.path = path
        self.headers = headers
        # What the proxy did not say stays in the class: half of the time of eight assignments.
        if content_type is not None:
            self.content_type = content_type
        if content_length is not None:
            self.content_length = content_length
        if tls is not None:
            self.tls = tls
        if query:
            self.query = query
        if key is not None:
            self.key = key
        if request_id is not None:
            self.request_id = request_id
        if malformed is not None:
            self.malformed = malformed
        if bodiless:
            self.bodiless = bodiless
        if cost is not None:
            self.cost = cost


class Quota(NamedTuple):
    """What one enforced limit has left for the request's subject."""

    limit: Limit
    remaining: int
    """Permits: the store's room as last told plus what is in hand here."""
    reset_s: int
    """Whole seconds until the quota grows, rounded up; 0 when nothing is used."""


ANONYMOUS: Final = b"X-Portcullis-Key: \r\nX-Portcullis-Tenant: \r\nX-Portcullis-Plan: \r\n"
"""Always there on an allow, empty when anonymous: a proxy that copies them overwrites what a client sent."""


class Verdict:
    """The answer to one request; a front writes it in its proxy's form.

    status        the status meant for the client (a front may have to disguise it)
    retry_after_s whole seconds, or None when waiting does not help
    quotas        every enforced limit that applied, in policy order
    policy_header the `RateLimit-Policy` of these limits (see `quota_headers`), b"" when none applied
    ratelimit     their `RateLimit`, when whoever decided has written it already, else b""
    rule          name of the rule that refused, for logs and explain only, or None
    violated      names of the limits that refused (`violated-policies`)
    shadow        names of the shadow rules that would have refused
    methods       what a 405 allows (`Allow`)
    key_id        the public id of the credential, b"" when anonymous
    identity      the header lines that tell the application who asks, of an allow
    allow_origin  the web origin that may read this refusal (`Access-Control-Allow-Origin`), else b""
    """

    status = 200
    source = Source.MEMORY
    retry_after_s: int | None = None
    policy_header = b""
    ratelimit = b""
    rule: str | None = None
    violated: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    key_id = b""
    identity = ANONYMOUS
    allow_origin = b""
    _quotas: tuple[Quota, ...] = ()
    _limits: tuple[Limit, ...] = ()
    _left: tuple[int, ...] = ()

    def __init__(
        self,
        reason: Reason,
        *,
        status: int | None = None,
        source: Source = Source.MEMORY,
        retry_after_s: int | None = None,
        quotas: tuple[Quota, ...] = (),
        policy_header: bytes = b"",
        rule: str | None = None,
        violated: tuple[str, ...] = (),
        shadow: tuple[str, ...] = (),
        methods: tuple[str, ...] = (),
        key_id: bytes = b"",
    ) -> None:
        self.reason = reason
        self.status = reason.status if status is None else status
        self.source = source
        self.retry_after_s = retry_after_s
        self._quotas = quotas
        self.policy_header = policy_header
        self.rule = rule
        self.violated = violated
        self.shadow = shadow
        self.methods = methods
        self.key_id = key_id

    @classmethod
    def of_limits(
        cls,
        reason: Reason,
        source: Source,
        limits: tuple[Limit, ...],
        left: tuple[int, ...],
        policy_header: bytes,
        ratelimit: bytes,
    ) -> Verdict:
        """A verdict under limits, an allow unless changed: what does not differ stays in the class.

        `left` holds remaining and reset_s of each limit in turn; they become quotas only for who asks.
        """
        verdict = cls.__new__(cls)
        verdict.reason = reason
        verdict.source = source
        verdict.policy_header = policy_header
        verdict.ratelimit = ratelimit
        verdict._limits = limits
        verdict._left = left
        return verdict

    @property
    def allowed(self) -> bool:
        return self.reason.allowed

    @property
    def quotas(self) -> tuple[Quota, ...]:
        if self._limits:
            left = iter(self._left)
            return tuple([Quota(limit, next(left), next(left)) for limit in self._limits])
        return self._quotas
