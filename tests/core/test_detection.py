"""Detection: what is sought where, what it adds up to, and which expressions are refused with which words."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.detection import (
    MAX_TEXT,
    NOTHING,
    OVERSIZE,
    TOGETHER,
    TOGETHER_PLAIN,
    Detector,
    Found,
    PatternRefused,
    compiled_ok,
    decoded,
)
from sidecar.core.model import Detecting, Place, Severity, Suspicion
from sidecar.core.plain_texts import PLAIN, may_match

EVERYWHERE = tuple(Place)


def seeking(expression: str, *places: Place, severity: Severity = Severity.CRITICAL) -> Detector:
    suspicion = Suspicion("mine/it", expression, places or EVERYWHERE, severity)
    return Detector(Detecting((suspicion,), threshold=5, headers=(b"user-agent", b"referer")))


def matches(expression: str, text: bytes) -> bool:
    return seeking(expression, Place.HEADERS).score("/", b"", {b"referer": text}).score > 0


# --- places -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "path", "query", "headers"),
    [
        (Place.PATH, "/a/<b", b"", {}),
        (Place.QUERY, "/", b"q=<b", {}),
        (Place.VALUES, "/", b"q=%3Cb", {}),
        (Place.VALUES, "/", b"%3Cb", {}),
        (Place.HEADERS, "/", b"", {b"referer": b"x<b"}),
    ],
)
def test_it_looks_where_the_pattern_says_and_nowhere_else(
    place: Place, path: str, query: bytes, headers: dict[bytes, bytes]
) -> None:
    others = [
        other for other in Place if other is not place and {place, other} != {Place.QUERY, Place.VALUES}
    ]

    assert seeking("<b", place).score(path, query, headers) == Found(5, ("mine/it",))
    assert seeking("<b", *others).score(path, query, headers) is NOTHING


def test_it_sees_the_raw_query_as_sent() -> None:
    assert seeking("%3Cb", Place.QUERY).score("/", b"q=%3Cb", {}).score == 5
    assert seeking("<b", Place.QUERY).score("/", b"q=%3Cb", {}) is NOTHING


def test_it_looks_into_the_headers_of_the_filter_only() -> None:
    detector = seeking("<b")

    assert detector.score("/", b"", {b"user-agent": b"<b"}).score == 5
    assert detector.score("/", b"", {b"cookie": b"<b"}) is NOTHING


def test_it_looks_into_a_path_that_is_not_ascii() -> None:
    assert seeking(r"caf\xC3\xA9'", Place.PATH).score("/café'", b"", {}).score == 5


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        (b"", (b"",)),
        (b"a=1&b=2", (b"a=1&b=2",)),
        (b"a=1+2", (b"a=1 2",)),
        (b"a=%2B", (b"a=+",)),
        (b"a=%3Cb", (b"a=<b",)),
        (b"a=%253Cb", (b"a=%3Cb", b"a=<b")),
        (b"a=%25253Cb", (b"a=%253Cb", b"a=%3Cb")),
        (b"a=50%25", (b"a=50%",)),
        (b"a=50%", (b"a=50%",)),
        (b"a=%zz%4", (b"a=%zz%4",)),
        (b"a=%u003Cb%U003e", (b"a=<b>",)),
        (b"a=%25u003Cb", (b"a=%u003Cb", b"a=<b")),
        (b"a=%ud800", (b"a=?",)),
        (b"a=%00%ff", (b"a=\x00\xff",)),
    ],
)
def test_it_decodes_as_an_application_may(query: bytes, texts: tuple[bytes, ...]) -> None:
    assert decoded(query) == texts


# --- the sum ------------------------------------------------------------------


def test_it_adds_up_each_pattern_once_in_the_order_of_the_filter() -> None:
    suspicions = (
        Suspicion("mine/b", "b'", EVERYWHERE, Severity.WARNING),
        Suspicion("mine/never", "never'", EVERYWHERE, Severity.CRITICAL),
        Suspicion("mine/a", "a'", EVERYWHERE, Severity.NOTICE),
    )
    detector = Detector(Detecting(suspicions, threshold=5, headers=(b"referer",)))

    found = detector.score("/a'a'", b"a'=b'&x=a'b'", {b"referer": b"b'"})

    assert found == Found(5, ("mine/b", "mine/a"))


@pytest.mark.parametrize("text", [b"word9", b"word9!"], ids=["plain", "not plain"])
def test_it_finds_each_of_many_patterns(text: bytes) -> None:
    count = 2 * max(TOGETHER, TOGETHER_PLAIN) + 1
    suspicions = tuple(
        Suspicion(f"mine/{number}", f"word{number}(?:!|$)", (Place.VALUES,), Severity.NOTICE)
        for number in range(count)
    )
    detector = Detector(Detecting(suspicions, threshold=5))

    for number in range(count):
        query = text.replace(b"9", str(number).encode())
        assert detector.score("/", query, {}) == Found(2, (f"mine/{number}",))


def test_it_finds_nothing_with_no_patterns() -> None:
    assert Detector(Detecting((), threshold=5)).score("/", b"q='", {}) is NOTHING


# --- texts are bytes ----------------------------------------------------------


def test_nothing_slips_between_what_a_pattern_seeks() -> None:
    for between in (b"\n", b"\r\n", b"\x00", b"\xff", b"\xc3", "é".encode()):
        assert matches("a.*b", b"a" + between + b"b")
        assert matches("a[^x]+b", b"a" + between + b"b")


def test_it_searches_up_to_a_length_and_suspects_what_is_longer() -> None:
    detector = seeking("<b")
    padding = b"a" * MAX_TEXT

    assert detector.score("/", padding, {b"referer": padding}) is NOTHING
    assert detector.score("/", padding + b"<b", {}) == Found(5, (OVERSIZE,))
    assert detector.score("/", b"", {b"referer": padding + b"<b"}) == Found(5, (OVERSIZE,))
    assert detector.score("/", b"<b" + padding, {b"referer": padding + b"a"}) == Found(
        10, ("mine/it", OVERSIZE)
    )


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b"%", b"")
@example(b"%u", b"\xff")
def test_it_scores_whatever_is_sent(query: bytes, header: bytes) -> None:
    found = seeking("(?i)<b|'").score("/", query, {b"referer": header})

    assert found in {NOTHING, Found(5, ("mine/it",))}


# --- expressions --------------------------------------------------------------


@pytest.mark.parametrize(
    "expression", ["a", "(?i)a", r"\\1", r"caf\xC3\xA9", "(?P<name>a)", r"^a\b", "a|b+?"]
)
def test_it_takes_an_expression(expression: str) -> None:
    compiled_ok(expression)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("a(?=b)", "look-around"),
        ("a(?!b)", "look-around"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        ("(?>a)", "look-around"),
        (r"(a)\1", "back-references"),
        (r"(?P<x>a)(?P=x)", "back-references"),
        (r"\pL", "bytes"),
        ("café", "bytes"),
        ("a(", "RE2 cannot read it: missing )"),
        ("[a", "RE2 cannot read it: missing ]"),
        ("a++", "RE2 cannot read it: bad repetition operator"),
        ("a{1001}", "RE2 cannot read it: invalid repetition size"),
        ("(?:a{1,100}b{1,100}.{1,900}){1}(?:[^x]{900}y{900}){1}" * 40, "RE2 cannot read it"),
        ("", "every request"),
        ("a*", "every request"),
        ("a|", "every request"),
    ],
)
def test_it_refuses_an_expression_in_words(
    expression: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        compiled_ok(expression)
    with pytest.raises(PatternRefused, match=r"^mine/it: "):
        seeking(expression)

    assert capfd.readouterr().err == ""


# --- plain texts --------------------------------------------------------------

# Pieces of expressions, so that random ones mean something.
PIECES = [
    "a",
    "A",
    "=",
    "/",
    r"\.",
    "'",
    "<",
    "[ab]",
    "[^a]",
    "[<']",
    r"\s",
    r"\w",
    r"\W",
    ".",
    "(?:a|<)",
    "(?:'|<)",
]
PIECES += [
    "a?",
    "'?",
    "'*",
    "'+",
    "(?:<a)*",
    "(?:<a)+",
    r"\x00",
    r"\x61",
    "[[:alpha:]]",
    "[[:punct:]]",
    r"\b",
    "[!-/]",
]
plain_texts = st.text(PLAIN.decode(), max_size=12)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join), plain_texts)
@example("[[:alpha:]]", "a")
@example("(?i)K", "k")
def test_no_plain_text_satisfies_a_pattern_that_needs_more(expression: str, text: str) -> None:
    sought = expression + "|never!"  # never an empty match alone
    if may_match(expression):
        return
    assert not matches(f"(?:{sought})[^\\xff]?", text.encode())


@pytest.mark.parametrize("expression", ["'", "<a", "(?i)a b", "a[\"']", "(?:<|')+", r"a\s+b", "(?s)a,b"])
def test_it_knows_what_no_plain_text_satisfies(expression: str) -> None:
    assert not may_match(expression)


@pytest.mark.parametrize(
    "expression", ["a", "a|<", "<?a", r"\w", ".", "[^a]", "[[:punct:]]", "/etc/", r"\Qa\E", "a("]
)
def test_it_is_careful_about_the_others(expression: str) -> None:
    assert may_match(expression)
