"""A key is disabled, enabled, rotated and deleted while eight processes on one store are under load with it.

Two gates of four workers each are asked with the key in every way that there is, and with a token that was issued for
it. From the answer of the command on (with `--wait`) nobody who shows it is admitted; how long it took each process
is printed.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from typing import Final

import pytest

from tests import gates, issuers, stores
from tests.control.operators import command, done, epochs, percentile_ms
from tests.credentials.pressure import Process, pressure
from tests.gates import Gate
from tests.servers import ask, eventually, free_port

Measured = Callable[[str], None]

SECRETLY: Final = ("key", "pair", "bearer")
"""Ways that show the secret."""
ALL: Final = (*SECRETLY, "token")
TURNS: Final = 12
WAIT: Final = ("--wait", "--wait-s", "30")


@dataclass(frozen=True)
class Fleet:
    gates: list[Gate]
    public_port: int

    def key(self, key_id: str) -> dict[str, bytes]:
        """A new key: what proxies ask about requests with it, by the way in which it is shown."""
        made = done(self.gates[0], "POST", "/v1/keys", {"id": key_id, "label": key_id, "kind": "server"})
        secret = made["secret"]
        return asks(key_id, secret) | {
            "token": forwarded(f"Authorization: Bearer {self.token(key_id, secret)}")
        }

    def token(self, key_id: str, secret: str) -> str:
        basic = b64encode(f"{key_id}:{secret}".encode()).decode()
        form = "application/x-www-form-urlencoded"
        answer = ask(
            self.public_port,
            "/oauth/token",
            method="POST",
            headers={"Authorization": f"Basic {basic}", "Content-Type": form},
            body=b"grant_type=client_credentials",
        )
        assert answer.status == 200, answer
        token: str = json.loads(answer.body)["access_token"]
        return token


def forwarded(*lines: str) -> bytes:
    """What a proxy asks the forward front about a request with these header lines."""
    asked = (
        "Host: gate",
        "X-Forwarded-For: 203.0.113.9",
        "X-Forwarded-Method: GET",
        "X-Forwarded-Uri: /orders",
    )
    return "\r\n".join(("GET /auth/forward HTTP/1.1", *asked, *lines, "", "")).encode()


def asks(key_id: str, secret: str) -> dict[str, bytes]:
    return {
        "key": forwarded(f"X-Api-Key: {key_id}.{secret}"),
        "pair": forwarded(f"X-App-Id: {key_id}", f"X-App-Token: {secret}"),
        "bearer": forwarded(f"Authorization: Bearer {key_id}.{secret}"),
    }


@contextmanager
def running() -> Iterator[Fleet]:
    public_port = free_port()
    document = f"""
store: {{deadline_ms: 2000}}
credentials:
  mode: registry
  tokens: {{issuer: "http://127.0.0.1:{public_port}", audience: api, keys: [sign.pem]}}
