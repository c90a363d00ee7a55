"""Credentials in the query are found however they are spelled, and nothing else is."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.query_names import CredentialNames

NAMES: Final = ("api_key", "apikey", "api-key", "access_token", "app_token", "client_secret")
USUAL: Final = CredentialNames(NAMES)


@pytest.mark.parametrize(
    "query",
    [
        b"api_key=1",
        b"api_key",
        b"api_key=",
        b"api_key&a=1",
        b"a=1&api_key",
        b"a=1&api_key=2&b=3",
        b"a=1;api_key=2;b=3",
        b"&api_key=1",
        b"&&;api_key=1",
        b"API_KEY=1",
        b"Api-Key=1",
        b"Access_Token=1",
        b"a=b=c&apikey=1",
        b"%61pi_key=1",
        b"%41PI_KEY=1",
        b"api%5fkey=1",
        b"api%5Fkey=1",
        b"%61%70%69%5f%6b%65%79=1",
        b"a=%20&api%2dkey=1",
        b"api_key[]=1",
        b"api_key[0]=1",
        b"api_key[a][b]=1",
        b"api_key[",
        b"api_key%5b%5d=1",
        b"api_key%5B0]=1",
        b"api_key[%26]=1",
        b"+api_key=1",
        b"%20%09api_key+=1",
        b"api_key%00=1",
        b"%00api_key=1",
        b" api_key\t=1",
        b"api_key\0=1",
        b"api_key%20[]=1",
        b"a=%zz&api_key=1",
        b"redirect=/x?a=1&api_key=2",
        b"a=\xff\xfe&api_key=1",
        b"client_secret\n",
    ],
    ids=repr,
)
def test_it_finds(query: bytes) -> None:
    assert USUAL.found_in(query)


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"&",
        b"=",
        b";",
        b"%",
        b"a=1&b=2",
        b"api=1&key=2",
        b"api_keys=1",
        b"my_api_key=1",
        b"xapi_key=1",
        b"api_ke=1",
        b"api.key=1",
        b"api key=1",
        b"api+key=1",
        b"a=api_key",
        b"a=api_key=1",
        b"=api_key",
        b"=api_key=1",
        b"?api_key=1",
        b"/api_key=1",
        b"a[api_key]=1",
        b"[api_key]=1",
        b"redirect=%3Fapi_key%3D1",
        b"redirect=%26api_key%3D1",
        b"redirect=https://a.example/?api_key=1",
        b"a%26api_key=1",
        b"a%3bapi_key=1",
        b"api_key%3d=1",
        b"api_key%3D1",
        b"%2561pi_key=1",
        b"%u0061pi_key=1",
        b"%6api_key=1",
        b"%61%pi_key=1",
        b"api_key%=1",
        b"api_key%0=1",
        b"api_key]=1",
        b"api_key%c2%a0=1",
        b"api\0_key=1",
        b"\xef\xbd\x81pi_key=1",
        b"API\xe2\x84\xaaEY=1",
    ],
    ids=repr,
)
def test_it_does_not_find(query: bytes) -> None:
    assert not USUAL.found_in(query)


def test_without_names_it_finds_nothing() -> None:
    for nothing in (CredentialNames([]), CredentialNames(["", " \0"])):
        assert not any(nothing.found_in(query) for query in (b"", b"&", b"=", b"+", b"%00", b"a=1"))


def test_a_name_is_found_though_another_one_begins_it() -> None:
    for order in (["key", "key_id", "k"], ["k", "key_id", "key"]):
        names = CredentialNames(order)
        assert all(names.found_in(query) for query in (b"key=1", b"key_id=1", b"k=1", b"%6bey_id=1"))
        assert not any(names.found_in(query) for query in (b"ke=1", b"key_i=1", b"key_=1", b"%6bey_i=1"))


@pytest.mark.parametrize(
    ("name", "found", "not_found"),
    [
        ("a&b", [b"a%26b=1"], [b"a&b=1", b"a"]),
        ("a;b", [b"a%3bb"], [b"a;b=1"]),
        ("a=b", [b"a%3Db=1"], [b"a=b"]),
        ("a+b", [b"A%2bB=1"], [b"a+b=1", b"a b=1"]),
        ("a b", [b"a+b=1", b"a%20b=1", b"a b"], [b"ab", b"a%2bb"]),
        ("100%", [b"100%=1", b"100%25=1", b"100%&"], [b"100=1", b"100%20=1"]),
        (
            "user[token]",
            [b"user[token]=1", b"user%5btoken%5d", b"user[token][]=1"],
            [b"user[x]=1", b"user=1"],
        ),
        ("a.b*", [b"a.b*=1"], [b"axb*=1", b"a.bb=1"]),
        ("^a-]", [b"^a-]=1", b"%5Ea-%5D"], [b"a=1", b"^"]),
        ("-x\\", [b"-x\\=1", b"-x%5c=1"], [b"x\\=1"]),
        ("schlüssel", [b"schl\xc3\xbcssel=1", b"SCHL%C3%bcSSEL=1"], [b"schlussel=1"]),
        (" api_key ", [b"api_key=1", b"+api_key"], [b"api=1"]),
        ("API_KEY", [b"api_key=1"], [b"api=1"]),
    ],
)
def test_any_text_may_be_a_name(name: str, found: list[bytes], not_found: list[bytes]) -> None:
    names = CredentialNames([name])

    assert [query for query in found if not names.found_in(query)] == []
    assert [query for query in not_found if names.found_in(query)] == []


# --- for all queries ----------------------------------------------------------

BLANKS: Final = b"\0\t\n\v\f\r "

escapes = st.builds(
    lambda byte, upper: f"%{byte:02X}".encode() if upper else f"%{byte:02x}".encode(),
    st.integers(0, 255),
    st.booleans(),
)
pieces = (
    st.sampled_from([name.encode() for name in NAMES])
    | st.sampled_from(
        [b"&", b";", b"=", b"[", b"]", b"+", b"%", b" ", b"\0", b"a", b"?", b"%20", b"%5b", b"%00"]
    )
    | escapes
    | st.binary(max_size=4)
)
queries = st.lists(pieces, max_size=12).map(b"".join)
ordinary = st.lists(
    st.builds(
        lambda name, value: b"x" + name + b"=" + value,
        *[st.binary(max_size=6).map(lambda text: re.sub(rb"[&;=]", b"%26", text))] * 2,
    ),
    max_size=3,
)


def oracle(names: tuple[str, ...], query: bytes) -> bool:
    """As a form decoder reads it: the definition, one step after the other."""
    for parameter in re.split(rb"[&;]", query):
        name = unquote_to_bytes(parameter.partition(b"=")[0].replace(b"+", b" "))
        for end in [found.start() for found in re.finditer(rb"\[", name)] + [len(name)]:
            if name[:end].strip(BLANKS).lower() in {known.encode() for known in names}:
                return True
    return False


@given(queries)
@example(b"%")
@example(b"%61pi_key[%")
@example(b"api%5")
def test_it_finds_what_a_form_decoder_would_and_nothing_else(query: bytes) -> None:
    assert USUAL.found_in(query) is oracle(NAMES, query)


@st.composite
def spelled(draw: st.DrawFn) -> bytes:
    """One of the names, in any case, any of its characters escaped, with or without what may surround it."""
    name = b""
    for char in draw(st.sampled_from(NAMES)):
        char = draw(st.sampled_from([char.lower(), char.upper()]))
        escape = draw(st.sampled_from(["{}", "%{:02x}", "%{:02X}"]))
        name += escape.format(char if escape == "{}" else ord(char)).encode()
    blank = st.lists(st.sampled_from([b"+", b" ", b"%20", b"%09", b"\0", b"%00"]), max_size=2).map(b"".join)
    suffix = draw(st.sampled_from([b"", b"[]", b"[0]", b"%5b%5D", b"[a][b]"]))
    return draw(blank) + name + draw(blank) + suffix + draw(st.sampled_from([b"", b"=", b"=1", b"=%26="]))


@given(ordinary, spelled(), ordinary, st.sampled_from([b"&", b";"]))
def test_it_finds_every_spelling_among_other_parameters(
    before: list[bytes], name: bytes, after: list[bytes], separator: bytes
) -> None:
    assert not USUAL.found_in(separator.join(before + after))
    assert USUAL.found_in(separator.join([*before, name, *after]))


@given(
    spelled(),
    st.sampled_from([b"next=", b"a=%3F", b"a=b%26", b"a=b%3b", b"a==", b"x", b"a%26", b"a[", b"%2526"]),
)
def test_it_finds_none_within_a_value_or_another_name(name: bytes, outside: bytes) -> None:
    assert not USUAL.found_in(outside + name)


@pytest.mark.parametrize(
    "part",
    [
        b"&",
        b"+",
        b"&+",
        b"%20",
        b"&%61",
        b"api_ke&",
        b"&%61%70%69%5f%6b%65",
        b"x[",
        b"&+api_key+x",
        b"&api_key%",
    ],
    ids=repr,
)
def test_the_time_is_linear_in_a_query_that_nearly_fits(part: bytes) -> None:
    """A hundred thousand bytes: were any of them tried twice for each other one, this would not end."""
    assert not USUAL.found_in((b"x" + part * 100_000)[:100_000] + b"x")
