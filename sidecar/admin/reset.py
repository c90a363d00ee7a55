"""`POST /v1/reset`: forget what one subject has used of a limit, and its block, everywhere at once.

Does not know where counts are kept: whoever is handed in forgets them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from sidecar.admin.operations import (
    Answer,
    Call,
    Fleet,
    Nothing,
    Operation,
    Operations,
    Reason,
    reason_problems,
    refused,
)
from sidecar.admin.subjects import (
    AddressText,
    KeyId,
    LimitName,
    Named,
    Subject,
    TenantName,
    limit_of,
    one_subject,
)
from sidecar.admin.tokens import Role
from sidecar.config import Config
from sidecar.control.reset import ResetDone
from sidecar.core import addresses
from sidecar.core.control import Epoch
from sidecar.core.model import Limit
from sidecar.document.walk import shown

KINDS = ("key", "tenant", "address")


class Resets(Protocol):
    """Who forgets counts."""

    async def reset(
        self,
        limit: Limit,
        kind: str,
        value: str,
        *,
        actor: str,
        reason: str,
        if_epoch: Epoch | None,
    ) -> ResetDone:
        """Forget what one subject used. `kind` is "key", "tenant" or "address"; an address is as limits count
        it: of IPv6 the network. Raises Conflict, StoreUnavailable, and ValueError when it cannot tell
        the subject's counters.
        """


class Reset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose counts are forgotten: exactly one key, tenant or address on a limit of the configuration."""

    limit: LimitName
    key: KeyId | None = None
    tenant: TenantName | None = None
    address: AddressText | None = None
    reason: Reason = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from reason_problems(self.reason)


class ResetAnswer(Named, frozen=True, kw_only=True, omit_defaults=True):
    """Whose counts were forgotten, and how many counters the store had of them."""

    limit: str
    counters: Annotated[int, Meta(ge=0)]


def reset(*, resets: Resets, fleet: Fleet, config: Callable[[], Config]) -> Operations:
    """`config` is what is in force now."""

    async def forget(call: Call[Reset, Nothing]) -> Answer[ResetAnswer]:
        body, in_force = call.body, config()
        subject = one_subject(KINDS, key=body.key, tenant=body.tenant, address=body.address)
        if subject.kind == "address" and body.address is not None:
            subject = Subject("address", _counted(body.address, in_force.ipv6_prefix))
        limit = limit_of(in_force.limits, body.limit, subject)
        try:
            done = await resets.reset(
                limit,
                subject.kind,
                subject.value,
                actor=call.actor,
                reason=body.reason,
                if_epoch=call.if_epoch,
            )
        except ValueError as exc:
            raise refused([(subject.kind, str(exc))]) from None
        answer = ResetAnswer(limit=limit.name, counters=done.counters, **subject.named())
        return Answer(answer, changed=done.changed)

    return (
        Operation(
            "POST",
            "/v1/reset",
            Role.OPERATOR,
            "Forget what a subject has used",
            forget,
            body=Reset,
            at=Nothing,
            answer=ResetAnswer,
            fleet=fleet,
            example={"limit": "per-ip", "address": "203.0.113.9", "reason": "customer called"},
            answer_example={"limit": "per-ip", "address": "203.0.113.9", "counters": 1},
        ),
    )


def _counted(text: str, ipv6_prefix: int) -> str:
    """The address as limits count it, of an address or of just that network. Raises Problem for any other.

    >>> _counted("203.0.113.9", 64), _counted("2001:db8::9", 64), _counted("2001:db8::/64", 64)
    ('203.0.113.9', '2001:db8::/64', '2001:db8::/64')
    """
    address = addresses.canonical_address(text)
    if address is not None:
        return addresses.subject_of(address, ipv6_prefix)
    network = addresses.parse_cidr(text)
    address, _, length = network.partition("/")
    if length == ("128" if ":" in address else "32") or (":" in address and int(length) == ipv6_prefix):
        return addresses.subject_of(address, ipv6_prefix)
    why = f"limits count addresses, of IPv6 the networks of {ipv6_prefix} bits: name one of these"
    raise refused([("address", f"{shown(text)}: {why}")])
