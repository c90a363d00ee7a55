"""Objections: what filters say against a request, of everybody and of who asks, whatever address it comes from.

Many addresses ask alike: with one key, of one page. So what is said is remembered apart from the address, which matters
only in so far as a list allows it. That halves what a client costs that was never seen before (`bench/credentials.py`).

What the address lists say, and what follows from all objections, is `policy`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.core.access import DEFAULT, Access, announced_by, concerns
from sidecar.core.bound import UNPROVED, Who
from sidecar.core.filters import Finding, objections_of
from sidecar.core.model import Filter, Mode, Reason, Request
from sidecar.core.principals import Principal
from sidecar.core.recent import Recent
from sidecar.core.rules import RuleBook, Rules

IN_QUERY: Final = "credentials.query"
"""Who refuses a credential in the query string."""


class Said(NamedTuple):
    """What is said of one case.

    of_all        by the filters that concern whoever asks
    of_use        by those that concern who asks, and by who asks of this use; of the unproved, nothing
    allow_origin  the web origin that may read a refusal, b"" for none; `guard_origin` the same of who failed too often
    """

    of_all: list[Finding]
    of_use: list[Finding]
    allow_origin: bytes
    guard_origin: bytes


UNSAID: Final = Said([], [], b"", b"")


class Objections:
    """Of one configuration; `most` cases are remembered."""

    __slots__ = ("_access", "_default_allow", "_known", "_query_mode", "_registry", "_rules")

    def __init__(
        self,
        *,
        rules: RuleBook,
        access: Access,
        registry: bool,
        default_allow: bool,
        query_mode: Mode,
        most: int,
    ) -> None:
        self._rules = rules
        self._access = access
        self._registry = registry
        self._default_allow = default_allow
        self._query_mode = query_mode
        self._known = Recent[tuple[bool, tuple[object, ...]], Said](most)

    def of(
        self,
        request: Request,
        who: Who,
        rules: Rules,
        case: tuple[object, ...],
        *,
        allowed: bool,
        leaks: bool,
        suspected: frozenset[str],
    ) -> Said:
        """The same as `found`; `case` is everything of the request that this depends on, and who asks."""
        said = self._known.get((allowed, case))
        if said is None:
            said = self.found(request, who, rules, allowed=allowed, leaks=leaks, suspected=suspected)
            self._known.add((allowed, case), said)
        return said

    def found(
        self,
        request: Request,
        who: Who,
        rules: Rules,
        *,
        allowed: bool,
        leaks: bool,
        suspected: frozenset[str],
    ) -> Said:
        """What is said against a request.

        allowed    a list allows its address
        leaks      a credential stands in its query
        suspected  the filters whose patterns' score is reached
        """
        of_all: list[Finding] = []
        if leaks:
            of_all.append(Finding(Reason.CREDENTIAL_IN_QUERY, IN_QUERY, self._query_mode))
        for rule in rules.open:
            of_all += self._of(rule, request, allowed, suspected)
        if not self._registry:
            if not (self._default_allow or any(rule.mode is Mode.ENFORCE for rule in rules.open)):
                of_all.append(Finding(Reason.NOT_OPENED, DEFAULT, Mode.ENFORCE))
            return Said(of_all, [], b"", b"")
        principal = who if isinstance(who, Principal) else None
        filters = self._opening(request, rules, principal)
        of_use: list[Finding] = []
        if who is not UNPROVED:
            of_use = self._access.to_use(principal, request, filters, default_allow=self._default_allow)
            for rule in rules.personal:
                if concerns(rule.match, principal):
                    of_use += self._of(rule, request, allowed, suspected)
        return Said(
            of_all,
            of_use,
            self._access.readable_by(principal, request, filters),
            self._access.readable_by(None, request, filters),
        )

    def _opening(self, request: Request, rules: Rules, principal: Principal | None) -> Sequence[Filter]:
        """The filters that say to whom a request's path is opened: a preflight's, those of what it announces."""
        if (announced := announced_by(request)) is not None:
            rules = self._rules.of(announced, request.host, request.path)
        return rules.open + tuple([rule for rule in rules.personal if concerns(rule.match, principal)])

    def _of(self, rule: Filter, request: Request, allowed: bool, suspected: frozenset[str]) -> list[Finding]:
        announced = announced_by(request) if self._registry else None
        found = objections_of(rule, request, allowed, announced)
        if rule.name in suspected:
            found.append(Finding(Reason.PATTERN, rule.name, rule.mode))
        return found
