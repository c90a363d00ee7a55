"""`POST /v1/explain`: what the gate would answer to a described request, and why.

Nothing is charged. This module reads the description; what is explained, and how, is the gate's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Literal

import msgspec

from sidecar.admin.operations import Answer, Call, Nothing, Operation, Operations
from sidecar.admin.tokens import Role

MAX_HEADERS = 100

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Long = Annotated[str, msgspec.Meta(max_length=8_192)]


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A described request. `path` is the raw target, query included; a `front` left out is `api`.

    `key` is the id of a key: the request is explained as if it had presented it rightly.
    """

    address: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    method: _Text = "GET"
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=8_192)] = "/"
    host: _Text = ""
    headers: Annotated[dict[_Text, _Long], msgspec.Meta(max_length=MAX_HEADERS)] = {}
    front: Literal["nginx", "envoy", "forward", "api"] = "api"
    key: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the decision, in order. `rule` names the list or filter that objects."""

    step: str
    outcome: str
    detail: str
    rule: str | msgspec.UnsetType = msgspec.UNSET


class ListedAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The most specific network around the address in one list. Who put it there is null for a configuration's."""

    list: str
    cidr: str
    source: Literal["configuration", "run_time"]
    reason: str | None
    actor: str | None
    at: str | None
    until: str | None


class ExplainedOverride(msgspec.Struct, frozen=True, kw_only=True):
    """Whose override of a limit is in force, and the permits without it."""

    subject: str
    configured: int
    reason: str | None
    actor: str | None
    at: str | None
    until: str | None


class ExplainedLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that applies, and what it has left. `remaining` and `admits` are null where nobody can tell."""

    name: str
    mode: str
    counter: str
    permits: int
    override: ExplainedOverride | None
    window_s: float
    cost: int
    remaining: int | None
    admits: bool | None
    retry_after_s: int | None


class ExplainedCredential(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the credential names, and what it may."""

    id: str
    kind: str
    tenant: str
    plan: str
    scopes: list[str]
    enabled: bool


class ExplainedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy would get."""

    front: str
    status: int
    headers: dict[str, str]
    body: str


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate would answer, and why."""

    allowed: bool
    status: int
    reason: str
    source: str
    retry_after_s: int | None
    steps: list[Step]
    credential: ExplainedCredential | None
    addresses: list[ListedAddress]
    limits: list[ExplainedLimit]
    shadow: list[str]
    answer: ExplainedAnswer


def explained(explain: Callable[[ExplainRequest], Awaitable[Mapping[str, object]]]) -> Operations:
    """The operation. `explain` may raise Problem, and returns the members of an Explained."""

    async def answer(call: Call[ExplainRequest, Nothing]) -> Answer[Mapping[str, object]]:
        return Answer(await explain(call.body))

    return (
        Operation(
            "POST",
            "/v1/explain",
            Role.VIEWER,
            "Explain what the gate would answer to a request",
            answer,
            body=ExplainRequest,
            at=Nothing,
            answer=Explained,
            errors={404: "There is no such key.", 409: "The record of the key cannot be read."},
            example={"address": "203.0.113.9", "method": "POST", "path": "/orders"},
        ),
    )
