"""What one filter says against a request, demand by demand."""

from __future__ import annotations

import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.filters import objections_of
from sidecar.core.model import Filter, Match, Mode, Reason, Request
from tests.doubles import request

JSON: Final = ("application/json", "image/*", "application/*+json")


def reasons(
    rule: Filter, asker: Request, *, allowed: bool = True, announced: str | None = None
) -> list[Reason]:
    return [finding.reason for finding in objections_of(rule, asker, allowed, announced)]


def shown(value: object) -> str | None:
    if not isinstance(value, Request):
        return None
    return f"{value.method} {value.content_type!r} {value.content_length}"


def accepted(content_type: bytes | None, *patterns: str) -> bool:
    rule = Filter("types", content_types=patterns or JSON)
    return not reasons(rule, request(method="POST", content_type=content_type, content_length=1))


# --- media types --------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        b"application/json",
        b"APPLICATION/Json",
        b"application/json;charset=utf-8",
        b"application/json; charset=utf-8",
        b"application/json \t;\t charset=UTF-8",
        b'application/json; charset="utf-8"',
        b'application/json; note="a, b; c=d"',
        b'application/json; note="a \\"quoted\\" word \\\\"',
        b'application/json; note="caf\xc3\xa9"',
        b'application/json; note=""',
        b"application/json; a=1; b=2;c=3",
        b"application/json;",
        b"application/json ; ; a=1 ;;",
        b"application/json; *'%|~=*'%|~",
        b" application/json\t",
        b"image/png",
        b"image/svg+xml",
        b"Image/PNG; q=1",
        b"application/problem+json",
        b"application/vnd.api+json; ext=bulk",
        b"application/vnd.a+b+JSON",
        b"application/json; a=" + b"x" * 1004,
    ],
    ids=repr,
)
def test_it_accepts_a_media_type_with_its_parameters(content_type: bytes) -> None:
    assert accepted(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        b"",
        b" ",
        b";",
        b"json",
        b"application",
        b"application/",
        b"/json",
        b"application /json",
        b"application/ json",
        b"application/json/json",
        b"application/jsonp",
        b"application/xml",
        b"xapplication/json",
        b"text/html; application/json",
        b"text/html; a=application/json",
        b"text/problem+json",
        b"application/problem+jsonp",
        b"application/problem+json+xml",
        b"application/json+zip",
        b"application/+json",
        b"images/png",
        b"image/",
        b"image/*",
        b"application/*+json",
        b"*/*",
        b"application/json, text/html",
        b"application/json,application/json",
        b"application/json; a=1, text/html",
        b"application/json text/html",
        b"application/json; charset",
        b"application/json; charset=",
        b"application/json; =utf-8",
        b"application/json; charset =utf-8",
        b"application/json; charset= utf-8",
        b"application/json; charset=utf-8 x",
        b"application/json; charset=a/b",
        b'application/json; charset="utf-8',
        b'application/json; charset="utf-8"x',
        b'application/json; charset="utf\\"',
        b'application/json; charset="utf\x00"',
        b'application/json; charset="utf\\\n"',
        b"application/json charset=utf-8",
        b"application/json\n",
        b"application/json\0",
        b"application/json\xa0",
        b"application/js\xc5\xbfn",
        b"application/json; charset=utf-8\r\nX: y",
        b"image/" + b"x" * 128,
        b"application/json; a=" + b"x" * 1005,
    ],
    ids=repr,
)
def test_it_does_not_accept(content_type: bytes | None) -> None:
    assert not accepted(content_type)


@pytest.mark.parametrize(
    ("patterns", "content_type", "content"),
    [
        (("application/json",), b"application/problem+json", False),
        (("application/*+json",), b"application/json", False),
        (("application/*+json",), b"application/a+json", True),
        (("application/problem+json",), b"application/problem+json", True),
        (("application/problem+json",), b"application/other+json", False),
        (("application/*",), b"application/a+json", True),
        (("application/*",), b"text/plain", False),
        (("text/*", "image/*"), b"image/png", True),
    ],
)
def test_a_pattern_means_itself_alone(patterns: tuple[str, ...], content_type: bytes, content: bool) -> None:
    assert accepted(content_type, *patterns) is content


