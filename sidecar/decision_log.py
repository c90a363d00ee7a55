"""What the gate says on stderr: one JSON object a line, for decisions and for changes of state.

What a line holds is `log_lines`'s: `refused` and `allowed` tell one decision, `suppressed` and `log_dropped` what has
no line, `log` a record of the standard library's `logging`, the rest is one `Event` each.

Of the refusals at most so many a second have a line; of the allowed requests those that a sample chooses, bounded in
the same way. What has none is counted, and the next line of its event, or `suppressed`, tells how many.

The last MOST_KEPT decisions that had a line, or would have had with a higher bound, are kept for who asks about one by
its request id: refusals up to KEPT_PER_S, so that a flood neither costs more nor pushes everything else out at once.
During one, therefore, not every refusal is found.

No line carries a query string, a header, a cookie or a credential, and none that is recognized in a path. What a client
sent cannot break a line (JSON), nor play with the terminal of who reads it: control characters are escaped or
replaced.

Nothing here blocks the event loop. A suppressed refusal costs one comparison and one addition,
before anything is formatted. Lines go into a bounded queue that a daemon thread writes out; when
stderr is stuck the queue fills up, further lines are dropped and counted, and `log_dropped` says
how many once it flows again.

This module does not rotate, ship or colour, and it is not an audit trail: lines may be missing.
"""

from __future__ import annotations

import logging
import os
import random
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from sidecar.core.model import Request, Verdict
from sidecar.log_lines import NOTHING_HIDDEN, Decision, Hidden, Seen, decision_of, moment
from sidecar.plain_text import cut, without_passwords
from sidecar.rates import Bucket, Sample

MAX_MESSAGE: Final = 1_000
MAX_TRACEBACK: Final = 2_500
RECORDS_PER_S: Final = 20
"""Lines a second for the records of `logging`."""
MOST_KEPT: Final = 4_096
"""Decisions, for who asks about one: some 3 MB."""
KEPT_PER_S: Final = 200
"""Refusals that are kept a second, or more if more have a line: each takes about 10 us."""

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

    `wall_s` is the time since 1970 in seconds; decisions bring their own monotonic time along. `chance` gives
    numbers from 0 to below 1. Nothing of what is allowed is told before `set_sample`.

    One thread calls `refusal`, `allowed` and `kept`; `event` and `record` may come from any.
    """

    __slots__ = (
        "_allows",
        "_chance",
        "_hidden",
        "_keeping",
        "_kept",
        "_records",
        "_refusals",
        "_sample",
        "_suppressed",
        "_suppressed_allows",
        "_wall_s",
        "_write",
    )

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        refusals_per_s: float,
        wall_s: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._write = write
        self._wall_s = wall_s
        self._chance = chance
        self._records = Bucket(RECORDS_PER_S)
        self._hidden = NOTHING_HIDDEN
        self._kept: deque[tuple[str, bytes]] = deque(maxlen=MOST_KEPT)
        self._suppressed = 0
        self._suppressed_allows = 0
        self.set_rate(refusals_per_s)
        self.set_sample(0.0, 0.0)

    @property
    def samples(self) -> bool:
        """Whether `allowed` would ever tell anything."""
        return self._sample.share > 0

    def refusal(
        self,
        front_index: int,
        request: Request,
        verdict: Verdict,
        request_id: bytes,
        elapsed_s: float,
        mono_s: float,
    ) -> None:
        """Keep a refusal and write its line, or count it as suppressed (which takes about 0.15 us)."""
        keeping = self._keeping
        if (
            keeping.full_at_s - mono_s > keeping.tolerance_s
        ):  # `take`, without a call for what a flood repeats
            self._suppressed += 1
            return
        keeping.take(mono_s)
        decision = self._keep(Seen(front_index, request, verdict, request_id, elapsed_s), UNSET)
        if not self._refusals.take(mono_s):
            self._suppressed += 1
            return
        self._tell(decision, self._suppressed)
        self._suppressed = 0

    def allowed(
        self,
        front_index: int,
        request: Request,
        verdict: Verdict,
        request_id: bytes,
        elapsed_s: float,
        mono_s: float,
    ) -> None:
        """Keep an allowed request and write its line, if the sample chooses it."""
        if not self._sample.take():
            return
        if not self._allows.take(mono_s):
            self._suppressed_allows += 1
            return
        decision = self._keep(Seen(front_index, request, verdict, request_id, elapsed_s), self._sample.share)
        self._tell(decision, self._suppressed_allows)
        self._suppressed_allows = 0

    def kept(self, request_id: str) -> list[bytes]:
        """The lines of the decisions with this id that are still known, the oldest first.

        Clients may send ids of their own: one may stand for several decisions.
        """
        return [line for known, line in self._kept if known == request_id]

    def sweep(self) -> None:
        """Tell of suppressed decisions that no further one told of: for once a second, and for the end."""
        refusals = self._suppressed if self._refusals.rate else 0
        if refusals or self._suppressed_allows:
            allows: dict[str, Field] = {"allows": self._suppressed_allows} if self._suppressed_allows else {}
            self._suppressed = self._suppressed_allows = 0
            self._line("suppressed", {"refusals": refusals, **allows})

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
                fields["traceback"] = cut(without_passwords(traceback)[-MAX_TRACEBACK:], MAX_TRACEBACK)
            self._line("log", fields)

    def set_rate(self, refusals_per_s: float) -> None:
        """Follow a reload of the configuration."""
        self._refusals = Bucket(refusals_per_s)
        self._keeping = Bucket(max(KEPT_PER_S, refusals_per_s))

    def set_sample(self, share: float, allows_per_s: float) -> None:
        """Tell of this share of what is allowed, at most so many a second; 0 tells of none."""
        self._sample = Sample(share, chance=self._chance)
        self._allows = Bucket(allows_per_s)

    def hide(self, paths: Sequence[str]) -> None:
        """Show of the paths that one of these patterns matches only the pattern."""
        self._hidden = Hidden(paths)

    def _keep(self, seen: Seen, share: float | UnsetType) -> Decision:
        decision = decision_of(seen, self._wall_s(), hidden=self._hidden, sample=share)
        self._kept.append((decision.request_id, msgspec.json.encode(decision)))
        return decision

    def _tell(self, decision: Decision, suppressed: int) -> None:
        if suppressed:
            decision = msgspec.structs.replace(decision, suppressed=suppressed)
        self._write(msgspec.json.encode(decision) + b"\n")

    def _line(self, event: str, fields: dict[str, Field]) -> None:
        self._write(_formatted(self._wall_s(), event, fields))


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


def _formatted(wall_s: float, event: str, fields: dict[str, Field]) -> bytes:
    line = {"ts": moment(wall_s), "event": event, **fields}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _clean(value: Field) -> Field:
    """A field that comes from the gate itself: cut, and without the password of a URL (the store's)."""
    if isinstance(value, str):
        return cut(without_passwords(value), MAX_MESSAGE)
    if isinstance(value, list):
        return [cut(without_passwords(text), MAX_MESSAGE) for text in value]
    return value
