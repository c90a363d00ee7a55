"""registry: what can only act where keys are checked is refused by name elsewhere, with the way out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.document.registry import public_without_tokens, without_registry
from sidecar.document.yaml_text import Tree, read_yaml

trees: st.SearchStrategy[Tree] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["tenant", "credential_failures", "off"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["limits", "filters", "match", "per", "kinds", "counts", "credentials", "listen", "public"]
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("credentials: {bearer: true}", "credentials.bearer", "no token is read"),
        ("credentials: {bearer: false}", "credentials.bearer", "no token is read"),
        ("credentials: {server: {}}", "credentials.server", "no pair of headers"),
        ("credentials: {client: {id: X-A}}", "credentials.client", "no pair of headers"),
        ("credentials: {roles: {a: [b]}}", "credentials.roles", "no key has scopes"),
        ("credentials: {tenants: {}}", "credentials.tenants", "no key has a tenant"),
        ("credentials: {tokens: {}}", "credentials.tokens", "nobody could be given one"),
        ("credentials: {jwt: []}", "credentials.jwt", "no token is read"),
        ("limits: [{}, {per: [ip, tenant]}]", "limits[1].per[1]", '"tenant": nobody has a tenant'),
        ("limits: [{plans: {gold: 1}}]", "limits[0].plans", "nobody has a plan"),
        (
            "limits: [{counts: credential_failures}]",
            "limits[0].counts",
            '"credential_failures": no credential',
        ),
        ("limits: [{match: {kinds: [client]}}]", "limits[0].match.kinds", "everybody is anonymous"),
        ("limits: [{match: {plans: [gold]}}]", "limits[0].match.plans", "everybody is anonymous"),
        ("limits: [{match: {scopes: [a]}}]", "limits[0].match.scopes", "everybody is anonymous"),
        ("filters: [{kinds: [client]}]", "filters[0].kinds", "everybody is anonymous"),
        ("filters: [{scopes: [a]}]", "filters[0].scopes", "everybody is anonymous"),
        ("filters: [x, {match: {kinds: [client]}}]", "filters[1].match.kinds", "everybody is anonymous"),
    ],
)
def test_it_refuses_what_needs_a_registry_by_name(text: str, path: str, says: str) -> None:
    problems = list(without_registry(read_yaml(text).tree))

    assert [problem.path for problem in problems] == [path]
    assert says in problems[0].message
    assert problems[0].message.endswith('write "credentials: {mode: registry}", or remove it')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "credentials: {mode: opaque, headers: [X-A], query: {mode: enforce}}",
        "limits: [{per: [ip, key, 'header:X'], counts: requests, match: {paths: [/a]}}]",
        "filters: [{patterns: [xss], deny: true, match: {hosts: [a]}}]",
    ],
)
def test_it_has_nothing_against_the_rest(text: str) -> None:
    assert list(without_registry(read_yaml(text).tree)) == []


@pytest.mark.parametrize("credentials", ["", "credentials: {mode: registry}"])
def test_it_refuses_a_public_port_that_would_serve_nothing(credentials: str) -> None:
    problems = list(public_without_tokens(read_yaml(f"listen: {{public: '[::1]:7'}}\n{credentials}").tree))

    assert [problem.path for problem in problems] == ["listen.public"]
    assert "set `credentials.tokens`, or remove it" in problems[0].message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "listen: {public: off}",
        "credentials: {tokens: {}}",
        "listen: {public: a}\ncredentials: {tokens: {}}",
    ],
)
def test_it_takes_tokens_without_a_public_port_and_neither_of_the_two(text: str) -> None:
    assert list(public_without_tokens(read_yaml(text).tree)) == []


@given(trees)
def test_it_looks_through_any_tree(tree: Tree) -> None:
    problems = [*without_registry(tree), *public_without_tokens(tree)]

    assert all(problem.path and problem.message for problem in problems)
