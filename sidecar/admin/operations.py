"""What the admin API can be asked: each operation is declared once, and everything follows from that.

    bodies and answers as Structs, a coroutine, an `Operation` that ties them together
        ├── `frame`    routing, role, decoding, If-Match, wait, errors
        ├── `openapi`  its part of the document
        └── tests      every role on it, its examples, and whether the document tells the truth

A resource is a file with a function that is given what it needs and returns its operations:

    class Rename(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        \"""A new name, and why.\"""

        name: Annotated[str, Meta(min_length=1, max_length=63, description="What it is called.")]
        reason: Reason = ""

        def problems(self) -> Iterator[tuple[str, str]]:      # where members must agree; may be left out
            yield from reason_problems(self.reason)

    class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
        \"""The path's parameters and the query's in one.\"""

        id: Annotated[str, matching("[a-z]{1,20}")]           # `{id}` of the path: 404 when it is none
        loud: bool = False                                    # ?loud=true: 400 when it is none

    class Renamed(msgspec.Struct, frozen=True, kw_only=True):
        name: str

    def things(changes: Changes, fleet: Fleet) -> Operations:
        async def rename(call: Call[Rename, Place]) -> Answer[Renamed]:
            if call.at.id not in known:
                raise Problem(404, f"There is no {call.at.id}.")
            changed = await changes.change("things", put=[call.at.id], payload={"name": call.body.name},
                actor=call.actor, action="thing.rename", reason=call.body.reason, if_epoch=call.if_epoch)
            return Answer(Renamed(name=call.body.name), changed=changed)

        return (
            Operation("PUT", "/v1/things/{id}", Role.OPERATOR, "Rename a thing", rename,
                body=Rename, at=Place, answer=Renamed, fleet=fleet, example={"name": "x", "reason": "why"}),
        )

and one line in `resources`. With `fleet` the operation is one that changes something: it takes `If-Match`
and `wait`, the answer has the members of `Applied` beside its own, and the frame asks the fleet whether the
change has arrived. Without, `Answer(members, epoch=...)` gives the `ETag`.

A coroutine may let `Conflict` and `StoreUnavailable` pass: the frame words them. It raises `Problem` for what
it refuses itself, `refused` for members that do not fit. No coroutine changes anything before it has refused.

This module serves nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    NamedTuple,
    Protocol,
    TypeVar,
    runtime_checkable,
)

import msgspec
from msgspec import Meta

from sidecar.admin.problems import Problem
from sidecar.admin.tokens import Role
from sidecar.control.changes import Changed
from sidecar.control.fleet import Confirmed
from sidecar.core.control import Epoch
from sidecar.core.keys import holds_secret

MOST_BODY: Final = 64 * 1024
MOST_REASON: Final = 200
MOST_NAMED: Final = 20
"""Bad members of one body that an error names; the rest is counted."""

BodyT = TypeVar("BodyT")
AtT = TypeVar("AtT")
AnswerT = TypeVar("AnswerT")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No body, or no parameters."""


class Call(NamedTuple, Generic[BodyT, AtT]):
    """One request, read and permitted.

    actor     the name of the token, for the audit
    if_epoch  what `If-Match` demands; None when it demands nothing
    """

    body: BodyT
    at: AtT
    actor: str
    role: Role
    if_epoch: Epoch | None


class Answer(NamedTuple, Generic[AnswerT]):
    """What is answered: `members`, and either the epoch that they show or the change that was made."""

    members: AnswerT
    epoch: Epoch | None = None
    changed: Changed | None = None


