"""credential_notations: headers, scopes, issuers and algorithms, and what none of them may be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.jwks import ALGORITHMS
from sidecar.core.keys import FieldRefused, Kind, created, secret_of
from sidecar.document import credential_notations as notations
from sidecar.document.yaml_text import Tree
from sidecar.fronts.datum import CLIENT_HEADERS

SECRET = secret_of(bytes(32))
audience = notations.printable(9)


@pytest.mark.parametrize(
    ("read", "written", "value"),
    [
        (notations.credential_header, "X-Api-Key", b"x-api-key"),
        (notations.credential_header, "Authorization", b"authorization"),
        (notations.parameter, "Api_Key", "api_key"),
        (notations.parameter, "auth[token]", "auth[token]"),
        (notations.scope, "orders.write", "orders.write"),
        (notations.scope, "https://a/b_c-d", "https://a/b_c-d"),
        (notations.scope, "x" * 64, "x" * 64),
        (notations.origin, "https://App.Example.com:443", "https://app.example.com"),
        (notations.origin, "*", "*"),
        (notations.own_issuer, "https://gate.example", "https://gate.example"),
        (notations.own_issuer, "https://gate.example:8443/a/", "https://gate.example:8443/a/"),
        (notations.own_issuer, "http://localhost:8443", "http://localhost:8443"),
        (notations.own_issuer, "http://127.0.0.1", "http://127.0.0.1"),
        (notations.own_issuer, "http://[::1]:1", "http://[::1]:1"),
        (notations.key_set_url, "https://idp.example/jwks?v=1", "https://idp.example/jwks?v=1"),
        (notations.key_file, "sign.pem", Path("sign.pem")),
        (audience, "é a", "é a"),
        (audience, "x" * 9, "x" * 9),
        (notations.claim, "https://idp.example/org", "https://idp.example/org"),
        (notations.claim_or_none, "", ""),
        (notations.claim_or_none, "org", "org"),
        *((notations.algorithm, name, name) for name in notations.ALGORITHMS),
    ],
)
def test_it_reads(read: Callable[[Tree], object], written: Tree, value: object) -> None:
    assert read(written) == value


@pytest.mark.parametrize(
    ("read", "written", "says"),
    [
        (notations.credential_header, "X Key", "name of a header"),
        (notations.credential_header, "Cookie", "all cookies of a site"),
        (notations.credential_header, "X-Forwarded-User", "another purpose"),
        (notations.credential_header, "x-original-key", "another purpose"),
        (notations.credential_header, "X-Portcullis-Key", "another purpose"),
        (notations.credential_header, SECRET, "rotate the key"),
        (notations.parameter, "", "name of a query parameter"),
        (notations.parameter, "a&b", "name of a query parameter"),
        (notations.parameter, "x" * 65, "name of a query parameter"),
        (notations.scope, "", "1 to 64"),
        (notations.scope, "orders write", "1 to 64"),
        (notations.scope, SECRET, "rotate the key"),
        (notations.scope, "role:editor", "write the scopes that it stands for"),
        (notations.origin, "https://a.example/", "leave out user, path"),
        (notations.origin, 5, "expected an origin"),
        (notations.own_issuer, "gate.example", "expected a URL"),
        (notations.own_issuer, "https://", "expected a URL"),
        (notations.own_issuer, "ftp://gate.example", "expected a URL"),
        (notations.own_issuer, "https://gate.example:99999", "expected a URL"),
        (notations.own_issuer, "https://gate.example:0", "expected a URL"),
        (notations.own_issuer, "https://[::1", "expected a URL"),
        (notations.own_issuer, "http://gate.example", "take https"),
        (notations.own_issuer, "http://localhost.example", "take https"),
        (notations.own_issuer, "https://gate.example?", "has no query"),
        (notations.own_issuer, "https://gate.example/#", "a fragment is never sent"),
        (notations.own_issuer, "https://gate example", "percent-encoded"),
        (notations.own_issuer, "https://gäte.example", "percent-encoded"),
        (notations.own_issuer, "https://gate.example/" + "x" * 512, "at most 512"),
        (notations.key_set_url, "https://me:hunter2@idp.example", "user and password have no place"),
        (notations.key_set_url, "https://me@idp.example", "user and password have no place"),
        (notations.key_set_url, "http://idp.example/jwks", "take https"),
        (notations.key_set_url, "file:///etc/jwks", "expected a URL"),
        (notations.key_file, "-----BEGIN PRIVATE KEY-----\nMC4", "the path of a PEM file"),
        (notations.key_file, "", "expected a path"),
        (audience, "", "1 to 9 printable"),
        (audience, " a", "no blank first or last"),
        (audience, "a\n", "1 to 9 printable"),
        (audience, "x" * 10, "1 to 9 printable"),
        (audience, 5, "expected text"),
        (notations.claim, "", "1 to 128 printable"),
        (notations.claim_or_none, " ", "no blank first"),
        (notations.algorithm, "none", "is anybody's"),
        (notations.algorithm, "NONE", "is anybody's"),
        (notations.algorithm, "HS256", "can also make tokens"),
        (notations.algorithm, "hs512", "can also make tokens"),
        (notations.algorithm, "rs256", "one of RS256"),
        (notations.algorithm, "ES256K", "one of RS256"),
        (notations.algorithm, ["RS256"], "one of RS256"),
    ],
)
def test_it_refuses_and_says_what_should_stand_there(
    read: Callable[[Tree], object], written: Tree, says: str
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared below
        read(written)

    assert says in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("name", sorted(CLIENT_HEADERS - {b"authorization", b"proxy-authorization"}))
def test_it_takes_no_header_that_fronts_read_for_something_else(name: bytes) -> None:
    with pytest.raises(ValueError, match="name a header of"):
        notations.credential_header(name.decode())


def test_it_knows_no_algorithm_that_tokens_are_not_verified_with() -> None:
    assert ALGORITHMS.issuperset(notations.ALGORITHMS)


@given(st.text("azAZ09._:/-@ ", max_size=66) | st.text(max_size=3) | st.just(SECRET))
def test_it_takes_the_scopes_that_keys_may_have(text: str) -> None:
    try:
        created("k", Kind.SERVER, {"label": "k", "scopes": (text,)}, "0" * 64, 1)
        of_keys = True
    except FieldRefused:
        of_keys = False

    try:
        notations.scope(text)
        of_documents = True
    except ValueError:
        of_documents = text.startswith("role:")

    assert of_documents == of_keys


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text())
def test_it_raises_nothing_but_value_errors(value: Tree) -> None:
    for read in (
        notations.credential_header,
        notations.parameter,
        notations.scope,
        notations.origin,
        notations.own_issuer,
        notations.key_set_url,
        notations.key_file,
        notations.claim_or_none,
        notations.algorithm,
        audience,
    ):
        try:
            read(value)
        except ValueError as refused:
            assert str(refused)
