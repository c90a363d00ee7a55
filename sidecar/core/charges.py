"""Charges: on which counters a request is charged, and how much.

A counter is found by its subject; with other permits (a plan's, an override's) it is the same counter under a
variant of its limit.

Which limits a route comes under is `rules`'s; whether the counters admit is `decide`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from hashlib import blake2b
from typing import Final

from sidecar.core.access import concerns
from sidecar.core.bound import Bound
from sidecar.core.control import EMPTY, Control
from sidecar.core.credentials import may_hold_secret
from sidecar.core.ledger import Counter, Ledger
from sidecar.core.model import Cost, Limit, Mode, Request
from sidecar.core.principals import Principal
from sidecar.core.rules import LimitRule
from sidecar.core.subjects import escaped, shard_of
from sidecar.core.terms import Variants

LONGEST_KEPT: Final = 128
"""Bytes of a header's value that is remembered as it is."""


class Charges:
    """Of one policy under one control state.

    hash_key  keyed hashes stand for what must not be remembered: opaque keys, and the values of `hashed_headers`
              and of any header that may hold a secret
    """

    def __init__(
        self,
        *,
        limits: Sequence[Limit],
        ledger: Ledger,
        variants: Variants,
        hash_key: bytes,
        hashed_headers: Collection[bytes],
    ) -> None:
        self._ledger = ledger
        self._variants = variants
        self._hash_key = hash_key
        self._hashed_headers = frozenset(
            header
            for limit in limits
            for _, header in limit.per
            if header in hashed_headers or may_hold_secret(header)
        )
        self._heed(EMPTY)

    def under(self, control: Control) -> Charges:
        """The same under another control state."""
        charges = copy(self)
        charges._heed(control)
        return charges

    def _heed(self, control: Control) -> None:
        self._control = control
        self.overridden = control.overridden
        """The names of the limits that have an override."""

    def charge(
        self,
        bound: Bound,
        request: Request,
        address: str,
        limits: Sequence[LimitRule],
        principal: Principal | None = None,
    ) -> None:
        """Find the counters of limits that may not apply, cost more than 1, or only watch."""
        charges: list[tuple[Counter, int]] = []
        shadow: list[tuple[Counter, int]] = []
        for rule in limits:
            if rule.limit.match.who and not concerns(rule.limit.match, principal):
                continue
            subject = self._subject(rule.limit, request, address, rule.route, bound)
            if subject is not None:
                limit = self._limit_now(rule, bound, address)
                plan = bound.plan if bound.plan in rule.limit.plans else ""
                charge = (self.counter(rule, subject, limit, plan), cost_of(limit, request))
                (charges if limit.mode is Mode.ENFORCE else shadow).append(charge)
        bound.charges = tuple(charges)
        bound.shadow_charges = tuple(shadow)
        bound.terms = self._variants.terms([counter.limit for counter, _ in charges])

    def guard(self, trial: Bound, request: Request, address: str, limits: Sequence[LimitRule]) -> None:
        """Find the counters of failed credentials: each failure costs 1, whatever the request does."""
        self.charge(trial, request, address, limits)
        trial.charges = tuple([(counter, 1) for counter, _ in trial.charges])
        trial.shadow_charges = tuple([(counter, 1) for counter, _ in trial.shadow_charges])

    def counter(self, rule: LimitRule, subject: str, limit: Limit, plan: str = "") -> Counter:
        """A subject's counter under a limit of the rule with the permits of now.

        A plan with permits of its own has a counter of its own here: what is known of one subject's counter may
        close it for one plan and not for another. In the store they are one.
        """
        known = f"{subject} {plan}" if plan else subject  # no subject holds a blank
        counter = rule.counters.get(known)
        if counter is None:
            shard = shard_of(subject, self._ledger.shards) if len(rule.names) > 1 else 0
            counter = Counter(limit, limit.permits, (rule.names[shard] + subject).encode(), shard)
            rule.counters.add(known, counter)
        elif counter.permits != limit.permits:
            self._ledger.forget(counter)
            counter.limit, counter.permits = limit, limit.permits
        return counter

    def key_id(self, key: bytes) -> bytes:
        """The public name of an opaque key: BLAKE2b-128 keyed with the fleet's hash key, in hex."""
        return blake2b(key, digest_size=16, key=self._hash_key).hexdigest().encode()

    def unsecret(self, headers: Mapping[bytes, bytes], name: bytes) -> bytes | None:
        """A header's value, or its keyed hash where it may be a credential: that is not to be remembered."""
        value = headers.get(name)
        return (
            self.key_id(value)
            if value and (name in self._hashed_headers or len(value) > LONGEST_KEPT)
            else value
        )

    def _limit_now(self, rule: LimitRule, bound: Bound, address: str) -> Limit:
        """A limit with the permits that this subject has now: its own, its plan's, or those of an override."""
        limit = rule.limit
        if (of_plan := limit.plans.get(bound.plan)) is not None:
            limit = self._variants.limit(limit, of_plan)
        if limit.name not in self.overridden:
            return limit
        kinds = rule.kinds
        permits = self._control.permits(
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
                    known = self.unsecret(request.headers, header) or b""
                    parts.append(escaped(known))
                case _:
                    return None
        return "|".join(parts)


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
