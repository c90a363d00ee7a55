"""Which rules a route (method, host, path) comes under: found once, and remembered.

Whether a rule also concerns who asks is `access`'s; what it says, `filters`'s, `detection`'s and the limits'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.core.detection import Detector, detector_of
from sidecar.core.ledger import Counter, Ledger
from sidecar.core.model import Cost, Counts, Dimension, Filter, Limit, Mode
from sidecar.core.patterns import Matcher
from sidecar.core.recent import Recent
from sidecar.core.subjects import names_of
from sidecar.core.terms import Terms, Variants

BY_ADDRESS: Final = (Dimension("ip"),)


class LimitRule(NamedTuple):
    """A limit that a route comes under.

    names  what its counters' names in the store begin with, for each shard
    kinds  of its dimensions
    usual  every request costs 1, by its address alone, and it is enforced
    """

    limit: Limit
    counters: Recent[str, Counter]
    route: str
    names: tuple[str, ...]
    kinds: frozenset[str]
    usual: bool


class Rules(NamedTuple):
    """The rules that a route comes under.

    open       filters that match whoever asks
    personal   filters that match some principals only
    detectors  filters that look for patterns, with what they look with
    guards     limits that count failed credentials
    terms      of the limits, when none depends on more than the address
    """

    open: tuple[Filter, ...]
    personal: tuple[Filter, ...]
    detectors: tuple[tuple[Filter, Detector], ...]
    limits: tuple[LimitRule, ...]
    guards: tuple[LimitRule, ...]
    limit_names: frozenset[str]
    terms: Terms | None


class RuleBook:
    """All rules of one configuration, `most` routes of which are remembered."""

    def __init__(
        self,
        *,
        limits: Sequence[Limit],
        filters: Sequence[Filter],
        ledger: Ledger,
        prefix: str,
        variants: Variants,
        most: int,
    ) -> None:
        self.tables = [
            (limit, Matcher(limit.match), counters)
            for limit, counters in zip(limits, ledger.tables(len(limits)), strict=True)
        ]
        """Each limit with its counters."""
        self._filters = [
            (rule, Matcher(rule.match), None if rule.detecting is None else detector_of(rule.detecting))
            for rule in filters
        ]
        self._names = [names_of(limit, prefix, ledger.shards) for limit in limits]
        self._variants = variants
        self._known = Recent[tuple[str, str, str], Rules](most)

    def of(self, method: str, host: str, path: str) -> Rules:
        """The rules of a route, in policy order."""
        route = (method, host, path)
        rules = self._known.get(route)
        if rules is None:
            rules = self._found(route)
            self._known.add(route, rules)
        return rules

    def _found(self, route: tuple[str, str, str]) -> Rules:
        filters = [
            (rule, detector) for rule, matcher, detector in self._filters if matcher.route(*route) is not None
        ]
        matching = [
            _limit_rule(limit, counters, name, names)
            for (limit, matcher, counters), names in zip(self.tables, self._names, strict=True)
            if (name := matcher.route(*route)) is not None
        ]
        limits = [rule for rule in matching if rule.limit.counts is Counts.REQUESTS]
        usual = all(rule.usual for rule in limits)
        return Rules(
            open=tuple([rule for rule, _ in filters if not rule.match.who]),
            personal=tuple([rule for rule, _ in filters if rule.match.who]),
            detectors=tuple([(rule, detector) for rule, detector in filters if detector is not None]),
            limits=tuple(limits),
            guards=tuple([rule for rule in matching if rule.limit.counts is Counts.CREDENTIAL_FAILURES]),
            limit_names=frozenset([rule.limit.name for rule in limits]),
            terms=self._variants.terms([rule.limit for rule in limits]) if usual else None,
        )


def _limit_rule(
    limit: Limit, counters: Recent[str, Counter], route: str, names: tuple[str, ...]
) -> LimitRule:
    kinds = frozenset([kind for kind, _ in limit.per])
    usual = (
        limit.per == BY_ADDRESS
        and limit.mode is Mode.ENFORCE
        and limit.cost == Cost()
        and not limit.match.who
        and not limit.plans
    )
    return LimitRule(limit, counters, route, names, kinds, usual)
