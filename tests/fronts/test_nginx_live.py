"""The shipped nginx.conf with a real nginx: what its clients and its application get to see."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import aiohttp
import pytest

from tests.application import Application
from tests.fronts.shipped import (
    REFUSED,
    RULES,
    House,
    Refused,
    Shouting,
    configure,
    connections_to,
    house,
    load,
    load_while,
    problem,
    spoken,
    start_nginx,
)
from tests.operators import attack
from tests.servers import eventually
from tests.stores import StoreServer, valkey

OPEN = {"default closed;": "default open;"}
"""The one line by which an operator lets requests through while the gate is down."""


@pytest.fixture(scope="module")
def shop() -> Iterator[House]:
    """nginx, a gate with RULES, an application: for tests that leave all three as they are."""
    with house("nginx", RULES) as built:
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
    assert refused.headers["RateLimit-Policy"] == '"per-ip";q=3;w=2678400'
    left = re.fullmatch(r'"per-ip";r=0;t=(\d+)', refused.headers["RateLimit"])
    assert left is not None
    assert int(refused.headers["Retry-After"]) >= int(left[1]) > 0
    assert refused.headers["Cache-Control"] == "no-store"
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

    assert answer.status == 403
    assert int(answer.headers["Content-Length"]) > 0
    assert answer.body == b""


def test_it_hands_on_a_request_id_that_is_fit_for_it(shop: House) -> None:
    answer = shop.ask("/", headers={"X-Request-Id": "order-17.a"})

    assert answer.headers.get_all("X-Request-Id") == ["order-17.a"]
    assert shop.application.seen()[-1].header("x-request-id") == "order-17.a"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_it_leaves_the_applications_own_answers_alone(shop: House, status: int) -> None:
    answer = shop.ask(f"/status/{status}")

    assert answer.status == status
    assert answer.body == b"the application's own answer\n"
    assert answer.headers["RateLimit"].startswith('"per-ip";r=2')


def test_it_shows_the_question_to_no_client(shop: House) -> None:
    shop.application.forget()

    assert shop.ask("/_gate").status == 404
    assert shop.application.count() == 0


def test_it_refuses_more_headers_than_the_gate_reads(shop: House) -> None:
    answer = shop.ask("/", headers=[(f"X-{number}", "1") for number in range(300)])

    assert answer.status == 431
    assert problem(answer)["code"] == "malformed"


def test_it_lets_large_headers_through(shop: House) -> None:
    assert shop.ask("/", headers=[(f"X-Large-{number}", "x" * 7000) for number in range(3)]).status == 200
    assert shop.ask("/" + "x" * 7000).status == 200


# --- what the application gets ------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_it_hands_the_body_on_whole(shop: House, size: int) -> None:
    body = b"x" * size

    answer = shop.ask("/", method="POST", body=body, headers={"Content-Type": "text/plain"})

    assert (answer.status, answer.body) == (200, body)
    assert shop.application.seen()[-1].body_length == size


def test_it_hands_a_chunked_body_on_whole(shop: House) -> None:
    chunks = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    headers = {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}

    answer = shop.ask("/", method="POST", body=chunks, headers=headers)

    assert (answer.status, answer.body) == (200, b"hello world")


def test_it_tells_the_application_who_the_client_is(shop: House) -> None:
    with shop.client() as client:
        client.ask("/", headers={"X-Api-Key": "a-secret", "X-Portcullis-Key": "admin"})

        seen = shop.application.seen()[-1]
        assert re.fullmatch(r"[0-9a-f]{32}", seen.header("x-portcullis-key") or "")
        assert seen.header("x-real-ip") == seen.header("x-forwarded-for") == client.address


def test_it_carries_a_websocket(shop: House) -> None:
    async def talk() -> tuple[str, str]:
        async with Shouting() as shouting, aiohttp.ClientSession() as session:
            with ExitStack() as running:
                proxy = start_nginx(running, gate=shop.gate.address, application=shouting.address)
                async with session.ws_connect(f"http://127.0.0.1:{proxy.port}/talk") as socket:
                    await socket.send_str("hello")
                    said = await socket.receive_str()
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(f"http://127.0.0.1:{proxy.port}/internal/talk")
                return said, str(refused.value.status)

    assert asyncio.run(talk()) == ("HELLO", "403")


# --- attack mode, and a store that is away ------------------------------------


@pytest.fixture(scope="module")
def besieged() -> Iterator[House]:
    """A house in attack mode."""
    with (
        valkey() as store,
        house("nginx", RULES, store_url=store.url()) as built,
    ):
        attack(store, True)
        eventually(lambda: built.ask().status == 503, "the gate follows attack mode")
        built.application.forget()
        yield built


@pytest.mark.parametrize("status", [400, 401, 403, 405, 408, 413, 414, 415, 429, 431, 503])
def test_it_says_every_status_that_the_gate_means(besieged: House, status: int) -> None:
    configure(besieged.gate, f"{RULES}\nattack_mode: {{status: {status}, retry_after_s: 7}}")

    eventually(lambda: besieged.ask().status == status, f"attack mode answers {status}")

    answer = besieged.ask()
    assert problem(answer)["code"] == "attack_mode"
    assert problem(answer)["title"] != "Refused"
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert besieged.application.count() == 0


def test_it_says_403_for_a_status_that_it_does_not_know(besieged: House) -> None:
    configure(besieged.gate, f"{RULES}\nattack_mode: {{status: 429, retry_after_s: 8}}")
    eventually(lambda: besieged.ask().headers["Retry-After"] == "8", "the gate has reloaded")

    configure(besieged.gate, f"{RULES}\nattack_mode: {{status: 451, retry_after_s: 9}}")
    eventually(lambda: besieged.ask().headers["Retry-After"] == "9", "the gate has reloaded")

    answer = besieged.ask()
    assert answer.status == 403
    assert problem(answer)["code"] == "attack_mode"


def test_it_answers_503_when_a_limit_needs_the_store_and_it_is_away(
    start_valkey: Callable[..., StoreServer],
) -> None:
    store = start_valkey()
    document = "limits: [{name: per-ip, per: [ip], permits: 3, window: 1h, outage: closed}]"
    with house("nginx", document, store_url=store.url(), also=OPEN) as shop:
        store.server.kill()
        eventually(lambda: shop.ask().status != 200, "the gate notices")

        answer = shop.ask()

        assert answer.status == 503
        assert problem(answer)["code"] == "store_unavailable"
        assert int(answer.headers["Retry-After"]) > 0


# --- when the gate cannot be asked --------------------------------------------


def test_it_answers_503_while_the_gate_is_down() -> None:
    with house("nginx", RULES) as shop:
        shop.gate.server.stop()

        answers = [shop.ask(method=method) for method in ("GET", "HEAD", "POST")]

        assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(503, "1")}
        assert problem(answers[0])["code"] == "gate_unavailable"
        assert shop.application.count() == 0

        shop.gate.server.start()
        assert shop.ask().status == 200


def test_it_answers_503_while_the_gate_is_silent() -> None:
    with house("nginx", RULES, patient=False) as shop, shop.gate.server.paused():
        shop.application.forget()

        assert problem(shop.ask())["code"] == "gate_unavailable"
        assert shop.application.count() == 0


def test_it_lets_requests_through_while_the_gate_is_down_if_told_so() -> None:
    with house("nginx", RULES, also=OPEN) as shop:
        shop.gate.server.stop()

        answer = shop.ask("/internal/keys", method="POST", body=b"x", headers={"X-Portcullis-Key": "admin"})

        assert (answer.status, answer.body) == (200, b"x")
        assert answer.headers["RateLimit"] is None
        seen = shop.application.seen()[-1]
        assert seen.header("x-portcullis-key") is None
        assert seen.header("x-request-id") == answer.headers["X-Request-Id"]


def test_it_lets_requests_through_while_the_gate_is_silent_if_told_so() -> None:
    with house("nginx", RULES, also=OPEN, patient=False) as shop, shop.gate.server.paused():
        assert shop.ask("/internal/keys").status == 200


def test_it_refuses_what_the_gate_refuses_although_it_would_fail_open() -> None:
    with house("nginx", RULES, also=OPEN) as shop:
        for refused in REFUSED:
            assert refused.by(shop).status == refused.status
        with shop.client() as client:
            assert [client.ask().status for _ in range(4)] == [200, 200, 200, 429]


def test_it_never_lets_through_what_another_server_answers(backend: Application) -> None:
    """A wrong `server` line: not the gate, and not a gate that is down either."""
    with ExitStack() as running:
        proxy = start_nginx(running, gate="127.0.0.1:1", application=backend.address, also=OPEN)
        assert proxy.ask().status == 200

        wrong = {**OPEN, "http://gate/auth/nginx": "http://gate/status/404"}
        proxy = start_nginx(running, gate=backend.address, application=backend.address, also=wrong)
        assert proxy.ask().status == 500


# --- connections --------------------------------------------------------------


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
        socket = f"unix:{shop.gate.socket}"
        proxy = start_nginx(running, gate=socket, application=shop.application.address)

        assert proxy.ask("/internal/").status == 403


@pytest.mark.timeout(600)
def test_it_answers_20_000_requests_as_it_should() -> None:
    document = "limits: [{name: per-ip, per: [ip], permits: 5000, window: 31d}]"
    with house("nginx", document) as shop:
        statuses = load(shop.proxy.port, 20_000, address="127.0.0.2")

        assert statuses == {200: 5_000, 429: 15_000}
        assert shop.application.count() == 5_000


def test_it_says_nothing_unexpected_while_the_gate_restarts(start_valkey: Callable[..., StoreServer]) -> None:
    document = "limits: [{name: per-ip, per: [ip], permits: 1000000, window: 31d}]"
    with house("nginx", document, store_url=start_valkey().url()) as shop:
        statuses = load_while(shop.proxy.port, shop.gate.server.restart)

        assert statuses.keys() <= {200, 503}
        assert statuses[200] > 0
        assert load(shop.proxy.port, 200) == {200: 200}


# --- other ways to write a request --------------------------------------------


def test_it_judges_the_path_of_an_absolute_target(shop: House) -> None:
    lines = b"GET http://other.example/internal/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    assert spoken(shop.proxy.port, lines).startswith(b"HTTP/1.1 403 ")


def test_it_answers_http_1_0(shop: House) -> None:
    assert spoken(shop.proxy.port, b"GET /internal/x HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 403 ")
