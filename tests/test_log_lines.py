"""Decisions as lines: whom and what they name, what they never do, and whether the schema tells the truth."""

from __future__ import annotations

import json
import select
from pathlib import Path
from typing import Any, Final

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sidecar
from sidecar.core.bound import Bound
from sidecar.core.keys import secret_of
from sidecar.core.model import Reason, Request, Verdict
from sidecar.decision_log import DecisionLog, Event
from sidecar.log_lines import MAX_NAMES, Decision, Hidden, Seen, decision_of, schema

FILE: Final = Path(sidecar.__file__).parent / "decision_log.schema.json"
SCHEMA: Final[dict[str, Any]] = schema(event.value for event in Event)
VALIDATOR: Final = jsonschema.Draft202012Validator(SCHEMA)
REFUSED: Final = Verdict(Reason.PATTERN, rule="waf")
PARENT: Final = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SECRET: Final = secret_of(bytes(range(32)))
TOKEN: Final = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm5hIn0.c2lnbmF0dXJl"


def request(
    path: str = "/orders", headers: dict[bytes, bytes] | None = None, query: bytes = b"", **others: Any
) -> Request:
    return Request(
        address="203.0.113.9",
        method="GET",
        host="shop.example",
        path=path,
        headers=headers or {},
        query=query,
        **others,
    )


def told(asked: Request, verdict: Verdict = REFUSED, request_id: bytes = b"id-1") -> dict[str, Any]:
    return dict(msgspec.to_builtins(decision_of(Seen(0, asked, verdict, request_id, 0.001), 0.0)))


def line_of(asked: Request, verdict: Verdict = REFUSED) -> bytes:
    return msgspec.json.encode(decision_of(Seen(0, asked, verdict, b"id-1", 0.001), 0.0))


def test_it_names_who_asked_by_public_names_only() -> None:
    asked = request(key=b"kshop." + SECRET.encode())
    bound = Bound.__new__(Bound)
    bound.key_id, bound.tenant, bound.kind = b"shop", "acme", "server"
    asked.bound = bound

    line = told(asked)

    assert (line["key"], line["tenant"], line["kind"]) == ("shop", "acme", "server")
    assert SECRET not in json.dumps(line)


def test_it_names_the_patterns_that_were_found_and_not_where() -> None:
    asked = request(query=b"q=<script>")
    asked.patterns = ("xss/script", "oversize")

    line = told(asked)

    assert line["patterns"] == ["xss/script", "oversize"]
    assert "<script>" not in json.dumps(line)


def test_it_names_the_trace_of_a_good_traceparent_and_ignores_a_bad_one() -> None:
    good = told(request(headers={b"traceparent": PARENT}))
    bad = told(request(headers={b"traceparent": PARENT.upper()}))

    assert (good["trace_id"], good["span_id"]) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert "trace_id" not in bad
    assert "span_id" not in bad


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"/reset/{SECRET}/now", "/reset/pcs_***/now"),
        (f"/login/{TOKEN}", "/login/***"),
        (f"/{'x' * 240}/{SECRET}", f"/{'x' * 240}/pcs_***"),  # hidden before a cut could leave its beginning
        ("/orders?token=1", "/orders"),
        ("/eyJust-a-word", "/eyJust-a-word"),
    ],
)
def test_it_hides_what_is_recognized_as_a_secret_in_a_path(path: str, shown: str) -> None:
    assert told(request(path))["path"] == shown


def test_it_hides_a_secret_that_a_client_sends_as_its_request_id() -> None:
    assert told(request(), request_id=SECRET.encode())["request_id"] == "pcs_***"


@pytest.mark.parametrize(
    ("path", "shown"), [("/reset/abc", "/reset/*"), ("/reset", "/reset/*"), ("/other", "/other")]
)
def test_it_shows_the_pattern_of_a_hidden_path(path: str, shown: str) -> None:
    assert Hidden(["/nothing", "/reset/*"]).shown(path) == shown


HEADERS: Final = ("authorization", "cookie", "x-api-key", "referer", "user-agent", "x-original-uri")


@given(
    st.sampled_from(HEADERS),
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12, max_size=40),
    st.sampled_from(list(Reason)),
)
def test_it_never_tells_a_header_a_query_or_a_credential(name: str, secret: str, reason: Reason) -> None:
    asked = request(
        headers={name.encode(): secret.encode()},
        query=b"token=" + secret.encode(),
        key=b"kshop." + secret.encode(),
        content_type=secret.encode(),
    )

    assert secret.encode() not in line_of(asked, Verdict(reason, rule="waf"))


def test_the_longest_line_is_one_write_to_a_pipe() -> None:
    names = tuple(f"{number:02d}{'n' * 61}" for number in range(50))
    asked = request(
        "/" + "\U0001f600" * 9_000,
        headers={b"traceparent": PARENT},
        malformed="m" * 900,
    )
    asked.patterns = tuple(f"{'s' * 63}/{name}" for name in names)
    bound = Bound.__new__(Bound)
    bound.key_id, bound.tenant, bound.kind = b"k" * 900, "t" * 900, "server"
    asked.bound = bound
    asked.host, asked.method, asked.address = "h" * 900, "M" * 900, "f" * 45
    verdict = Verdict(Reason.RATE_LIMITED, rule=names[0], violated=names, shadow=names)

    line = line_of(asked, verdict)

    assert len(line) < select.PIPE_BUF
    assert json.loads(line)["limits"][-1] == f"(and {50 - MAX_NAMES + 1} more)"


# --- the schema ---------------------------------------------------------------------


def test_the_file_is_the_schema() -> None:
    made = json.dumps(SCHEMA, indent=2) + "\n"

    assert FILE.read_text() == made, f"write this to {FILE.name}:\n{made}"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def lines_of_all_kinds() -> list[dict[str, Any]]:
    raw: list[bytes] = []
    log = DecisionLog(raw.append, refusals_per_s=1, wall_s=lambda: 0.0)
    log.set_sample(1.0, 1)
    full = request(headers={b"traceparent": PARENT}, malformed="encoded slash in the path")
    full.patterns = ("xss/script",)
    for mono_s in (0.0, 0.0, 5.0, 5.0):
        log.refusal(0, full, REFUSED, b"id-1", 0.001, mono_s)
        log.allowed(3, request(), Verdict(Reason.EXEMPT), b"id-2", 0.001, mono_s)
    log.sweep()
    log.record("ERROR", "asyncio", "failed", "Traceback", 0.0)
    log.event(Event.WORKER_RESTARTED, worker=1, pid=7, ended="SIGKILL", pause_s=0.1)
    log.event(Event.CONFIG_REJECTED, error="no window")
    return [json.loads(line) for line in raw]


def test_every_line_is_as_the_schema_says() -> None:
    lines = [*lines_of_all_kinds(), {"ts": "2026-03-01T12:00:00.123Z", "event": "log_dropped", "lines": 3}]

    assert {line["event"] for line in lines} >= {"refused", "allowed", "suppressed", "log", "config_rejected"}
    for line in lines:
        VALIDATOR.validate(line)


@pytest.mark.parametrize("change", [{"query": "a=b"}, {"status": "429"}, {"event": "granted"}])
def test_the_schema_refuses_what_no_line_holds(change: dict[str, object]) -> None:
    line = lines_of_all_kinds()[0] | change

    assert not VALIDATOR.is_valid(line)


def test_a_kept_line_reads_back_as_the_same_decision() -> None:
    asked = request(headers={b"traceparent": PARENT})

    read = msgspec.json.decode(line_of(asked), type=Decision)

    assert msgspec.json.encode(read) == line_of(asked)
