"""The endpoints of the public plane: what they take, and how they refuse."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sidecar.core.model import Reason
from sidecar.document.notations import UnixEndpoint
from sidecar.public.refusals import unavailable
from tests.public.plane import (
    CALLER,
    ED,
    FORM,
    INTROSPECT,
    KEYS,
    METADATA,
    REVOKE,
    TOKEN,
    PublicPlane,
    basic,
    encoded,
    public_plane,
)
from tests.stores import StoreServer

Scenario = Callable[[PublicPlane], Awaitable[None]]

GRANT = "grant_type=client_credentials"
EVERY_FORM = {TOKEN: GRANT, INTROSPECT: "token=x", REVOKE: "token=x"}
"""A form that each of the endpoints takes."""
ENDPOINTS = pytest.mark.parametrize("path", EVERY_FORM)


def run(valkey: StoreServer, scenario: Scenario) -> None:
    async def whole() -> None:
        async with public_plane(valkey) as plane:
            await plane.key("k_a", "orders.read")
            await scenario(plane)

    asyncio.run(whole())


@ENDPOINTS
def test_it_takes_a_key_by_basic_or_in_the_body(valkey: StoreServer, path: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        secret, form = plane.judge.secrets["k_a"], EVERY_FORM[path]
        in_body = f"{form}&client_id=k_a&client_secret={secret}"

        assert (await plane.post(path, form, as_="k_a")).status == 200
        assert (await plane.post(path, in_body)).status == 200
        assert (await plane.post(path, f"{form}&client_id=k_a", as_="k_a")).status == 200
        charset = {"Content-Type": f"{FORM['Content-Type']}; charset=UTF-8"}
        assert (await plane.post(path, in_body, headers=charset)).status == 200

    run(valkey, scenario)


@ENDPOINTS
def test_it_refuses_every_wrong_credential_in_the_same_words(valkey: StoreServer, path: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        secret, form = plane.judge.secrets["k_a"], EVERY_FORM[path]
        wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
        lines = [
            None,
            basic("k_a", wrong),
            basic("k_b", secret),
            basic("k_a", ""),
            basic("", secret),
            "Basic",
            "Basic !",
            "Bearer x.y",
        ]
        answers = [
            await plane.post(path, form, headers=FORM | ({"Authorization": line} if line else {}))
            for line in lines
        ]
        answers += [
            await plane.post(path, f"{form}&{more}")
            for more in ("client_id=k_a", f"client_id=k_b&client_secret={secret}", "client_assertion=x")
        ]

        assert {answer.status for answer in answers} == {401}
        assert len({answer.text for answer in answers}) == 1
        assert answers[0].json["error"] == "invalid_client"
        assert {answer.headers["WWW-Authenticate"].split()[0] for answer in answers} == {"Basic"}
        assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}

    run(valkey, scenario)


@ENDPOINTS
@pytest.mark.parametrize(
    ("query", "more", "headers", "status"),
    [
        ("", "&client_id=k_a&client_id=k_a", {}, 400),
        ("", "&scope=&scope=", {}, 400),
        ("", "&client_id=k_a&client_secret=x", {"Authorization": "Basic eA=="}, 400),
        ("", "&x=%ff", {}, 400),
        ("", "".join(f"&p{number}=" for number in range(100)), {}, 400),
        ("", "&x=" + "y" * 17_000, {}, 413),
        ("?client_secret=x", "", {}, 400),
        ("?a=b", "", {}, 400),
        ("", "", {"Content-Type": "application/json"}, 400),
        ("", "", {"Content-Type": "multipart/form-data"}, 400),
    ],
)
def test_it_refuses_what_could_be_read_in_two_ways(
    valkey: StoreServer, path: str, query: str, more: str, headers: Mapping[str, str], status: int
) -> None:
    async def scenario(plane: PublicPlane) -> None:
        answer = await plane.post(path + query, EVERY_FORM[path] + more, headers={**FORM, **headers})

        assert (answer.status, answer.json["error"]) == (status, "invalid_request")
        # It was judged all the same, as nobody's, and nothing of the query went anywhere.
        assert "x-app-id" not in str(plane.judge.asked)
        assert plane.judge.asked[0]["path"] == path

    run(valkey, scenario)


@ENDPOINTS
def test_it_refuses_no_form_at_all(valkey: StoreServer, path: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        for form in ("", "token=&grant_type=", "unknown=x"):
            answer = await plane.post(path, form, as_="k_a")
            assert (answer.status, answer.json["error"]) == (400, "invalid_request")

    run(valkey, scenario)


@ENDPOINTS
@pytest.mark.parametrize("reason", [Reason.ADDRESS_DENIED, Reason.ATTACK_MODE, Reason.RATE_LIMITED])
@pytest.mark.parametrize("body", [None, "x=1&x=2"])
def test_it_tells_nothing_else_to_whom_the_gate_refuses(
    valkey: StoreServer, path: str, reason: Reason, body: str | None
) -> None:
    async def scenario(plane: PublicPlane) -> None:
        plane.judge.refuses[CALLER] = reason
        answer = await plane.post(path, EVERY_FORM[path] if body is None else body, as_="k_a")

        assert answer.status == reason.status
        assert answer.json["error"] in {"access_denied", "temporarily_unavailable"}
        assert answer.headers.get("Retry-After") == (None if reason.status == 403 else "7")

    run(valkey, scenario)


@ENDPOINTS
def test_it_lets_nobody_in_where_a_filter_opens_the_path_to_all(valkey: StoreServer, path: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        plane.judge.open = True

        assert (await plane.post(path, EVERY_FORM[path])).status == 401

    run(valkey, scenario)


def test_it_passes_on_what_the_gate_tells_clients(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        for form, status in ((GRANT, 200), ("grant_type=password", 400), ("x=1&x=2", 400)):
            answer = await plane.post(
                TOKEN, form, headers={**FORM, "X-Request-Id": "mine", "Authorization": basic_of(plane)}
            )
            assert answer.status == status
            assert answer.headers["RateLimit"] == '"per-ip";r=9;t=1'
            assert answer.headers["X-Request-Id"] == "mine"
            assert answer.headers["Server"] == "portcullis"

    def basic_of(plane: PublicPlane) -> str:
        return basic("k_a", plane.judge.secrets["k_a"])

    run(valkey, scenario)


def test_it_believes_trusted_proxies_alone(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        from_proxy = {**FORM, "X-Forwarded-For": "203.0.113.9"}
        await plane.post(TOKEN, GRANT, headers=from_proxy)
        plane.trust(f"{CALLER}/32")
        await plane.post(TOKEN, GRANT, headers=from_proxy)

        assert [asked["address"] for asked in plane.judge.asked] == [CALLER, "203.0.113.9"]

    run(valkey, scenario)


def test_it_hears_from_a_proxy_on_its_socket_who_asks(valkey: StoreServer, directory: Path) -> None:
    async def whole() -> None:
        async with public_plane(valkey, UnixEndpoint(directory / "public")) as plane:
            unsaid = await plane.post(TOKEN, GRANT)
            await plane.post(TOKEN, GRANT, headers={**FORM, "X-Forwarded-For": "203.0.113.9"})

            assert (unsaid.status, unsaid.json["error"]) == (400, "invalid_request")
            assert [asked["address"] for asked in plane.judge.asked] == ["203.0.113.9"]

    asyncio.run(whole())


LINES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60)
"""What a client can send as a header's value."""
PAIRS = st.binary(max_size=60).map(lambda pair: f"Basic {b64encode(pair).decode()}")
FORMS = st.binary(max_size=80) | st.dictionaries(
    st.sampled_from(["client_id", "client_secret", "scope", "token", "grant_type"]), st.text(max_size=20)
).map(encoded)


