"""Patterns against the dumbest matcher there is, and which rules concern a request."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Match
from sidecar.core.patterns import Matcher, Pattern


def as_regex(pattern: str) -> re.Pattern[str]:
    """The same as a regular expression; it may backtrack for ever, so it is for short texts alone."""
    bare = pattern.removesuffix("/*")
    ending = "" if bare == pattern else "(/.*)?"
    return re.compile(".*".join(map(re.escape, bare.split("*"))) + ending, re.DOTALL)


@given(pattern=st.text("ab/*", max_size=10), text=st.text("ab/", max_size=12))
def test_it_matches_what_the_regular_expression_matches(pattern: str, text: str) -> None:
    assert Pattern(pattern).matches(text) == (as_regex(pattern).fullmatch(text) is not None)


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("/login", ["/login"], ["/login/", "/Login", "/", "/login2", "x/login"]),
        ("/x/*", ["/x", "/x/", "/x/y/z"], ["/xy", "/", "/a/x"]),
        ("/*/admin/*", ["/t/admin", "/t/admin/", "/t/u/admin/x"], ["/admin", "/t/administrator"]),
        ("/*/*", ["/a", "/", "/a/b"], ["", "a"]),
        ("*.png", [".png", "/a/b.png"], ["/a.png/", "/apng"]),
        ("/a*b*c", ["/abc", "/a/b/c", "/abbcc"], ["/acb", "/ab"]),
        ("*", ["", "/", "/anything/at/all"], []),
        ("/aa*aa", ["/aaaa", "/aaxaa"], ["/aa", "/aaa"]),
    ],
)
def test_it_matches_anything_for_a_star(pattern: str, matched: list[str], others: list[str]) -> None:
    compiled = Pattern(pattern)

    assert [text for text in matched if not compiled.matches(text)] == []
    assert [text for text in others if compiled.matches(text)] == []


def test_it_takes_linear_time_for_hostile_text() -> None:
    pattern = Pattern("*a*a*a*a*a*a*a*a*a*a*b")

    assert not pattern.matches("a" * 100_000 + "c")


# --- match --------------------------------------------------------------------


def test_it_concerns_everything_without_demands() -> None:
    assert Matcher(Match()).route("GET", "shop.example", "/") == "*"


@pytest.mark.parametrize(
    ("request_line", "route"),
    [
        (("POST", "shop.example", "/login"), "/login"),
        (("POST", "www.shop.example", "/orders/7"), "/orders/*"),
        (("GET", "shop.example", "/login"), None),
        (("POST", "other.example", "/login"), None),
        (("POST", "shop.example", "/logout"), None),
    ],
)
def test_it_demands_everything_that_a_match_names(
    request_line: tuple[str, str, str], route: str | None
) -> None:
    matcher = Matcher(Match(("SHOP.example", "*.shop.example"), ("POST", "PUT"), ("/login", "/orders/*")))

    assert matcher.route(*request_line) == route


def test_it_names_the_route_after_the_first_pattern_that_matches() -> None:
    matcher = Matcher(Match(paths=("/a/*", "/a/b", "*")))

    assert [matcher.route("GET", "", path) for path in ("/a/b", "/a", "/c")] == ["/a/*", "/a/*", "*"]


@given(path=st.text(max_size=40))
def test_it_makes_no_more_routes_than_there_are_patterns(path: str) -> None:
    matcher = Matcher(Match(paths=("/a/*", "*.png", "*")))

    assert matcher.route("GET", "", path) in {"/a/*", "*.png", "*"}
