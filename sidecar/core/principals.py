"""Principals: who a credential names, and what it may.

A principal is made when a credential has been proved, and made anew when what it was made of changes:
two are the same only if they are the same object.

Whether a request of theirs passes is `access`'s; whether the credential is valid is `proofs`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from sidecar.core.addresses import AddressSet
from sidecar.core.keys import Key, Kind
from sidecar.core.origins import Origins
from sidecar.core.subjects import escaped

ROLE: Final = "role:"
"""What a scope begins with that stands for a role of the configuration."""

IDENTITY: Final = b"X-Portcullis-Key: %b\r\nX-Portcullis-Tenant: %b\r\nX-Portcullis-Plan: %b\r\n"


class Principal:
    """Immutable.

    id         printable and without separators: what the application, logs and counters know it by
    kind       `server` or `client`
    enabled    whether its key is
    networks   where it works from; None: from anywhere
    origins    the web origins that it works from; None: it is no client key
    misplaced  the credential was presented in the place of the other kind's
    """

    __slots__ = (
        "enabled",
        "id",
        "identity",
        "kind",
        "misplaced",
        "networks",
        "origins",
        "plan",
        "scopes",
        "tenant",
    )

    def __init__(
        self,
        name: str,
        *,
        kind: Kind = Kind.SERVER,
        tenant: str = "",
        plan: str = "",
        scopes: Iterable[str] = (),
        enabled: bool = True,
        networks: AddressSet | None = None,
        origins: Origins | None = None,
        misplaced: bool = False,
    ) -> None:
        self.id: Final = escaped(name.encode()).encode()
        self.kind: Final = kind.value
        self.tenant: Final = tenant
        self.plan: Final = plan
        self.scopes: Final = frozenset(scopes)
        self.enabled: Final = enabled
        self.networks: Final = networks
        self.origins: Final = origins
        self.misplaced: Final = misplaced
        self.identity: Final = IDENTITY % (self.id, tenant.encode(), plan.encode())
        """Header lines for the application."""


class Places(NamedTuple):
    """Where a key works from, ready to be asked: a millisecond and more for many networks."""

    networks: AddressSet | None
    origins: Origins | None

    @classmethod
    def of(cls, key: Key) -> Places:
        return cls(
            AddressSet(key.cidrs) if key.cidrs else None,
            Origins(key.origins) if key.kind is Kind.CLIENT else None,
        )


def principal_of(
    key: Key,
    roles: Mapping[str, tuple[str, ...]],
    *,
    places: Places | None = None,
    asked: Iterable[str] | None = None,
    misplaced: bool = False,
) -> Principal:
    """The principal of a registered key; of a token, whose scopes narrow the key's to those `asked` for."""
    places = places or Places.of(key)
    scopes = expanded(key.scopes, roles)
    return Principal(
        key.id,
        kind=key.kind,
        tenant=key.tenant,
        plan=key.plan,
        scopes=scopes if asked is None else scopes & frozenset(asked),
        enabled=key.enabled,
        networks=places.networks,
        origins=places.origins,
        misplaced=misplaced,
    )


def expanded(scopes: Iterable[str], roles: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """Scopes with those of the roles among them; a role that nobody defined has none.

    >>> sorted(expanded(["ping", "role:clerk"], {"clerk": ("orders.read", "orders.write")}))
    ['orders.read', 'orders.write', 'ping']
    """
    found: set[str] = set()
    for scope in scopes:
        if scope.startswith(ROLE):
            found.update(roles.get(scope.removeprefix(ROLE), ()))
        else:
            found.add(scope)
    return frozenset(found)
