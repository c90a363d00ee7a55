"""yaml_text: what becomes of scalars, what is refused and where."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.document import yaml_text
from sidecar.document.yaml_text import MAX_CHARS, MAX_DEPTH, Tree, YamlRefused, child_path, read_yaml

# JSON writes what lies above as two halves, which YAML's escapes do not know.
texts = st.text(st.characters(max_codepoint=0xD7FF), max_size=12)
trees: st.SearchStrategy[Tree] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("", None),
        ("17", 17),
        ("-3", -3),
        ("+3", 3),
        ("017", "017"),
        ("0o17", "0o17"),
        ("0x11", "0x11"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("9" * 5000, "9" * 5000),
        ("1.5", 1.5),
        ("2e3", 2000.0),
        ("1e999", "1e999"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2024-01-01", "2024-01-01"),
        ('"17"', "17"),
        ("'true'", "true"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_it_reads_a_scalar(text: str, value: Tree) -> None:
    read = read_yaml(text).tree

    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: 1\na: 2", 2, 1, "'a' stands here twice"),
        ("a: {b: 1, b: 2}", 1, 11, "'b' stands here twice"),
        ("a: &x 1\nb: 2", 1, 4, "an anchor"),
        ("a: *x", 1, 4, "an alias"),
        ("&k a: 1", 1, 1, "an anchor"),
        ("a: !!str 1", 1, 4, "a tag"),
        ("a: ! 1", 1, 4, "a tag"),
        ("a: !!python/object:os.system {}", 1, 4, "a tag"),
        ("a:\n  <<: {b: 1}", 2, 3, "a merge key"),
        ("1: a", 1, 1, "write it in quotes"),
        ("true: a", 1, 1, "write it in quotes"),
        ("? [a]\n: b", 1, 3, "keys are text"),
        ("a: 1\n---\nb: 1", 2, 1, "a second document"),
        ("a: [1", 2, 1, "not YAML"),
        ("a:\n\t- b", 2, 1, "not YAML"),
        ("[" * (MAX_DEPTH + 1), 1, MAX_DEPTH + 1, "nested deeper"),
    ],
)
def test_it_refuses_what_surprises_and_says_where(text: str, line: int, column: int, says: str) -> None:
    with pytest.raises(YamlRefused, match=says) as refused:
        read_yaml(text)

    assert (refused.value.line, refused.value.column) == (line, column)


@pytest.mark.parametrize("text", ["\x00", "a: \x01", "\ud800", "x" * (MAX_CHARS + 1)])
def test_it_refuses_what_is_no_text_to_read(text: str) -> None:
    with pytest.raises(YamlRefused):
        read_yaml(text)


def test_it_takes_a_key_in_quotes_whatever_it_looks_like() -> None:
    assert read_yaml('"1": a\n"<<": b').tree == {"1": "a", "<<": "b"}


def test_it_knows_the_line_of_every_path() -> None:
    lines = read_yaml("a:\n  b: 1\n  c:\n    - 2\n    - {d: 3}\n").lines

    assert lines == {"": 1, "a": 2, "a.b": 2, "a.c": 4, "a.c[0]": 4, "a.c[1]": 5, "a.c[1].d": 5}


def test_it_quotes_keys_that_would_make_a_path_ambiguous() -> None:
    assert child_path("a", "b.c") == "a['b.c']"
    assert "\n" not in child_path("a", "b\nc")


@given(trees)
def test_it_reads_json_as_json_does(tree: Tree) -> None:
    assert read_yaml(json.dumps(tree)).tree == tree


@given(st.text(alphabet="ab:-[]{},&*!|>'\"%#? \n\t~1<@`.", max_size=40))
def test_it_raises_nothing_but_its_refusal(text: str) -> None:
    try:
        read_yaml(text)
    except YamlRefused as refused:
        assert str(refused)


@given(st.text(alphabet="ab:-[]{},&*!'\"#? \n~1<.", max_size=30))
def test_it_reads_the_same_without_libyaml(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        with_libyaml = _outcome(text)
        patch.setattr(yaml_text, "_LOADER", yaml.SafeLoader)
        without = _outcome(text)

    # The two parsers differ at the edges of the grammar in what they refuse, never in what they read.
    assert with_libyaml == without or "refused" in (with_libyaml, without)


def _outcome(text: str) -> Tree:
    try:
        return read_yaml(text).tree
    except YamlRefused:
        return "refused"
