"""Lines as a reader gets them: parsed JSON, from a list."""

from __future__ import annotations

import json
import logging
import random
import select
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Reason, Request, Source, Verdict
from sidecar.decision_log import (
    KEPT_PER_S,
    MOST_KEPT,
    RECORDS_PER_S,
    DecisionLog,
    Event,
    JsonHandler,
    capture_logging,
)
from sidecar.log_lines import MAX_PATH, MAX_TEXT

NOON_S = 1_772_366_400.1239
REFUSED = Verdict(
    Reason.RATE_LIMITED,
    source=Source.STORE,
    retry_after_s=12,
    rule="per-ip",
    violated=("per-ip", "login"),
    shadow=("json-only",),
)
ALLOWED = Verdict(Reason.OK, shadow=("json-only",))


class Reader:
    """A log whose lines are kept in memory, with a wall clock that stands still."""

    def __init__(self, refusals_per_s: float = 10) -> None:
        self.raw: list[bytes] = []
        self.log = DecisionLog(
            self.raw.append,
            refusals_per_s=refusals_per_s,
            wall_s=lambda: NOON_S,
            chance=random.Random(7).random,
        )

    def refuse(self, mono_s: float, *, request_id: bytes = b"id-1", **fields: str) -> None:
        self.log.refusal(0, asked(**fields), REFUSED, request_id, 0.000_031, mono_s)

    def allow(self, mono_s: float, *, request_id: bytes = b"id-2") -> None:
        self.log.allowed(1, asked(), ALLOWED, request_id, 0.000_031, mono_s)

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.raw]


def asked(
    *,
    address: str = "203.0.113.9",
    method: str = "GET",
    host: str = "example.org",
    path: str = "/orders",
    malformed: str | None = None,
) -> Request:
    return Request(
        address=address,
        method=method,
        host=host,
        path=path,
        headers={
            b"authorization": b"Bearer SECRET",
            b"cookie": b"SECRET",
            b"x-original-uri": b"/orders?SECRET",
        },
        key=b"SECRET",
        malformed=malformed,
    )


def test_a_refusal_is_one_line_with_all_its_fields() -> None:
    reader = Reader()

    reader.refuse(0.0)

    assert reader.lines == [
        {
            "ts": "2026-03-01T12:00:00.123Z",
            "event": "refused",
            "front": "nginx",
            "reason": "rate_limited",
            "status": 429,
            "source": "store",
            "rule": "per-ip",
            "limits": ["per-ip", "login"],
            "shadow": ["json-only"],
            "retry_after_s": 12,
            "address": "203.0.113.9",
            "method": "GET",
            "host": "example.org",
            "path": "/orders",
            "request_id": "id-1",
            "key": None,
            "tenant": None,
            "kind": None,
            "elapsed_us": 31,
        }
    ]


def test_no_credential_and_no_query_gets_into_a_line() -> None:
    reader = Reader()

    reader.refuse(0.0, path="/orders?token=SECRET")

    assert b"SECRET" not in reader.raw[0]
    assert reader.lines[0]["path"] == "/orders"


def test_a_malformed_request_says_why() -> None:
    reader = Reader()

    reader.refuse(0.0, malformed="encoded slash in the path")

    assert reader.lines[0]["malformed"] == "encoded slash in the path"


def test_refusals_beyond_the_rate_are_counted_in_the_next_line() -> None:
    reader = Reader(refusals_per_s=10)

    for _ in range(1_000):
        reader.refuse(5.0)
    reader.refuse(5.1)

    assert len(reader.lines) == 11
    assert "suppressed" not in reader.lines[9]
    assert reader.lines[10]["suppressed"] == 990


@given(st.lists(st.floats(0, 0.5), max_size=300), st.integers(1, 50))
def test_lines_stay_within_the_rate_and_none_is_uncounted(pauses: list[float], rate: int) -> None:
    reader = Reader(refusals_per_s=rate)

    now_s = 0.0
    for pause_s in pauses:
        now_s += pause_s
        reader.refuse(now_s)
    reader.log.sweep()

    written = [line for line in reader.lines if line["event"] == "refused"]
    told = [line.get("suppressed", 0) for line in written] + [
        line["refusals"] for line in reader.lines if line["event"] == "suppressed"
    ]
    assert len(written) <= rate * (now_s + 1) + 1
    assert len(written) + sum(count for count in told if isinstance(count, int)) == len(pauses)


