"""`GET /v1/top`, without sockets: from what was added up to what is shown."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from sidecar.admin.operations import Answer, Call, Nothing
from sidecar.admin.tokens import Role
from sidecar.admin.top import MOST, TopPlace, TopShown, top
from sidecar.control.top import TopAnswer
from sidecar.core.sketch import By, Entry

NOBODY: dict[By, tuple[Entry, ...]] = dict.fromkeys(By, ())


class Fleet:
    """Answers what the test says, and remembers how much was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.answer = TopAnswer(0, 0, NOBODY, NOBODY)

    async def read(self, most: int) -> TopAnswer:
        self.asked.append(most)
        return self.answer


def shown(fleet: Fleet, place: TopPlace) -> object:
    async def performed() -> Answer[TopShown]:
        (operation,) = top(fleet.read)
        answer: Answer[TopShown] = await operation.perform(Call(Nothing(), place, "anna", Role.VIEWER, None))
        return answer

    answer = asyncio.run(performed())
    assert answer.epoch is None
    return msgspec.to_builtins(answer.members)


def test_it_shows_each_list_with_what_is_certain_and_what_is_possible() -> None:
    fleet = Fleet()
    fleet.answer = TopAnswer(
        287,
        2,
        NOBODY | {By.ADDRESS: (Entry("203.0.113.9", 12, 2), Entry("192.0.2.1", 3, 0))},
        NOBODY | {By.ROUTE: (Entry("/login", 7, 0),)},
    )

    assert shown(fleet, TopPlace()) == {
        "since_s": 287,
        "replicas": 2,
        "heaviest": {
            "addresses": [
                {"name": "203.0.113.9", "requests": 10, "at_most": 12},
                {"name": "192.0.2.1", "requests": 3, "at_most": 3},
            ],
            "keys": [],
            "routes": [],
        },
        "refused": {
            "addresses": [],
            "keys": [],
            "routes": [{"name": "/login", "refused": 7, "at_most": 7}],
        },
    }


@pytest.mark.parametrize("limit", [1, MOST])
def test_it_asks_for_as_many_as_the_caller_wants(limit: int) -> None:
    fleet = Fleet()

    shown(fleet, TopPlace(limit=limit))

    assert fleet.asked == [limit]


@pytest.mark.parametrize("limit", ["0", "-1", str(MOST + 1), "ten", "1.5", ""])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"limit": limit}, TopPlace, strict=False)


def test_its_example_is_one() -> None:
    (operation,) = top(Fleet().read)

    assert msgspec.convert(operation.answer_example, TopShown).replicas == 8
    assert operation.role is Role.VIEWER
    assert not operation.changes
