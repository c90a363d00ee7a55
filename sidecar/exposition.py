"""Prometheus' view of the cells: what `/metrics` answers.

`collect` turns the arrays of all workers into metric families: counters and histograms sum up,
gauges combine as the table in `sidecar.metrics` says, and what dead workers had counted is
added, so that no counter falls while the gate runs. `Exposition` adds what is not counted in
cells and renders all of it.

A label set that has no count yet is exported as zero where the set is known beforehand (limits,
rules, kinds), so that `rate()` sees the first event; for `portcullis_decisions_total` see its row.

`process_*` describes the process that answers the scrape: with several workers that is the
parent, not the workers. Rendering takes some two milliseconds and happens on the event
loop; a client that scrapes without pause is given the last text again, and cannot take the loop.

This module does not count anything on the hot path and does not open ports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from sidecar.footprint import footprint
from sidecar.metrics import (
    FAMILIES,
    LIMIT,
    OTHER,
    OUTCOMES,
    PLACES,
    SHADOW,
    Combine,
    Count,
    Family,
    Gauge,
    Kind,
    Layout,
)

FRESH_TEXTS: Final = 20
"""Scrapes in a row that are rendered anew; each regains its place in `REFRESH_S`."""

REFRESH_S: Final = 0.125

DIGEST_DIGITS: Final = 12
"""Of the configuration's digest: 48 bits, which a sample (a double) holds exactly."""

_FOLD: Final[Mapping[Combine, Callable[[Iterable[int]], int]]] = {
    Combine.SUM: sum,
    Combine.MIN: min,
    Combine.MAX: max,
}


class Retired:
    """Counts of workers that are gone, so that no counter falls, and of what the parent counts itself.

    Gauges of a dead worker are forgotten: it has no connections.
    """

    __slots__ = ("cells", "layout", "reloaded", "restarts")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.cells = [0] * layout.size
        self.restarts = 0
        self.reloaded = True
        """Whether the last attempt to read the configuration again was taken; true before the first."""

    def add(self, cells: Sequence[int]) -> None:
        """Take over the cells of a worker that ended; they must count nowhere else from now on."""
        self.restarts += 1
        sums = [a + b for a, b in zip_longest(self.cells, cells, fillvalue=0)]
        for gauge in Gauge:
            sums[gauge.value] = 0
        self.cells = sums

    def count(self, event: Count) -> None:
        self.cells[event.value] += 1
        if event in {Count.CONFIG_RELOADED, Count.CONFIG_REJECTED}:
            self.reloaded = event is Count.CONFIG_RELOADED

    def adopt(self, layout: Layout) -> None:
        """Go on with the layout of a new policy, made by `extended` from the one in use."""
        self.layout = layout


def collect(snapshots: Sequence[Sequence[int]], retired: Retired) -> Iterator[Metric]:
    """The families of the table, from one array of cells per living worker and the retired counts.

    An array may be shorter than the layout (it has not followed a reload yet): what it lacks is zero.
    """
    sums = [sum(cells) for cells in zip_longest(retired.cells, *snapshots, fillvalue=0)]
    sums.extend([0] * (retired.layout.size - len(sums)))
    for family in FAMILIES:
        if family.kind is Kind.GAUGE:
            yield _gauge(family, snapshots)
        elif family.kind is Kind.HISTOGRAM:
            yield _histogram(family, sums)
        else:
            yield _counter(family, sums, retired.layout)


def _counter(family: Family, sums: Sequence[int], layout: Layout) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, cell in _series(family, layout):
        expected = OTHER not in labels if family.always is None else labels in family.always
        if sums[cell] or expected:
            metric.add_metric(labels, sums[cell])
    return metric


def _gauge(family: Family, snapshots: Sequence[Sequence[int]]) -> Metric:
    metric = GaugeMetricFamily(family.name, family.help, unit=_unit_of(family))
    cell = PLACES[family.name]
    if snapshots:
        metric.add_metric((), _FOLD[family.combine](cells[cell] for cells in snapshots) / family.per_unit)
    return metric


