"""`GET /v1/audit`: who did what, when and why, oldest first, and what comes next.

A reader passes the `after` of the answer before, and `wait` to hear of the next entry when it is made.
Writing the trail is the changes' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from sidecar.admin.operations import Answer, Call, Nothing, Operation, Operations, matching, refused
from sidecar.admin.times import moment, moment_or_none
from sidecar.admin.tokens import Role
from sidecar.control.audit import AuditEntry


class AuditPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to read."""

    after: Annotated[
        str,
        matching(
            "([0-9]{1,20}-[0-9]{1,20})?",
            description="Entries after this one; without it the newest.",
            examples=["1795323600123-0"],
        ),
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=1000, description="How many entries at most.")] = 100
    wait: Annotated[
        int, Meta(ge=0, le=60, description="With `after`: seconds to wait for an entry, if there is none.")
    ] = 0


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done. Further members tell what it was about."""

    id: str
    at: str
    actor: str
    action: str
    outcome: str
    epoch: str
    reason: str
    until: str | None


_AuditedWithDetail = Annotated[
    Mapping[str, object],
    Meta(
        description="One thing that was done. Further members, which differ by action, tell what it was about.",
        extra_json_schema={
            "type": "object",
            "required": list(Audited.__struct_fields__),
            "properties": {
                "id": {"type": "string"},
                "at": {"type": "string", "format": "date-time"},
                "actor": {"type": "string", "description": "The name of the token."},
                "action": {"type": "string"},
                "outcome": {"type": "string"},
                "epoch": {"type": "string"},
                "reason": {"type": "string"},
                "until": {"type": ["string", "null"], "format": "date-time"},
            },
        },
    ),
]


class AuditShown(msgspec.Struct, frozen=True, kw_only=True):
    """Entries, oldest first, and the id to read on after."""

    entries: Sequence[_AuditedWithDetail]
    after: str | None


class Trail(Protocol):
    """What was done."""

    async def read(self, after: str | None, limit: int, wait_s: float = 0.0) -> list[AuditEntry]:
        """The next entries after an id, or the newest, oldest first. Raises StoreUnavailable, and ValueError
        for what is no id.
        """


def audit(trail: Trail) -> Operations:
    async def show(call: Call[Nothing, AuditPlace]) -> Answer[AuditShown]:
        at = call.at
        try:
            found = await trail.read(at.after or None, at.limit, float(at.wait) if at.after else 0.0)
        except ValueError as exc:
            raise refused([("after", str(exc))]) from None
        after = found[-1].id if found else at.after or None
        return Answer(AuditShown(entries=[_audited(entry) for entry in found], after=after))

    return (
        Operation(
            "GET",
            "/v1/audit",
            Role.VIEWER,
            "Read the audit trail",
            show,
            body=Nothing,
            at=AuditPlace,
            answer=AuditShown,
            answer_example={
                "entries": [
                    {
                        "id": "1795323600123-0",
                        "at": "2026-11-22T05:00:00.123Z",
                        "actor": "alice",
                        "action": "attack.on",
                        "outcome": "done",
                        "epoch": "58-9f86d081884c7d65",
                        "reason": "flood from AS64500",
                        "until": None,
                        "table": "attack",
                        "put": ["global"],
                    }
                ],
                "after": "1795323600123-0",
            },
        ),
    )


def _audited(entry: AuditEntry) -> dict[str, object]:
    told = Audited(
        id=entry.id,
        at=moment(entry.at_ms),
        actor=entry.actor,
        action=entry.action,
        outcome=entry.outcome,
        epoch=entry.epoch,
        reason=entry.reason,
        until=moment_or_none(entry.until_ms),
    )
    # The fixed members win: no detail can pretend to be somebody else.
    return {**entry.detail, **msgspec.structs.asdict(told)}
