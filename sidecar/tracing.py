"""Spans of decisions, for whoever traces requests through proxies and applications: off unless configured.

    check plane ── seen ──> chosen? ── no ──> nothing
                              │ yes
                              v
                     bounded queue ── a thread, batches ──> OTLP/HTTP (`otlp`)

Chosen is a request whose `traceparent` says that its trace is recorded, and of those without one a share. At most
SPANS_PER_S are made, since the flag comes from the client where no proxy sets it. Whatever goes wrong from there on
(the bound, a full queue, a collector that is away) costs spans, which are counted and told once a minute, and nothing
else: nobody waits for a collector.

A span begins with the arrival of the request's bytes and ends with the verdict. It says what a line of the log says,
and no more (`log_lines`). With tracing off none of this is even imported.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Final, NamedTuple, Protocol, cast

from sidecar.core.model import Request, Verdict
from sidecar.log_lines import NOTHING_HIDDEN, Decision, Hidden, Seen, decision_of
from sidecar.rates import Bucket, Sample
from sidecar.trace_context import trace_parent

SPANS_PER_S: Final = 500
"""Of one process. A span costs some 12 us here and 60 us in the thread, which compete for one interpreter."""
MOST_WAITING: Final = 2_048
BATCH: Final = 32
"""Encoding one holds the interpreter for some 2 ms; a verdict may wait that long."""
EVERY_S: Final = 1.0
"""How long a span waits for others."""
FAREWELL_S: Final = 1.0
TELL_EVERY_S: Final = 60.0

_NEEDED: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


class Span(NamedTuple):
    """One decision within a trace; `parent_id` 0 begins one. Times are nanoseconds since 1970."""

    trace_id: int
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    decision: Decision


class Sender(Protocol):
    """What takes spans to the collector; only the thread of `Spans` uses it, but for `close`."""

    def send(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took them. Takes some seconds at most."""
        ...

    def close(self) -> None:
        """Let go, and end a `send` that waits."""
        ...


def installed() -> bool:
    """Whether what `tracing.otlp` needs is there; asked before anything is started."""
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:  # of a package around it
        return False


def sender_to(url: str, *, instance: str, version: str) -> Sender:
    """A sender to the collector at `url`; takes half a second to load."""
    return cast("Sender", import_module("sidecar.otlp").Otlp(url, instance=instance, version=version))


class Spans:
    """The spans of one replica. `seen`, `set_share` and `sweep` are for one thread."""

    def __init__(
        self,
        sender: Sender,
        *,
        share: float,
        warn: Callable[[str], None],
        wall_ns: Callable[[], int] = time.time_ns,
        chance: random.Random | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self.dropped = 0
        """Spans that were too many: for the rate, or for the queue."""
        self.lost = 0
        """Spans that the collector did not take."""
        self._sender = sender
        self._warn = warn
        self._wall_ns = wall_ns
        self._random = chance or random.Random()
        self._every_s = every_s
        self._hidden = NOTHING_HIDDEN
        self._rate = Bucket(SPANS_PER_S)
        self._waiting: deque[Span] = deque()
        self._told = 0
        self._tell_after_s = float("-inf")
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.set_share(share)

    def set_share(self, share: float) -> None:
        """Begin a trace for this share of the requests that are in none."""
        self._sample = Sample(share, chance=self._random.random)

    def hide(self, paths: Sequence[str]) -> None:
        """Show of the paths that one of these patterns matches only the pattern."""
        self._hidden = Hidden(paths)

    def seen(
        self,
        front_index: int,
        request: Request,
        verdict: Verdict,
        request_id: bytes,
        elapsed_s: float,
        mono_s: float,
    ) -> None:
        """Make the span of a decision, if it is chosen: some 0.2 us where it is not."""
        parent = trace_parent(request.headers)
        if not (self._sample.take() if parent is None else parent.sampled):
            return
        if len(self._waiting) >= MOST_WAITING or not self._rate.take(mono_s):
            self.dropped += 1
            return
        end_ns = self._wall_ns()
        seen = Seen(front_index, request, verdict, request_id, elapsed_s)
        self._waiting.append(
            Span(
                trace_id=int(parent.trace_id, 16) if parent is not None else self._id(128),
                span_id=self._id(64),
                parent_id=int(parent.span_id, 16) if parent is not None else 0,
                start_ns=end_ns - int(elapsed_s * 1e9),
                end_ns=end_ns,
                decision=decision_of(seen, end_ns / 1e9, hidden=self._hidden),
            )
        )
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def sweep(self, mono_s: float) -> None:
        """Tell of spans that are gone, at most once a minute."""
        gone = self.dropped + self.lost
        if gone == self._told or mono_s < self._tell_after_s:
            return
        self._warn(
            f"tracing: {gone - self._told} spans are gone, {self.lost} since the start because the collector did not "
            f"take them, {self.dropped} because they were too many; requests are judged as ever"
        )
        self._told, self._tell_after_s = gone, mono_s + TELL_EVERY_S

    def close(self, deadline_s: float = FAREWELL_S) -> None:
        """Send what waits, for at most `deadline_s` seconds; then let go. Blocks that long."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(deadline_s)
        self._sender.close()

    def _id(self, bits: int) -> int:
        return self._random.getrandbits(bits) or 1  # zero is none

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._send, name="tracing", daemon=True)
        self._thread.start()

    def _send(self) -> None:
        """Send batches until told to close and nothing waits."""
        waiting = self._waiting
        ending = False
        while not ending:
            ending = self._closing.wait(self._every_s)
            while waiting:
                batch = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
                if not self._sender.send(batch):
                    self.lost += len(batch)


def attributes_of(decision: Decision) -> Mapping[str, str | int | bool | list[str]]:
    """What a span says: OpenTelemetry's own names where it has some, else `portcullis.` and the log's."""
    said: dict[str, str | int | bool | list[str] | None] = {
        "http.request.method": decision.method,
        "url.path": decision.path,
        "server.address": decision.host,
        "client.address": decision.address,
        "http.response.status_code": decision.status,
        "portcullis.allowed": decision.event == "allowed",
        "portcullis.front": decision.front,
        "portcullis.reason": decision.reason,
        "portcullis.source": decision.source,
        "portcullis.rule": decision.rule,
        "portcullis.limits": decision.limits,
        "portcullis.shadow": decision.shadow,
        "portcullis.request_id": decision.request_id,
        "portcullis.key": decision.key,
        "portcullis.tenant": decision.tenant,
    }
    return {name: value for name, value in said.items() if value not in (None, "", [])}