def _histogram(family: Family, sums: Sequence[int]) -> Metric:
    first = PLACES[family.name]
    buckets: list[tuple[str, float]] = []
    seen = 0
    for index, bound in enumerate((*family.bounds, float("inf"))):
        seen += sums[first + index]
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), seen))
    metric = HistogramMetricFamily(family.name, family.help, unit=_unit_of(family))
    metric.add_metric((), buckets, sums[first + family.width - 1] / family.per_unit)
    return metric


def _series(family: Family, layout: Layout) -> Iterator[tuple[tuple[str, ...], int]]:
    """Label values and cell of each series."""
    if family is LIMIT:
        for name, cell in layout.limits.items():
            for index, outcome in enumerate(OUTCOMES):
                yield (name, outcome), cell + index
    elif family is SHADOW:
        for name, cell in layout.rules.items():
            yield (name,), cell
    else:
        for index, labels in enumerate(family.series):
            yield labels, PLACES[family.name] + index


def _unit_of(family: Family) -> str:
    return "seconds" if family.name.endswith("_seconds") else ""


class Exposition:
    """Renders `/metrics`, as text or OpenMetrics, whichever the client accepts.

    `snapshots` gives one array of cells per living worker, `digest` that of the configuration in force, in
    hexadecimal digits; `mono_s` is a monotonic clock.
    """

    def __init__(
        self,
        *,
        version: str,
        digest: Callable[[], str],
        snapshots: Callable[[], Sequence[Sequence[int]]],
        retired: Retired,
        mono_s: Callable[[], float],
    ) -> None:
        self._version = version
        self._digest = digest
        self._snapshots = snapshots
        self._retired = retired
        self._mono_s = mono_s
        self._texts: dict[str, bytes] = {}
        self._rendered_until_s = mono_s()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(ProcessCollector(registry=None))
        self._registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing: without it the registry would collect once at registration to learn the names."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All families but `process_*`; the registry calls this."""
        snapshots = self._snapshots()
        yield from collect(snapshots, self._retired)
        yield InfoMetricFamily("portcullis_build", "The version that runs.", value={"version": self._version})
        yield GaugeMetricFamily(
            "portcullis_workers", "Processes that decide, the ones that live now.", value=len(snapshots)
        )
        yield CounterMetricFamily(
            "portcullis_worker_restarts_total",
            "Workers that ended and were replaced.",
            value=self._retired.restarts,
        )
        yield GaugeMetricFamily(
            "portcullis_config_digest",
            "The configuration in force as a number that is the same where its meaning is the same.",
            value=int(self._digest()[:DIGEST_DIGITS], 16),
        )
        yield GaugeMetricFamily(
            "portcullis_config_last_reload_ok",
            "Whether the last attempt to read the configuration again was taken; 1 before the first.",
            value=int(self._retired.reloaded),
        )
        if (memory := footprint()) is not None:
            yield GaugeMetricFamily(
                "portcullis_memory_used_bytes",
                "Memory in use in the container, or in the machine where no container limits it.",
                value=memory.used_bytes,
            )
            yield GaugeMetricFamily(
                "portcullis_memory_limit_bytes",
                "Memory that the container may use, or that the machine has.",
                value=memory.limit_bytes,
            )

    def text(self, accept: str) -> tuple[bytes, str]:
        """The body and its content type for an `Accept` header, which may be empty."""
        encode, content_type = choose_encoder(accept)
        now_s = self._mono_s()
        self._rendered_until_s = max(self._rendered_until_s, now_s)
        busy = self._rendered_until_s - now_s >= FRESH_TEXTS * REFRESH_S
        if not busy or content_type not in self._texts:
            self._rendered_until_s += REFRESH_S
            self._texts[content_type] = encode(self._registry)
        return self._texts[content_type], content_type
