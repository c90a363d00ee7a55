"""Access: what filters and a principal's own terms say against a request, once it is known who asks.

    enabled -> its addresses -> kind -> origin -> scopes -> opened

With a registry only server keys pass where no filter with `kinds` matches; where some do, each of them must
name the kind of who asks. A browser asks before it sends a key (a preflight): where client keys, or everybody,
may pass, that needs none.

Which filters match a request's method, host and path is `rules`'s; attack mode and the order of all
objections are `policy`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from sidecar.core.addresses import AddressSet
from sidecar.core.filters import Finding
from sidecar.core.model import Filter, Match, Mode, Reason, Request
from sidecar.core.origins import Origins, serializable
from sidecar.core.principals import Principal

CREDENTIALS: Final = "credentials"
"""Who refuses for the sake of the credential itself; no rule can have this name."""
DEFAULT: Final = "default"

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")

NOBODY: Final = "anonymous"
CLIENT: Final = "client"
SERVER: Final = "server"


def announced_by(request: Request) -> str | None:
    """The method that a CORS preflight announces; None for any other request.

    Source: the Fetch standard, "CORS-preflight fetch".
    """
    if request.method != "OPTIONS" or request.key is not None or b"origin" not in request.headers:
        return None
    method = request.headers.get(b"access-control-request-method")
    return method.decode("ascii") if method and _TOKEN.fullmatch(method) else None


def concerns(match: Match, principal: Principal | None) -> bool:
    """Whether a rule's `kinds`, `plans` and `scopes` match who asks."""
    if match.kinds and (NOBODY if principal is None else principal.kind) not in match.kinds:
        return False
    if match.plans and (principal is None or principal.plan not in match.plans):
        return False
    return not match.scopes or (principal is not None and not principal.scopes.isdisjoint(match.scopes))


class Access:
    """Step 6 of the decision, for one policy. `tenants` are the networks that a tenant's keys work from."""

    def __init__(self, filters: Iterable[Filter], tenants: Mapping[str, AddressSet]) -> None:
        self._tenants = tenants
        self._origins = {rule.name: Origins(rule.origins) for rule in filters if rule.origins}

    def to_credential(self, principal: Principal, address: str) -> list[Finding]:
        """What a key's own state and addresses say against its use."""
        found: list[Finding] = []
        if not principal.enabled:
            found.append(_refused(Reason.CREDENTIAL_DISABLED))
        for networks in (principal.networks, self._tenants.get(principal.tenant)):
            if networks is not None and not _within(networks, address):
                found.append(_refused(Reason.CREDENTIAL_ADDRESS))
                break
        return found

    def to_use(
        self,
        principal: Principal | None,
        request: Request,
        filters: Sequence[Filter],
        *,
        default_allow: bool,
    ) -> list[Finding]:
        """What is said against a request of a principal, None for nobody, by the filters that match it."""
        found: list[Finding] = []
        kind = NOBODY if principal is None else principal.kind
        preflight = principal is None and announced_by(request) is not None
        kinds = opened_to(filters)
        if kind not in kinds and not (preflight and CLIENT in kinds):
            named = [rule for rule in filters if rule.mode is Mode.ENFORCE and rule.kinds]
            refusing = [rule.name for rule in named if kind not in rule.kinds] or [CREDENTIALS]
            found.append(_wrong_kind(kind, refusing[0], Mode.ENFORCE))
        if principal is not None and principal.misplaced:
            found.append(_refused(Reason.KIND))
        origin = request.headers.get(b"origin")
        if principal is not None and principal.origins is not None and not principal.origins.allows(origin):
            found.append(_refused(Reason.ORIGIN))
        for rule in filters:
            if rule.mode is Mode.SHADOW and rule.kinds and kind not in rule.kinds and not preflight:
                found.append(_wrong_kind(kind, rule.name, Mode.SHADOW))
            if rule.origins and (kind == CLIENT or preflight) and not self._origins[rule.name].allows(origin):
                found.append(Finding(Reason.ORIGIN, rule.name, rule.mode))
            if rule.scopes and not preflight:
                if principal is None:
                    found.append(Finding(Reason.CREDENTIAL_MISSING, rule.name, rule.mode))
                elif not principal.scopes.issuperset(rule.scopes):
                    found.append(Finding(Reason.SCOPE, rule.name, rule.mode))
        if not default_allow and not any(rule.mode is Mode.ENFORCE for rule in filters):
            found.append(Finding(Reason.NOT_OPENED, DEFAULT, Mode.ENFORCE))
        return found

    def readable_by(self, principal: Principal | None, request: Request, filters: Sequence[Filter]) -> bytes:
        """The web origin whose pages may read a refusal: one that may use what is opened to client keys here.

        Of nobody, and of a credential that was not proved, only filters know the origins: a refusal that the page
        could read for some ids alone would tell which ids exist.
        """
        origin = request.headers.get(b"origin")
        if origin is None or not serializable(origin) or CLIENT not in opened_to(filters):
            return b""
        allowing = [
            self._origins[rule.name] for rule in filters if rule.origins and rule.mode is Mode.ENFORCE
        ]
        if principal is not None and principal.origins is not None:
            allowing.append(principal.origins)
        return origin if allowing and all(origins.allows(origin) for origins in allowing) else b""


def opened_to(filters: Iterable[Filter]) -> frozenset[str]:
    """The kinds of principals that filters let pass: those that all of them name."""
    kinds: frozenset[str] | None = None
    for rule in filters:
        if rule.kinds and rule.mode is Mode.ENFORCE:
            kinds = frozenset(rule.kinds) if kinds is None else kinds.intersection(rule.kinds)
    return frozenset((SERVER,)) if kinds is None else kinds


def _within(networks: AddressSet, address: str) -> bool:
    return address != "unknown" and networks.contains(address)


def _refused(reason: Reason) -> Finding:
    return Finding(reason, CREDENTIALS, Mode.ENFORCE)


def _wrong_kind(kind: str, rule: str, mode: Mode) -> Finding:
    return Finding(Reason.CREDENTIAL_MISSING if kind == NOBODY else Reason.KIND, rule, mode)
