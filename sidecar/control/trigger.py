"""The trigger's hands: it looks at the fleet once a second, and turns attack mode on or off.

Every gate that has a trigger looks; the change names the epoch that it was decided under, so that of several
gates one makes it, and a person who was quicker is not overruled. A store that is silent, or that has lost
what this process knows, decides nothing.

When to turn is `core.trigger`'s to say; who follows the change logs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from sidecar.control.changes import Changes, Conflict
from sidecar.control.fleet import Member
from sidecar.core.control import GLOBAL, Control
from sidecar.core.trigger import Report, Thresholds, Trigger, Turn
from sidecar.store import StoreUnavailable

LOOK_S: Final = 1.0
"""As often as replicas report."""
ACTOR: Final = "trigger"


class TriggerWatch:
    """Looks for one gate.

    members     of the fleet, as they last said of themselves; may raise StoreUnavailable
    state       the control state that is in force here
    thresholds  those of the configuration in force, None while it has no trigger
    """

    def __init__(
        self,
        *,
        members: Callable[[], Awaitable[list[Member]]],
        changes: Changes,
        state: Callable[[], Control],
        thresholds: Callable[[], Thresholds | None],
    ) -> None:
        self._members = members
        self._changes = changes
        self._state = state
        self._thresholds = thresholds
        self._trigger: Trigger | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> Turn | None:
        """One look; what it changed."""
        trigger = self._in_force()
        if trigger is None:
            return None
        try:
            members = await self._members()
            control = self._state()
            turn = trigger.look(
                members[0].now_ms if members else 0, _reports(members), control.attack.get(GLOBAL)
            )
            if turn is not None and await self._make(turn, control):
                return turn
        except StoreUnavailable:  # the follower, which asks as often, counts it
            trigger.restart()
        return None

    def _in_force(self) -> Trigger | None:
        """The trigger by the thresholds in force: another configuration begins to look anew."""
        thresholds = self._thresholds()
        if thresholds is None:
            self._trigger = None
        elif self._trigger is None or self._trigger.thresholds != thresholds:
            self._trigger = Trigger(thresholds)
        return self._trigger

    async def _make(self, turn: Turn, control: Control) -> bool:
        """Change it, if nobody has changed anything since; whether it was changed. Raises StoreUnavailable."""
        # The change itself checks this, too; but what it refuses stands in the audit, from every gate.
        if await self._changes.epoch() != control.epoch:
            return False
        try:
            await self._changes.change(
                "attack",
                put=[GLOBAL],
                payload={"on": turn.on, "reason": turn.reason, "actor": ACTOR, "trigger": True},
                actor=ACTOR,
                action=f"attack.{'on' if turn.on else 'off'}",
                reason=turn.reason,
                if_epoch=control.epoch,
            )
        except Conflict:  # somebody was quicker; the next look sees what they said
            return False
        return True


def _reports(members: list[Member]) -> dict[str, Report]:
    """Of those who live and count: an older version says nothing of its totals."""
    return {
        member.replica: Report(member.counted_ms, member.requests, member.refusals)
        for member in members
        if member.counted_ms and not member.lost
    }
