"""Explaining, on a real gate and a real store: it says what the gate then answers, and charges nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest

from sidecar.fronts.described import Described, FrontName, asked_by
from tests.gates import Gate
from tests.operators import attack
from tests.servers import Answer, eventually
from tests.stores import StoreServer

FRONTS: tuple[FrontName, ...] = get_args(FrontName)

RULES = """
attack_mode: {status: 503, retry_after_s: 30, pass: ["192.0.2.250"]}
addresses:
  deny: {cidrs: ["198.51.100.0/24"]}
  allow: {cidrs: ["192.0.2.1"]}
  exempt: {cidrs: ["192.0.2.2"]}
store: {deadline_ms: 2000}
limits:
  - {name: per-ip, per: [ip], permits: 3, window: 1h}
  - {name: per-key, per: [key], permits: 100, window: 1h, cost: 2}
  - {name: none, per: [route], permits: 0, window: 1h, match: {paths: ["/none/*"]}}
  - {name: block, per: [ip, route], permits: 1, window: 1m, block_for: 10m, match: {paths: ["/block"]}}
  - {name: would, per: [ip], permits: 1, window: 1h, mode: shadow, match: {paths: ["/shadow"]}}
filters:
  - {name: office, match: {paths: ["/admin/*"]}, require: allow}
  - {name: secret, match: {paths: ["/secret"]}, deny: true}
  - {name: old-host, match: {hosts: ["old.example"]}, deny: true}
  - {name: read-only, match: {paths: ["/static/*"]}, methods: [GET, HEAD]}
  - {name: json-only, match: {paths: ["/json"], methods: [POST]}, content_types: [application/json]}
  - {name: small, match: {paths: ["/small"]}, max_body: 10}
  - {name: tls, match: {paths: ["/tls"]}, tls_min: "1.2"}
  - {name: watch, match: {paths: ["/shadow"]}, methods: [POST], mode: shadow}
