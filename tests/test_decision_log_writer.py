"""Lines into a real pipe: in order, whoever reads it and however slowly."""

from __future__ import annotations

import os

import orjson

from sidecar.decision_log import LineWriter
from tests.servers import WITHIN_S

NOON_S = 1_772_366_400.1239


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
