"""`GET /v1/fleet`: who decides, how far each replica is, and whether their configurations differ."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sidecar.admin.operations import (
    Answer,
    Call,
    EpochText,
    MomentText,
    Nothing,
    Operation,
    Operations,
)
from sidecar.admin.times import moment
from sidecar.admin.tokens import Role
from sidecar.control.fleet import Member
from sidecar.core.control import Epoch


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One process that decides, as it last said of itself."""

    replica: Annotated[str, Meta(description="`<gate>/<worker>`; the gate is one start of one installation.")]
    gate: str
    worker: int
    name: Annotated[str, Meta(description="The host or pod.")]
    version: str
    started: MomentText
    epoch: EpochText
    behind: Annotated[int, Meta(ge=0, description="How many changes it had not applied when it said so.")]
    lag_s: Annotated[float, Meta(ge=0, description="How old that word is, in seconds.")]
    seen: MomentText
    state: Annotated[
        Literal["current", "behind", "lost"],
        Meta(
            description="Behind: it has another state than the store, and acts on that. Lost: silent for so long "
            "that nobody can say what it admits."
        ),
    ]
    config: Annotated[str, Meta(description="A digest of its configuration.")]


class FleetShown(msgspec.Struct, frozen=True, kw_only=True):
    """Every replica that is alive or was not long ago. More than one configuration: a roll-out is under way."""

    epoch: EpochText
    replicas: Sequence[Replica]
    configurations: int


def fleet(
    *, members: Callable[[], Awaitable[Sequence[Member]]], epoch: Callable[[], Awaitable[Epoch]]
) -> Operations:
    """`epoch` is the store's: a gate that cannot follow is compared with that, too."""

    async def show(_: Call[Nothing, Nothing]) -> Answer[FleetShown]:
        found, current = await members(), await epoch()  # in this order: nobody is ahead of it
        replicas = [_replica(member, current) for member in found]
        configurations = len({member.config for member in found if not member.lost})
        return Answer(
            FleetShown(epoch=str(current), replicas=replicas, configurations=configurations), epoch=current
        )

    return (
        Operation(
            "GET",
            "/v1/fleet",
            Role.VIEWER,
            "List replicas",
            show,
            body=Nothing,
            at=Nothing,
            answer=FleetShown,
            answer_example={
                "epoch": "58-9f86d081884c7d65",
                "replicas": [
                    {
                        "replica": "9b1c64d2e07fa835/0",
                        "gate": "9b1c64d2e07fa835",
                        "worker": 0,
                        "name": "gate-7d9f",
                        "version": "0.1.0",
                        "started": "2026-11-22T05:00:00.123Z",
                        "epoch": "58-9f86d081884c7d65",
                        "behind": 0,
                        "lag_s": 0.4,
                        "seen": "2026-11-22T05:31:12.004Z",
                        "state": "current",
                        "config": "5e884898da280471",
                    }
                ],
                "configurations": 1,
            },
        ),
    )


def _replica(member: Member, epoch: Epoch) -> Replica:
    is_current = member.epoch == epoch and not member.stale
    state: Literal["current", "behind", "lost"] = "current" if is_current else "behind"
    return Replica(
        replica=member.replica,
        gate=member.gate,
        worker=member.worker,
        name=member.name,
        version=member.version,
        started=moment(member.started_ms),
        epoch=str(member.epoch),
        behind=max(0, epoch.number - member.epoch.number),
        lag_s=max(0, member.now_ms - member.seen_ms) / 1000,
        seen=moment(member.seen_ms),
        state="lost" if member.lost else state,
        config=member.config,
    )