"""


def described(address: str = "192.0.2.9", path: str = "/", **given: Any) -> Described:
    return Described(
        address, given.get("method", "GET"), given.get("host", ""), path, given.get("headers", {})
    )


CASES = {
    "ok": described("192.0.2.9"),
    "ok with a key": described("192.0.2.10", headers={"X-Api-Key": "k"}),
    "ok on IPv6": described("2001:db8::7"),
    "exempt": described("192.0.2.2"),
    "malformed": described("192.0.2.9", "/a%2fb"),
    "address_denied": described("198.51.100.7"),
    "address_not_allowed": described("192.0.2.9", "/admin/x"),
    "allowed by the list": described("192.0.2.1", "/admin/x"),
    "path": described("192.0.2.9", "/secret"),
    "host": described("192.0.2.9", host="old.example"),
    "method": described("192.0.2.9", "/static/a.css", method="POST"),
    "content_type": described(
        "192.0.2.9", "/json", method="POST", headers={"Content-Type": "text/html", "Content-Length": "3"}
    ),
    "body_size": described("192.0.2.9", "/small", method="POST", headers={"Content-Length": "11"}),
    "tls_version": described("192.0.2.9", "/tls", headers={"X-Original-TLS": "TLSv1.1"}),
    "good tls": described("192.0.2.19", "/tls", headers={"X-Original-TLS": "TLSv1.3"}),
    "never": described("192.0.2.11", "/none/x"),
    "shadow": described("192.0.2.12", "/shadow"),
}

REASONS = {"never": "rate_limited"} | dict.fromkeys(
    ("ok with a key", "ok on IPv6", "allowed by the list", "good tls", "shadow"), "ok"
)
"""Of the cases that are not named for theirs."""


def explain(gate: Gate, front: FrontName, case: Described) -> dict[str, Any]:
    body = json.dumps({**case._asdict(), "front": front}).encode()
    answer = gate.admin("/v1/explain", method="POST", body=body)
    assert answer.status == 200, answer
    explained: dict[str, Any] = json.loads(answer.body)
    return explained


def ask(gate: Gate, front: FrontName, case: Described) -> Answer:
    """The same request as its proxy would ask it."""
    head = asked_by(front, case)
    headers = {name.decode(): value.decode() for name, value in head.headers.items()}
    return gate.ask(
        head.target.decode(), method=head.method.decode(), headers=headers, body=head.body or None
    )


def told(answer: Answer | dict[str, Any]) -> dict[str, object]:
    """What a proxy goes by, with the seconds left out, which pass."""
    if isinstance(answer, Answer):
        status, headers, body = answer.status, dict(answer.headers.items()), answer.body.decode()
    else:
        status, headers, body = answer["status"], answer["headers"], answer["body"]
    names = {name: "" if name == "Content-Length" else value for name, value in headers.items()}
    for name in ("X-Request-Id", "Connection"):
        names.pop(name, None)
    numbers = re.compile(r'(?<=;t=)\d+|(?<="retry_after_s":)\d+|(?<="reset_s":)\d+')
    if "RateLimit" in names:
        names["RateLimit"] = numbers.sub("~", names["RateLimit"])
    if "Retry-After" in names and int(names["Retry-After"]) > 60:
        names["Retry-After"] = "~"
    body = re.sub(r'"request_id":"[^"]*"', '"request_id":""', numbers.sub("~", body))
    return {"status": status, "headers": names, "body": body}


@pytest.fixture
def guarded(start_gate: Callable[..., Gate], valkey: StoreServer) -> Gate:
    return start_gate(RULES, store_url=valkey.url())


@pytest.mark.parametrize("front", FRONTS)
def test_it_says_what_the_gate_then_answers(guarded: Gate, front: FrontName) -> None:
    wrong = {}
    for name, case in CASES.items():
        for _ in range(5):  # the last of which are spent, and known to be
            explained = explain(guarded, front, case)
            answered = ask(guarded, front, case)
            if told(explained["answer"]) != told(answered):
                wrong[name] = (told(explained["answer"]), told(answered))

    assert not wrong


def test_it_names_the_reason(guarded: Gate) -> None:
    for name, case in CASES.items():
        explained = explain(guarded, "nginx", case)

        assert explained["reason"] == REASONS.get(name, name)
        outcomes = [step["outcome"] for step in explained["steps"]]
        assert ("refused" in outcomes) == (not explained["allowed"]), name


def test_it_charges_nothing(guarded: Gate) -> None:
    case = described("192.0.2.77", headers={"X-Api-Key": "dear"})
    for front in FRONTS:
        for _ in range(25):
            assert explain(guarded, front, case)["allowed"]

    answers = [ask(guarded, "forward", case).status for _ in range(6)]

    assert answers == [200, 200, 200, 429, 429, 429]
    assert guarded.metric("portcullis_decisions_total") == 6


def test_it_tells_what_is_left_of_each_limit(guarded: Gate) -> None:
    case = described("192.0.2.78", headers={"X-Api-Key": "dear"})
    ask(guarded, "forward", case)

    explained = explain(guarded, "forward", case)

    per_ip, per_key = explained["limits"]
    assert (per_ip["name"], per_ip["permits"], per_ip["remaining"], per_ip["cost"]) == ("per-ip", 3, 2, 1)
    assert (per_key["name"], per_key["permits"], per_key["remaining"], per_key["cost"]) == (
        "per-key",
        100,
        98,
        2,
    )
    assert per_ip["admits"]
    assert "dear" not in json.dumps(explained)


def test_it_names_every_limit_that_would_refuse(start_gate: Callable[..., Gate], valkey: StoreServer) -> None:
    gate = start_gate(
        "limits:\n"
        "  - {name: minute, per: [ip], permits: 1, window: 1m}\n"
        "  - {name: hour, per: [ip], permits: 1, window: 1h}\n"
        "  - {name: all, per: [global], permits: 9, window: 1m}\n",
        store_url=valkey.url(),
    )
    case = described()
    ask(gate, "forward", case)

    explained = explain(gate, "forward", case)

    assert [limit["admits"] for limit in explained["limits"]] == [False, False, True]
    assert explained["retry_after_s"] > 3_000, "the longest of them"
    assert explained["steps"][-1]["detail"] == "spent: minute, hour"
    assert [limit["remaining"] for limit in explained["limits"]] == [0, 0, 8]


def test_it_knows_what_a_block_would_do(guarded: Gate) -> None:
    case = described("192.0.2.79", "/block")
    ask(guarded, "forward", case)

    explained = explain(guarded, "forward", case)
    before = explain(guarded, "forward", case)
    answered = ask(guarded, "forward", case)
    after = explain(guarded, "forward", case)

    assert (explained["source"], explained["steps"]) == (before["source"], before["steps"]), (
        "it blocks nobody"
    )
    assert explained["retry_after_s"] == int(answered.headers["Retry-After"]) == 600
    assert 500 < after["retry_after_s"] <= 600


def test_it_reports_shadow_rules_and_refuses_nothing_for_them(guarded: Gate) -> None:
    case = CASES["shadow"]
    first = explain(guarded, "forward", case)
    ask(guarded, "forward", case)
    second = explain(guarded, "forward", case)

    assert first["allowed"]
    assert first["shadow"] == ["watch"]
    assert [step["outcome"] for step in first["steps"] if step.get("rule") == "watch"] == ["shadow"]
    assert second["allowed"]
    assert second["shadow"] == ["watch", "would"]


def change(gate: Gate, target: str, method: str, **members: object) -> None:
    """What an operator changes; it acts on the gate when this returns."""
    answer = gate.admin(target, method=method, body=json.dumps({"reason": "test", **members}).encode())
    assert answer.status == 200, answer


def test_it_explains_attack_mode(guarded: Gate, valkey: StoreServer) -> None:
    attack(valkey, True)
    eventually(lambda: guarded.metric("portcullis_attack_mode") == 1, "attack mode is on")

    for front in FRONTS:
        explained = explain(guarded, front, described())
        let_through = explain(guarded, front, described("192.0.2.250"))

        assert (explained["reason"], explained["status"]) == ("attack_mode", 503)
        assert told(explained["answer"]) == told(ask(guarded, front, described()))
        assert let_through["reason"] == "ok"
    envoy = explain(guarded, "envoy", described())["answer"]
    nginx = explain(guarded, "nginx", described())["answer"]
    assert (envoy["status"], envoy["headers"]["X-Portcullis-Status"]) == (403, "503")
    assert (nginx["status"], nginx["headers"]["X-Portcullis-Reason"]) == (403, "attack_mode")


def steps_of(explained: dict[str, Any], name: str) -> list[tuple[str, str]]:
    return [(step["outcome"], step["detail"]) for step in explained["steps"] if step["step"] == name]


def test_it_explains_attack_mode_of_a_key(guarded: Gate) -> None:
    case = described(headers={"X-Api-Key": "dear"})
    let_through = described("192.0.2.250", headers={"X-Api-Key": "dear"})
    denied = described("198.51.100.7", headers={"X-Api-Key": "dear"})
    key_id = ask(guarded, "forward", case).headers["X-Portcullis-Key"]
    change(guarded, "/v1/attack", "PUT", on=True, key=key_id)

    explained = explain(guarded, "forward", case)

    assert explained["reason"] == "attack_mode"
    assert told(explained["answer"]) == told(ask(guarded, "forward", case))
    assert steps_of(explained, "attack_mode") == [
        ("passed", "off"),
        ("refused", f"on for key:{key_id}: test"),
    ]
    assert explain(guarded, "forward", let_through)["reason"] == "ok"
    assert steps_of(explain(guarded, "forward", denied), "attack_mode")[1][0] == "not asked"
    assert explain(guarded, "forward", described())["reason"] == "ok"


def test_it_names_the_networks_of_the_address_and_who_listed_them(guarded: Gate) -> None:
    change(guarded, "/v1/addresses/deny", "POST", add=["198.51.0.0/16", "198.51.100.0/25"], **{"for": "1h"})
    change(guarded, "/v1/addresses/exempt", "POST", add=["198.51.100.7"])

    explained = explain(guarded, "forward", described("198.51.100.7"))

    configured, deny, exempt = explained["addresses"]
    unknown = dict.fromkeys(("reason", "actor", "at", "until"))
    assert configured == {
        "list": "deny",
        "cidr": "198.51.100.0/24",
        "source": "configuration",
        **unknown,
    }
    assert [deny[name] for name in ("list", "cidr", "source", "reason")] == [
        "deny",
        "198.51.100.0/25",
        "run_time",
        "test",
    ]
    assert (deny["actor"], deny["until"] > deny["at"]) == ("admin", True)
    assert (exempt["list"], exempt["cidr"], exempt["until"]) == ("exempt", "198.51.100.7/32", None)
    assert [step["rule"] for step in explained["steps"] if step["step"] == "rules"] == [
        "addresses.deny",
        "run-time deny",
    ]


@pytest.mark.parametrize(
    ("subject", "limit", "permits", "others"),
    [
        ({"address": "192.0.2.0/28"}, "per-ip", 2, "192.0.2.99"),
        ({"address": "192.0.2.0/28"}, "would", 0, "192.0.2.99"),
        ({"address": "192.0.2.9"}, "per-ip", 500, "192.0.2.8"),
    ],
)
def test_it_explains_overrides(
    guarded: Gate, subject: dict[str, str], limit: str, permits: int, others: str
) -> None:
    case = described(path="/shadow")
    ask(guarded, "forward", case)
    change(guarded, "/v1/overrides", "PUT", limit=limit, permits=permits, **subject)

    explained = explain(guarded, "forward", case)
    usual = explain(guarded, "forward", described(others, "/shadow"))

    (of,) = [part for part in explained["limits"] if part["name"] == limit]
    (kind, value), *_ = subject.items()
    cidr = value if "/" in value else f"{value}/32"
    assert of["permits"] == permits
    assert of["remaining"] == max(0, permits - 1)
    assert (of["override"]["subject"], of["override"]["reason"]) == (f"{kind}:{cidr}", "test")
    assert of["override"]["configured"] == {"per-ip": 3, "would": 1}[limit]
    assert told(explained["answer"]) == told(ask(guarded, "forward", case))
    assert [part["override"] for part in usual["limits"]] == [None] * len(usual["limits"])


OUTAGES = """
store: {deadline_ms: 500}
limits:
  - {name: closed, per: [ip], permits: 5, window: 1h, outage: closed, match: {paths: ["/closed"]}}
  - {name: open, per: [ip], permits: 1, window: 1h, outage: open, match: {paths: ["/open"]}}
  - {name: local, per: [ip], permits: 2, window: 1h, match: {paths: ["/local"]}}
