"""rules: sections become limits and filters, and no two share a name."""

from __future__ import annotations

import pytest

from sidecar.core.model import (
    Cost,
    Counts,
    Detecting,
    Dimension,
    Filter,
    Limit,
    Match,
    Mode,
    Outage,
    Place,
    Severity,
    Suspicion,
)
from sidecar.core.starter_patterns import STARTER
from sidecar.document.rules import filter_of, filters_without_demand, limit_of, pattern_sets, same_names
from sidecar.document.schema import Document, FilterSection, LimitSection
from sidecar.document.walk import Problem, read_struct
from sidecar.document.yaml_text import read_yaml

LIMIT = "name: a, per: [ip], permits: 50, window: 1m"


def test_it_makes_a_limit_of_a_section() -> None:
    section = _limit(
        "{name: login, per: [ip, 'header:X-U'], permits: 5, window: 1h, block_for: 10m, mode: shadow,"
        " outage: closed, match: {hosts: [A.b], methods: [POST], paths: [/login]}, plans: {gold: 9}}"
    )

    assert limit_of(section, Outage.OPEN) == Limit(
        name="login",
        per=(Dimension("ip"), Dimension("header", b"x-u")),
        permits=5,
        window_ms=3_600_000,
        slice_ms=60_000,
        match=Match(hosts=("a.b",), methods=("POST",), paths=("/login",)),
        mode=Mode.SHADOW,
        outage=Outage.CLOSED,
        block_ms=600_000,
        lease=False,
        plans={"gold": 9},
    )


def test_it_takes_the_stores_outage_where_the_limit_says_none() -> None:
    assert limit_of(_limit(f"{{{LIMIT}}}"), Outage.OPEN).outage is Outage.OPEN


@pytest.mark.parametrize(
    ("window", "slices", "slice_ms"), [("1m", 60, 1000), ("1s", 60, 20), ("1s", 7, 143), ("1h", 1, 3_600_000)]
)
def test_it_cuts_the_window_into_slices_of_at_least_20_ms(window: str, slices: int, slice_ms: int) -> None:
    section = _limit(f"{{name: a, per: [ip], permits: 1, window: {window}, slices: {slices}}}")

    assert limit_of(section, Outage.LOCAL).slice_ms == slice_ms


@pytest.mark.parametrize(
    ("cost", "read"),
    [
        ("", Cost()),
        (", cost: 3", Cost(fixed=3, most=3)),
        (", cost: 'header:X-Cost'", Cost(header=b"x-cost", most=50)),
        (", cost: {header: X-Cost}", Cost(header=b"x-cost", most=50)),
        (", cost: {header: X-Cost, max: 10}", Cost(header=b"x-cost", most=10)),
        (", cost: 'header:X-Cost', plans: {low: 20, none: 0}", Cost(header=b"x-cost", most=20)),
    ],
)
def test_it_reads_every_form_of_a_cost(cost: str, read: Cost) -> None:
    assert limit_of(_limit(f"{{{LIMIT}{cost}}}"), Outage.LOCAL).cost == read


@pytest.mark.parametrize(
    ("keys", "lease"), [("", True), (", lease: never", False), (", block_for: 1m, lease: auto", False)]
)
def test_it_never_leases_a_limit_that_blocks(keys: str, lease: bool) -> None:
    assert limit_of(_limit(f"{{{LIMIT}{keys}}}"), Outage.LOCAL).lease is lease


def test_it_makes_a_filter_of_a_section() -> None:
    document, problems = _document(
        "filters: [{name: f, match: {paths: [/a]}, mode: shadow, require: allow, deny: true, methods: [GET],"
        " content_types: [text/plain], max_body: 0, tls_min: '1.2'}]"
    )

    assert problems == []
    assert filter_of(document.filters[0], {}) == Filter(
        name="f",
        match=Match(paths=("/a",)),
        mode=Mode.SHADOW,
        require_allow=True,
        deny=True,
        methods=("GET",),
        content_types=("text/plain",),
        max_body=0,
        tls_min="1.2",
    )


def test_it_makes_a_limit_of_failures_of_a_section() -> None:
    section = _limit("{name: a, per: [ip], permits: 5, window: 1m, counts: credential_failures}")

    assert limit_of(section, Outage.LOCAL).counts is Counts.CREDENTIAL_FAILURES