limits: [{{name: per-key, per: [key], permits: 1000000000, window: 1h}}]
filters: [{{name: oauth, match: {{paths: ["/oauth/*"]}}, kinds: [anonymous, server]}}]
"""
    files = {"sign.pem": issuers.pem_of(issuers.ed25519_key()).decode()}
    with (
        stores.valkey() as store,
        gates.gate(
            document,
            store_url=store.url(),
            workers=4,
            files=files,
            listen=f'public: "127.0.0.1:{public_port}"',
        ) as one,
        gates.gate(document, store_url=store.url(), workers=4, files=files) as two,
    ):
        eventually(lambda: len(epochs(store)) == 8, "all say that they are there")
        yield Fleet([one, two], public_port)


@pytest.fixture(scope="module")
def eight() -> Iterator[Fleet]:
    with running() as fleet:
        yield fleet


def told(answered_s: float, turned: dict[Process, tuple[float, float]]) -> list[str]:
    """Of each process: when its last admission and its first refusal were asked, before (-) or after the answer."""
    return [
        f"gate {process.gate} pid {process.pid}: last admitted {1000 * (last - answered_s):+.1f} ms,"
        f" first refused {1000 * (first - answered_s):+.1f} ms"
        for process, (last, first) in sorted(turned.items())
    ]


def test_it_admits_nothing_of_a_key_from_the_answer_on(eight: Fleet, measured: Measured) -> None:
    with pressure(eight.gates, eight.key("shop")) as pressed:
        assert len(pressed.said) == 8
        before = pressed.statuses(time.monotonic(), ALL)
        begun_s = time.monotonic()
        off = command(eight.gates[1], "key", "disable", "shop", *WAIT)
        refused = pressed.statuses(off.answered_s, ALL)
        turned = pressed.turned(begun_s, ALL, 200)
        on = command(eight.gates[0], "key", "enable", "shop", *WAIT)
        admitted = pressed.statuses(on.answered_s, ALL)

    for line in told(off.answered_s, turned):
        measured(line)
    assert (off.status, on.status) == (0, 0), (off, on)
    assert "8 of 8 replicas have it" in off.out
    assert (before, refused, admitted) == ({200}, {403}, {200})
    assert all(last < off.answered_s for last, _ in turned.values() if not isnan(last))


def test_it_obeys_every_time(eight: Fleet, measured: Measured) -> None:
    late_s: list[float] = []
    outcomes: list[tuple[set[int], set[int]]] = []
    with pressure(eight.gates, eight.key("often")) as pressed:
        for turn in range(TURNS):
            gate = eight.gates[turn % 2]
            begun_s = time.monotonic()
            done(gate, "PATCH", "/v1/keys/often", {"enabled": False})
            answered_s = time.monotonic()
            refused = pressed.statuses(answered_s, ALL)
            turned = pressed.turned(begun_s, ALL, 200)
            late_s += [0.0 if isnan(last) else last - begun_s for last, _ in turned.values()]
            done(gate, "PATCH", "/v1/keys/often", {"enabled": True})
            outcomes.append((refused, pressed.statuses(time.monotonic(), ALL)))

    p50, p99, longest = (percentile_ms(late_s, share) for share in (0.5, 0.99, 1.0))
    measured(
        f"{TURNS} times disabled, 8 processes, from the question to a process's last admission:"
        f" p50 {p50} ms, p99 {p99} ms, longest {longest} ms"
    )
    assert outcomes == [({403}, {200})] * TURNS


def test_it_admits_no_old_secret_from_a_rotation_on_and_every_token(eight: Fleet) -> None:
    with pressure(eight.gates, eight.key("turned")) as pressed:
        rotated = command(eight.gates[0], "key", "rotate", "turned", "--grace", "0s", "--json", *WAIT)
        refused = pressed.statuses(rotated.answered_s, SECRETLY)
        tokens = pressed.statuses(0, ["token"])
    with pressure(eight.gates, asks("turned", json.loads(rotated.out)["secret"])) as anew:
        admitted = anew.statuses(0, SECRETLY)

    assert (rotated.status, refused, tokens, admitted) == (0, {401}, {200}, {200})


def test_it_admits_both_secrets_within_the_grace(eight: Fleet) -> None:
    with pressure(eight.gates, eight.key("gently")) as pressed:
        rotated = command(eight.gates[0], "key", "rotate", "gently", "--grace", "1h", "--json", *WAIT)
        pressed.statuses(rotated.answered_s, ALL)
        old = pressed.statuses(0, ALL)
    with pressure(eight.gates, asks("gently", json.loads(rotated.out)["secret"])) as anew:
        new = anew.statuses(0, SECRETLY)

    assert (rotated.status, old, new) == (0, {200}, {200})


def test_it_admits_nothing_of_a_key_that_is_deleted(eight: Fleet) -> None:
    with pressure(eight.gates, eight.key("gone")) as pressed:
        gone = command(eight.gates[1], "key", "delete", "gone", *WAIT)
        refused = pressed.statuses(gone.answered_s, ALL)

    assert (gone.status, refused) == (0, {401})
