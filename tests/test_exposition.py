"""What a scrape answers, parsed again by prometheus_client's own parsers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from sidecar.core.model import Reason, Verdict
from sidecar.exposition import FRESH_TEXTS, REFRESH_S, Exposition, Retired
from sidecar.metrics import FAMILIES, Count, Gauge, Layout, Metrics

LAYOUT = Layout(["per-ip"], ["login"])
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
REFUSED = Verdict(Reason.RATE_LIMITED, violated=("per-ip",), shadow=("login",))

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Fleet:
    """Workers with their cells, the retired counts, and what is exported of them."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = [Metrics(LAYOUT) for _ in range(workers)]
        self.retired = Retired(LAYOUT)
        self.clock = Clock()
        self.digest = "0123456789abcdef"
        self.exposition = Exposition(
            version="1.2.3",
            digest=lambda: self.digest,
            snapshots=self.snapshots,
            retired=self.retired,
            mono_s=self.clock,
        )

    def snapshots(self) -> Sequence[Sequence[int]]:
        return [worker.values() for worker in self.workers]

    def text(self, accept: str = "") -> str:
        self.clock.now_s += 10
        return self.exposition.text(accept)[0].decode()

    def samples(self) -> Samples:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in _parsed(self.text())
            for sample in family.samples
        }

    def value(self, sample: str, **labels: str) -> float | None:
        return self.samples().get((sample, frozenset(labels.items())))


def _parsed(text: str) -> list[Metric]:
    return list(text_families(text))


def test_it_names_every_metric_of_the_table() -> None:
    text = Fleet().text(OPENMETRICS)
    parsed = openmetrics_families(text)  # type: ignore[no-untyped-call]  # the parser has no annotations
    names = {family.name for family in parsed}

    assert {family.name.removesuffix("_total") for family in FAMILIES} <= names
    assert {"portcullis_build", "portcullis_workers", "portcullis_worker_restarts"} <= names
    assert "process_resident_memory_bytes" in names


