"""`portcullis explain` says of a request with credentials what the gate then does, and why; it charges nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests import issuers, stores
from tests.control.operators import command, done
from tests.credentials.cases import TABLES, Case, key
from tests.credentials.sites import DOCUMENT, FAILURES, Known, made, tokens
from tests.fronts.shipped import fresh_address
from tests.gates import Gate, gate
from tests.servers import pairs

ADDRESS = "203.0.113.9"
SHOWS = {
    ("server", "one header"): "server key shop of acme",
    ("server", "a wrong secret"): "not valid",
    ("server", "disabled"): "credential_disabled",
    ("server", "two ways"): "more than one credential",
    ("client", "its own headers"): "client key page",
    ("client", "a path that is not opened"): "kind",
    ("origin", "page from https://evilshop.example"): "origin",
    ("preflight", "preflight of another page"): "embedded",
    ("address", "a key from elsewhere"): "credential_address",
    ("query", "query api_key"): "credentials.query",
    ("scope", "no scope"): "reads",
    ("scope", "attack mode of the tenant"): "tenant:sieged",
    ("token", "a token without the scope"): "writes",
    ("token", "token-unsigned"): "not valid",
    ("pattern", "a script"): "xss/script-element",
}
"""Cases of the tables, and what their explanation names."""

KEYS: dict[str, tuple[str, str, str, int]] = {
    # what: (key, method and path, a word of why, status)
    "a key that may": ("shop", "POST /orders/1", "server key shop of acme", 200),
    "a scope that it lacks": ("reader", "POST /orders/1", "scope", 403),
    "a disabled key": ("off", "GET /mine", "credential_disabled", 403),
    "an expired key": ("over", "GET /mine", "ended", 401),
    "a key's networks": ("bound", "GET /mine", "credential_address", 403),
    "a tenant's networks": ("fenced", "GET /mine", "credential_address", 403),
    "a page's key elsewhere": ("page", "GET /mine", "kind", 403),
    "a page's key without an origin": ("page", "GET /shop/1", "origin", 403),
    "a plan without permits": ("barred", "GET /metered", "per-key", 429),
    "a key under attack mode": ("struck", "GET /mine", "key:struck", 503),
}


@pytest.fixture(scope="module")
def known(asked: Gate) -> Known:
    return Known(made(asked), tokens(issuers.es256()))


@pytest.fixture(scope="module")
def asked() -> Iterator[Gate]:
    with stores.valkey() as store:
        files = {"jwks.json": issuers.jwks(issuers.es256())}
        with gate(DOCUMENT, store_url=store.url(), files=files) as running:
            yield running


def case_of(table: str, says: str) -> Case:
    (found,) = [case for case in TABLES[table] if case.says == says]
    return found


def explained(at: Gate, document: dict[str, object]) -> dict[str, Any]:
    return done(at, "POST", "/v1/explain", document, wait=False)


def put_in(known: Known, text: str) -> str:
    return known.put_into({"": text})[0][1]


@pytest.mark.parametrize(("name", "word"), SHOWS.items(), ids=[says for _, says in SHOWS])
def test_it_says_what_the_gate_then_does(asked: Gate, known: Known, name: tuple[str, str], word: str) -> None:
    case = case_of(*name)
    address = case.address or ADDRESS
    headers = known.put_into(case.headers)
    target = put_in(known, case.target)
    body = {} if case.body is None else {"X-Original-Length": str(len(case.body))}
    asks = {"address": address, "method": case.method, "path": target, "headers": dict(headers) | body}

    said = explained(asked, {**asks, "front": "forward"})
    answer = asked.forward(address, target, method=case.method, headers=(*headers, *pairs(body)))

    assert (said["status"], said["reason"]) == (case.outcome[0], case.outcome[1] or "ok")
    assert said["answer"]["status"] == answer.status == case.outcome[0]
    assert (
        said["answer"]["headers"].get("Access-Control-Allow-Origin")
        == answer.headers["Access-Control-Allow-Origin"]
    )
    steps = json.dumps(said["steps"])
    assert word in steps, steps


@pytest.mark.parametrize(("key_id", "request_line", "word", "status"), KEYS.values(), ids=KEYS)
def test_it_says_what_a_key_may_without_its_secret(
    asked: Gate, known: Known, key_id: str, request_line: str, word: str, status: int
) -> None:
    method, path = request_line.split()
    content = {"Content-Type": "application/json", "X-Original-Length": "2"} if method == "POST" else {}
    lines = [word for name, value in content.items() for word in ("--header", f"{name}: {value}")]
    words = ("explain", "--address", ADDRESS, "--method", method, "--path", path, "--key", key_id, "--json")

    ran = command(asked, *words, "--front", "forward", *lines)
    way = "X-Client" if key_id == "page" else "X-App"
    names = (
        ("X-Client-Application-Id", "X-Client-Token") if way == "X-Client" else ("X-App-Id", "X-App-Token")
    )
    shown = dict(zip(names, (key_id, known.secrets[key_id]), strict=True))
    answer = asked.forward(
        fresh_address() if status == 401 else ADDRESS, path, method=method, headers=shown | content
    )

    said = json.loads(ran.out)
    assert said["status"] == answer.status == status, said
    assert word in json.dumps(said), said


def test_it_charges_nobody(asked: Gate, known: Known) -> None:
    address = fresh_address()
    asks: dict[str, dict[str, object]] = {
        secret: {
            "address": address,
            "path": "/metered",
            "headers": dict(known.put_into(key("plain", secret))),
            "front": "forward",
        }
        for secret in ("wrong", "plain")
    }
    wrong = [explained(asked, asks["wrong"])["status"] for _ in range(3 * FAILURES)]
    good = [explained(asked, asks["plain"])["status"] for _ in range(3 * FAILURES)]
    failed = [
        asked.forward(address, "/mine", headers=known.put_into(key("plain", "wrong")))
        for _ in range(FAILURES)
    ]
    after = explained(asked, asks["plain"])
    first = asked.forward(fresh_address(), "/metered", headers=known.put_into(key("plain")))

    assert (set(wrong), set(good)) == ({401}, {200})
    assert [answer.status for answer in failed] == [401] * FAILURES
    assert (after["status"], after["reason"]) == (429, "rate_limited")
    assert first.headers["RateLimit"].startswith('"per-key";r=1;')


def test_it_takes_no_secret_for_the_id_of_a_key(asked: Gate, known: Known) -> None:
    answer = asked.admin(
        "/v1/explain",
        method="POST",
        headers={"Content-Type": "application/json"},
        body=json.dumps({"address": ADDRESS, "key": known.secrets["shop"]}).encode(),
    )

    assert answer.status in {400, 404}
    assert known.secrets["shop"].encode() not in answer.body
