"""Every metric of the gate, in one table, and the writer that the hot path calls.

Counts are plain integers in one flat array: a series is a cell, and its place is arithmetic
over closed sets (fronts, reasons, sources) or one look-up of a limit's name. Nothing that a
client sends becomes a label. Cells become Prometheus samples only when somebody scrapes; see
`sidecar.exposition`.

Design. The array that a process writes is a Python list: `cells[i] += 1` costs about 25 ns
there, and about 110 ns on a `memoryview` of 64-bit integers over shared memory, because each
access packs and unpacks a struct. So a worker counts in its list and `publish()` copies all
cells into shared memory with one `pack_into` (some 15 us for a thousand cells), a few times a
second and before it ends. What a killed worker loses is what it had not published: counters
may miss some counts, and never fall. Each cell is written as one aligned 64-bit word, so a
reader sees the old or the new count.

The layout only grows. A reload that brings new limits appends cells for them, old limits keep
theirs, and every process that followed the same reloads has the same layout. A reader with the
newest layout therefore reads any older array: what it lacks counts as zero.

    |-- fixed families --|- (other) -|- limit a -|- limit b -|- rule x -| limit c (next reload) |

This module does not render, does not read clocks, and does not decide when to publish.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Final

from sidecar.core.model import Reason, Source, Verdict

FRONTS: Final = ("nginx", "envoy", "forward", "api")
"""Label values of `front`; a front's index is its place here."""

STORE_ERRORS: Final = ("timeout", "connection", "response", "protocol", "other")

OUTCOMES: Final = ("admitted", "refused", "outage_admitted", "outage_refused", "shadow_refused")
"""What a limit did with a request that it concerned, in the order of its cells."""

OTHER: Final = "(other)"
"""The label of limits and rules for which there is no room left; no rule can have this name."""

CAPACITY: Final = 16_384
"""Cells of one array, 128 KiB: room for some 3000 limits over the life of a process."""

NANOSECONDS: Final = 1_000_000_000


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Combine(Enum):
    """How the cells of several workers become one sample."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Family:
    """One row of the table.

    labels    names of the labels
    series    their values, one tuple per series, in the order of the cells; () when it follows the policy
    bounds    upper bounds of a histogram's buckets, in the metric's unit; +Inf is implied
    per_unit  how many in a cell (of a histogram: in its sum) make one in the metric's unit
    always    series to export while they are zero: all, or those that this accepts
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    bounds: tuple[float, ...] = ()
    per_unit: int = 1
    combine: Combine = Combine.SUM
    always: frozenset[tuple[str, ...]] | None = None

    @property
    def width(self) -> int:
        """Cells of one series: a histogram has one per bucket, +Inf included, and one for its sum."""
        return len(self.bounds) + 2 if self.kind is Kind.HISTOGRAM else 1


def _doubling(first: float, count: int) -> tuple[float, ...]:
    return tuple(round(first * 2**n, 9) for n in range(count))


_DECISIONS = tuple(
    (front, "true" if reason.allowed else "false", reason.code, source.label)
    for front, reason, source in product(FRONTS, Reason, Source)
)
_REFUSALS = tuple(
    at for at, labels in enumerate(_DECISIONS) if labels[1] == "false" and labels[2] != "attack_mode"
)
_EXPECTED = frozenset(
    labels
    for labels in _DECISIONS
    if labels[2] in ("ok", "rate_limited") and labels[3] in ("memory", "store")
)

_COUNTER, _GAUGE, _HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

