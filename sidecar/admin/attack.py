"""`/v1/attack`: whether attack mode is on, for everybody or for one tenant or key, and the switch.

What everybody is subject to is kept when it is off, too: who said so, so that no trigger overrides a person.
For one tenant or key, off is the absence of an entry.

Does not decide who is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import Annotated, Final

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
from sidecar.admin.problems import Problem
from sidecar.admin.subjects import KeyId, Subject, TenantName, read_ms, subject_of
from sidecar.admin.times import DurationText, moment, moment_or_none, span_ms
from sidecar.admin.tokens import Role
from sidecar.config import Config
from sidecar.control.changes import Changes
from sidecar.core.control import GLOBAL, Control, Entry

TABLE = "attack"
KINDS = ("tenant", "key")
MOST_SUBJECTS: Final = 10_000
"""Tenants and keys under attack at a time: every replica holds them all, and reads them with each change."""
MOST_SHOWN: Final = 1_000


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """On or off; for everybody, unless one tenant or key is named. `for` ends what is said here."""

    on: bool
    reason: Reason = ""
    for_: DurationText | None = msgspec.field(name="for", default=None)
    tenant: TenantName | None = None
    key: KeyId | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from reason_problems(self.reason)
        if not self.on and self.for_ is not None and (self.tenant or self.key):
            yield "for", "off removes the entry, and an absence has no end: leave it out"


class Whom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of which subjects to tell: of one tenant or key, or of all."""

    tenant: TenantName | None = None
    key: KeyId | None = None


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said, and until when it holds; null: until somebody says otherwise."""

    on: bool
    reason: str
    actor: str
    at: MomentText
    until: MomentText | None


class SaidOf(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The same of one tenant or key."""

    tenant: str | None = None
    key: str | None = None
    on: bool
    reason: str
    actor: str
    at: MomentText
    until: MomentText | None


class Passes(msgspec.Struct, frozen=True, kw_only=True):
    """Whom attack mode lets pass: the configuration's networks, and how many were added at run time."""

    configuration: list[str]
    run_time: int


class AttackShown(msgspec.Struct, frozen=True, kw_only=True):
    """Attack mode as this gate knows it. Unless it is `known`, the configuration says whether it is on."""

    epoch: EpochText
    on: bool
    known: bool
    everybody: Said | None = msgspec.field(name="global")
    subjects: Annotated[list[SaidOf], Meta(max_length=MOST_SHOWN)]
    more: Annotated[bool, Meta(description="There are more subjects: name one, to see it.")]
    passes: Passes = msgspec.field(name="pass")


class Switched(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was switched."""

    on: bool
    tenant: str | None = None
    key: str | None = None


def attack(
    *, changes: Changes, fleet: Fleet, state: Callable[[], Control], config: Callable[[], Config]
) -> Operations:
    """`state` and `config` are what is in force now."""

    async def show(call: Call[Nothing, Whom]) -> Answer[AttackShown]:
        control, mode = state(), config().attack_mode
        subject = subject_of(KINDS, tenant=call.at.tenant, key=call.at.key)
        fields = control.attack.keys() & {str(subject)} if subject else control.attack.keys() - {GLOBAL}
        known = control.attack_on is not None
        said = control.attack.get(GLOBAL)
        return Answer(
            AttackShown(
                epoch=str(control.epoch),
                on=control.attack_on if control.attack_on is not None else mode.unknown_on,
                known=known,
                everybody=None if said is None else _said(said),
                subjects=[
                    _said_of(Subject.parse(field), control.attack[field])
                    for field in nsmallest(MOST_SHOWN, fields)
                ],
                more=len(fields) > MOST_SHOWN,
                passes=Passes(configuration=list(mode.passes), run_time=len(control.passes)),
            ),
            epoch=control.epoch,
        )

    async def full(field: str) -> bool:
        """Whether there is no room for one more. Two at the same time may both take the last."""
        if await changes.size(TABLE) <= MOST_SUBJECTS:  # with the one of everybody
            return False
        return await changes.raw(TABLE, field) is None

    async def switch(call: Call[Switch, Nothing]) -> Answer[Switched]:
        body = call.body
        subject = subject_of(KINDS, tenant=body.tenant, key=body.key)
        for_ms = read_ms("for", body.for_, span_ms)
        stays = body.on or subject is None
        field = GLOBAL if subject is None else str(subject)
        if body.on and subject is not None and await full(field):
            raise Problem(
                409,
                f"{MOST_SUBJECTS} tenants and keys are under attack already: switch it off for some of them, or on "
                "for everybody.",
            )
        changed = await changes.change(
            TABLE,
            put=[field] if stays else [],
            delete=[] if stays else [field],
            payload={"on": body.on, "reason": body.reason, "actor": call.actor},
            for_ms=for_ms,
            actor=call.actor,
            action=f"attack.{'on' if body.on else 'off'}",
            reason=body.reason,
            if_epoch=call.if_epoch,
        )
        return Answer(Switched(on=body.on, tenant=body.tenant, key=body.key), changed=changed)

    return (
        Operation(
            "GET",
            "/v1/attack",
            Role.VIEWER,
            "Show attack mode",
            show,
            body=Nothing,
            at=Whom,
            answer=AttackShown,
            answer_example={
                "epoch": "58-9f86d081884c7d65",
                "on": True,
                "known": True,
                "global": {
                    "on": True,
                    "reason": "flood from AS64500",
                    "actor": "alice",
                    "at": "2026-11-22T05:00:00.123Z",
                    "until": "2026-11-22T06:00:00.123Z",
                },
                "subjects": [],
                "more": False,
                "pass": {"configuration": ["192.0.2.0/24"], "run_time": 2},
            },
        ),
        Operation(
            "PUT",
            "/v1/attack",
            Role.OPERATOR,
            "Switch attack mode",
            switch,
            body=Switch,
            at=Nothing,
            answer=Switched,
            fleet=fleet,
            errors={409: f"{MOST_SUBJECTS} tenants and keys are under attack already."},
            example={"on": True, "reason": "flood from AS64500", "for": "1h"},
            answer_example={"on": True},
        ),
    )


def _said(entry: Entry) -> Said:
    members = entry.members()
    return Said(
        on=members.get("on") is True,
        reason=str(members.get("reason", "")),
        actor=str(members.get("actor", "")),
        at=moment(entry.at_ms),
        until=moment_or_none(entry.until_ms),
    )


def _said_of(subject: Subject, entry: Entry) -> SaidOf:
    said = _said(entry)
    return SaidOf(
        tenant=subject.value if subject.kind == "tenant" else None,
        key=subject.value if subject.kind == "key" else None,
        on=said.on,
        reason=said.reason,
        actor=said.actor,
        at=said.at,
        until=said.until,
    )
