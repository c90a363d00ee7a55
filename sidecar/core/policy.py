"""The policy: which rules concern a request, found once and remembered.

`Policy` is one configuration's rules, compiled. `Policy.bind` finds for a request everything
that does not change while the policy stands: the refusal that address lists or filters make,
and the counters that it has to be charged on. What changes from moment to moment (attack
mode, permits in hand) is `decide`'s.

What operators change at run time (`control`) makes another policy, `Policy.under`: it shares the
rules and the counters, and forgets what it found under the former state. So a change costs some
microseconds, and a request is judged by one state or the other.

Nothing here reads files, knows the store or tells the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from hashlib import blake2b
from typing import Final, NamedTuple

from sidecar.core.addresses import AddressSet, subject_of
from sidecar.core.control import EMPTY, Control
from sidecar.core.credentials import may_hold_secret
from sidecar.core.filters import Finding, objections_of
from sidecar.core.ledger import Counter, Ledger
from sidecar.core.model import Cost, Dimension, Filter, Limit, Mode, Reason, Request, Verdict
from sidecar.core.patterns import Matcher
from sidecar.core.recent import Recent
from sidecar.core.subjects import Chosen, choose, escaped, names_of, shard_of
from sidecar.core.terms import NO_TERMS, Terms, Variants

BY_ADDRESS: Final = (Dimension("ip"),)

MOST_REMEMBERED: Final = 16_384
"""Addresses, routes and bound requests remembered, of each."""
CONFIGURED_DENY: Final = "addresses.deny"
RUN_TIME_DENY: Final = "run-time deny"
"""Who refuses an address: the configuration's list, or the one that operators change."""


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
    key_id, tenant whom the credential names, empty when nobody

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
    tenant = ""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy


class _LimitRule(NamedTuple):
    """A limit that a route comes under.

    names  what its counters' names in the store begin with, for each shard
    kinds  of its dimensions
    usual  every request costs 1, by its address, and it is enforced
    """

    limit: Limit
    counters: Recent[str, Counter]
    route: str
    names: tuple[str, ...]
    kinds: frozenset[str]
    usual: bool


class _Rules(NamedTuple):
    """The rules that a route comes under. `terms` are known when no limit depends on more than the address."""

    filters: tuple[Filter, ...]
    limits: tuple[_LimitRule, ...]
    limit_names: frozenset[str]
    terms: Terms | None


class _Facts:
    """What the lists say of one address: those of the configuration, and those of run time.

    denied  the lists that deny it, as rules are named
    """

    __slots__ = ("allowed", "denied", "exempt", "passes")

    def __init__(self, policy: Policy, address: str) -> None:
        known = policy.lists and address != "unknown"
        control = policy.control
        self.denied: tuple[str, ...] = ()
        if known and policy.deny.contains(address):
            self.denied = (CONFIGURED_DENY,)
        if known and control.deny.contains(address):
            self.denied += (RUN_TIME_DENY,)
        self.allowed = known and (policy.allow.contains(address) or control.allow.contains(address))
        self.exempt = known and (policy.exempt.contains(address) or control.exempt.contains(address))
        self.passes = known and (policy.passes.contains(address) or control.passes.contains(address))