DECISIONS = Family(
    "portcullis_decisions_total",
    _COUNTER,
    "Requests decided, by the front that asked, the reason of the verdict and what decided.",
    ("front", "allowed", "reason", "source"),
    _DECISIONS,
    always=_EXPECTED,
)
"""Of the 288 combinations most never happen. Exported are those that have happened and, from zero, the
ones that every gate sees (ok and rate_limited, from memory and store), so that rates of these are right
from the first request on."""
DECISION_SECONDS = Family(
    "portcullis_decision_seconds",
    _HISTOGRAM,
    "Time from a request read to its verdict, waiting for the store included.",
    bounds=_doubling(10e-6, 18),
    per_unit=NANOSECONDS,
)
LIMIT = Family(
    "portcullis_limit_total",
    _COUNTER,
    "Requests that a limit concerned, by outcome; outage outcomes were decided while the store was silent.",
    ("limit", "outcome"),
    series=(),
)
SHADOW = Family(
    "portcullis_shadow_total",
    _COUNTER,
    "Requests that a rule in shadow mode would have refused.",
    ("rule",),
    series=(),
)
STORE_SECONDS = Family(
    "portcullis_store_seconds",
    _HISTOGRAM,
    "Time of one batch at the store, from sent to answered.",
    bounds=_doubling(50e-6, 15),
    per_unit=NANOSECONDS,
)
STORE_BATCH_SIZE = Family(
    "portcullis_store_batch_size",
    _HISTOGRAM,
    "Counters asked for in one call to the store.",
    bounds=_doubling(1, 12),
)
STORE_ERRORS_TOTAL = Family(
    "portcullis_store_errors_total",
    _COUNTER,
    "Calls to the store without a usable answer.",
    ("kind",),
    tuple((kind,) for kind in STORE_ERRORS),
)
STORE_UP = Family(
    "portcullis_store_up",
    _GAUGE,
    "Whether the store answers: 0 while the outage policy decides in at least one worker.",
    combine=Combine.MIN,
)
ATTACK_MODE = Family(
    "portcullis_attack_mode", _GAUGE, "Whether attack mode is on in at least one worker.", combine=Combine.MAX
)
CONTROL_EPOCH = Family(
    "portcullis_control_epoch",
    _GAUGE,
    "Epoch of the control state that is applied, of the worker that is furthest behind.",
    combine=Combine.MIN,
)
CONTROL_LAG_SECONDS = Family(
    "portcullis_control_lag_seconds",
    _GAUGE,
    "Time since the applied control state was last known to be current, of the worker furthest behind.",
    per_unit=NANOSECONDS,
    combine=Combine.MAX,
)
CONTROL_STALE = Family(
    "portcullis_control_stale",
    _GAUGE,
    "Whether the store's control state is empty or older than what is in force, in at least one worker.",
    combine=Combine.MAX,
)
LEDGER_COUNTERS = Family("portcullis_ledger_counters", _GAUGE, "Counters that the ledger knows.")
CONNECTIONS = Family("portcullis_connections", _GAUGE, "Open connections of the check plane.")
CONFIG_RELOADS_TOTAL = Family(
    "portcullis_config_reloads_total",
    _COUNTER,
    "Attempts to read the configuration again.",
    ("outcome",),
    (("ok",), ("rejected",)),
)
ADMIN_REFUSALS_TOTAL = Family(
    "portcullis_admin_refusals_total", _COUNTER, "Requests to the admin plane without a right token."
)

FAMILIES: Final = (
    DECISIONS,
    DECISION_SECONDS,
    LIMIT,
    SHADOW,
    STORE_SECONDS,
    STORE_BATCH_SIZE,
    STORE_ERRORS_TOTAL,
    STORE_UP,
    ATTACK_MODE,
    CONTROL_EPOCH,
    CONTROL_LAG_SECONDS,
    CONTROL_STALE,
    LEDGER_COUNTERS,
    CONNECTIONS,
    CONFIG_RELOADS_TOTAL,
    ADMIN_REFUSALS_TOTAL,
)
"""The table, in the order of the cells and of the exposition. `sidecar.exposition` adds what is not
counted in cells: build info, the number of workers and their restarts, and process metrics."""


def _place() -> tuple[dict[str, int], int]:
    places: dict[str, int] = {}
    size = 0
    for family in FAMILIES:
        places[family.name] = size
        size += len(family.series) * family.width
    return places, size


PLACES, _FIXED = _place()
"""The first cell of each family that does not follow the policy."""


class Gauge(Enum):
    """What is set, not counted. The value is the cell."""

    STORE_UP = PLACES[STORE_UP.name]
    ATTACK_MODE = PLACES[ATTACK_MODE.name]
    CONTROL_EPOCH = PLACES[CONTROL_EPOCH.name]
    CONTROL_LAG_NS = PLACES[CONTROL_LAG_SECONDS.name]
    CONTROL_STALE = PLACES[CONTROL_STALE.name]
    LEDGER_COUNTERS = PLACES[LEDGER_COUNTERS.name]
    CONNECTIONS = PLACES[CONNECTIONS.name]


class Count(Enum):
    """Rare events that are counted one by one. The value is the cell."""

    CONFIG_RELOADED = PLACES[CONFIG_RELOADS_TOTAL.name]
    CONFIG_REJECTED = PLACES[CONFIG_RELOADS_TOTAL.name] + 1
    ADMIN_REFUSED = PLACES[ADMIN_REFUSALS_TOTAL.name]


