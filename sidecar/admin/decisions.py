"""`GET /v1/decisions/{request_id}`: what this gate decided about one request, of those that it still knows.

Known are the last decisions of each of this gate's processes that the log told of, or would have told of with a higher
bound; see `decision_log`. What other gates decided they know themselves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final

import msgspec

from sidecar.admin.operations import Answer, Call, Nothing, Operation, Operations, matching
from sidecar.admin.problems import Problem
from sidecar.admin.tokens import Role
from sidecar.log_lines import Decision

MOST: Final = 20
"""A client may send one id with every request; the last ones are shown."""

Find = Callable[[str], Awaitable[Sequence[bytes]]]
"""The lines of the decisions with a request id, of all processes of this gate."""


class DecisionPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which request."""

    request_id: Annotated[
        str, matching("[A-Za-z0-9._-]{1,128}", description="What the answer's `X-Request-Id` said.")
    ]


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """The decisions with this request id, the oldest first, as the log tells them."""

    decisions: list[Decision]


def decisions(find: Find) -> Operations:
    """The operation."""

    async def show(call: Call[Nothing, DecisionPlace]) -> Answer[Decisions]:
        lines = await find(call.at.request_id)
        if not lines:
            raise Problem(
                404,
                "This gate does not know a decision with this request id: it keeps the last refusals, in a flood not "
                "each of them, and of the allowed requests those that log.sample chooses. Other gates keep their own.",
            )
        found = [msgspec.json.decode(line, type=Decision) for line in lines]
        found.sort(key=lambda decision: decision.ts)
        return Answer(Decisions(decisions=found[-MOST:]))

    return (
        Operation(
            "GET",
            "/v1/decisions/{request_id}",
            Role.VIEWER,
            "What was decided about a request",
            show,
            body=Nothing,
            at=DecisionPlace,
            answer=Decisions,
            errors={404: "This gate does not know a decision with this id, or not any more."},
            answer_example={"decisions": [EXAMPLE]},
        ),
    )


EXAMPLE: Final = {
    "ts": "2026-03-01T12:00:00.123Z",
    "event": "refused",
    "front": "nginx",
    "reason": "rate_limited",
    "status": 429,
    "source": "memory",
    "rule": "per-key",
    "limits": ["per-key"],
    "shadow": [],
    "retry_after_s": 12,
    "address": "203.0.113.9",
    "method": "POST",
    "host": "shop.example",
    "path": "/orders",
    "request_id": "6f3c1f0a9b2e-1a4",
    "key": "k_mzxw6ytboi5tqmrt",
    "tenant": "acme",
    "kind": "server",
    "elapsed_us": 31,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
}
