"""What the gate says on stderr: one JSON object a line, for refusals and for changes of state.

Every line has
    ts           RFC 3339, UTC, milliseconds: `2026-03-01T12:00:00.123Z`
    event        `refused`, `suppressed`, `log`, `log_dropped`, or one of `Event`

A refusal (`refused`) is sampled: at most so many lines a second, the rest is counted. Fields:
    front        `nginx`, `envoy`, `forward`, `api`
    reason       code of the Reason
    status       meant for the client (a front may have to disguise it)
    source       what decided: `memory`, `store`, `outage`
    rule         name of the rule that refused, or null
    limits       names of the limits that refused
    shadow       names of shadow rules that would have refused as well
    retry_after_s  or null
    address, method, host, path, request_id   of the request; cut to a bounded length
    malformed    why the request could not be judged; only then
    suppressed   refusals before this one that got no line of their own; only if there were any
When a flood ends, the rest is told by a line of its own (`suppressed`, field `refusals`).

No line carries a query string, a header, a cookie or a credential. What a client sent cannot break
a line (JSON), nor play with the terminal of who reads it: control characters are escaped or
replaced. Records of the standard library's `logging` become lines too (`log`: level, logger,
message, traceback), bounded in rate by the same means.

Nothing here blocks the event loop. A suppressed refusal costs one comparison and one addition,
before anything is formatted. Lines go into a bounded queue that a daemon thread writes out; when
stderr is stuck the queue fills up, further lines are dropped and counted, and `log_dropped` says
how many once it flows again.

This module does not rotate, ship or colour, and it is not an audit trail: lines may be missing.
"""

from __future__ import annotations

import logging
import os
import re
import select
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Final

import orjson

from sidecar.core.model import Request, Verdict
from sidecar.metrics import FRONTS

MAX_PATH: Final = 256
MAX_TEXT: Final = 128
"""Characters of any other field that a client fills. Lines this short are one atomic write to a pipe,
so that those of several workers do not mix."""

MAX_MESSAGE: Final = 1_000
MAX_TRACEBACK: Final = 2_500
RECORDS_PER_S: Final = 20
"""Lines a second for the records of `logging`."""

Field = str | int | float | bool | list[str] | None


class Event(Enum):
    """Changes of state, each worth a line."""

    STARTED = "started"
    STOPPING = "stopping"
    CONFIG_RELOADED = "config_reloaded"
    CONFIG_REJECTED = "config_rejected"
    STORE_UP = "store_up"
    STORE_DOWN = "store_down"
    ATTACK_MODE = "attack_mode"
    CONTROL_STALE = "control_stale"
    CONTROL_CURRENT = "control_current"
    WORKER_STARTED = "worker_started"
    WORKER_RESTARTED = "worker_restarted"
    WARNING = "warning"


class DecisionLog:
    """Formats lines and hands them to `write`, which must not block (see `LineWriter.put`).

    `wall_s` is the time since 1970 in seconds; refusals bring their own monotonic time along.
    One thread calls `refusal`; `event` and `record` may come from any.
    """

    __slots__ = ("_records", "_refusals", "_suppressed", "_wall_s", "_write")

    def __init__(
        self, write: Callable[[bytes], None], *, refusals_per_s: float, wall_s: Callable[[], float]
    ) -> None:
        self._write = write
        self._wall_s = wall_s
        self._refusals = _Bucket(refusals_per_s)
        self._records = _Bucket(RECORDS_PER_S)
        self._suppressed = 0

    def refusal(
        self, front_index: int, request: Request, verdict: Verdict, request_id: bytes, mono_s: float
    ) -> None:
        """Write the line of a refusal, or count it as suppressed (which takes about 0.15 us)."""
        bucket = self._refusals
        if bucket.full_at_s - mono_s > bucket.tolerance_s:  # `take`, without a call for what a flood repeats
            self._suppressed += 1
            return
        bucket.take(mono_s)
        fields: dict[str, Field] = {
            "front": FRONTS[front_index],
            "reason": verdict.reason.code,
            "status": verdict.status,
            "source": verdict.source.label,
            "rule": verdict.rule,
            "limits": list(verdict.violated),
            "shadow": list(verdict.shadow),
            "retry_after_s": verdict.retry_after_s,
            "address": _cut(request.address, MAX_TEXT),
            "method": _cut(request.method, MAX_TEXT),
            "host": _cut(request.host, MAX_TEXT),
            # A canonical path has no query; a "?" could only come from an escape, or from a path
            # that was not fit to be made canonical.
            "path": _cut(request.path.partition("?")[0], MAX_PATH),
            "request_id": _cut(request_id.decode("ascii", "replace"), MAX_TEXT),
        }
        if request.malformed is not None:
            fields["malformed"] = _cut(request.malformed, MAX_TEXT)
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        self._line("refused", fields)

    def sweep(self) -> None:
        """Tell of suppressed refusals that no further one told of: for once a second, and for the end."""
        if self._suppressed and self._refusals.rate:
            refusals, self._suppressed = self._suppressed, 0
            self._line("suppressed", {"refusals": refusals})

    def event(self, event: Event, **fields: Field) -> None:
        """Write the line of a change of state. Texts are cleaned and cut: an error's own text is welcome."""
        self._line(event.value, {name: _clean(value) for name, value in fields.items()})

    def record(self, level: str, logger: str, message: str, traceback: str | None, mono_s: float) -> None:
        """Write a record of the standard library's `logging`, if its rate allows."""
        if self._records.take(mono_s):
            fields: dict[str, Field] = {
                "level": level.lower(),
                "logger": logger,
                "message": _clean(message),
            }
            if traceback is not None:
                # The end names the error.
                fields["traceback"] = _cut(_without_passwords(traceback)[-MAX_TRACEBACK:], MAX_TRACEBACK)
            self._line("log", fields)

    def set_rate(self, refusals_per_s: float) -> None:
        """Follow a reload of the configuration."""
        self._refusals = _Bucket(refusals_per_s)

    def _line(self, event: str, fields: dict[str, Field]) -> None:
        self._write(_formatted(self._wall_s(), event, fields))


