"""walk: every mistake of a tree is found, and what could be read is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from sidecar.core.keys import secret_of
from sidecar.document.walk import Problem, read_struct, shown
from sidecar.document.yaml_text import Tree

trees: st.SearchStrategy[Tree] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "size", "items", "least", "most"]) | st.text(), inner)
    ),
    max_leaves=12,
)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    size: Annotated[int, Meta(ge=1, le=9)] = 5


class Box(msgspec.Struct, frozen=True, kw_only=True):
    items: tuple[Item, ...] = ()
    least: int = 0
    most: int = 10

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.least > self.most:
            yield "least", "more than most"


def test_it_finds_every_problem_and_keeps_what_could_be_read() -> None:
    problems: list[Problem] = []

    box = read_struct(
        {"items": [{"size": 3}, {"name": "b", "size": 10}, 7], "least": "x", "most": 4, "mots": 1},
        Box,
        problems,
    )

    assert [problem.path for problem in problems] == [
        "mots",
        "items[0].name",
        "items[1].size",
        "items[2]",
        "least",
    ]
    assert box == Box(items=(Item(name="b"),), most=4)


def test_it_asks_what_fields_must_satisfy_together() -> None:
    problems: list[Problem] = []

    read_struct({"least": 5, "most": 4}, Box, problems)

    assert problems == [Problem("least", "more than most")]


def test_it_does_not_blame_fields_together_when_one_could_not_be_read() -> None:
    problems: list[Problem] = []

    read_struct({"least": 11, "most": "many"}, Box, problems)

    assert [problem.path for problem in problems] == ["most"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (1.5, "1.5"),
        ("a\x1b[31m", '"a\\u001b[31m"'),
        ("\u202e", '"?"'),
        ("x" * 100, '"' + "x" * 55 + '..."'),
        (["secret"], "a list"),
        ({"secret": 1}, "a mapping"),
        ("redis://:hunter2@redis", '"redis://:***@redis"'),
        ("me:hunter2@redis", '"***"'),
        ("x " + secret_of(bytes(32)), '"***"'),
    ],
)
def test_it_shows_values_short_printable_and_without_passwords(value: Tree, text: str) -> None:
    assert shown(value) == text


@given(trees)
def test_it_reads_any_tree(tree: Tree) -> None:
    problems: list[Problem] = []

    box = read_struct(tree, Box, problems)

    assert isinstance(box, Box)
    assert all(isinstance(item, Item) for item in box.items)
    assert all(problem.message.isprintable() for problem in problems)
