"""The shipped Caddyfile with a real Caddy: the forward front as its clients and its application get to see it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import aiohttp
import pytest

from tests.fronts.shipped import (
    REFUSED,
    RULES,
    House,
    Refused,
    Shouting,
    connections_to,
    house,
    load,
    load_while,
    problem,
    start_caddy,
)
from tests.operators import attack
from tests.servers import eventually
from tests.stores import StoreServer


@pytest.fixture(scope="module")
def shop() -> Iterator[House]:
    """Caddy, a gate with RULES, an application: for tests that leave all three as they are."""
    with house("caddy", RULES) as built:
        yield built


# --- what a client gets -------------------------------------------------------


def test_it_lets_a_request_through_and_says_what_is_left(shop: House) -> None:
    answer = shop.ask("/a?b=c")

    assert answer.status == 200
    assert answer.body == b"the application at /a?b=c\n"
    assert answer.headers["RateLimit-Policy"] == '"per-ip";q=3;w=2678400'
    assert re.fullmatch(r'"per-ip";r=2;t=\d+', answer.headers["RateLimit"])
    assert answer.headers.get_all("X-Request-Id") == [shop.application.seen()[-1].header("x-request-id")]
    assert not [name for name in answer.headers if name.lower().startswith("x-portcullis")]


def test_it_answers_429_when_the_limit_is_spent(shop: House) -> None:
    shop.application.forget()

    with shop.client() as client:
        answers = [client.ask("/") for _ in range(5)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
    refused = answers[3]
    assert problem(refused)["code"] == "rate_limited"
    assert problem(refused)["violated-policies"] == ["per-ip"]
    assert refused.headers["RateLimit-Policy"] == '"per-ip";q=3;w=2678400'
    assert refused.headers["RateLimit"].startswith('"per-ip";r=0;t=')
    assert int(refused.headers["Retry-After"]) > 0
    assert shop.application.count() == 3


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_it_refuses_with_the_true_status_and_a_problem(shop: House, refused: Refused) -> None:
    shop.application.forget()

    answer = refused.by(shop)

    assert answer.status == refused.status
    assert problem(answer)["code"] == refused.code
    assert answer.headers.get("Allow") == ("GET, HEAD" if refused.status == 405 else None)
    assert shop.logged(answer)["reason"] == refused.code
    assert shop.application.count() == 0


def test_it_refuses_a_head_without_a_body(shop: House) -> None:
    answer = shop.ask("/internal/keys", method="HEAD")

    assert (answer.status, answer.body) == (403, b"")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_it_leaves_the_applications_own_answers_alone(shop: House, status: int) -> None:
    answer = shop.ask(f"/status/{status}")

    assert answer.status == status
    assert answer.body == b"the application's own answer\n"


def test_it_answers_503_in_attack_mode(start_valkey: Callable[..., StoreServer]) -> None:
    store = start_valkey()
    with house("caddy", RULES, store_url=store.url()) as shop:
        attack(store, True)
        eventually(lambda: shop.ask().status == 503, "the gate follows attack mode")

        answer = shop.ask()

        assert problem(answer)["code"] == "attack_mode"
        assert answer.headers["Retry-After"] == "60"


# --- what the application gets ------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_it_hands_the_body_on_whole(shop: House, size: int) -> None:
    body = b"x" * size

    answer = shop.ask("/", method="POST", body=body, headers={"Content-Type": "text/plain"})

    assert (answer.status, answer.body) == (200, body)
    assert shop.application.seen()[-1].body_length == size


def test_it_tells_the_application_who_the_client_is(shop: House) -> None:
    shop.ask("/", headers={"X-Api-Key": "a-secret", "X-Portcullis-Key": "admin"})

    seen = shop.application.seen()[-1]
    assert re.fullmatch(r"[0-9a-f]{32}", seen.header("x-portcullis-key") or "")


def test_it_carries_a_websocket(shop: House) -> None:
    async def talk() -> tuple[str, int]:
        async with Shouting() as shouting, aiohttp.ClientSession() as session:
            with ExitStack() as running:
                proxy = start_caddy(running, gate=shop.gate.address, application=shouting.address)
                async with session.ws_connect(f"http://127.0.0.1:{proxy.port}/talk") as socket:
                    await socket.send_str("hello")
                    said = await socket.receive_str()
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(f"http://127.0.0.1:{proxy.port}/internal/talk")
                return said, refused.value.status

    assert asyncio.run(talk()) == ("HELLO", 403)


# --- the gate's side ----------------------------------------------------------


@pytest.mark.parametrize("patient", [True, False], ids=["down", "silent"])
def test_it_lets_nothing_through_while_the_gate_cannot_be_asked(patient: bool) -> None:
    with house("caddy", RULES, patient=patient) as shop:
        if patient:
            shop.gate.server.stop()
            assert shop.ask().status == 502
        else:
            with shop.gate.server.paused():
                assert shop.ask().status in {502, 504}

        assert shop.application.count() == 0


def test_it_keeps_its_connection_to_the_gate(shop: House) -> None:
    with shop.client() as client:
        client.ask()
        kept = connections_to(shop.gate.check_port)

        statuses = {client.ask(target).status for _ in range(50) for target in ("/", "/internal/", "/%2f")}

        assert statuses == {200, 429, 403, 400}
        assert kept
        assert connections_to(shop.gate.check_port) <= kept  # idle ones may go


def test_it_asks_through_a_unix_socket(shop: House) -> None:
    with ExitStack() as running:
        proxy = start_caddy(running, gate=f"unix/{shop.gate.socket}", application=shop.application.address)

        assert proxy.ask("/internal/").status == 403


def test_it_answers_5_000_requests_as_it_should() -> None:
    with house("caddy", "limits: [{name: per-ip, per: [ip], permits: 1000, window: 31d}]") as shop:
        assert load(shop.proxy.port, 5_000, address="127.0.0.2") == {200: 1_000, 429: 4_000}
        assert shop.application.count() == 1_000


def test_it_says_nothing_unexpected_while_the_gate_restarts(start_valkey: Callable[..., StoreServer]) -> None:
    document = "limits: [{name: per-ip, per: [ip], permits: 1000000, window: 31d}]"
    with house("caddy", document, store_url=start_valkey().url()) as shop:
        statuses = load_while(shop.proxy.port, shop.gate.server.restart)

        assert statuses.keys() <= {200, 502}
        assert statuses[200] > 0
        assert load(shop.proxy.port, 200) == {200: 200}