class Policy:
    """One configuration's rules under one control state, ready to be asked. Immutable but for what it remembers."""

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
        control: Control = EMPTY,
    ) -> None:
        self.deny, self.allow, self.exempt, self.passes = deny, allow, exempt, passes
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
        self._rules = Recent[tuple[str, str, str], _Rules](MOST_REMEMBERED)
        self._variants = Variants()
        self._heed(control)

    def under(self, control: Control) -> Policy:
        """The same rules and counters under another control state; this policy must not be asked any more.

        A counter whose permits that changes is told when its subject comes again.
        """
        policy = copy(self)
        policy._heed(control)
        # What was found refers to this policy: a cycle that only the garbage collector's last generation would free,
        # which hardly ever runs (30 of 30 superseded policies were still there), each with its address lists.
        # Requests that wait for their next turn keep the policy too; so it lets go of the lists as well.
        self._heed(EMPTY)
        return policy

    def forget(self, chosen: Chosen) -> Policy:
        """This policy, which has forgotten what it knew of some counters; this one must not be asked any more."""
        for limit, _, counters in self._limits:
            if limit.name != chosen.limit:
                continue
            if chosen.subjects is None:
                found = [counter for counter in counters if chosen.has(counter.key)]
            else:
                known = [counters.get(subject) for subject in chosen.subjects]
                found = [counter for counter in known if counter is not None]
            for counter in found:
                self._ledger.forget(counter)
                counter.left = 0
        return self.under(self.control)

    def limit(self, name: str) -> Limit:
        """A limit as configured. Raises ValueError, with words for the operator."""
        for limit in self.limits:
            if limit.name == name:
                return limit
        raise ValueError(f"{name!r}: no limit of this name")

    def chosen(self, limit: str, kind: str, value: str) -> Chosen:
        """The counters of a `key`, `tenant` or `address` under a limit. Raises ValueError as `limit` does."""
        shards, ipv6_prefix = self._ledger.shards, self.ipv6_prefix
        rule = self.limit(limit)
        return choose(rule, kind, value, prefix=self._prefix, shards=shards, ipv6_prefix=ipv6_prefix)

    def _heed(self, control: Control) -> None:
        """Decide by this control state, and forget what was found under another."""
        self.control = control
        configured = (self.deny, self.allow, self.exempt, self.passes)
        self.lists = any(map(len, configured)) or any(map(len, control.lists.values()))
        self._overridden = control.overridden
        self._facts = Recent[str, _Facts](MOST_REMEMBERED)
        self._bounds = Recent[tuple[object, ...], Bound](MOST_REMEMBERED)

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
        exempt = False
        rules = self._rules_of(request.method, request.host, request.path)
        if self.lists or rules.filters or not self.default_allow:
            facts = self._facts_of(address)
            bound.passes = facts.passes
            if (findings := self._findings(request, facts, rules.filters)) and self._object(bound, findings):
                return bound
            exempt = facts.exempt
        if self.control.attacked and not bound.passes and (attacked := self.attacked(bound)):
            bound.refusal = self._under_attack(attacked, bound)
            return bound
        if exempt:
            bound.reason = Reason.EXEMPT
            return bound
        subject = subject_of(address, self.ipv6_prefix) if ":" in address else address
        terms = rules.terms
        if terms is None or request.cost is not None or not self._overridden.isdisjoint(rules.limit_names):
            self._charge(bound, request, subject, rules.limits)
        else:
            bound.charges = tuple([(self._counter(rule, subject, rule.limit), 1) for rule in rules.limits])
            bound.terms = terms
        return bound

    def attacked(self, bound: Bound) -> str | None:
        """The key or tenant of a request (`key:<ID>`, `tenant:<T>`) that is under attack mode, or None."""
        attacked = self.control.attacked
        for field in (f"key:{bound.key_id.decode()}", f"tenant:{bound.tenant}"):
            if field in attacked and not field.endswith(":"):
                return field
        return None

    def _under_attack(self, attacked: str, bound: Bound) -> Verdict:
        return Verdict(
            Reason.ATTACK_MODE,
            status=self.attack.status,
            retry_after_s=self.attack.retry_after_s,
            rule=f"attack_mode {attacked}",
            shadow=bound.shadow,
            key_id=bound.key_id,
        )

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
        found = [Finding(Reason.ADDRESS_DENIED, rule, Mode.ENFORCE) for rule in facts.denied]
        for rule in filters:
            found += objections_of(rule, request, facts.allowed)
        if not self.default_allow and not any(rule.mode is Mode.ENFORCE for rule in filters):
            found.append(Finding(Reason.NOT_OPENED, "default", Mode.ENFORCE))
        return found

    def _charge(self, bound: Bound, request: Request, address: str, limits: Sequence[_LimitRule]) -> None:
        """Find the counters of limits that may not apply, cost more than 1, or only watch."""
        charges: list[tuple[Counter, int]] = []
        shadow: list[tuple[Counter, int]] = []
        for rule in limits:
            subject = self._subject(rule.limit, request, address, rule.route, bound)
            if subject is not None:
                limit = self._limit_now(rule, bound, address)
                charge = (self._counter(rule, subject, limit), cost_of(limit, request))
                (charges if limit.mode is Mode.ENFORCE else shadow).append(charge)
        bound.charges = tuple(charges)
        bound.shadow_charges = tuple(shadow)
        bound.terms = self._variants.terms([counter.limit for counter, _ in charges])

    def _counter(self, rule: _LimitRule, subject: str, limit: Limit) -> Counter:
        """A subject's counter under a limit of the rule with the permits of now."""
        counter = rule.counters.get(subject)
        if counter is None:
            shard = shard_of(subject, self._ledger.shards) if len(rule.names) > 1 else 0
            counter = Counter(limit, limit.permits, (rule.names[shard] + subject).encode(), shard)
            rule.counters.add(subject, counter)
        elif counter.permits != limit.permits:
            self._ledger.forget(counter)
            counter.limit, counter.permits = limit, limit.permits
        return counter

    def _limit_now(self, rule: _LimitRule, bound: Bound, address: str) -> Limit:
        """A limit with the permits that this subject has now: its own, or those of an override."""
        limit = rule.limit
        if limit.name not in self._overridden:
            return limit
        kinds = rule.kinds
        permits = self.control.permits(
            limit.name,
            key=bound.key_id.decode() if "key" in kinds else "",
            tenant=bound.tenant if "tenant" in kinds or "key" in kinds else "",
            address=address if "ip" in kinds else "",
        )
        return limit if permits is None else self._variants.limit(limit, permits)

    def _subject(self, limit: Limit, request: Request, address: str, route: str, bound: Bound) -> str | None:
        """The subject's name: one escaped part per dimension; None if a part is absent."""
        parts: list[str] = []
        for kind, header in limit.per:
            match kind:
                case "ip":
                    parts.append(address)
                case "key":
                    if not bound.key_id:
                        return None
                    parts.append(escaped(bound.key_id))
                case "tenant":
                    if not bound.tenant:
                        return None
                    parts.append(escaped(bound.tenant.encode()))
                case "route":
                    parts.append(escaped(route.encode()))
                case "host":
                    parts.append(escaped(request.host.encode()))
                case "global":
                    parts.append("*")
                case "header":
                    value = request.headers.get(header)
                    if not value:
                        return None
                    known = self._unsecret(request.headers, header) or b""
                    parts.append(escaped(known))
                case _:
                    return None
        return "|".join(parts)

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
                _limit_rule(limit, counters, name, names_of(limit, self._prefix, self._ledger.shards))
                for limit, matcher, counters in self._limits
                if (name := matcher.route(*route)) is not None
            ]
            limit_names = frozenset([rule.limit.name for rule in limits])
            usual = all(rule.usual for rule in limits)
            terms = self._variants.terms([rule.limit for rule in limits]) if usual else None
            rules = _Rules(tuple(filters), tuple(limits), limit_names, terms)
            self._rules.add(route, rules)
        return rules


def _limit_rule(
    limit: Limit, counters: Recent[str, Counter], route: str, names: tuple[str, ...]
) -> _LimitRule:
    kinds = frozenset([kind for kind, _ in limit.per])
    usual = limit.per == BY_ADDRESS and limit.mode is Mode.ENFORCE and limit.cost == Cost()
    return _LimitRule(limit, counters, route, names, kinds, usual)


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
