"""Lines as a reader gets them: parsed JSON, from a list or from a real pipe."""

from __future__ import annotations

import json
import logging
import os
import select
import warnings
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Reason, Request, Source, Verdict
from sidecar.decision_log import (
    MAX_PATH,
    MAX_TEXT,
    RECORDS_PER_S,
    DecisionLog,
    Event,
    JsonHandler,
    LineWriter,
    capture_logging,
)
from tests.servers import WITHIN_S

NOON_S = 1_772_366_400.1239
REFUSED = Verdict(
    Reason.RATE_LIMITED,
    source=Source.STORE,
    retry_after_s=12,
    rule="per-ip",
    violated=("per-ip", "login"),
    shadow=("json-only",),
)


class Reader:
    """A log whose lines are kept in memory, with a wall clock that stands still."""

    def __init__(self, refusals_per_s: float = 10) -> None:
        self.raw: list[bytes] = []
        self.log = DecisionLog(self.raw.append, refusals_per_s=refusals_per_s, wall_s=lambda: NOON_S)

    def refuse(self, mono_s: float, **fields: str) -> None:
        self.log.refusal(0, asked(**fields), REFUSED, b"id-1", mono_s)

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


def pipe_with_writer(most_lines: int = 1_000) -> tuple[int, int, LineWriter]:
    read_end, write_end = os.pipe()
    return read_end, write_end, LineWriter(write_end, wall_s=lambda: NOON_S, most_lines=most_lines)


def read_all(fd: int) -> list[bytes]:
    with open(fd, "rb") as stream:
        return stream.read().splitlines()


def test_lines_come_out_in_order() -> None:
    read_end, write_end, writer = pipe_with_writer()

    for number in range(100):
        writer.put(b"%d\n" % number)
    writer.close(WITHIN_S)

    os.close(write_end)
    assert read_all(read_end) == [b"%d" % number for number in range(100)]


def test_a_stuck_reader_blocks_nobody_and_learns_afterwards_what_it_missed() -> None:
    read_end, write_end, writer = pipe_with_writer(most_lines=10)
    line = b"x" * 65_535 + b"\n"

    for _ in range(100):
        writer.put(line)
    dropped = writer.dropped
    received = b""
    while b"log_dropped" not in received:
        received += os.read(read_end, 1 << 20)
    writer.close(WITHIN_S)

    kept = received.count(b"x" * 65_535 + b"\n")
    told = orjson.loads(received[received.rindex(b"{") :])
    assert dropped == 100 - kept
    assert told == {"ts": "2026-03-01T12:00:00.123Z", "event": "log_dropped", "lines": dropped}
    os.close(read_end)
    os.close(write_end)


def test_a_reader_that_has_gone_only_loses_lines() -> None:
    read_end, write_end, writer = pipe_with_writer()
    os.close(read_end)

    writer.put(b"lost\n")
    writer.close(WITHIN_S)

    assert writer.dropped >= 1
    os.close(write_end)


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for() -> None:
    read_end, write_end, writer = pipe_with_writer()
    os.set_blocking(write_end, False)

    writer.put(b"x" * 300_000 + b"\n")
    received = b""
    while not received.endswith(b"\n"):
        received += os.read(read_end, 1 << 20)
    writer.close(WITHIN_S)

    assert received == b"x" * 300_000 + b"\n"
    os.close(read_end)
    os.close(write_end)


def test_closing_a_stuck_writer_takes_no_longer_than_its_deadline() -> None:
    read_end, write_end, writer = pipe_with_writer()
    writer.put(b"x" * 300_000 + b"\n")

    writer.close(0.01)

    os.close(read_end)  # lets the thread go
    writer.close(WITHIN_S)
    os.close(write_end)
