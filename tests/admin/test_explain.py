"""`POST /v1/explain`, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import msgspec
import pytest

from sidecar.admin.explain import MAX_HEADERS, Explained, ExplainRequest
from sidecar.admin.problems import Problem
from tests import gates
from tests.admin.plane import Answer, Gate, served
from tests.stores import StoreServer


def explained(gate: Gate, body: bytes) -> Answer:
    async def scenario() -> Answer:
        async with served(gate.admin()) as client:
            return await client.ask("POST", "/v1/explain", body=body)

    return asyncio.run(scenario())


def test_it_passes_the_description_on_and_the_answer_back() -> None:
    gate = Gate()
    described = {
        "address": "203.0.113.9",
        "method": "POST",
        "path": "/orders?id=1",
        "host": "example.org",
        "headers": {"X-Api-Key": "k"},
        "front": "nginx",
    }

    answer = explained(gate, json.dumps(described).encode())

    assert (answer.status, answer.json) == (200, {"allowed": True, "address": "203.0.113.9"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert gate.explained == [
        ExplainRequest("203.0.113.9", "POST", "/orders?id=1", "example.org", {"X-Api-Key": "k"}, "nginx")
    ]


def test_all_but_the_address_may_be_left_out() -> None:
    gate = Gate()

    explained(gate, b'{"address": "203.0.113.9"}')

    assert gate.explained == [ExplainRequest("203.0.113.9", "GET", "/", "", {}, "api")]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "truncated"),
        (b"\xff", "malformed"),
        (b'{"address": "\xff"}', "UTF-8"),
        (b"[" * 60_000, "array"),
        (b"{}", "`address`"),
        (b'{"address": ""}', "$.address"),
        (b'{"address": 1}', "$.address"),
        (b'{"address": "a", "adress": "a"}', "`adress`"),
        (b'{"address": "a", "front": "apache"}', "$.front"),
        (b'{"address": "a", "headers": {"a": 1}}', "$.headers"),
        (
            b'{"address": "a", "headers": {%s}}' % b",".join(b'"h%d":""' % n for n in range(MAX_HEADERS + 1)),
            "headers",
        ),
        (b'{"address": "a", "path": "/%s"}' % (b"x" * 9_000), "$.path"),
    ],
)
def test_a_bad_description_is_refused_with_the_place_and_asks_nobody(body: bytes, detail: str) -> None:
    gate = Gate()

    answer = explained(gate, body)

    assert answer.is_problem(400)
    assert detail in str(answer.json["detail"])
    assert gate.explained == []


def test_a_body_that_is_too_large_is_refused() -> None:
    assert explained(Gate(), b" " * 70_000).is_problem(413)


def test_what_the_gate_refuses_is_passed_on() -> None:
    gate = Gate()
    gate.fails = Problem(400, "The address is not one.")

    answer = explained(gate, b'{"address": "a"}')

    assert answer.is_problem(400)
    assert answer.json["detail"] == "The address is not one."


def test_a_failure_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    gate.fails = RuntimeError("SECRET")

    answer = explained(gate, b'{"address": "a"}')

    assert answer.is_problem(500)
    assert "SECRET" not in answer.text
    assert "SECRET" in caplog.text


def test_what_a_gate_answers_is_what_is_declared(
    start_gate: Callable[..., gates.Gate], valkey: StoreServer
) -> None:
    gate = start_gate("store: {deadline_ms: 2000}", store_url=valkey.url())

    answer = gate.admin("/v1/explain", method="POST", body=b'{"address": "203.0.113.9"}')
    answered = json.loads(answer.body)

    assert set(answered) == set(Explained.__struct_fields__)
    assert msgspec.to_builtins(msgspec.convert(answered, Explained)) == answered
