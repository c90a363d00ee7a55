"""Control states for the tests, built without a store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from sidecar.core.addresses import AddressSet
from sidecar.core.control import Control, Entry, Epoch
from sidecar.core.layers import LayeredSet

AT_MS = 1_700_000_000_000


def entry(until_ms: int = 0, **members: object) -> Entry:
    """An entry of a table as an operator's change leaves it."""
    return Entry(AT_MS, until_ms, json.dumps({"actor": "alice", "reason": "", **members}).encode())


def control(
    *,
    number: int = 1,
    deny: Iterable[str] = (),
    allow: Iterable[str] = (),
    exempt: Iterable[str] = (),
    passes: Iterable[str] = (),
    attacked: Iterable[str] = (),
    overrides: Mapping[str, int] | None = None,
) -> Control:
    """A control state. `attacked` are `key:<ID>` and `tenant:<T>`; `overrides` are permits by field."""
    lists = {"deny": deny, "allow": allow, "exempt": exempt, "pass": passes}
    return Control(
        epoch=Epoch(number, f"{number:016x}"),
        lists={name: LayeredSet([AddressSet(cidrs)]) for name, cidrs in lists.items()},
        attack={field: entry(on=True, reason="too much") for field in attacked},
        overrides={field: entry(permits=permits) for field, permits in (overrides or {}).items()},
    )
