"""`/v1/overrides`: other permits for one key, tenant or network on a limit, on the counts that stand.

Does not apply them: the policy does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from sidecar.admin.operations import (
    Answer,
    Call,
    EpochText,
    Fleet,
    MomentText,
    Nothing,
    Operation,
    Operations,
    Reason,
    reason_problems,
)
from sidecar.admin.pages import NextCursor, Paged, page_of
from sidecar.admin.problems import Problem
from sidecar.admin.subjects import (
    AddressText,
    KeyId,
    LimitName,
    Named,
    Subject,
    TenantName,
    limit_of,
    one_subject,
    read,
    read_ms,
)
from sidecar.admin.times import DurationText, moment, moment_or_none, span_ms
from sidecar.admin.tokens import Role
from sidecar.config import Config
from sidecar.control.changes import Changes, Conflict
from sidecar.core.control import Control, Entry
from sidecar.core.subjects import counted_network
from sidecar.document import notations
from sidecar.document.notations import MAX_PERMITS

TABLE = "overrides"
KINDS = ("key", "tenant", "address")

Permits = Annotated[int, Meta(ge=0, le=MAX_PERMITS, description="0 is always closed.")]


class Override(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Other permits for exactly one key, tenant or network on a limit of the configuration."""

    limit: LimitName
    permits: Permits
    key: KeyId | None = None
    tenant: TenantName | None = None
    address: AddressText | None = None
    reason: Reason = ""
    for_: DurationText | None = msgspec.field(name="for", default=None)

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from reason_problems(self.reason)


class Unset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which override goes. The limit may have gone from the configuration meanwhile."""

    limit: LimitName
    key: KeyId | None = None
    tenant: TenantName | None = None
    address: AddressText | None = None


class OverrideShown(Named, frozen=True, kw_only=True, omit_defaults=True):
    """One override, and who made it."""

    limit: str
    permits: int
    reason: str
    actor: str
    at: MomentText
    until: MomentText | None


class OverridesShown(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the overrides, in no order."""

    epoch: EpochText
    overrides: Sequence[OverrideShown]
    cursor: NextCursor


class OverrideSet(Named, frozen=True, kw_only=True, omit_defaults=True):
    """The override that stands now."""

    limit: str
    permits: int


class OverrideUnset(Named, frozen=True, kw_only=True, omit_defaults=True):
    """The override that went."""

    limit: str


def overrides(
    *,
    changes: Changes,
    fleet: Fleet,
    state: Callable[[], Control],
    config: Callable[[], Config],
    wall_ms: Callable[[], int],
) -> Operations:
    """`state` and `config` are what is in force now."""

    def counted(subject: Subject) -> Subject:
        """What limits tell apart: an address inside of a counted network stands for all of it."""
        if subject.kind != "address":
            return subject
        return Subject("address", counted_network(subject.value, config().ipv6_prefix))

    async def show(call: Call[Nothing, Paged]) -> Answer[OverridesShown]:
        epoch = state().epoch
        page = await page_of(changes, TABLE, cursor=call.at.cursor, limit=call.at.limit, now_ms=wall_ms())
        entries = [_shown(field, entry) for field, entry in page.entries]
        return Answer(
            OverridesShown(epoch=str(epoch), overrides=entries, cursor=page.cursor or None), epoch=epoch
        )

    async def set_(call: Call[Override, Nothing]) -> Answer[OverrideSet]:
        body = call.body
        subject = counted(one_subject(KINDS, key=body.key, tenant=body.tenant, address=body.address))
        limit = limit_of(config().limits, body.limit, subject)
        for_ms = read_ms("for", body.for_, span_ms)
        changed = await changes.change(
            TABLE,
            put=[f"{limit.name} {subject}"],
            payload={"permits": body.permits, "reason": body.reason, "actor": call.actor},
            for_ms=for_ms,
            actor=call.actor,
            action="override.set",
            reason=body.reason,
            detail={"permits": body.permits},
            if_epoch=call.if_epoch,
        )
        answer = OverrideSet(limit=limit.name, permits=body.permits, **subject.named())
        return Answer(answer, changed=changed)

    async def unset(call: Call[Unset, Nothing]) -> Answer[OverrideUnset]:
        body = call.body
        subject = counted(one_subject(KINDS, key=body.key, tenant=body.tenant, address=body.address))
        field = f"{read('limit', body.limit, notations.name)} {subject}"
        try:
            changed = await changes.change(
                TABLE,
                delete=[field],
                actor=call.actor,
                action="override.unset",
                if_epoch=call.if_epoch,
                demand="present",
            )
        except Conflict as conflict:
            if conflict.why != "present":
                raise
            raise Problem(
                404, f"There is no override of {body.limit} for {subject}.", epoch=str(conflict.epoch)
            ) from None
        return Answer(OverrideUnset(limit=body.limit, **subject.named()), changed=changed)

    return (
        Operation(
            "GET",
            "/v1/overrides",
            Role.VIEWER,
            "List overrides",
            show,
            body=Nothing,
            at=Paged,
            answer=OverridesShown,
            answer_example={
                "epoch": "58-9f86d081884c7d65",
                "overrides": [
                    {
                        "limit": "per-key",
                        "tenant": "acme",
                        "permits": 5000,
                        "reason": "launch day",
                        "actor": "alice",
                        "at": "2026-11-22T05:00:00.123Z",
                        "until": None,
                    }
                ],
                "cursor": None,
            },
        ),
        Operation(
            "PUT",
            "/v1/overrides",
            Role.OPERATOR,
            "Set an override",
            set_,
            body=Override,
            at=Nothing,
            answer=OverrideSet,
            fleet=fleet,
            example={
                "limit": "per-key",
                "tenant": "acme",
                "permits": 5000,
                "reason": "launch day",
                "for": "1d",
            },
            answer_example={"limit": "per-key", "tenant": "acme", "permits": 5000},
        ),
        Operation(
            "POST",
            "/v1/overrides/unset",
            Role.OPERATOR,
            "Remove an override",
            unset,
            body=Unset,
            at=Nothing,
            answer=OverrideUnset,
            fleet=fleet,
            errors={404: "There is no such override."},
            example={"limit": "per-key", "tenant": "acme"},
            answer_example={"limit": "per-key", "tenant": "acme"},
        ),
    )


def _shown(field: str, entry: Entry) -> OverrideShown:
    limit, _, subject = field.partition(" ")
    members = entry.members()
    permits = members.get("permits")
    return OverrideShown(
        limit=limit,
        permits=permits if isinstance(permits, int) else 0,
        reason=str(members.get("reason", "")),
        actor=str(members.get("actor", "")),
        at=moment(entry.at_ms),
        until=moment_or_none(entry.until_ms),
        **Subject.parse(subject).named(),
    )