token = st.text("!#$%&'*+.^_`|~09azAZ-", min_size=1, max_size=6)
quoted = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]) | st.just("\t"), max_size=8).map(
    lambda text: '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
)
blanks = st.text(" \t", max_size=2)
parameters = st.lists(st.builds("{};{}{}={}".format, blanks, blanks, token, token | quoted), max_size=4).map(
    "".join
)


@given(
    parameters,
    blanks,
    st.sampled_from(["application/json", "APPLICATION/JSON", "application/x+Json", "image/png"]),
)
def test_parameters_do_not_count_whatever_they_are(said: str, after: str, media: str) -> None:
    content_type = (media + said + after).encode("latin-1")

    assert accepted(content_type)
    assert not accepted(content_type, "text/plain")
    assert not accepted(content_type + b", text/plain")


@given(st.binary(max_size=30) | st.text('aj/+;=" ,*', max_size=30).map(str.encode))
def test_it_judges_any_bytes_by_what_stands_before_the_first_semicolon(content_type: bytes) -> None:
    if accepted(content_type, "a/j", "a/*", "j/*+a"):
        media = content_type.partition(b";")[0].strip(b" \t").lower()
        assert re.fullmatch(rb"a/[a-z0-9!#$&^_.+-]+|j/.+\+a", media)


@pytest.mark.parametrize("part", [b"; ", b";", b" ", b"\t;\t", b";a=b", b';a="\\"', b'";'], ids=repr)
def test_the_time_is_linear_in_a_type_that_nearly_fits(part: bytes) -> None:
    """Where repetition could be divided in two ways, a thousand bytes of it would not end in a lifetime."""
    assert not accepted((b"application/json" + part * 1000)[:1023] + b"\0")


# --- bodies -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asker", "content"),
    [
        (request(), True),
        (request(method="HEAD"), True),
        (request(method="OPTIONS"), True),
        (request(method="DELETE"), True),
        (request(content_type=b""), True),
        (request(content_length=0), True),
        (request(content_type=b"text/html", content_length=0), True),
        (request(method="POST", content_length=0), True),
        (request(method="POST", content_type=b"text/html", content_length=0), True),
        (request(method="POST", content_type=b"application/json", content_length=9), True),
        (request(method="POST"), False),
        (request(method="POST", content_length=1), False),
        (request(method="POST", content_type=b"", content_length=1), False),
        (request(method="DELETE", content_length=1), False),
        (request(method="DELETE", content_type=b"text/html"), False),
        (request(method="GET", content_length=1), False),
        (request(method="GET", content_type=b"text/html"), False),
        (request(method="QUERY"), False),
        (request(method="PROPFIND"), False),
        (request(method="get"), False),
        (request(method="delete"), False),
    ],
    ids=shown,
)
def test_what_may_have_a_body_needs_an_accepted_type(asker: Request, content: bool) -> None:
    assert reasons(Filter("types", content_types=JSON), asker) == ([] if content else [Reason.CONTENT_TYPE])


@pytest.mark.parametrize(
    ("asker", "content"),
    [
        (request(), True),
        (request(content_length=0), True),
        (request(content_length=1_000), True),
        (request(content_length=1_001), False),
        (request(method="POST", content_length=1_000), True),
        (request(method="POST", content_length=1_001), False),
        (request(method="POST", content_length=0), True),
        (request(method="POST"), False),
        (request(method="DELETE", content_length=1_001), False),
        (request(method="DELETE", content_type=b"text/html"), False),
        (request(method="post"), False),
        (request(method="get"), False),
    ],
    ids=shown,
)
def test_a_body_has_at_most_the_size_and_says_it(asker: Request, content: bool) -> None:
    assert reasons(Filter("small", max_body=1_000), asker) == ([] if content else [Reason.BODY_SIZE])


