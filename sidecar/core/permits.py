"""Overrides, found by subject: other permits for one key, tenant or network on a limit.

A field of the table is `<limit> key:<ID>`, `<limit> tenant:<T>` or `<limit> address:<CIDR>`. What is found is
kept beside the entries, so that a change costs by what it changes, not by how many overrides there are.

It does not know whether a limit counts by what an override names; that is `policy`'s.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Final, Protocol

from sidecar.core.addresses import AddressSet

SLICE: Final = 500
"""Overrides read between two yields: some three milliseconds."""


class Record(Protocol):
    """An entry of the table."""

    def members(self) -> dict[str, object]:
        """Its payload: `permits` is what counts here."""


class Permits:
    """Immutable. `limits` are the names of the limits that have an override."""

    __slots__ = ("_counts", "_known", "_networks")

    def __init__(
        self, known: dict[str, int], networks: dict[str, AddressSet], counts: dict[str, int]
    ) -> None:
        self._known = known
        self._networks = networks
        self._counts = counts

    @property
    def limits(self) -> frozenset[str]:
        return frozenset(self._counts)

    @classmethod
    def steps(cls, entries: Mapping[str, Record]) -> Generator[None, None, Permits]:
        """Those of a whole table, in steps of a few milliseconds. Raises ValueError for a network that is none."""
        known: dict[str, int] = {}
        networks: dict[str, list[str]] = {}
        counts: dict[str, int] = {}
        for number, (field, entry) in enumerate(entries.items(), start=1):
            permits = _permits(entry)
            if permits is not None:
                known[field] = permits
                limit, cidr = _parts(field)
                counts[limit] = counts.get(limit, 0) + 1
                if cidr:
                    networks.setdefault(limit, []).append(cidr)
            if number % SLICE == 0:
                yield
        built: dict[str, AddressSet] = {}
        for limit, cidrs in networks.items():
            built[limit] = yield from AddressSet.build_steps(cidrs)
        return cls(known, built, counts)

    def with_changes(self, changes: Mapping[str, Record | None]) -> Permits:
        """These with other entries for some fields, or none. Raises ValueError as `steps` does."""
        if not changes:
            return self
        known, networks, counts = dict(self._known), dict(self._networks), dict(self._counts)
        for field, entry in changes.items():
            limit, cidr = _parts(field)
            permits = None if entry is None else _permits(entry)
            counts[limit] = counts.get(limit, 0) + (permits is not None) - (field in known)
            if not counts[limit]:
                del counts[limit]
            if cidr and (permits is None) is (field in known):
                before = networks.get(limit, _NOBODY)
                there = (
                    before.with_changes([cidr]) if permits is not None else before.with_changes((), [cidr])
                )
                networks[limit] = there
            if permits is None:
                known.pop(field, None)
            else:
                known[field] = permits
        return Permits(known, networks, counts)

    def find(self, limit: str, *, key: str, tenant: str, address: str) -> int | None:
        """The permits for a subject, or None. See `Control.permits`."""
        known = self._known
        if not known:
            return None
        for kind, name in (("key", key), ("tenant", tenant)):
            if name and (permits := known.get(f"{limit} {kind}:{name}")) is not None:
                return permits
        networks = self._networks.get(limit)
        if address and networks is not None and (cidr := networks.match(address)) is not None:
            return known.get(f"{limit} address:{cidr}")
        return None


_NOBODY: Final = AddressSet()
NO_PERMITS: Final = Permits({}, {}, {})


def _parts(field: str) -> tuple[str, str]:
    """The limit's name, and the network if there is one."""
    limit, _, subject = field.partition(" ")
    return limit, subject.removeprefix("address:") if subject.startswith("address:") else ""


def _permits(entry: Record) -> int | None:
    permits = entry.members().get("permits")
    return permits if isinstance(permits, int) else None