class Layout:
    """Where each series has its cell: the fixed families, then what policies named so far.

    `limits` gives the first of a limit's cells (one per outcome), `rules` the cell of a shadow
    rule. Immutable; `extended` makes the next one.
    """

    __slots__ = ("limits", "rules", "size")

    limits: Mapping[str, int]
    rules: Mapping[str, int]
    size: int

    def __init__(self, limit_names: Iterable[str] = (), shadow_rule_names: Iterable[str] = ()) -> None:
        self.limits = {OTHER: _FIXED}
        self.rules = {OTHER: _FIXED + len(OUTCOMES)}
        self.size = _FIXED + len(OUTCOMES) + 1
        self._append(limit_names, shadow_rule_names)

    def extended(self, limit_names: Iterable[str], shadow_rule_names: Iterable[str]) -> Layout:
        """The layout after a policy with these names: all cells stay, new names get new ones."""
        layout = Layout()
        layout.limits, layout.rules, layout.size = self.limits, self.rules, self.size
        layout._append(limit_names, shadow_rule_names)
        return layout

    def _append(self, limit_names: Iterable[str], shadow_rule_names: Iterable[str]) -> None:
        self.limits = self._placed(self.limits, limit_names, len(OUTCOMES))
        self.rules = self._placed(self.rules, shadow_rule_names, 1)

    def _placed(self, placed: Mapping[str, int], names: Iterable[str], width: int) -> Mapping[str, int]:
        merged = dict(placed)
        for name in names:
            if name not in merged and self.size + width <= CAPACITY:
                merged[name] = self.size
                self.size += width
        return merged


def shared_cells(fd: int = -1) -> memoryview:
    """Zeroed cells for one worker: in memory that forked children share, or of the memfd `fd`.

    The memfd must be at least `CAPACITY * 8` bytes long. Raises OSError when memory is short.
    """
    return memoryview(mmap.mmap(fd, CAPACITY * 8)).cast("q")


_DECISION_STRIDE = len(Reason) * len(Source)
_SOURCES = len(Source)
_OUTAGE = Source.OUTAGE.index
_BUCKETS = PLACES[DECISION_SECONDS.name]
_FIRST_BOUND_S, _SECOND_BOUND_S = DECISION_SECONDS.bounds[:2]
_PER_FIRST_BOUND = 1 / DECISION_SECONDS.bounds[0]
_INFINITY = len(DECISION_SECONDS.bounds)
_SUM = _BUCKETS + _INFINITY + 1
_STORE_BUCKETS = PLACES[STORE_SECONDS.name]
_STORE_PER_FIRST_BOUND = 1 / STORE_SECONDS.bounds[0]
_STORE_INFINITY = len(STORE_SECONDS.bounds)
_BATCH_BUCKETS = PLACES[STORE_BATCH_SIZE.name]
_BATCH_INFINITY = len(STORE_BATCH_SIZE.bounds)
_STORE_ERRORS = PLACES[STORE_ERRORS_TOTAL.name]
_ADMITTED, _REFUSED, _OUTAGE_ADMITTED, _OUTAGE_REFUSED, _SHADOW_REFUSED = range(len(OUTCOMES))
_MOST_TALLIES = 1024
assert DECISIONS.name == FAMILIES[0].name, "decision() takes the cells of this family to be the first"


