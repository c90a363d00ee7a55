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

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import Final

from sidecar.core.access import Access, announced_by
from sidecar.core.addresses import AddressSet, subject_of
from sidecar.core.bound import UNPROVED, Bound, Who
from sidecar.core.charges import Charges
from sidecar.core.control import EMPTY, Control
from sidecar.core.detection import Found
from sidecar.core.filters import Finding
from sidecar.core.ledger import Ledger
from sidecar.core.model import Filter, Limit, Mode, Reason, Request, Verdict
from sidecar.core.objections import UNSAID, Objections
from sidecar.core.principals import IDENTITY, Principal
from sidecar.core.query_names import CredentialNames
from sidecar.core.recent import Recent
from sidecar.core.rules import RuleBook
from sidecar.core.subjects import Chosen, choose
from sidecar.core.terms import Variants

MOST_REMEMBERED: Final = 16_384
"""Addresses, routes and bound requests remembered, of each."""
CONFIGURED_DENY: Final = "addresses.deny"
RUN_TIME_DENY: Final = "run-time deny"
"""Who refuses an address: the configuration's list, or the one that operators change."""
LONGEST_KEPT: Final = 1_025
"""Bytes of a header by which a request is remembered; a longer origin or media type than 1024 is none."""
NO_NAMES: Final = CredentialNames(())