def test_the_end_of_a_flood_is_told_by_the_sweep() -> None:
    reader = Reader(refusals_per_s=1)
    reader.refuse(0.0)
    reader.refuse(0.0)

    reader.log.sweep()
    reader.log.sweep()

    assert [line["event"] for line in reader.lines] == ["refused", "suppressed"]
    assert reader.lines[1]["refusals"] == 1


def test_a_rate_of_zero_writes_nothing_of_refusals() -> None:
    reader = Reader(refusals_per_s=0)

    reader.refuse(0.0)
    reader.log.sweep()

    assert reader.raw == []


def test_a_rate_below_one_still_writes_now_and_then() -> None:
    reader = Reader(refusals_per_s=0.1)

    for second in range(30):
        reader.refuse(float(second))

    assert len(reader.raw) == 3


def test_nothing_allowed_is_told_unless_it_is_asked_for() -> None:
    reader = Reader()

    for _ in range(1_000):
        reader.allow(0.0)

    assert not reader.log.samples
    assert reader.raw == []


def test_a_share_of_what_is_allowed_is_told() -> None:
    reader = Reader()
    reader.log.set_sample(0.1, 1_000)

    for number in range(5_000):
        reader.allow(number / 100)

    assert reader.log.samples
    assert 400 < len(reader.raw) < 600
    assert reader.lines[0] | {"ts": "", "request_id": ""} == {
        "ts": "",
        "event": "allowed",
        "front": "envoy",
        "reason": "ok",
        "status": 200,
        "source": "memory",
        "rule": None,
        "limits": [],
        "shadow": ["json-only"],
        "retry_after_s": None,
        "address": "203.0.113.9",
        "method": "GET",
        "host": "example.org",
        "path": "/orders",
        "request_id": "",
        "key": None,
        "tenant": None,
        "kind": None,
        "elapsed_us": 31,
        "sample": 0.1,
    }


def test_allowed_requests_beyond_the_rate_are_counted_in_the_next_line() -> None:
    reader = Reader()
    reader.log.set_sample(1.0, 10)

    for _ in range(1_000):
        reader.allow(5.0)
    reader.allow(5.1)
    reader.allow(5.1)
    reader.log.sweep()

    assert [line.get("suppressed") for line in reader.lines[9:11]] == [None, 990]
    assert reader.lines[11:] == [
        {"ts": "2026-03-01T12:00:00.123Z", "event": "suppressed", "refusals": 0, "allows": 1}
    ]


def test_one_decision_is_found_by_its_request_id() -> None:
    reader = Reader()
    reader.log.set_sample(1.0, 100)

    reader.refuse(0.0, request_id=b"a-1")
    reader.allow(0.0, request_id=b"b-2")
    reader.refuse(0.0, request_id=b"a-1", path="/again")

    assert [json.loads(line)["path"] for line in reader.log.kept("a-1")] == ["/orders", "/again"]
    assert [json.loads(line)["event"] for line in reader.log.kept("b-2")] == ["allowed"]
    assert reader.log.kept("a-2") == []


def test_refusals_without_a_line_are_found_too() -> None:
    reader = Reader(refusals_per_s=0)

    reader.refuse(0.0, request_id=b"a-1")

    assert reader.raw == []
    assert len(reader.log.kept("a-1")) == 1


def test_of_a_flood_only_so_many_are_kept_and_a_line_is_always_among_them() -> None:
    reader = Reader(refusals_per_s=10)

    for number in range(100_000):  # in ten seconds
        reader.refuse(number / 10_000, request_id=b"%d" % number)

    kept = sum(bool(reader.log.kept(str(number))) for number in range(0, 100_000, 100))
    assert kept * 100 <= 100 * KEPT_PER_S * 11
    assert all(reader.log.kept(str(line["request_id"])) for line in reader.lines)


def test_what_is_kept_is_bounded_and_the_oldest_go_first() -> None:
    reader = Reader()

    for number in range(MOST_KEPT + 1):
        reader.refuse(float(number), request_id=b"%d" % number)

    assert reader.log.kept("0") == []
    assert len(reader.log.kept("1")) == 1


