"""Terms: what the answers under one set of limits share, and limits with other permits than the configuration's.

Both are made once and remembered: an override of one customer is asked for with every request of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from sidecar.core.model import Limit
from sidecar.core.quota_headers import policy_header, ratelimit_format
from sidecar.core.recent import Recent

MOST_REMEMBERED: Final = 1_024
"""Limits with other permits, and sets of limits."""


class Terms(NamedTuple):
    """What the answers under one set of limits share.

    `ratelimit` is the `RateLimit` header as a format of remaining and reset_s of each limit in turn.
    """

    limits: tuple[Limit, ...]
    policy_header: bytes
    ratelimit: bytes


NO_TERMS: Final = Terms((), b"", b"")


class Variants:
    """The limits of one configuration with any permits. A limit is known by its name and its permits.

    >>> from sidecar.core.model import Dimension
    >>> variants, per_ip = Variants(), Limit("per-ip", (Dimension("ip"),), 100, 60_000, 1_000)
    >>> variants.terms([variants.limit(per_ip, 500)]).policy_header
    b'"per-ip";q=500;w=60'
    """

    def __init__(self) -> None:
        self._limits = Recent[tuple[str, int], Limit](MOST_REMEMBERED)
        self._terms = Recent[tuple[tuple[str, int], ...], Terms](MOST_REMEMBERED)

    def limit(self, limit: Limit, permits: int) -> Limit:
        """The same limit with these permits."""
        if permits == limit.permits:
            return limit
        case = (limit.name, permits)
        variant = self._limits.get(case)
        if variant is None:
            variant = replace(limit, permits=permits)
            self._limits.add(case, variant)
        return variant

    def terms(self, limits: Sequence[Limit]) -> Terms:
        """What answers under these limits share."""
        case = tuple([(limit.name, limit.permits) for limit in limits])
        terms = self._terms.get(case)
        if terms is None:
            policies = [(limit.name, limit.permits, limit.window_ms) for limit in limits]
            names = [limit.name for limit in limits]
            terms = Terms(tuple(limits), policy_header(policies), ratelimit_format(names))
            self._terms.add(case, terms)
        return terms
