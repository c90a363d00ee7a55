"""The shipped envoy.yaml with a real Envoy: what its clients and its application get to see.

Most of it is shown twice, with `failure_mode_allow` false and true: what that switch decides is what happens without
a gate, and never what happens to a refusal.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import aiohttp
import pytest

from tests.fronts.shipped import (
    ENVOY,
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
    start_envoy,
)
from tests.operators import attack
from tests.servers import eventually, executable
from tests.stores import StoreServer, valkey

OPEN = {"failure_mode_allow: false": "failure_mode_allow: true"}
"""The one line by which an operator lets requests through while the gate is down."""

MODES: dict[str, dict[str, str]] = {"closed": {}, "open": OPEN}


@pytest.fixture(scope="module", params=MODES)
def shop(request: pytest.FixtureRequest) -> Iterator[House]:
    """Envoy, a gate with RULES, an application: for tests that leave all three as they are."""
    with house("envoy", RULES, also=MODES[request.param]) as built:
        yield built


def test_it_is_a_valid_configuration() -> None:
    command = [executable("envoy"), "--mode", "validate", "-c", str(ENVOY)]

    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr


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
    left = re.fullmatch(r'"per-ip";r=0;t=(\d+)', refused.headers["RateLimit"])
    assert left is not None
    assert int(refused.headers["Retry-After"]) >= int(left[1]) > 0
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
    with shop.client() as client:
        refused = client.ask("/internal/keys", method="HEAD")
        allowed = client.ask("/", method="HEAD")

    assert (refused.status, refused.body) == (403, b"")
    assert (allowed.status, allowed.body) == (200, b"")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_it_leaves_the_applications_own_answers_alone(shop: House, status: int) -> None:
    answer = shop.ask(f"/status/{status}")

    assert answer.status == status
    assert answer.body == b"the application's own answer\n"
    assert answer.headers["RateLimit"].startswith('"per-ip";r=2')


def test_it_judges_a_request_with_large_headers(shop: House) -> None:
    headers = {"X-Large": "x" * 20_000, "X-Api-Key": "k" * 30_000}

    assert problem(shop.ask("/internal/", headers=headers))["code"] == "path"
    assert shop.ask("/", headers={"X-Api-Key": "k" * 8_000}).status == 200


def test_it_refuses_a_target_that_the_gate_does_not_read(shop: House) -> None:
    shop.application.forget()

    answer = shop.ask("/" + "x" * 20_000)

    assert answer.status == 414
    assert problem(answer)["code"] == "malformed"
    assert shop.application.count() == 0


def test_it_lets_no_unknown_method_through(shop: House) -> None:
    shop.application.forget()

    assert shop.ask("/", method="CONFUSE").status in {400, 405}
    assert shop.application.count() == 0


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
    shop.ask("/", headers={"X-Api-Key": "a-secret", "X-Portcullis-Key": "admin"})

    seen = shop.application.seen()[-1]
    assert re.fullmatch(r"[0-9a-f]{32}", seen.header("x-portcullis-key") or "")
    assert seen.header("x-original-length") is None


def test_it_carries_a_websocket(shop: House) -> None:
    async def talk() -> tuple[str, int]:
        async with Shouting() as shouting, aiohttp.ClientSession() as session:
            with ExitStack() as running:
                proxy = start_envoy(running, gate=shop.gate.address, application=shouting.address)
                async with session.ws_connect(f"http://127.0.0.1:{proxy.port}/talk") as socket:
                    await socket.send_str("hello")
                    said = await socket.receive_str()
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await session.ws_connect(f"http://127.0.0.1:{proxy.port}/internal/talk")
                return said, refused.value.status

    assert asyncio.run(talk()) == ("HELLO", 403)


# --- refusals that a 5xx would turn into failures ------------------------------


@pytest.fixture(scope="module")
def besieged() -> Iterator[House]:
    """A house in attack mode, whose Envoy lets through what the gate cannot judge."""
    with valkey() as store, house("envoy", RULES, store_url=store.url(), also=OPEN) as built:
        attack(store, True)
        eventually(lambda: built.ask().status == 403, "the gate follows attack mode")
        built.application.forget()
        yield built


@pytest.mark.parametrize("status", [401, 403, 429, 500, 502, 503, 504, 599])
def test_it_lets_nothing_through_in_attack_mode(besieged: House, status: int) -> None:
    configure(besieged.gate, f"{RULES}\nattack_mode: {{status: {status}, retry_after_s: {status}}}")
    eventually(lambda: besieged.ask().headers["Retry-After"] == str(status), "the gate has reloaded")

    answer = besieged.ask()

    assert answer.status == (403 if status >= 500 else status)
    assert answer.headers["X-Portcullis-Status"] == (str(status) if status >= 500 else None)
    assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert problem(answer)["code"] == "attack_mode"
    assert besieged.application.count() == 0


@pytest.mark.parametrize("also", MODES.values(), ids=MODES.keys())
def test_it_refuses_when_a_limit_needs_the_store_and_it_is_away(
    start_valkey: Callable[..., StoreServer], also: dict[str, str]
) -> None:
    store = start_valkey()
    document = "limits: [{name: per-ip, per: [ip], permits: 3, window: 1h, outage: closed}]"
    with house("envoy", document, store_url=store.url(), also=also) as shop:
        store.server.kill()
        eventually(lambda: shop.ask().status != 200, "the gate notices")
        shop.application.forget()

        answers = [shop.ask() for _ in range(20)]

        assert {answer.status for answer in answers} == {403}
        assert {answer.headers["X-Portcullis-Status"] for answer in answers} == {"503"}
        assert problem(answers[0])["code"] == "store_unavailable"
        assert int(answers[0].headers["Retry-After"]) > 0
        assert shop.application.count() == 0


# --- when the gate cannot be asked --------------------------------------------


def test_it_answers_503_while_the_gate_is_down() -> None:
    with house("envoy", RULES) as shop:
        shop.gate.server.stop()

        assert {shop.ask(method=method).status for method in ("GET", "HEAD", "POST")} == {503}
        assert shop.application.count() == 0

        shop.gate.server.start()
        assert shop.ask().status == 200


def test_it_answers_503_while_the_gate_is_silent() -> None:
    with house("envoy", RULES, patient=False) as shop, shop.gate.server.paused():
        shop.application.forget()

        assert shop.ask().status == 503
        assert shop.application.count() == 0


def test_it_lets_requests_through_while_the_gate_is_down_if_told_so() -> None:
    with house("envoy", RULES, also=OPEN) as shop:
        shop.gate.server.stop()

        answer = shop.ask("/internal/keys", method="POST", body=b"x", headers={"X-Portcullis-Key": "admin"})

        assert (answer.status, answer.body) == (200, b"x")
        assert answer.headers["RateLimit"] is None
        assert shop.application.seen()[-1].header("x-portcullis-key") is None


def test_it_lets_requests_through_while_the_gate_is_silent_if_told_so() -> None:
    with house("envoy", RULES, also=OPEN, patient=False) as shop, shop.gate.server.paused():
        assert shop.ask("/internal/keys").status == 200


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
        proxy = start_envoy(running, gate=socket, application=shop.application.address)

        assert proxy.ask("/internal/").status == 403


@pytest.mark.timeout(600)
@pytest.mark.parametrize("also", MODES.values(), ids=MODES.keys())
def test_it_answers_20_000_requests_as_it_should(also: dict[str, str]) -> None:
    document = "limits: [{name: per-ip, per: [ip], permits: 5000, window: 31d}]"
    with house("envoy", document, also=also) as shop:
        statuses = load(shop.proxy.port, 20_000, address="127.0.0.2")

        assert statuses == {200: 5_000, 429: 15_000}
        assert shop.application.count() == 5_000


def test_it_says_nothing_unexpected_while_the_gate_restarts(start_valkey: Callable[..., StoreServer]) -> None:
    document = "limits: [{name: per-ip, per: [ip], permits: 1000000, window: 31d}]"
    with house("envoy", document, store_url=start_valkey().url()) as shop:
        statuses = load_while(shop.proxy.port, shop.gate.server.restart)

        assert statuses.keys() <= {200, 503}
        assert statuses[200] > 0
        assert load(shop.proxy.port, 200) == {200: 200}