def test_it_follows_the_conventions_for_names_and_help_texts() -> None:
    families = _parsed(Fleet().text())

    for family in families:
        assert re.fullmatch(r"(portcullis|process)(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
    for row in FAMILIES:
        assert (row.kind.value == "counter") == row.name.endswith("_total")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
def test_it_answers_in_the_format_that_the_client_accepts(accept: str, content_type: str) -> None:
    body, answered = Fleet().exposition.text(accept)

    assert answered.startswith(content_type)
    assert body.endswith(b"# EOF\n") == answered.startswith("application/openmetrics-text")


def test_a_refusal_shows_with_all_its_labels() -> None:
    fleet = Fleet()

    fleet.workers[0].decision(1, REFUSED, 15e-6)

    labels = {"front": "envoy", "allowed": "false", "reason": "rate_limited", "source": "memory"}
    assert fleet.value("portcullis_decisions_total", **labels) == 1
    assert fleet.value("portcullis_limit_total", limit="per-ip", outcome="refused") == 1
    assert fleet.value("portcullis_shadow_total", rule="login") == 1
    assert fleet.value("portcullis_decision_seconds_bucket", le="1e-05") == 0
    assert fleet.value("portcullis_decision_seconds_bucket", le="2e-05") == 1
    assert fleet.value("portcullis_decision_seconds_bucket", le="+Inf") == 1
    assert fleet.value("portcullis_decision_seconds_count") == 1
    assert fleet.value("portcullis_decision_seconds_sum") == pytest.approx(15e-6)


def test_the_common_decisions_are_there_from_zero_and_the_others_once_they_happened() -> None:
    fleet = Fleet()
    common = {"front": "nginx", "allowed": "true", "reason": "ok", "source": "memory"}
    rare = {"front": "nginx", "allowed": "false", "reason": "host", "source": "memory"}

    assert fleet.value("portcullis_decisions_total", **common) == 0
    assert fleet.value("portcullis_decisions_total", **rare) is None
    fleet.workers[0].decision(0, Verdict(Reason.HOST), 0)
    assert fleet.value("portcullis_decisions_total", **rare) == 1


def test_counters_of_all_workers_sum_up() -> None:
    fleet = Fleet(workers=3)

    for worker in fleet.workers:
        worker.decision(0, REFUSED, 0)

    assert fleet.value("portcullis_limit_total", limit="per-ip", outcome="refused") == 3
    assert fleet.value("portcullis_decision_seconds_count") == 3


@pytest.mark.parametrize(
    ("gauge", "sample", "expected"),
    [
        (Gauge.STORE_UP, "portcullis_store_up", 1),
        (Gauge.ATTACK_MODE, "portcullis_attack_mode", 3),
        (Gauge.CONTROL_EPOCH, "portcullis_control_epoch", 1),
        (Gauge.CONTROL_LAG_NS, "portcullis_control_lag_seconds", 3e-9),
        (Gauge.LEDGER_COUNTERS, "portcullis_ledger_counters", 6),
        (Gauge.CONNECTIONS, "portcullis_connections", 6),
    ],
)
def test_gauges_of_workers_combine_as_the_table_says(gauge: Gauge, sample: str, expected: float) -> None:
    fleet = Fleet(workers=3)

    for value, worker in enumerate(fleet.workers, start=1):
        worker.gauge(gauge, value)

    assert fleet.value(sample) == expected


def test_no_counter_falls_when_a_worker_dies_and_its_gauges_go_with_it() -> None:
    fleet = Fleet(workers=2)
    for worker in fleet.workers:
        worker.decision(0, REFUSED, 15e-6)
        worker.gauge(Gauge.CONNECTIONS, 5)
    before = fleet.samples()

    fleet.retired.add(fleet.workers[0].values())
    fleet.workers[0] = Metrics(LAYOUT)

    after = fleet.samples()
    counters = [
        key for key in before if key[0].startswith("portcullis_") and key[0].endswith(("_total", "_bucket"))
    ]
    assert all(after[key] >= before[key] for key in counters)
    assert fleet.value("portcullis_limit_total", limit="per-ip", outcome="refused") == 2
    assert fleet.value("portcullis_connections") == 5
    assert fleet.value("portcullis_worker_restarts_total") == 1
    assert fleet.value("portcullis_workers") == 2


def test_a_new_policy_keeps_the_totals_of_the_old_one() -> None:
    fleet = Fleet(workers=2)
    fleet.workers[0].decision(0, REFUSED, 0)
    fleet.retired.add(fleet.workers[1].values())

    layout = LAYOUT.extended(["per-key"], [])
    fleet.retired.adopt(layout)

    assert fleet.value("portcullis_limit_total", limit="per-key", outcome="refused") == 0
    fleet.workers[0].adopt(layout)
    fleet.workers[0].decision(0, Verdict(Reason.RATE_LIMITED, violated=("per-key",)), 0)
    assert fleet.value("portcullis_limit_total", limit="per-key", outcome="refused") == 1
    assert fleet.value("portcullis_limit_total", limit="per-ip", outcome="refused") == 1


def test_what_the_parent_counts_itself_is_exported() -> None:
    fleet = Fleet()

    fleet.retired.count(Count.CONFIG_REJECTED)
    fleet.retired.count(Count.ADMIN_REFUSED)

    assert fleet.value("portcullis_config_reloads_total", outcome="rejected") == 1
    assert fleet.value("portcullis_admin_refusals_total") == 1


def test_without_a_living_worker_gauges_have_no_value() -> None:
    fleet = Fleet(workers=0)

    assert fleet.value("portcullis_store_up") is None
    assert fleet.value("portcullis_workers") == 0


def test_build_info_carries_the_version() -> None:
    assert Fleet().value("portcullis_build_info", version="1.2.3") == 1


def test_the_configuration_is_told_apart_by_a_number() -> None:
    fleet = Fleet()

    assert fleet.value("portcullis_config_digest") == 0x0123456789AB
    fleet.digest = "ffffffffffffffff"
    assert fleet.value("portcullis_config_digest") == 2**48 - 1


def test_a_rejected_configuration_shows_until_one_is_taken() -> None:
    fleet = Fleet()
    told = []

    for event in (Count.ADMIN_REFUSED, Count.CONFIG_REJECTED, Count.ADMIN_REFUSED, Count.CONFIG_RELOADED):
        fleet.retired.count(event)
        told.append(fleet.value("portcullis_config_last_reload_ok"))

    assert told == [1, 0, 0, 1]


def test_memory_is_told_with_its_limit() -> None:
    fleet = Fleet()

    used, limit = fleet.value("portcullis_memory_used_bytes"), fleet.value("portcullis_memory_limit_bytes")

    assert used is not None
    assert limit is not None
    assert 0 < used <= limit


def test_a_client_that_scrapes_without_pause_gets_the_last_text_until_it_rests() -> None:
    fleet = Fleet()
    texts = set()

    for _ in range(FRESH_TEXTS * 2):
        fleet.workers[0].decision(0, REFUSED, 0)
        texts.add(fleet.exposition.text("")[0])

    assert len(texts) == FRESH_TEXTS
    fleet.clock.now_s += REFRESH_S
    assert fleet.exposition.text("")[0] not in texts
