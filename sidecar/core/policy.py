"""The policy: which rules concern a request, found once and remembered.

`Policy` is one configuration's rules, compiled. `Policy.bind` finds for a request everything
that does not change while the policy stands: the refusal that address lists or filters make,
and the counters that it has to be charged on. What changes from moment to moment (attack
mode, permits in hand) is `decide`'s.

Nothing here reads files, knows the store or tells the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes
from zlib import crc32

from sidecar.core.addresses import AddressSet, subject_of
from sidecar.core.credentials import may_hold_secret
from sidecar.core.ledger import Counter, Ledger
from sidecar.core.model import Cost, Dimension, Filter, Limit, Mode, Reason, Request, Verdict
from sidecar.core.patterns import Matcher
from sidecar.core.quota_headers import policy_header, ratelimit_format
from sidecar.core.recent import Recent

BY_ADDRESS: Final = (Dimension("ip"),)

MOST_REMEMBERED: Final = 16_384
"""Addresses, routes and bound requests remembered, of each."""

_PLAIN = re.compile(r"[A-Za-z0-9._:/*\-]{1,128}")
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"})


class Finding:
    """What one filter (or address list) says against a request."""

    __slots__ = ("methods", "mode", "reason", "rule")

    def __init__(self, reason: Reason, rule: str, mode: Mode, methods: tuple[str, ...] = ()) -> None:
        self.reason = reason
        self.rule = rule
        self.mode = mode
        self.methods = methods


class Terms(NamedTuple):
    """What the answers under one set of limits share.

    `ratelimit` is the `RateLimit` header as a format of remaining and reset_s of each limit in turn.
    """

    limits: tuple[Limit, ...]
    policy_header: bytes
    ratelimit: bytes


NO_TERMS: Final = Terms((), b"", b"")


class Bound:
    """What a policy found for a request: valid while `policy` is the one in force.

    refusal        the answer that lists and filters give, or None
    malformed      the refusal stands even before attack mode
    passes         attack mode lets the address through
    charges        (counter, cost) of the enforced limits, in policy order
    shadow_charges the same for shadow limits
    terms          what answers under the enforced limits share
    shadow         names of shadow filters that object
    reason         OK, or EXEMPT when the address skips limits

    What does not differ from the usual stays in the class: a new client costs two assignments.
    """

    refusal: Verdict | None = None
    malformed = False
    passes = False
    charges: tuple[tuple[Counter, int], ...] = ()
    shadow_charges: tuple[tuple[Counter, int], ...] = ()
    shadow: tuple[str, ...] = ()
    reason = Reason.OK
    terms = NO_TERMS
    key_id = b""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy


class _LimitRule(NamedTuple):
    """A limit that a route comes under.

    names  what its counters' names in the store begin with, for each shard
    usual  every request costs 1, by its address, and it is enforced
    """

    limit: Limit
    counters: Recent[str, Counter]
    route: str
    names: tuple[str, ...]
    usual: bool


class _Rules(NamedTuple):
    """The rules that a route comes under. `terms` are known when no limit depends on more than the address."""

    filters: tuple[Filter, ...]
    limits: tuple[_LimitRule, ...]
    terms: Terms | None


class _Facts:
    """What the lists say of one address."""

    __slots__ = ("allowed", "denied", "exempt", "passes")

    def __init__(self, policy: Policy, address: str) -> None:
        known = policy.lists and address != "unknown"
        self.denied = known and policy.deny.contains(address)
        self.allowed = known and policy.allow.contains(address)
        self.exempt = known and policy.exempt.contains(address)
        self.passes = known and policy.passes.contains(address)


class Policy:
    """One configuration's rules, ready to be asked. Immutable but for what it remembers."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        limits: Sequence[Limit] = (),
        filters: Sequence[Filter] = (),
        deny: AddressSet,
        allow: AddressSet,
        exempt: AddressSet,
        passes: AddressSet,
        attack_status: int = 503,
        attack_retry_after_s: int = 60,
        default_allow: bool = True,
        ipv6_prefix: int = 64,
        prefix: str = "pc:",
        hash_key: bytes,
        hashed_headers: Sequence[bytes] = (),
    ) -> None:
        self.deny, self.allow, self.exempt, self.passes = deny, allow, exempt, passes
        self.lists = any(map(len, (deny, allow, exempt, passes)))
        self.ipv6_prefix = ipv6_prefix
        self.limits = tuple(limits)
        self.filters = tuple(filters)
        self.default_allow = default_allow
        self.attack = Verdict(
            Reason.ATTACK_MODE, status=attack_status, retry_after_s=attack_retry_after_s, rule="attack_mode"
        )
        self._ledger = ledger
        self._prefix = prefix
        self._hash_key = hash_key
        self._hashed_headers = frozenset(
            header
            for limit in self.limits
            for _, header in limit.per
            if header in hashed_headers or may_hold_secret(header)
        )
        self._limits = [
            (limit, Matcher(limit.match), counters)
            for limit, counters in zip(self.limits, ledger.tables(len(self.limits)), strict=True)
        ]
        self._filters = [(rule, Matcher(rule.match)) for rule in self.filters]
        self._read_headers = tuple(
            {limit.cost.header for limit in self.limits if limit.cost.header}
            | {header for limit in self.limits for _, header in limit.per if header}
        )
        self._judges_content = any(
            rule.content_types or rule.max_body is not None or rule.tls_min for rule in self.filters
        )
        self._facts = Recent[str, _Facts](MOST_REMEMBERED)
        self._rules = Recent[tuple[str, str, str], _Rules](MOST_REMEMBERED)
        self._bounds = Recent[tuple[object, ...], Bound](MOST_REMEMBERED)
        self._terms: dict[tuple[str, ...], Terms] = {}

    def counters(self) -> int:
        """How many counters this process knows now."""
        return sum(len(counters) for _, _, counters in self._limits)

    def bind(self, request: Request) -> Bound:
        """What concerns this request; left with the request for the next time."""
        key_id = b"" if request.key is None else self.key_id(request.key)
        case: tuple[object, ...] = (request.address, request.method, request.host, request.path, key_id)
        if self._judges_content:
            case += (request.content_type, request.content_length, request.tls)
        if self._read_headers:
            case += tuple([self._unsecret(request.headers, name) for name in self._read_headers])
        if request.cost is not None or request.malformed is not None:
            case += (request.cost, request.malformed)
        bound = self._bounds.get(case)
        if bound is None:
            bound = self._bind(request, key_id)
            self._bounds.add(case, bound)
        request.bound = bound
        return bound

    def _bind(self, request: Request, key_id: bytes) -> Bound:
        bound = Bound(self)
        if request.malformed is not None:
            bound.malformed = True
            bound.refusal = Verdict(Reason.MALFORMED, rule=request.malformed)
            return bound
        if key_id:
            bound.key_id = key_id
        address = request.address
        rules = self._rules_of(request.method, request.host, request.path)
        if self.lists or rules.filters or not self.default_allow:
            facts = self._facts_of(address)
            bound.passes = facts.passes
            if (findings := self._findings(request, facts, rules.filters)) and self._object(bound, findings):
                return bound
            if facts.exempt:
                bound.reason = Reason.EXEMPT
                return bound
        subject = subject_of(address, self.ipv6_prefix) if ":" in address else address
        if rules.terms is None or request.cost is not None:
            self._charge(bound, request, subject, rules.limits)
        else:
            bound.charges = tuple([(self._counter(rule, subject), 1) for rule in rules.limits])
            bound.terms = rules.terms
        return bound

    def _object(self, bound: Bound, findings: Sequence[Finding]) -> bool:
        """Note what shadow rules say; whether an enforced one refuses, the first in the order of reasons."""
        bound.shadow = tuple(dict.fromkeys(f.rule for f in findings if f.mode is Mode.SHADOW))
        enforced = [finding for finding in findings if finding.mode is Mode.ENFORCE]
        if not enforced:
            return False
        first = min(enforced, key=lambda finding: finding.reason.index)
        bound.refusal = Verdict(
            first.reason, rule=first.rule, methods=first.methods, shadow=bound.shadow, key_id=bound.key_id
        )
        return True

    def key_id(self, key: bytes) -> bytes:
        """The public name of an opaque key: BLAKE2b-128 keyed with the fleet's hash key, in hex."""
        return blake2b(key, digest_size=16, key=self._hash_key).hexdigest().encode()

    def _unsecret(self, headers: Mapping[bytes, bytes], name: bytes) -> bytes | None:
        """A header's value, or its keyed hash where it may be a credential: that is not to be remembered."""
        value = headers.get(name)
        return self.key_id(value) if value and name in self._hashed_headers else value

    def objections(self, request: Request) -> list[Finding]:
        """Everything that lists and filters say against a request, shadow rules included."""
        facts = self._facts_of(request.address)
        rules = self._rules_of(request.method, request.host, request.path)
        return self._findings(request, facts, rules.filters)

    def _findings(self, request: Request, facts: _Facts, filters: Sequence[Filter]) -> list[Finding]:
        found: list[Finding] = []
        if facts.denied:
            found.append(Finding(Reason.ADDRESS_DENIED, "addresses.deny", Mode.ENFORCE))
        for rule in filters:
            found += _objections(rule, request, facts.allowed)
        if not self.default_allow and not any(rule.mode is Mode.ENFORCE for rule in filters):
            found.append(Finding(Reason.NOT_OPENED, "default", Mode.ENFORCE))
        return found

    def _charge(self, bound: Bound, request: Request, address: str, limits: Sequence[_LimitRule]) -> None:
        """Find the counters of limits that may not apply, cost more than 1, or only watch."""
        charges: list[tuple[Counter, int]] = []
        shadow: list[tuple[Counter, int]] = []
        for rule in limits:
            limit = rule.limit
            subject = self._subject(limit, request, address, rule.route, bound.key_id)
            if subject is not None:
                charge = (self._counter(rule, subject), cost_of(limit, request))
                (charges if limit.mode is Mode.ENFORCE else shadow).append(charge)
        bound.charges = tuple(charges)
        bound.shadow_charges = tuple(shadow)
        bound.terms = self._terms_of([counter.limit for counter, _ in charges])

    def _counter(self, rule: _LimitRule, subject: str) -> Counter:
        counter = rule.counters.get(subject)
        if counter is None:
            limit = rule.limit
            shard = crc32(subject.encode()) % self._ledger.shards if len(rule.names) > 1 else 0
            counter = Counter(limit, limit.permits, (rule.names[shard] + subject).encode(), shard)
            rule.counters.add(subject, counter)
        return counter

    def _terms_of(self, limits: Sequence[Limit]) -> Terms:
        names = tuple([limit.name for limit in limits])
        terms = self._terms.get(names)
        if terms is None:
            policies = [(limit.name, limit.permits, limit.window_ms) for limit in limits]
            terms = Terms(tuple(limits), policy_header(policies), ratelimit_format(names))
            self._terms[names] = terms
        return terms

    def _subject(self, limit: Limit, request: Request, address: str, route: str, key_id: bytes) -> str | None:
        """The subject's name: one escaped part per dimension; None if a part is absent."""
        parts: list[str] = []
        for kind, header in limit.per:
            match kind:
                case "ip":
                    parts.append(address)
                case "key":
                    if not key_id:
                        return None
                    parts.append(key_id.decode())
                case "route":
                    parts.append(_escape(route.encode()))
                case "host":
                    parts.append(_escape(request.host.encode()))
                case "global":
                    parts.append("*")
                case "header":
                    value = request.headers.get(header)
                    if not value:
                        return None
                    known = self._unsecret(request.headers, header) or b""
                    parts.append(_escape(known))
                case _:
                    return None
        return "|".join(parts)

    def _names_of(self, limit: Limit) -> tuple[str, ...]:
        """What the names of a limit's counters in the store begin with, for each shard."""
        limit_part = f"{limit.name}:{limit.window_ms}/{limit.slice_ms}"
        return tuple([f"{self._prefix}{{{shard}}}:{limit_part}:" for shard in range(self._ledger.shards)])

    def _facts_of(self, address: str) -> _Facts:
        facts = self._facts.get(address)
        if facts is None:
            facts = _Facts(self, address)
            self._facts.add(address, facts)
        return facts

    def _rules_of(self, method: str, host: str, path: str) -> _Rules:
        route = (method, host, path)
        rules = self._rules.get(route)
        if rules is None:
            filters = [rule for rule, matcher in self._filters if matcher.route(*route) is not None]
            limits = [
                _LimitRule(limit, counters, name, self._names_of(limit), _is_usual(limit))
                for limit, matcher, counters in self._limits
                if (name := matcher.route(*route)) is not None
            ]
            usual = all(rule.usual for rule in limits)
            terms = self._terms_of([rule.limit for rule in limits]) if usual else None
            rules = _Rules(tuple(filters), tuple(limits), terms)
            self._rules.add(route, rules)
        return rules