class Metrics:
    """The counts of one process. One thread writes.

    `buffer` is the memory that others read (see `shared_cells`); without one, `values()` is the only view.
    """

    __slots__ = ("_buffer", "_cells", "_layout", "_of_key", "_seconds", "_shadow", "_tallies")

    def __init__(self, layout: Layout, buffer: memoryview | None = None) -> None:
        self._layout = layout
        self._buffer = buffer
        self._cells = [0] * layout.size
        self._seconds = 0.0
        self._tallies: tuple[dict[object, int], ...] = tuple({} for _ in Source)
        self._shadow: dict[tuple[str, ...], int] = {}
        self._of_key: dict[object, tuple[str, ...]] = {}

    def decision(self, front_index: int, verdict: Verdict, elapsed_s: float) -> None:
        """Count one verdict: about 0.45 us for an allow under two limits.

        The limits that a verdict concerns are not counted one by one: one tally per set of limits,
        named by the `RateLimit-Policy` that the policy made for this set, is spread over the limits
        by `values()`. That halves the cost of an allow under two limits, and more limits cost nothing.
        """
        cells = self._cells
        reason = verdict.reason
        source = verdict.source.index
        cells[front_index * _DECISION_STRIDE + reason.index * _SOURCES + source] += 1

        # A verdict from memory falls in the first two buckets: two comparisons are cheaper than the
        # general case, in which the number of bits is the number of doublings of the first bound.
        # (An elapsed time exactly on a bound counts one bucket higher.)
        if elapsed_s < _FIRST_BOUND_S:
            cells[_BUCKETS] += 1
        elif elapsed_s < _SECOND_BOUND_S:
            cells[_BUCKETS + 1] += 1
        else:
            bucket = int(elapsed_s * _PER_FIRST_BOUND).bit_length()
            cells[_BUCKETS + min(bucket, _INFINITY)] += 1
        self._seconds += elapsed_s

        key: bytes | tuple[str, ...] = verdict.policy_header if reason.allowed else verdict.violated
        if key:
            try:
                self._tallies[source][key] += 1
            except KeyError:
                self._tally_first(key, verdict)
        if verdict.shadow:
            self._shadow[verdict.shadow] = self._shadow.get(verdict.shadow, 0) + 1

    def store_call(self, elapsed_s: float, batch_size: int) -> None:
        """Count one answered batch of `batch_size` counters, at least 1."""
        cells = self._cells
        bucket = int(elapsed_s * _STORE_PER_FIRST_BOUND).bit_length()
        cells[_STORE_BUCKETS + min(bucket, _STORE_INFINITY)] += 1
        cells[_STORE_BUCKETS + _STORE_INFINITY + 1] += int(elapsed_s * 1e9)
        bucket = (batch_size - 1).bit_length()
        cells[_BATCH_BUCKETS + min(bucket, _BATCH_INFINITY)] += 1
        cells[_BATCH_BUCKETS + _BATCH_INFINITY + 1] += batch_size

    def store_error(self, kind: str) -> None:
        """Count a call without a usable answer; a kind that is not in `STORE_ERRORS` is `other`."""
        known = kind if kind in STORE_ERRORS else "other"
        self._cells[_STORE_ERRORS + STORE_ERRORS.index(known)] += 1

    def gauge(self, gauge: Gauge, value: int) -> None:
        self._cells[gauge.value] = value

    def count(self, event: Count) -> None:
        self._cells[event.value] += 1

    def adopt(self, layout: Layout) -> None:
        """Go on with the layout of a new policy, made by `extended` from the one in use."""
        self._spread()
        self._cells.extend([0] * (layout.size - len(self._cells)))
        self._layout = layout

    def values(self) -> list[int]:
        """All cells, up to date. The caller does not change them."""
        self._spread()
        self._cells[_SUM] = int(self._seconds * 1e9)
        return self._cells

    def totals(self) -> tuple[int, int]:
        """Requests decided so far, and how many were refused, not counting attack mode's own refusals."""
        return sum(self._cells[: len(_DECISIONS)]), sum([self._cells[at] for at in _REFUSALS])

    def publish(self) -> None:
        """Copy all cells to the shared memory."""
        assert self._buffer is not None, "published without a buffer"
        values = self.values()
        struct.pack_into(f"@{len(values)}q", self._buffer, 0, *values)

    def _tally_first(self, key: bytes | tuple[str, ...], verdict: Verdict) -> None:
        """Learn which limits a key stands for. The table is bounded, whatever the keys are."""
        if len(self._of_key) >= _MOST_TALLIES:
            self._spread()
            self._of_key.clear()
        if verdict.reason.allowed:
            self._of_key[key] = tuple(quota.limit.name for quota in verdict.quotas)
        else:
            self._of_key[key] = verdict.violated
        self._tallies[verdict.source.index][key] = 1

    def _spread(self) -> None:
        """Give every limit what was tallied for the sets that it is in."""
        cells, limits, rules = self._cells, self._layout.limits, self._layout.rules
        other_limit, other_rule = limits[OTHER], rules[OTHER]
        for source, tally in enumerate(self._tallies):
            for key, count in tally.items():
                outcome = _ADMITTED if isinstance(key, bytes) else _REFUSED
                if source == _OUTAGE:
                    outcome = _OUTAGE_ADMITTED if outcome == _ADMITTED else _OUTAGE_REFUSED
                for name in self._of_key[key]:
                    cells[limits.get(name, other_limit) + outcome] += count
            tally.clear()
        for names, count in self._shadow.items():
            for name in names:
                cells[rules.get(name, other_rule)] += count
                if name in limits:
                    cells[limits[name] + _SHADOW_REFUSED] += count
        self._shadow.clear()