def test_it_makes_a_filter_about_who_asks_of_a_section() -> None:
    document, problems = _document(
        "filters: [{name: f, match: {kinds: [client], plans: [gold], scopes: [a]}, kinds: [client, server],"
        " scopes: [orders.write], origins: [A.example]}]"
    )

    assert problems == []
    assert filter_of(document.filters[0], {}) == Filter(
        name="f",
        match=Match(kinds=("client",), plans=("gold",), scopes=("a",)),
        kinds=("client", "server"),
        scopes=("orders.write",),
        origins=("a.example",),
    )


def test_it_gathers_what_a_filter_looks_for() -> None:
    document, problems = _document(
        "patterns: {bots: [{name: evil, pattern: '(?i)evil', in: [headers, path], severity: warning},"
        " {name: worse, pattern: worse, in: [query]}]}\n"
        "filters: [{name: f, patterns: [xss, bots], threshold: 3, headers: [X-A, x-a]}, {name: g, patterns: [bots]}]"
    )
    own = (
        Suspicion("bots/evil", "(?i)evil", (Place.HEADERS, Place.PATH), Severity.WARNING),
        Suspicion("bots/worse", "worse", (Place.QUERY,), Severity.CRITICAL),
    )

    first, second = [filter_of(section, document.patterns).detecting for section in document.filters]

    assert problems == []
    assert first == Detecting((*STARTER["xss"], *own), threshold=3, headers=(b"x-a",))
    assert second == Detecting(own, threshold=5, headers=(b"user-agent", b"referer"))


def test_it_says_which_sets_of_patterns_do_not_exist_or_are_taken() -> None:
    tree = read_yaml(
        "patterns: {xss: [], bots: [{name: a}, {name: b}, {name: a}, x, {}], 5a: 7}\n"
        "filters: [{name: f, patterns: [sql-injection, bots, bot, 5]}, x, {patterns: 5}]"
    ).tree

    assert [(problem.path, problem.message) for problem in pattern_sets(tree)] == [
        ("patterns.xss", "a set that the gate brings along has this name: take another"),
        ("patterns.bots[2].name", '"a": patterns.bots[0] has this name already: take another'),
        ("filters[0].patterns[2]", "\"bot\": there is no such set: did you mean 'bots'?"),
    ]


def test_it_says_which_rule_has_the_name_already() -> None:
    tree = read_yaml(
        "limits: [{name: a}, {name: b}, {name: a}, x, {}]\nfilters: [{name: b}, {name: [a]}]"
    ).tree

    assert [(problem.path, problem.message[:22]) for problem in same_names(tree)] == [
        ("limits[2].name", '"a": limits[0] has thi'),
        ("filters[0].name", '"b": limits[1] has thi'),
    ]


@pytest.mark.parametrize("keys", ["kinds: [server]", "scopes: [a]", "patterns: [xss]", "max_body: 0"])
def test_it_sees_every_kind_of_demand(keys: str) -> None:
    document, problems = _document(f"filters: [{{name: f, {keys}}}]")

    assert list(filters_without_demand(document, problems)) == []


@pytest.mark.parametrize("keys", ["", ", deny: false", ", match: {paths: [/a]}"])
def test_it_takes_a_filter_without_demand_only_where_passing_opens(keys: str) -> None:
    allowing, _ = _document(f"filters: [{{name: f{keys}}}]")
    denying, _ = _document(f"filters: [{{name: f{keys}}}]\ndefault: deny")

    assert [problem.path for problem in filters_without_demand(allowing, [])] == ["filters[0]"]
    assert list(filters_without_demand(denying, [])) == []


def test_it_does_not_blame_a_filter_whose_demand_could_not_be_read() -> None:
    document, problems = _document("filters: [{name: f, max_body: much}]")

    assert FilterSection(name="f") in document.filters
    assert list(filters_without_demand(document, problems)) == []


def _limit(text: str) -> LimitSection:
    document, problems = _document(f"limits: [{text}]")
    assert problems == []
    return document.limits[0]


def _document(text: str) -> tuple[Document, list[Problem]]:
    problems: list[Problem] = []
    return read_struct(read_yaml(text).tree, Document, problems), problems
