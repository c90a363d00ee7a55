"""What is taken for a credential, in each of the forms in which a client can present one."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.credentials import HeaderPair
from sidecar.fronts import Front
from sidecar.fronts.credentials import nobody, opaque, registry
from sidecar.fronts.datum import Malformed
from sidecar.fronts.described import Described, FrontName, asked_by
from tests.fronts.doubles import NO_KEY, REGISTRY, Gate, Plane, api, ask_nginx, envoy, forward, nginx, only

FRONTS: dict[FrontName, Callable[[], Front]] = {
    "nginx": lambda: nginx(REGISTRY),
    "envoy": lambda: envoy(REGISTRY),
    "forward": lambda: forward(REGISTRY),
    "api": lambda: api(REGISTRY),
}

ONE_WAY: dict[str, tuple[dict[bytes, bytes], bytes | None]] = {
    "nothing": ({}, None),
    "another header": ({b"x-api-token": b"a.b", b"cookie": b"x-api-key=a.b"}, None),
    "one header": ({b"x-api-key": b"id.secret"}, b"kid.secret"),
    "one header without a dot": ({b"x-api-key": b"secret"}, b"ksecret"),
    "one header that looks like a scheme": ({b"x-api-key": b"Bearer a.b"}, b"kBearer a.b"),
    "a server pair": ({b"x-app-id": b"id", b"x-app-token": b"secret"}, b"sid\0secret"),
    "a client pair": ({b"x-client-application-id": b"id", b"x-client-token": b"secret"}, b"cid\0secret"),
    "a server id alone": ({b"x-app-id": b"id"}, b"sid\0"),
    "a server secret alone": ({b"x-app-token": b"secret"}, b"s\0secret"),
    "a client id alone": ({b"x-client-application-id": b"id"}, b"cid\0"),
    "a client secret alone": ({b"x-client-token": b"secret"}, b"c\0secret"),
    "a server id with an empty secret": ({b"x-app-id": b"id", b"x-app-token": b""}, b"sid\0"),
    "a secret with an empty server id": ({b"x-app-id": b"", b"x-app-token": b"secret"}, b"s\0secret"),
    "bearer": ({b"authorization": b"Bearer id.secret"}, b"bid.secret"),
    "bearer with a token": ({b"authorization": b"Bearer a-_.b+/.c=="}, b"ba-_.b+/.c=="),
    "bearer in small letters": ({b"authorization": b"bearer id.secret"}, b"bid.secret"),
    "bearer in odd letters": ({b"authorization": b"bEARER id.secret"}, b"bid.secret"),
    "bearer with blanks": ({b"authorization": b"Bearer   id.secret"}, b"bid.secret"),
    "bearer with a tab": ({b"authorization": b"BEARER\t id.secret"}, b"bid.secret"),
    "bearer with two words": ({b"authorization": b"Bearer a b"}, b"ba b"),
    "bearer and nothing": ({b"authorization": b"Bearer"}, b"b"),
    "bearer and blanks": ({b"authorization": b"bearer  "}, b"b"),
    "basic": ({b"authorization": b"Basic aWQ6c2VjcmV0"}, None),
    "a scheme that begins like bearer": ({b"authorization": b"Bearers id.secret"}, None),
    "bearer without a blank": ({b"authorization": b"Bearer:id.secret"}, None),
    "no scheme": ({b"authorization": b"id.secret"}, None),
    "a scheme behind bytes": ({b"authorization": b"\xa0Bearer a.b"}, None),
    "an empty authorization": ({b"authorization": b""}, None),
    "an empty header": ({b"x-api-key": b""}, None),
    "empty pairs": (dict.fromkeys((b"x-app-id", b"x-app-token", b"x-client-token"), b""), None),
    "an empty header and a pair": (
        {
            b"x-api-key": b"",
            b"authorization": b"",
            b"x-client-token": b"",
            b"x-app-id": b"i",
            b"x-app-token": b"s",
        },
        b"si\0s",
    ),
    "a key and another scheme": ({b"x-api-key": b"a.b", b"authorization": b"Basic YTpi"}, b"ka.b"),
    "bytes that are no text": ({b"x-app-id": b"\xff\xfe", b"x-app-token": b"\xc3("}, b"s\xff\xfe\0\xc3("),
    "a long value": ({b"x-api-key": b"k" * 60_000}, b"k" + b"k" * 60_000),
    "a long token": ({b"authorization": b"Bearer " + b"t" * 60_000}, b"b" + b"t" * 60_000),
}


@pytest.mark.parametrize(("headers", "presented"), ONE_WAY.values(), ids=ONE_WAY.keys())
def test_it_reads_what_is_presented(headers: dict[bytes, bytes], presented: bytes | None) -> None:
    assert REGISTRY.read(headers) == presented


WAYS: dict[str, tuple[dict[bytes, bytes], ...]] = {
    "key": ({b"x-api-key": b"a.b"},),
    "server": ({b"x-app-id": b"a", b"x-app-token": b"b"}, {b"x-app-token": b"b"}),
    "client": (
        {b"x-client-application-id": b"a", b"x-client-token": b"b"},
        {b"x-client-application-id": b"a"},
    ),
    "bearer": ({b"authorization": b"Bearer a.b"}, {b"authorization": b"bearer"}),
}


@pytest.mark.parametrize(("one", "other"), [*combinations(WAYS, 2)])
def test_it_takes_two_credentials_for_none(one: str, other: str) -> None:
    for headers in product(WAYS[one], WAYS[other]):
        with pytest.raises(Malformed, match="more than one credential"):
            REGISTRY.read(headers[0] | headers[1])


def test_it_takes_two_whole_headers_for_none() -> None:
    pair = HeaderPair(b"x-app-id", b"x-app-token")
    reader = registry(headers=(b"x-one", b"x-two"), bearer=False, server=pair, client=pair)

    assert reader.read({b"x-two": b"a.b", b"x-one": b""}) == b"ka.b"
    with pytest.raises(Malformed):
        reader.read({b"x-two": b"a.b", b"x-one": b"a.b"})


def test_it_reads_no_bearer_when_told_not_to() -> None:
    reader = registry(
        headers=(b"x-api-key",), bearer=False, server=HeaderPair(b"a", b"b"), client=HeaderPair(b"c", b"d")
    )

    assert reader.read({b"authorization": b"Bearer a.b"}) is None
    assert reader.read({b"authorization": b"Bearer a.b", b"x-api-key": b"c.d"}) == b"kc.d"
    assert reader.names == (b"x-api-key", b"a", b"b", b"c", b"d")


def test_it_names_every_header_that_it_reads() -> None:
    assert REGISTRY.names == (
        b"x-api-key",
        b"x-app-id",
        b"x-app-token",
        b"x-client-application-id",
        b"x-client-token",
        b"authorization",
    )
    assert (nobody().names, opaque((b"x-a", b"x-b")).names) == ((), (b"x-a", b"x-b"))


def presented_in(headers: dict[bytes, bytes]) -> list[bytes]:
    """Every credential there is in these headers, read the long way."""
    said = {name: headers.get(name, b"") for name in REGISTRY.names}
    found = [b"k" + said[b"x-api-key"]] if said[b"x-api-key"] else []
    for tag, pair in ((b"s", REGISTRY.names[1:3]), (b"c", REGISTRY.names[3:5])):
        if any(said[name] for name in pair):
            found.append(tag + b"\0".join(said[name] for name in pair))
    if bearer := re.fullmatch(rb"(?is)bearer(?:[ \t]+(.*))?", said[b"authorization"]):
        found.append(b"b" + (bearer[1] or b""))
    return found


values = st.sampled_from((b"", b"Bearer", b"BEARER \t a", b"bearer\ta", b"Bearer  a.b")) | st.binary(
    max_size=9
)


@given(st.dictionaries(st.sampled_from(REGISTRY.names), values, max_size=3))
def test_it_reads_any_headers_as_the_long_way_does(headers: dict[bytes, bytes]) -> None:
    match presented_in(headers):
        case []:
            assert REGISTRY.read(headers) is None
        case [presented]:
            assert REGISTRY.read(headers) == presented
        case _:
            with pytest.raises(Malformed):
                REGISTRY.read(headers)


def test_it_knows_nobody_when_told_to() -> None:
    assert nobody().read({b"x-api-key": b"a.b", b"authorization": b"Bearer a.b"}) is None


def test_it_takes_the_first_listed_header_for_an_opaque_key() -> None:
    read = opaque((b"x-api-key", b"authorization")).read

    assert read({b"authorization": b"Bearer b", b"x-api-key": b"a"}) == b"a"
    assert read({b"authorization": b"Bearer b"}) == b"Bearer b"
    assert read({b"authorization": b"Bearer b", b"x-api-key": b""}) == b"Bearer b"
    assert read({b"x-api-key": b""}) is None
    assert opaque(()).read({b"x-api-key": b"a"}) is None


# --- in every front -----------------------------------------------------------

ASKED = Described("203.0.113.9", "GET", "shop.example", "/a", {})


@pytest.mark.parametrize("name", FRONTS)
def test_it_is_what_every_front_hands_on(name: FrontName) -> None:
    asked = ASKED._replace(headers={"X-APP-ID": "id", "x-App-Token": " secret "})

    request = FRONTS[name]().read(asked_by(name, asked))

    assert (request.key, request.malformed) == (b"sid\0secret", None)


@pytest.mark.parametrize("name", FRONTS)
def test_it_makes_a_request_malformed_when_there_are_two(name: FrontName) -> None:
    asked = ASKED._replace(headers={"X-Api-Key": "a.b", "Authorization": "Bearer c.d"})

    request = FRONTS[name]().read(asked_by(name, asked))

    assert (request.key, request.malformed) == (None, "more than one credential")


@pytest.mark.parametrize("name", FRONTS)
@pytest.mark.parametrize("header", REGISTRY.names)
def test_it_makes_a_request_malformed_when_a_header_comes_twice(name: FrontName, header: bytes) -> None:
    spelt = header.decode()
    asked = ASKED._replace(headers={spelt.upper(): "Bearer a", spelt: "Bearer a"})

    request = FRONTS[name]().read(asked_by(name, asked))

    assert request.malformed == "a header that may come once came more than once"


def test_it_takes_blanks_on_the_wire_for_nothing() -> None:
    plane = Plane(gate=Gate(verdicts={"203.0.113.9": NO_KEY}), credentials=REGISTRY)
    blank = ["X-Api-Key:   ", "X-App-Id:\t", "X-Client-Token:", "Authorization: "]

    answer = only(plane.send(plane.connect(), ask_nginx(more=blank)))

    (request,) = plane.gate.asked
    assert (answer.status, request.key, request.malformed) == (401, None, None)