# Each example starts a plane, so that making a smaller one of what fails would take minutes.
@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from(list(EVERY_FORM)), LINES | PAIRS, FORMS), min_size=20, max_size=60))
def test_it_answers_whatever_is_no_credential_with_a_refusal(
    valkey: StoreServer, requests: list[tuple[str, str, bytes]]
) -> None:
    async def scenario(plane: PublicPlane) -> None:
        for path, line, form in requests:
            answer = await plane.post(path, form, headers={**FORM, "Authorization": line})
            assert answer.status in {400, 401}, (path, line, form, answer.text)
            assert set(answer.json) == {"error", "error_description"}

    valkey.flush()
    run(valkey, scenario)


def test_it_says_so_when_nobody_can_judge(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        plane.judge.fails = unavailable("The gate does not answer.")
        answer = await plane.post(TOKEN, GRANT, as_="k_a")

        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json["error"] == "temporarily_unavailable"

    run(valkey, scenario)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", TOKEN, 405, "POST"),
        ("PUT", REVOKE, 405, "POST"),
        ("POST", KEYS, 405, "GET,HEAD"),
        ("GET", "/", 404, None),
        ("GET", "/oauth", 404, None),
        ("GET", "/metrics", 404, None),
        ("GET", f"{METADATA}/elsewhere", 404, None),
        ("GET", f"{METADATA}x", 404, None),
    ],
)
def test_it_has_nothing_else(
    valkey: StoreServer, method: str, path: str, status: int, allow: str | None
) -> None:
    async def scenario(plane: PublicPlane) -> None:
        answer = await plane.client.ask(method, path, headers={})

        assert (answer.status, answer.json["error"]) == (status, "invalid_request")
        assert answer.headers.get("Allow") == allow
        assert [(asked["method"], asked["path"]) for asked in plane.judge.asked] == [(method, path)]

    run(valkey, scenario)