def _is_usual(limit: Limit) -> bool:
    return limit.per == BY_ADDRESS and limit.mode is Mode.ENFORCE and limit.cost == Cost()


def cost_of(limit: Limit, request: Request) -> int:
    """Permits that a request takes from a limit, at least 1."""
    cost: Cost = limit.cost
    if cost.header:
        value = request.headers.get(cost.header)
        if value is None:
            return 1 if request.cost is None else request.cost
        if not value.isdigit() or len(value) > 9:
            return cost.most
        return min(max(1, int(value)), cost.most)
    return cost.fixed if request.cost is None or cost.fixed != 1 else request.cost


def _escape(part: bytes) -> str:
    """A subject's part that cannot contain a separator, and cannot equal another part."""
    text = part.decode("latin-1")
    if _PLAIN.fullmatch(text):
        return text
    quoted = quote_from_bytes(part, safe="/:*")
    if len(quoted) <= 128:
        return quoted
    return "#" + blake2b(part, digest_size=16).hexdigest()


def _objections(rule: Filter, request: Request, allowed: bool) -> list[Finding]:
    """What one matching filter says against a request. A datum that is missing is an objection."""
    found: list[Finding] = []
    mode = rule.mode
    bodiless = request.content_length == 0 or (
        request.content_length is None and request.content_type is None and request.method in _BODILESS
    )
    if rule.require_allow and not allowed:
        found.append(Finding(Reason.ADDRESS_NOT_ALLOWED, rule.name, mode))
    if rule.deny:
        reason = Reason.HOST if rule.match.hosts and not rule.match.paths else Reason.PATH
        found.append(Finding(reason, rule.name, mode))
    if rule.methods and request.method not in rule.methods:
        found.append(Finding(Reason.METHOD, rule.name, mode, rule.methods))
    if rule.content_types and not bodiless and not _type_accepted(rule.content_types, request.content_type):
        found.append(Finding(Reason.CONTENT_TYPE, rule.name, mode))
    if rule.max_body is not None and not bodiless:
        length = request.content_length
        if length is None or length > rule.max_body:
            found.append(Finding(Reason.BODY_SIZE, rule.name, mode))
    if rule.tls_min is not None and (request.tls is None or request.tls < rule.tls_min):
        found.append(Finding(Reason.TLS_VERSION, rule.name, mode))
    return found


def _type_accepted(accepted: tuple[str, ...], content_type: bytes | None) -> bool:
    if content_type is None:
        return False
    media = content_type.partition(b";")[0].strip().decode("latin-1").lower()
    kind, _, subtype = media.partition("/")
    return media in accepted or (subtype != "" and f"{kind}/*" in accepted)