"""


def test_it_says_what_the_outage_policy_does(
    start_gate: Callable[..., Gate], start_valkey: Callable[..., StoreServer]
) -> None:
    store = start_valkey()
    gate = start_gate(OUTAGES, store_url=store.url())
    store.server.kill()
    ask(gate, "forward", described(path="/open"))

    for path in ("/closed", "/open", "/local", "/local", "/local", "/local"):
        case = described(path=path)
        explained = explain(gate, "forward", case)

        assert explained["source"] == "outage"
        assert "the store is silent" in explained["steps"][-1]["detail"]
        assert told(explained["answer"]) == told(ask(gate, "forward", case)), path
    assert explain(gate, "forward", described(path="/closed"))["reason"] == "store_unavailable"


def test_it_says_so_when_nobody_has_noticed_the_outage_yet(
    start_gate: Callable[..., Gate], start_valkey: Callable[..., StoreServer]
) -> None:
    store = start_valkey()
    gate = start_gate(OUTAGES, store_url=store.url())
    with store.server.paused():
        explained = explain(gate, "forward", described(path="/closed"))

    assert explained["reason"] == "store_unavailable"
    assert "the store is silent" in explained["steps"][-1]["detail"]


def test_it_explains_for_workers_what_the_store_knows(
    start_gate: Callable[..., Gate], start_valkey: Callable[..., StoreServer]
) -> None:
    store = start_valkey()
    everywhere = "  - {name: all, per: [ip], permits: 3, window: 1h, lease: never}\n"
    gate = start_gate(OUTAGES + everywhere, workers=2, store_url=store.url())
    case = described()
    statuses = [ask(gate, "forward", case).status for _ in range(3)]
    spent = explain(gate, "forward", case)
    store.server.kill()
    ask(gate, "forward", described("192.0.2.99"))
    eventually(lambda: gate.metric("portcullis_store_up") == 0, "one of the workers has noticed")
    local = explain(gate, "forward", described(path="/local"))

    assert statuses == [200, 200, 200]
    assert (spent["reason"], spent["source"]) == ("rate_limited", "store")
    assert [limit["admits"] for limit in local["limits"]] == [None, None]
    assert local["steps"][-1]["outcome"] == "unknown"


def test_it_explains_what_no_filter_opens(start_gate: Callable[..., Gate], valkey: StoreServer) -> None:
    rules = "default: deny\nfilters: [{name: open, match: {paths: [/open]}}]"
    gate = start_gate(rules, store_url=valkey.url())
    shut, opened = described(path="/shut"), described(path="/open")

    explained = explain(gate, "envoy", shut)

    assert explained["reason"] == "not_opened"
    assert told(explained["answer"]) == told(ask(gate, "envoy", shut))
    assert explain(gate, "envoy", opened)["reason"] == "ok"


def test_it_refuses_what_is_no_address(guarded: Gate) -> None:
    for address in ("", "unknown", "192.0.2.1:80", "::1%eth0", "192.0.2.300"):
        body = json.dumps({"address": address}).encode()

        answer = guarded.admin("/v1/explain", method="POST", body=body)

        assert answer.status == 400
        assert "address" in json.loads(answer.body)["detail"]


def test_it_answers_many_at_once(guarded: Gate) -> None:
    cases = [described(f"192.0.2.{n}") for n in range(100, 140)]
    with ThreadPoolExecutor(8) as pool:
        explained = list(pool.map(lambda case: explain(guarded, "api", case), cases))

    for case, said in zip(cases, explained, strict=True):
        assert said["limits"][0]["counter"].endswith(f":{case.address}")
        assert said["limits"][0]["remaining"] == 3