class Fleet(Protocol):
    """Who has to follow a change. Both raise StoreUnavailable."""

    async def settled(self, epoch: Epoch) -> bool:
        """Wait until this gate's own processes have it; whether they have."""

    async def confirm(self, epoch: Epoch, wait_s: float) -> Confirmed:
        """Wait for all replicas, at most so long; who is missing."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[BodyT, AtT, AnswerT]):
    """One thing that can be asked.

    role     the least that a token must have
    summary  a few words, for the document
    body     Nothing: none is taken
    at       parameters: those that `path` names in braces, and the query's
    fleet    given for an operation that changes something: who has to follow
    errors   what it refuses beside what the frame does: status -> sentence, for the document
    example  a body, and what it is answered without the members of `Applied`
    """

    method: str
    path: str
    role: Role
    summary: str
    perform: Callable[[Call[BodyT, AtT]], Awaitable[Answer[AnswerT]]]
    body: type[BodyT]
    at: type[AtT]
    answer: type[AnswerT]
    fleet: Fleet | None = None
    status: int = 200
    most_body: int = MOST_BODY
    errors: Mapping[int, str] = field(default_factory=dict)
    example: Mapping[str, object] | None = None
    answer_example: Mapping[str, object] | None = None

    @property
    def changes(self) -> bool:
        return self.fleet is not None

    @property
    def takes_body(self) -> bool:
        return self.body is not Nothing

    @property
    def names_in_path(self) -> tuple[str, ...]:
        parts = self.path.split("/")
        return tuple(part[1:-1] for part in parts if part.startswith("{"))


def matching(pattern: str, *, description: str = "", examples: Sequence[str] = ()) -> Meta:
    """What a text matches as a whole.

    The document says it with `$`, as JSON Schema means it: Python's lets a line end follow.
    """
    return Meta(
        pattern=rf"\A(?:{pattern})\Z",
        description=description or None,
        examples=list(examples) or None,
        extra_json_schema={"pattern": f"^(?:{pattern})$"},
    )


# Operations of all bodies and answers stand in one list; nothing names what they have in common.
AnyOperation = Operation[Any, Any, Any]
Operations = tuple[AnyOperation, ...]

EpochText = Annotated[
    str,
    matching(
        "[0-9]{1,18}-[0-9a-f]{16}",
        description="The state of the control tables: a number that rises with each change, and a random id.",
        examples=["58-9f86d081884c7d65"],
    ),
]
MomentText = Annotated[
    str,
    Meta(
        description="A time in UTC, by the store's clock.",
        examples=["2026-11-22T05:00:00.123Z"],
        extra_json_schema={"format": "date-time"},
    ),
]
Reason = Annotated[
    str,
    Meta(
        max_length=MOST_REASON,
        description="Why, for the audit and for whoever looks later. No control characters.",
        extra_json_schema={
            "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]*$"
        },
    ),
]


class MissingReplica(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that has not confirmed: it is behind, or was not heard of for a while (lost)."""

    replica: str
    state: str
    epoch: EpochText
    silent_s: float


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether every replica has the change."""

    everywhere: bool
    replicas: int
    missing: list[MissingReplica]


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What every change is answered. `confirmed` is null without `wait`."""

    epoch: EpochText
    at: MomentText
    until: MomentText | None
    confirmed: Confirmation | None


@runtime_checkable
class Judged(Protocol):
    """A body that knows what its members must satisfy together."""

    def problems(self) -> Iterable[tuple[str, str]]:
        """Pairs of a member and what is wrong with it."""


def refused(problems: Iterable[tuple[str, str]]) -> Problem:
    """The refusal of members that do not fit: pairs of a member and what is wrong with it."""
    named = [f"{member}: {why}" for member, why in problems]
    more = len(named) - MOST_NAMED
    text = "; ".join(named[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
    return Problem(400, f"{text}.")


def reason_problems(reason: str, member: str = "reason") -> Iterator[tuple[str, str]]:
    """What makes a text unfit for terminals and logs: control characters, those that turn it around, secrets."""
    if holds_secret(reason):
        yield member, "holds the secret of a key: leave it out, and rotate the key"
    if any(_unfit(char) for char in reason):
        yield member, "holds a control character: write it as plain text on one line"


def _unfit(char: str) -> bool:
    return (
        unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}
        or "\u202a" <= char <= "\u202e"
        or "\u2066" <= char <= "\u2069"
    )
