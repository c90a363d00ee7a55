"""The control state in steps: a book never stops the process for long, and never changes what it handed out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

import pytest

from sidecar.core.control import LISTS, MERGE_FROM, Book, Control, Delta
from tests.core.test_control import CIDRS, NOW_MS, OFF, ON, SUBJECTS, applied, delta, epoch, finish

T = TypeVar("T")

MANY = 50_000
MOST_AT_ONCE = 6_000
"""Fields between two yields: one change's 5 000, and a little."""


def many(count: int = MANY) -> list[str]:
    return [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32" for number in range(count)]


class Counted:
    """Counts the fields that are taken from it, and the most between two yields."""

    def __init__(self) -> None:
        self.since = self.most = self.total = 0

    def fields(self, fields: Iterable[str]) -> Iterable[str]:
        for field in fields:
            self.since += 1
            self.total += 1
            yield field

    def run(self, steps: Generator[None, None, T]) -> tuple[T, int]:
        """What the steps make, and how many they are."""
        yields = 0
        while True:
            try:
                next(steps)
            except StopIteration as ended:
                self.most = max(self.most, self.since)
                value: T = ended.value
                return value, yields
            yields += 1
            self.most, self.since = max(self.most, self.since), 0


def test_it_applies_many_fields_in_steps() -> None:
    fields, counted = many(), Counted()

    def deltas() -> Iterable[Delta]:
        for number, start in enumerate(range(0, MANY, 5_000), 1):
            part = tuple(counted.fields(fields[start : start + 5_000]))
            yield delta(number, "deny", part, until_ms=NOW_MS + 1)

    book = Book()
    control, yields = counted.run(book.apply_steps(deltas(), NOW_MS))

    assert counted.total == MANY
    assert counted.most <= MOST_AT_ONCE
    assert yields > MANY / MOST_AT_ONCE
    assert len(control.deny) == MANY


def test_it_lets_many_expire_in_steps() -> None:
    book = Book()
    fields = many(10_000)
    for name in ("deny", "allow"):
        applied(book, delta(1, name, fields, until_ms=NOW_MS + 10))

    yields = 0
    for _ in book.expire_steps(NOW_MS + 10):
        yields += 1
        # As long as the state in force lists them, whoever writes it down must not take them for lasting.
        assert all(len(book.expiring(name)) >= len(book.control.lists[name]) for name in ("deny", "allow"))

    assert yields > 20
    assert len(book.control.deny) == 0
    assert dict(book.expiring("deny")) == {}


def test_it_tidies_in_steps_and_only_when_it_is_worth_it() -> None:
    book = Book()
    fields = many(MERGE_FROM)
    for number, start in enumerate(range(0, MERGE_FROM, 100), 1):
        assert finish(book.tidy_steps()) is book.control
        applied(book, delta(number, "deny", fields[start : start + 100]))
    pending = book.control
    assert pending.deny.pending == MERGE_FROM

    tidied, yields = Counted().run(book.tidy_steps())

    assert yields > 0
    assert tidied is book.control
    assert tidied is not pending
    assert tidied.deny.pending == 0
    assert tidied.epoch == pending.epoch
    assert set(tidied.deny.prefixes()) == set(pending.deny.prefixes()) == set(fields)
    assert finish(book.tidy_steps()) is tidied


@pytest.mark.parametrize("table", [*LISTS, "attack", "overrides"])
def test_it_never_changes_a_state_that_was_handed_out(table: str) -> None:
    fields = CIDRS if table in LISTS else SUBJECTS[table]
    until_ms = NOW_MS + 10
    changes: list[Callable[[Book], Generator[None, None, Control]]] = [
        lambda book: book.apply_steps([delta(2, table, delete=fields)], NOW_MS),
        lambda book: book.apply_steps([delta(2, table, fields, payload=OFF, until_ms=until_ms)], NOW_MS),
        lambda book: book.expire_steps(NOW_MS + 10),
        lambda book: book.replace_steps(epoch(9), {}, {}, NOW_MS),
    ]
    for change in changes:
        book = Book()
        control = applied(book, delta(1, table, fields, payload=ON, until_ms=until_ms))
        before = _told(control)
        for _ in change(book):
            assert book.control is control, "in force only at the end"
        assert book.control is not control
        assert _told(control) == before


def _told(control: Control) -> object:
    lists = {name: set(addresses.prefixes()) for name, addresses in control.lists.items()}
    return (
        control.epoch,
        lists,
        dict(control.attack),
        dict(control.overrides),
        control.attacked,
        control.attack_on,
    )
