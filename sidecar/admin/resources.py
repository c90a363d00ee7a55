"""The resources of the control plane, in one list: a new one is a file with its operations, and a line here."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from sidecar.admin.addresses import addresses
from sidecar.admin.attack import attack
from sidecar.admin.audit import Trail, audit
from sidecar.admin.decisions import Find, decisions
from sidecar.admin.fleet import fleet
from sidecar.admin.keys import keys
from sidecar.admin.operations import Fleet, Operations
from sidecar.admin.overrides import overrides
from sidecar.admin.reset import Resets, reset
from sidecar.admin.top import top
from sidecar.config import Config
from sidecar.control.changes import Changes
from sidecar.control.fleet import Member
from sidecar.control.keys import KeyRegistry
from sidecar.control.top import TopAnswer
from sidecar.core.control import Control


class Replicas(Fleet, Protocol):
    """Who has to follow a change, and who they are."""

    async def members(self) -> list[Member]:
        """All that are waited for. Raises StoreUnavailable."""


class Controls(NamedTuple):
    """What the control plane works with.

    state, config  what is in force now
    """

    changes: Changes
    fleet: Replicas
    audit: Trail
    keys: KeyRegistry
    top: Callable[[int], Awaitable[TopAnswer]]
    resets: Resets
    decisions: Find
    state: Callable[[], Control]
    config: Callable[[], Config]


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def control_operations(given: Controls, *, wall_ms: Callable[[], int] = wall_ms) -> Operations:
    """Every operation of the control plane. `wall_ms` tells expired entries and times that are past."""
    changes, state, config = given.changes, given.state, given.config
    return (
        *attack(changes=changes, fleet=given.fleet, state=state, config=config),
        *addresses(changes=changes, fleet=given.fleet, state=state, config=config, wall_ms=wall_ms),
        *keys(given.keys, changes, given.fleet),
        *overrides(changes=changes, fleet=given.fleet, state=state, config=config, wall_ms=wall_ms),
        *reset(resets=given.resets, fleet=given.fleet, config=config),
        *fleet(members=given.fleet.members, epoch=changes.epoch),
        *audit(given.audit),
        *top(given.top),
        *decisions(given.decisions),
    )
