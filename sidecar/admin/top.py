"""`GET /v1/top`: the heaviest and the most refused addresses, keys and routes of the last minutes.

Reads what the replicas told; who counts how is `core.sketch`'s and `control.top`'s.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sidecar.admin.operations import Answer, Call, Nothing, Operation, Operations
from sidecar.admin.tokens import Role
from sidecar.control.top import TopAnswer
from sidecar.core.sketch import By, Entry

USUAL: Final = 10
MOST: Final = 100
"""More than one replica tells: several list different names."""


class TopPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many of each."""

    limit: Annotated[int, Meta(ge=1, le=MOST, description="Names in each list.")] = USUAL


Name = Annotated[
    str,
    Meta(
        description="An address (of IPv6 the network that limits count), the public id of a key, or a route: the "
        "pattern of a limit, else the first segment of the path."
    ),
]
AtMost = Annotated[int, Meta(ge=0, description="The sketch is bounded; the true number is not above this.")]


class Heavy(msgspec.Struct, frozen=True, kw_only=True):
    """A name, and how many requests were its at least. Estimated from a sample where many come."""

    name: Name
    requests: Annotated[int, Meta(ge=0)]
    at_most: AtMost


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A name, and how many of its requests were refused at least. Estimated from a sample where many come."""

    name: Name
    refused: Annotated[int, Meta(ge=0)]
    at_most: AtMost


class HeaviestOf(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks most, the heaviest first."""

    addresses: list[Heavy]
    keys: list[Heavy]
    routes: list[Heavy]


class RefusedOf(msgspec.Struct, frozen=True, kw_only=True):
    """Who is refused most, the most refused first."""

    addresses: list[Refused]
    keys: list[Refused]
    routes: list[Refused]


class TopShown(msgspec.Struct, frozen=True, kw_only=True):
    """The last minutes, summed over the replicas that saw requests in them."""

    since_s: Annotated[int, Meta(ge=0, description="Seconds that are covered, at most.")]
    replicas: Annotated[int, Meta(ge=0)]
    heaviest: HeaviestOf
    refused: RefusedOf


def top(read: Callable[[int], Awaitable[TopAnswer]]) -> Operations:
    """The operation. `read` is told how many names each list may have."""

    async def show(call: Call[Nothing, TopPlace]) -> Answer[TopShown]:
        answer = await read(call.at.limit)
        heaviest = {by.value: _heavy(answer.heaviest[by]) for by in By}
        refused = {by.value: _refused(answer.refused[by]) for by in By}
        return Answer(
            TopShown(
                since_s=answer.since_s,
                replicas=answer.replicas,
                heaviest=HeaviestOf(**heaviest),
                refused=RefusedOf(**refused),
            )
        )

    return (
        Operation(
            "GET",
            "/v1/top",
            Role.VIEWER,
            "Heaviest and most refused",
            show,
            body=Nothing,
            at=TopPlace,
            answer=TopShown,
            answer_example=_EXAMPLE,
        ),
    )


def _heavy(entries: Sequence[Entry]) -> list[Heavy]:
    return [Heavy(name=entry.name, requests=entry.at_least, at_most=entry.at_most) for entry in entries]


def _refused(entries: Sequence[Entry]) -> list[Refused]:
    return [Refused(name=entry.name, refused=entry.at_least, at_most=entry.at_most) for entry in entries]


_EXAMPLE = {
    "since_s": 287,
    "replicas": 8,
    "heaviest": {
        "addresses": [{"name": "203.0.113.9", "requests": 48_210, "at_most": 48_340}],
        "keys": [],
        "routes": [{"name": "/orders/*", "requests": 90_114, "at_most": 90_114}],
    },
    "refused": {
        "addresses": [{"name": "203.0.113.9", "refused": 47_700, "at_most": 47_830}],
        "keys": [],
        "routes": [{"name": "/orders/*", "refused": 47_702, "at_most": 47_702}],
    },
}