class _Facts:
    """What the lists say of one address: those of the configuration, and those of run time.

    denied  what the lists that deny it say
    """

    __slots__ = ("allowed", "denied", "exempt", "passes")

    def __init__(self, policy: Policy, address: str) -> None:
        known = policy.lists and address != "unknown"
        control = policy.control
        self.denied: list[Finding] = []
        if known and policy.deny.contains(address):
            self.denied.append(Finding(Reason.ADDRESS_DENIED, CONFIGURED_DENY, Mode.ENFORCE))
        if known and control.deny.contains(address):
            self.denied.append(Finding(Reason.ADDRESS_DENIED, RUN_TIME_DENY, Mode.ENFORCE))
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
        hashed_headers: Collection[bytes] = (),
        registry: bool = False,
        tenants: Mapping[str, AddressSet] = MappingProxyType({}),
        query_names: CredentialNames = NO_NAMES,
        query_mode: Mode = Mode.SHADOW,
        control: Control = EMPTY,
    ) -> None:
        """`registry`: who asks is told by a proved credential, and somebody must open a path to anybody else.

        tenants      the networks that a tenant's keys work from
        query_names  parameters that must not carry a credential
        """
        self.deny, self.allow, self.exempt, self.passes = deny, allow, exempt, passes
        self.ipv6_prefix = ipv6_prefix
        self.limits = tuple(limits)
        self.filters = tuple(filters)
        self.default_allow = default_allow
        self.registry = registry
        self.attack = Verdict(
            Reason.ATTACK_MODE, status=attack_status, retry_after_s=attack_retry_after_s, rule="attack_mode"
        )
        self._ledger = ledger
        self._prefix = prefix
        self._read_headers = tuple(
            {limit.cost.header for limit in self.limits if limit.cost.header}
            | {header for limit in self.limits for _, header in limit.per if header}
        )
        self._judges_content = any(
            rule.content_types or rule.max_body is not None or rule.tls_min for rule in self.filters
        )
        self._detects = any(rule.detecting is not None for rule in self.filters)
        self._query_names = query_names
        self._access = Access(self.filters, tenants)
        variants = Variants()
        self._charges = Charges(
            limits=self.limits,
            ledger=ledger,
            variants=variants,
            hash_key=hash_key,
            hashed_headers=hashed_headers,
        )
        self._rules = RuleBook(
            limits=self.limits,
            filters=self.filters,
            ledger=ledger,
            prefix=prefix,
            variants=variants,
            most=MOST_REMEMBERED,
        )
        self._objections = Objections(
            rules=self._rules,
            access=self._access,
            registry=registry,
            default_allow=default_allow,
            query_mode=query_mode,
            most=MOST_REMEMBERED,
        )
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
        for limit, _, counters in self._rules.tables:
            if limit.name != chosen.limit:
                continue
            if chosen.subjects is None or limit.plans:  # then a subject has a counter for each plan
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
        self._charges = self._charges.under(control)
        self._facts = Recent[str, _Facts](MOST_REMEMBERED)
        self._no_facts = _Facts(self, "unknown")
        self._bounds = Recent[tuple[object, ...], Bound](MOST_REMEMBERED)

    def counters(self) -> int:
        """How many counters this process knows now."""
        return sum(len(counters) for _, _, counters in self._rules.tables)

    def bind(self, request: Request, who: Who = None) -> Bound:
        """What concerns this request of `who`; left with the request for the next time."""
        key_id = b"" if request.key is None or self.registry else self._charges.key_id(request.key)
        asker = who if self.registry else key_id
        case: tuple[object, ...] = (request.address, request.method, request.host, request.path, asker)
        if self._judges_content:
            content_type = request.content_type
            case += (content_type and content_type[:LONGEST_KEPT], request.content_length, request.tls)
        if self._read_headers:
            case += tuple([self._charges.unsecret(request.headers, name) for name in self._read_headers])
        suspected: frozenset[str] = frozenset()
        if self._detects and not self._facts_of(request.address).denied:
            suspected = self._suspected(request)
            case += (suspected,)
        leaks = bool(request.query) and self._query_names.found_in(request.query)
        if leaks:
            case += (leaks,)
        if self.registry and b"origin" in request.headers:
            case += (request.headers[b"origin"][:LONGEST_KEPT], announced_by(request))
        if request.cost is not None or request.malformed is not None:
            case += (request.cost, request.malformed)
        bound = self._bounds.get(case)
        if bound is None:
            bound = self._bind(request, who, key_id, leaks, suspected, case[1:])
            self._bounds.add(case, bound)
        request.bound = bound
        return bound

    def _bind(
        self,
        request: Request,
        who: Who,
        key_id: bytes,
        leaks: bool,
        suspected: frozenset[str],
        case: tuple[object, ...],
    ) -> Bound:
        """`case` is what a request is remembered by, without its address."""
        bound = Bound(self)
        if request.malformed is not None:
            bound.malformed = True
            bound.refusal = Verdict(Reason.MALFORMED, rule=request.malformed)
            return bound
        principal = who if isinstance(who, Principal) else None
        if principal is not None:
            bound.key_id, bound.tenant, bound.plan = principal.id, principal.tenant, principal.plan
            bound.kind = principal.kind
            bound.identity = principal.identity
        elif key_id:
            bound.key_id, bound.identity = key_id, IDENTITY % (key_id, b"", b"")
        address = request.address
        rules = self._rules.of(request.method, request.host, request.path)
        facts = self._facts_of(address)
        bound.passes, exempt = facts.passes, facts.exempt
        said = UNSAID
        if self.registry or rules.open or leaks or not self.default_allow:
            allowed = facts.allowed
            said = self._objections.of(
                request, who, rules, case, allowed=allowed, leaks=leaks, suspected=suspected
            )
            bound.allow_origin = said.allow_origin
        if (facts.denied or said.of_all) and self._object(bound, facts.denied + said.of_all):
            return bound
        subject = subject_of(address, self.ipv6_prefix) if ":" in address else address
        if who is UNPROVED:
            bound.trial = True
            if not exempt:
                self._charges.guard(bound, request, subject, rules.guards)
            return bound
        if principal is not None and rules.guards and not exempt:
            bound.guard = Bound(self)
            bound.guard.allow_origin = said.guard_origin
            self._charges.guard(bound.guard, request, subject, rules.guards)
        if principal is not None and self._object(bound, self._access.to_credential(principal, address)):
            return bound
        if self.control.attacked and not bound.passes and (attacked := self.attacked(bound)):
            bound.refusal = self._under_attack(attacked, bound)
            return bound
        if self._object(bound, said.of_use):
            return bound
        if exempt:
            bound.reason = Reason.EXEMPT
            return bound
        terms = rules.terms
        if (
            terms is None
            or request.cost is not None
            or not self._charges.overridden.isdisjoint(rules.limit_names)
        ):
            self._charges.charge(bound, request, subject, rules.limits, principal)
        else:
            bound.charges = tuple(
                [(self._charges.counter(rule, subject, rule.limit), 1) for rule in rules.limits]
            )
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
        verdict = Verdict(
            Reason.ATTACK_MODE,
            status=self.attack.status,
            retry_after_s=self.attack.retry_after_s,
            rule=f"attack_mode {attacked}",
            shadow=bound.shadow,
            key_id=bound.key_id,
        )
        verdict.allow_origin = bound.allow_origin
        return verdict

    def _object(self, bound: Bound, findings: Sequence[Finding]) -> bool:
        """Note what shadow rules say; whether an enforced one refuses, the first in the order of reasons."""
        if not findings:
            return False
        said = [finding.rule for finding in findings if finding.mode is Mode.SHADOW]
        bound.shadow = tuple(dict.fromkeys((*bound.shadow, *said)))
        enforced = [finding for finding in findings if finding.mode is Mode.ENFORCE]
        if not enforced:
            return False
        first = min(enforced, key=lambda finding: finding.reason.index)
        verdict = Verdict(
            first.reason, rule=first.rule, methods=first.methods, shadow=bound.shadow, key_id=bound.key_id
        )
        verdict.allow_origin = bound.allow_origin
        bound.refusal = verdict
        return True

    def key_id(self, key: bytes) -> bytes:
        """The public name of an opaque key: BLAKE2b-128 keyed with the fleet's hash key, in hex."""
        return self._charges.key_id(key)

    def objections(self, request: Request, who: Who = None) -> list[Finding]:
        """Everything that lists, filters and credentials say against a request, shadow rules included."""
        rules = self._rules.of(request.method, request.host, request.path)
        suspected = self._suspected(request) if self._detects else frozenset[str]()
        leaks = self._query_names.found_in(request.query)
        facts = self._facts_of(request.address)
        said = self._objections.found(
            request, who, rules, allowed=facts.allowed, leaks=leaks, suspected=suspected
        )
        of_credential = self._access.to_credential(who, request.address) if isinstance(who, Principal) else []
        return facts.denied + said.of_all + of_credential + said.of_use

    def suspicions(self, request: Request) -> dict[str, Found]:
        """What each filter that looks for patterns found in a request."""
        rules = self._rules.of(request.method, request.host, request.path)
        return {
            rule.name: detector.score(request.path, request.query, request.headers)
            for rule, detector in rules.detectors
        }

    def _suspected(self, request: Request) -> frozenset[str]:
        """The filters whose patterns' score is reached; which patterns, is left with the request for the log."""
        if request.malformed is not None:
            return frozenset()
        rules = self._rules.of(request.method, request.host, request.path)
        reached = [
            (rule.name, found.names)
            for rule, detector in rules.detectors
            if rule.detecting is not None
            and (found := detector.score(request.path, request.query, request.headers)).score
            >= rule.detecting.threshold
        ]
        if reached or request.patterns:
            request.patterns = tuple(dict.fromkeys([name for _, names in reached for name in names]))
        return frozenset([name for name, _ in reached])

    def _facts_of(self, address: str) -> _Facts:
        if not self.lists:
            return self._no_facts
        facts = self._facts.get(address)
        if facts is None:
            facts = _Facts(self, address)
            self._facts.add(address, facts)
        return facts
