"""What config refuses: everything is listed, nothing secret is shown, nothing else is raised."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import config
from sidecar.config import Config, ConfigError
from sidecar.document.yaml_text import Tree

KEYS = [
    *(
        "listen",
        "store",
        "addresses",
        "limits",
        "filters",
        "default",
        "workers",
        "check",
        "url",
        "deny",
        "cidrs",
    ),
    *(
        "files",
        "name",
        "per",
        "permits",
        "window",
        "cost",
        "match",
        "paths",
        "plans",
        "header",
        "max",
        "envoy",
        "credentials",
        "mode",
        "headers",
        "tokens",
        "jwt",
        "jwks",
        "patterns",
        "public",
    ),
]
WORDS = [
    "ip",
    "1m",
    "a",
    "/x",
    "10.0.0.0/8",
    "unix:a",
    "redis://:pw@r",
    "GET",
    "header:X",
    "\0",
    "drop.txt",
    "",
]

trees: st.SearchStrategy[Tree] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner)
    ),
    max_leaves=25,
)


# --- the environment and secrets ------------------------------------------------


def test_it_lets_the_environments_store_win() -> None:
    read = parse("store: {url: 'redis://a'}", env={"PORTCULLIS_STORE_URL": "redis://:hunter2@b"})

    assert read.store.url == "redis://:hunter2@b"
    assert parse("store: {url: 'redis://a'}", env={"PORTCULLIS_STORE_URL": ""}).store.url == "redis://a"


def test_it_refuses_a_bad_store_in_the_environment_by_its_name() -> None:
    problems = refused("workers: 0", env={"PORTCULLIS_STORE_URL": "redis://:hunter2@b/x"})

    assert [(problem.path, problem.line) for problem in problems] == [
        ("PORTCULLIS_STORE_URL", 0),
        ("workers", 1),
    ]
    assert "hunter2" not in str(problems)


@pytest.mark.parametrize(
    "text",
    [
        "store: {url: 'redis://:hunter2@redis:6379/x'}",
        "store: {url: 'redis://:hunter2@'}",
        "store: {url: 'redis://:hunter/2@redis'}",
        "store: {url: 'redis:/:hunter2@redis'}",
        "store: {url: hunter2}",
        "store: {url: [hunter2]}",
        "store: {url: {password: hunter2}}",
        "store: {url: 'http://a:hunter2@redis'}",
        "store: redis://:hunter2@redis",
        "store: {ur1: 'redis://:hunter2@redis'}",
        "store: {password: hunter2}",
        "store: {prefix: 'redis://:hunter2@redis'}",
        "password: hunter2",
        "store: {url: 'redis://:hunter2@redis'",
        "store: {url: 'redis://:hunter2@redis', url: a}",
        "store: {url: !secret hunter2}",
        "trusted_proxies: ['redis://:hunter2@redis']",
        "credentials: {mode: registry, jwt: [{jwks: {url: 'https://me:hunter2@idp.example'}}]}",
        "credentials: {mode: registry, tokens: {issuer: 'https://me:hunter2@gate.example'}}",
        "credentials: {mode: registry, tokens: {keys: ['-----BEGIN PRIVATE KEY----- hunter2']}}",
    ],
)
def test_it_never_shows_a_secret(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)

    assert "hunter" not in str(error.value)
    assert "hunter" not in repr(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_it_does_not_show_the_password_of_a_configuration_that_is_right() -> None:
    read = parse("store: {url: 'redis://app:hunter2@redis'}")

    assert "hunter2" not in repr(read)
    assert read.store.shown_url == "redis://app:***@redis"


# --- errors ---------------------------------------------------------------------


def test_it_reports_all_problems_of_a_document_at_once(tmp_path: Path) -> None:
    text = """\
listen: {check: ["nowhere"], admn: "127.0.0.1:1"}
store:
  deadline_ms: 0
  outage: maybe
attack_mode: {status: 200}
addresses: {deny: {cidrs: [10.0.0.1/8], files: [gone.txt]}}
limits:
  - {name: a, per: [ip], permits: 10, window: 0s}
  - {name: b, per: [ip], permits: 10, window: 1m, cost: 11}
  - {name: a, per: [tenant], permits: 10, window: 1m}
filters:
  - {name: b, methods: [get]}
default: maybe
"""

    with pytest.raises(ConfigError) as error:
        config.parse(text, name="portcullis.yaml", folder=tmp_path)

    lines = str(error.value).splitlines()
    assert lines[0] == "portcullis.yaml: 14 problems"
    assert [line.split(": ")[0] for line in lines[1:]] == [
        "  listen.admn",
        "  listen.check[0]",
        "  store.deadline_ms",
        "  store.outage",
        "  attack_mode.status",
        "  addresses.deny.cidrs[0]",
        "  addresses.deny.files[0]",
        "  limits[0].window",
        "  limits[1].cost",
        "  limits[2].name",
        "  limits[2].per[0]",
        "  filters[0].methods[0]",
        "  filters[0].name",
        "  default",
    ]
    assert lines[8] == '  limits[0].window: "0s": expected 1s to 31d (line 8)'


def test_it_says_where_the_text_is_not_yaml() -> None:
    with pytest.raises(ConfigError) as error:
        parse("workers: 1\nworkers: 2\n")

    assert str(error.value) == (
        "portcullis.yaml: 1 problem\n  column 1: the key 'workers' stands here twice: remove one (line 2)"
    )


def test_it_names_the_nearest_written_line_of_what_is_missing() -> None:
    problems = refused("workers: 1\nlimits:\n- name: a\n  per: [ip]\n  permits: 1\n")

    assert [(problem.path, problem.line) for problem in problems] == [("limits[0].window", 3)]


def test_it_refuses_a_filter_that_demands_nothing_and_opens_nothing() -> None:
    problems = refused("filters: [{name: a, match: {paths: [/open]}}]")

    assert [problem.path for problem in problems] == ["filters[0]"]
    assert len(parse("default: deny\nfilters: [{name: a, match: {paths: [/open]}}]").filters) == 1


@given(trees)
@example({"limits": {"a": 1}, "filters": 5})
@example({"filters": [{"name": "\ud800"}]})
def test_it_raises_nothing_but_its_error_for_any_structure(tree: Tree) -> None:
    expect_config_or_error(yaml.safe_dump(tree, allow_unicode=True))


@given(st.text(alphabet="listen:checkur[]{},&*!|>'\"%#? \n\t~1<@`.\\/", max_size=60) | st.text())
def test_it_raises_nothing_but_its_error_for_any_text(text: str) -> None:
    expect_config_or_error(text)


@given(
    st.dictionaries(
        st.sampled_from(["listen", "store", "limits", "filters", "addresses", "credentials", "patterns"]),
        trees,
    )
)
def test_it_raises_nothing_but_its_error_inside_any_section(tree: dict[str, Tree]) -> None:
    expect_config_or_error(yaml.safe_dump(tree))


def parse(text: str, *, folder: Path = Path("/gate"), env: dict[str, str] | None = None) -> Config:
    return config.parse(text, name="portcullis.yaml", folder=folder, env=env or {})


def refused(
    text: str, *, folder: Path = Path("/gate"), env: dict[str, str] | None = None
) -> tuple[config.Problem, ...]:
    with pytest.raises(ConfigError) as error:
        parse(text, folder=folder, env=env)
    return error.value.problems


def expect_config_or_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Config)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1 + len(error.problems)