def test_a_size_of_nothing_refuses_every_body() -> None:
    none = Filter("none", max_body=0)

    assert reasons(none, request(method="POST", content_length=0)) == []
    assert reasons(none, request(method="POST", content_length=1)) == [Reason.BODY_SIZE]


# --- methods ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "announced", "content"),
    [
        ("GET", None, True),
        ("POST", None, True),
        ("DELETE", None, False),
        ("get", None, False),
        ("Get", None, False),
        ("GET ", None, False),
        ("", None, False),
        ("OPTIONS", None, False),
        ("OPTIONS", "POST", True),
        ("OPTIONS", "post", False),
        ("OPTIONS", "DELETE", False),
        ("OPTIONS", "OPTIONS", False),
        ("OPTIONS", "", False),
        ("DELETE", "POST", False),
        ("options", "POST", False),
        ("GET", "DELETE", True),
    ],
)
def test_a_method_is_listed_or_announced_by_a_preflight(
    method: str, announced: str | None, content: bool
) -> None:
    rule = Filter("methods", methods=("GET", "POST"))

    found = objections_of(rule, request(method=method), True, announced)

    assert [(one.reason, one.methods) for one in found] == (
        [] if content else [(Reason.METHOD, ("GET", "POST"))]
    )


def test_a_preflight_passes_where_its_own_method_is_listed() -> None:
    rule = Filter("methods", methods=("GET", "OPTIONS"))

    assert reasons(rule, request(method="OPTIONS"), announced="DELETE") == []


def test_a_preflight_announces_a_method_and_nothing_else() -> None:
    strict = Filter("strict", require_allow=True, deny=True, tls_min="1.2", content_types=JSON, max_body=1)

    found = reasons(strict, request(method="OPTIONS"), allowed=False, announced="POST")

    assert found == [Reason.ADDRESS_NOT_ALLOWED, Reason.PATH, Reason.TLS_VERSION]


# --- the rest -----------------------------------------------------------------


@pytest.mark.parametrize("least", ["1.0", "1.1", "1.2", "1.3"])
@pytest.mark.parametrize("said", [None, "1.0", "1.1", "1.2", "1.3"])
def test_tls_is_new_enough_and_known(least: str, said: str | None) -> None:
    content = said is not None and float(said) >= float(least)

    assert reasons(Filter("tls", tls_min=least), request(tls=said)) == (
        [] if content else [Reason.TLS_VERSION]
    )


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        (Match(), Reason.PATH),
        (Match(paths=("/x",)), Reason.PATH),
        (Match(hosts=("x",)), Reason.HOST),
        (Match(hosts=("x",), paths=("/x",)), Reason.PATH),
        (Match(methods=("TRACE",)), Reason.PATH),
    ],
)
def test_it_denies_what_it_matches(match: Match, reason: Reason) -> None:
    assert reasons(Filter("no", deny=True, match=match), request()) == [reason]


def test_it_demands_the_allow_list() -> None:
    office = Filter("office", require_allow=True)

    assert reasons(office, request(), allowed=True) == []
    assert reasons(office, request(), allowed=False) == [Reason.ADDRESS_NOT_ALLOWED]


def test_it_says_everything_at_once_with_its_name_and_mode() -> None:
    strict = Filter(
        "strict",
        mode=Mode.SHADOW,
        require_allow=True,
        deny=True,
        methods=("GET",),
        content_types=JSON,
        max_body=1,
        tls_min="1.2",
    )

    found = objections_of(strict, request(method="POST"), False)

    assert [one.reason for one in found] == [
        Reason.ADDRESS_NOT_ALLOWED,
        Reason.PATH,
        Reason.METHOD,
        Reason.CONTENT_TYPE,
        Reason.BODY_SIZE,
        Reason.TLS_VERSION,
    ]
    assert {(one.rule, one.mode) for one in found} == {("strict", Mode.SHADOW)}


def test_a_filter_without_demands_is_content() -> None:
    assert reasons(Filter("open"), request(method="POST"), allowed=False) == []