class _Bucket:
    """A token bucket of one second's worth, as one number: the time at which it is full again."""

    __slots__ = ("_token_s", "full_at_s", "rate", "tolerance_s")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._token_s = 1 / rate if rate > 0 else 0.0
        # The nanosecond is for the rounding of sums.
        self.tolerance_s = max(1.0, self._token_s) - self._token_s + 1e-9 if rate > 0 else 0.0
        self.full_at_s = float("-inf") if rate > 0 else float("inf")

    def take(self, mono_s: float) -> bool:
        full_at_s = self.full_at_s
        if full_at_s - mono_s > self.tolerance_s:
            return False
        self.full_at_s = max(full_at_s, mono_s) + self._token_s
        return True


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own, so that `put` never blocks.

    At most `most_lines` wait. The thread starts with the first line, and anew in a forked child, whose
    parent writes what waited at the fork.
    """

    def __init__(self, fd: int, *, wall_s: Callable[[], float], most_lines: int = 1_000) -> None:
        self.dropped = 0
        """Lines that found the queue full or the descriptor closed, since the start."""
        self._fd = fd
        self._wall_s = wall_s
        self._most_lines = most_lines
        self._lines: deque[bytes] = deque()
        self._told = 0
        self._work = threading.Event()
        self._thread: threading.Thread | None = None
        self._closing = False

    def put(self, line: bytes) -> None:
        """Queue one line, with its newline; drop it when too many wait."""
        if len(self._lines) >= self._most_lines:
            self.dropped += 1
            return
        if self._thread is None or not self._thread.is_alive():
            self._start()
        self._lines.append(line)
        self._work.set()

    def close(self, deadline_s: float) -> None:
        """Write what waits, for at most `deadline_s` seconds; then let go."""
        self._closing = True
        if self._thread is not None:
            self._work.set()
            self._thread.join(deadline_s)

    def _start(self) -> None:
        self._lines.clear()
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._drain, name="decision-log", daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            while self._lines:
                self._write(self._lines.popleft())
                if self.dropped != self._told and not self._lines:
                    self._told, lines = self.dropped, self.dropped - self._told
                    self._write(_formatted(self._wall_s(), "log_dropped", {"lines": lines}))
            if self._closing:
                return

    def _write(self, line: bytes) -> None:
        """Write one line whole, however long that takes; a descriptor that is closed swallows it."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                # Somebody who shares this descriptor made it non-blocking.
                select.select([], [self._fd], [], 1.0)
            except OSError:
                self.dropped += 1
                return


class JsonHandler(logging.Handler):
    """Turns records of the standard library's `logging` (asyncio, aiohttp) into lines of the log."""

    def __init__(self, log: DecisionLog, *, mono_s: Callable[[], float]) -> None:
        super().__init__()
        self._log = log
        self._mono_s = mono_s

    def emit(self, record: logging.LogRecord) -> None:
        try:
            traceback = None
            if record.exc_info and record.exc_info[0] is not None:
                traceback = logging.Formatter().formatException(record.exc_info)
            self._log.record(record.levelname, record.name, record.getMessage(), traceback, self._mono_s())
        except Exception:  # the outermost: a record that cannot be formatted must not harm who logged it
            self.handleError(record)


def capture_logging(log: DecisionLog, *, mono_s: Callable[[], float], level: int = logging.WARNING) -> None:
    """Send everything that uses `logging` or `warnings`, from `level` up, to the log, and nowhere else."""
    logging.basicConfig(level=level, handlers=[JsonHandler(log, mono_s=mono_s)], force=True)
    logging.captureWarnings(capture=True)


_URL_CREDENTIAL = re.compile(r"://\S{1,300}@")

_REPLACED = dict.fromkeys(
    (
        *range(0x7F, 0xA0),  # DEL and C1: a terminal may take U+009B for an escape sequence
        *(0x2028, 0x2029),  # line separators for readers that split like JavaScript
        *range(0x202A, 0x202F),  # bidirectional overrides
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),  # lone surrogates have no UTF-8
    ),
    0xFFFD,
)


def _formatted(wall_s: float, event: str, fields: dict[str, Field]) -> bytes:
    moment = datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds")
    line = {"ts": moment.removesuffix("+00:00") + "Z", "event": event, **fields}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _cut(text: str, most: int) -> str:
    """At most `most` characters, without those that JSON does not escape and a reader may stumble over."""
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return shown if shown.isascii() and "\x7f" not in shown else shown.translate(_REPLACED)


def _clean(value: Field) -> Field:
    """A field that comes from the gate itself: cut, and without the password of a URL (the store's)."""
    if isinstance(value, str):
        return _cut(_without_passwords(value), MAX_MESSAGE)
    if isinstance(value, list):
        return [_cut(_without_passwords(text), MAX_MESSAGE) for text in value]
    return value


def _without_passwords(text: str) -> str:
    """The text with user and password of every URL hidden; done before a cut could part them from their "@"."""
    return _URL_CREDENTIAL.sub("://***@", text)
