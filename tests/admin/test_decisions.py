"""`GET /v1/decisions/{request_id}`, without sockets: what is shown of what was found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from sidecar.admin.decisions import EXAMPLE, MOST, DecisionPlace, Decisions, decisions
from sidecar.admin.operations import Answer, Call, Nothing
from sidecar.admin.problems import Problem
from sidecar.admin.tokens import Role


def line(second: int, path: str) -> bytes:
    ts = f"2026-03-01T12:00:{second:02d}.000Z"
    return msgspec.json.encode(EXAMPLE | {"ts": ts, "path": path})


def shown(lines: Sequence[bytes]) -> list[str]:
    """The paths of what is answered."""

    async def find(request_id: str) -> Sequence[bytes]:
        assert request_id == "r-1"
        return lines

    async def performed() -> Answer[Decisions]:
        (operation,) = decisions(find)
        place = DecisionPlace(request_id="r-1")
        answer: Answer[Decisions] = await operation.perform(Call(Nothing(), place, "vera", Role.VIEWER, None))
        return answer

    return [decision.path for decision in asyncio.run(performed()).members.decisions]


def test_it_shows_the_decisions_of_all_processes_in_the_order_of_time() -> None:
    assert shown([line(3, "/c"), line(1, "/a"), line(2, "/b")]) == ["/a", "/b", "/c"]


def test_of_many_with_one_id_it_shows_the_last() -> None:
    assert shown([line(second, f"/{second}") for second in range(MOST + 5)]) == [
        f"/{second}" for second in range(5, MOST + 5)
    ]


def test_it_says_that_it_knows_none() -> None:
    with pytest.raises(Problem) as refused:
        shown([])

    assert refused.value.status == 404