def test_a_hidden_path_shows_its_pattern_in_the_line_and_to_who_asks() -> None:
    reader = Reader()
    reader.log.hide(["/reset/*"])

    reader.refuse(0.0, path="/reset/SECRET")

    assert reader.lines[0]["path"] == "/reset/*"
    assert b"SECRET" not in b"".join([*reader.raw, *reader.log.kept("id-1")])


def test_a_reload_changes_the_rate() -> None:
    reader = Reader(refusals_per_s=0)

    reader.log.set_rate(1)
    reader.refuse(0.0)

    assert len(reader.raw) == 1


@given(st.text(), st.text(), st.text(), st.text())
def test_whatever_a_client_sends_is_one_harmless_line(
    address: str, method: str, host: str, path: str
) -> None:
    reader = Reader()

    reader.refuse(0.0, address=address, method=method, host=host, path=path)

    text = reader.raw[0].decode()
    assert len(text.splitlines()) == 1
    assert text.endswith("\n")
    assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0x202A <= ord(c) <= 0x202E for c in text[:-1])


def test_a_lone_surrogate_does_not_stop_a_line() -> None:
    reader = Reader()

    reader.refuse(0.0, host="\ud800", path="/\udcff")

    assert reader.lines[0]["path"] == "/\ufffd"


def test_long_fields_are_cut_so_that_a_line_is_one_write_to_a_pipe() -> None:
    reader = Reader()

    reader.refuse(0.0, path="/" + "é" * 9_000, host="h" * 9_000, method="M" * 9_000)

    assert len(str(reader.lines[0]["path"])) == MAX_PATH
    assert len(str(reader.lines[0]["host"])) == MAX_TEXT
    assert len(reader.raw[0]) <= select.PIPE_BUF


def test_a_change_of_state_is_a_line_with_its_fields() -> None:
    reader = Reader()

    reader.log.event(Event.CONFIG_REJECTED, path="portcullis.yaml", problems=["limits[0]: no window"])

    assert reader.lines == [
        {
            "ts": "2026-03-01T12:00:00.123Z",
            "event": "config_rejected",
            "path": "portcullis.yaml",
            "problems": ["limits[0]: no window"],
        }
    ]


@pytest.mark.parametrize("url", ["redis://user:SECRET@host/0", "redis://:SE/C@RET@host", "rediss://SECRET@h"])
def test_the_password_of_a_url_is_hidden(url: str) -> None:
    reader = Reader()

    reader.log.event(Event.STORE_DOWN, error=f"cannot reach {url}: refused", stores=[url])
    reader.log.record("ERROR", "redis", "x" * 990 + url, f"Traceback\nError: {url}", 0.0)

    text = b"".join(reader.raw).decode()
    assert "SE" not in text
    assert "RET" not in text
    assert "cannot reach" in text


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("asyncio")  # noqa: LOG001  # one that no other test sees
    yield logger
    logger.handlers.clear()


def test_a_record_of_logging_is_a_line_with_its_traceback(logger: logging.Logger) -> None:
    reader = Reader()
    logger.addHandler(JsonHandler(reader.log, mono_s=lambda: 0.0))

    try:
        raise ValueError("a\nb")
    except ValueError:
        logger.exception("Task %s failed", "x")

    (line,) = reader.lines
    assert (line["event"], line["level"], line["logger"]) == ("log", "error", "asyncio")
    assert line["message"] == "Task x failed"
    assert str(line["traceback"]).endswith("ValueError: a\nb")


def test_records_of_logging_are_bounded_in_rate(logger: logging.Logger) -> None:
    reader = Reader()
    logger.addHandler(JsonHandler(reader.log, mono_s=lambda: 0.0))

    for _ in range(1_000):
        logger.warning("again")

    assert len(reader.lines) == RECORDS_PER_S


def test_capture_takes_all_records_and_warnings_from_its_level_up() -> None:
    reader = Reader()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []

    try:
        capture_logging(reader.log, mono_s=lambda: 0.0)
        logging.getLogger("aiohttp.server").error("broken")
        logging.getLogger("aiohttp.server").info("chatter")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", stacklevel=1)
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = before
        root.setLevel(level)

    assert [line["logger"] for line in reader.lines] == ["aiohttp.server", "py.warnings"]