# --- what everybody may know --------------------------------------------------


def test_it_publishes_the_halves_that_verify(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        answer = await plane.client.ask("GET", KEYS, headers={})

        assert answer.json == {"keys": [ED.public_jwk]}
        assert answer.headers["Cache-Control"] == "public, max-age=300"
        # What caches keep says nothing of one client.
        assert not {"RateLimit", "X-Request-Id"} & set(answer.headers)

    run(valkey, scenario)


@pytest.mark.parametrize("reason", [Reason.ADDRESS_DENIED, Reason.ATTACK_MODE, Reason.RATE_LIMITED])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", KEYS), ("HEAD", KEYS), ("GET", METADATA), ("POST", KEYS), ("GET", TOKEN), ("GET", "/nothing")],
)
def test_it_publishes_nothing_to_whom_the_gate_refuses(
    valkey: StoreServer, reason: Reason, method: str, path: str
) -> None:
    async def scenario(plane: PublicPlane) -> None:
        plane.judge.refuses[CALLER] = reason
        answer = await plane.client.ask(method, path, headers={"X-Api-Key": "k_a.s", "X-Request-Id": "mine"})

        assert (answer.status, answer.headers["X-Request-Id"]) == (reason.status, "mine")
        assert "keys" not in answer.json
        (asked,) = plane.judge.asked
        assert (asked["method"], asked["path"]) == (method, path)
        assert "k_a.s" not in str(asked)

    run(valkey, scenario)


def test_it_judges_paths_that_are_no_text(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        host, _, port = plane.client.base.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /%ff%ed%a0%80 HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n")

        assert b" 404 " in await reader.readline()
        writer.close()

    run(valkey, scenario)


@pytest.mark.parametrize(
    ("issuer", "paths", "base"),
    [
        ("https://gate.example", [METADATA], "https://gate.example"),
        ("https://gate.example/", [METADATA], "https://gate.example"),
        ("https://gate.example/t/", [METADATA, f"{METADATA}/t"], "https://gate.example/t"),
    ],
)
def test_it_tells_where_its_endpoints_are(
    valkey: StoreServer, issuer: str, paths: list[str], base: str
) -> None:
    async def scenario(plane: PublicPlane) -> None:
        plane.sign_with(issuer=issuer)
        for path in paths:
            told = (await plane.client.ask("GET", path, headers={})).json

            assert told["issuer"] == issuer
            assert told["token_endpoint"] == base + TOKEN
            assert told["introspection_endpoint"] == base + INTROSPECT
            assert told["revocation_endpoint"] == base + REVOKE
            assert told["jwks_uri"] == base + KEYS
            assert told["grant_types_supported"] == ["client_credentials"]

    run(valkey, scenario)
