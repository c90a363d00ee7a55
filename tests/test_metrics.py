"""The writer's cells, read back through the table."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.model import Limit, Quota, Reason, Source, Verdict
from sidecar.metrics import (
    ATTACK_MODE,
    CAPACITY,
    DECISION_SECONDS,
    DECISIONS,
    FAMILIES,
    FRONTS,
    OTHER,
    OUTCOMES,
    PLACES,
    STORE_BATCH_SIZE,
    STORE_ERRORS_TOTAL,
    STORE_SECONDS,
    Count,
    Family,
    Gauge,
    Kind,
    Layout,
    Metrics,
    shared_cells,
)

PER_IP = Limit("per-ip", (), 100, 60_000, 1_000)
PER_KEY = Limit("per-key", (), 1_000, 60_000, 1_000)
LAYOUT = Layout(["per-ip", "per-key", "login"], ["login", "json-only"])


def admitted(*limits: Limit, source: Source = Source.MEMORY) -> Verdict:
    """An allow, with the header that names the set of its limits as the policy makes it."""
    return Verdict(
        Reason.OK,
        source=source,
        quotas=tuple(Quota(limit, 1, 1) for limit in limits),
        policy_header=", ".join(f'"{limit.name}";q={limit.permits}' for limit in limits).encode(),
    )


def refused(*names: str, source: Source = Source.MEMORY, shadow: tuple[str, ...] = ()) -> Verdict:
    return Verdict(Reason.RATE_LIMITED, source=source, violated=names, shadow=shadow)


def outcomes(metrics: Metrics, layout: Layout, name: str) -> dict[str, int]:
    """The outcomes of one limit that are not zero."""
    first = layout.limits[name]
    cells = metrics.values()[first : first + len(OUTCOMES)]
    return {outcome: count for outcome, count in zip(OUTCOMES, cells, strict=True) if count}


def histogram(metrics: Metrics, family: Family) -> tuple[dict[float, int], int]:
    """Counts by upper bound, without the empty buckets, and the sum."""
    first = PLACES[family.name]
    cells = metrics.values()[first : first + family.width]
    bounds = (*family.bounds, float("inf"))
    return {bound: count for bound, count in zip(bounds, cells, strict=False) if count}, cells[-1]


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("front", FRONTS)
def test_a_decision_counts_in_the_cell_of_its_front_reason_and_source(front: str, reason: Reason) -> None:
    for source in Source:
        metrics = Metrics(LAYOUT)

        metrics.decision(FRONTS.index(front), Verdict(reason, source=source), 1e-6)

        counted = {
            labels for labels, count in zip(DECISIONS.series, metrics.values(), strict=False) if count == 1
        }
        allowed = "true" if reason.allowed else "false"
        assert counted == {(front, allowed, reason.code, source.label)}


def test_totals_count_every_request_and_all_refusals_but_those_of_attack_mode() -> None:
    metrics = Metrics(LAYOUT)

    for front, _ in enumerate(FRONTS):
        for reason in Reason:
            for source in Source:
                metrics.decision(front, Verdict(reason, source=source), 1e-6)

    each = len(FRONTS) * len(Source)
    refusals = [reason for reason in Reason if not reason.allowed and reason is not Reason.ATTACK_MODE]
    assert metrics.totals() == (each * len(Reason), each * len(refusals))


def test_an_allow_counts_as_admitted_for_every_limit_that_applied() -> None:
    metrics = Metrics(LAYOUT)

    metrics.decision(0, admitted(PER_IP, PER_KEY), 1e-6)
    metrics.decision(0, admitted(PER_IP), 1e-6)

    assert outcomes(metrics, LAYOUT, "per-ip") == {"admitted": 2}
    assert outcomes(metrics, LAYOUT, "per-key") == {"admitted": 1}


def test_a_refusal_counts_for_the_limits_that_refused() -> None:
    metrics = Metrics(LAYOUT)

    metrics.decision(0, refused("per-ip", "login"), 1e-6)
    metrics.decision(0, refused("login"), 1e-6)

    assert outcomes(metrics, LAYOUT, "per-ip") == {"refused": 1}
    assert outcomes(metrics, LAYOUT, "login") == {"refused": 2}


def test_verdicts_of_an_outage_count_apart() -> None:
    metrics = Metrics(LAYOUT)

    metrics.decision(0, admitted(PER_IP, source=Source.OUTAGE), 1e-6)
    metrics.decision(0, admitted(PER_IP, source=Source.STORE), 1e-6)
    metrics.decision(0, refused("per-ip", source=Source.OUTAGE), 1e-6)

    assert outcomes(metrics, LAYOUT, "per-ip") == {
        "admitted": 1,
        "outage_admitted": 1,
        "outage_refused": 1,
    }


def test_shadow_rules_count_for_the_rule_and_for_the_limit_of_that_name() -> None:
    metrics = Metrics(LAYOUT)

    metrics.decision(0, refused("per-ip", shadow=("login", "json-only")), 1e-6)

    cells = metrics.values()
    assert cells[LAYOUT.rules["login"]] == 1
    assert cells[LAYOUT.rules["json-only"]] == 1
    assert outcomes(metrics, LAYOUT, "login") == {"shadow_refused": 1}


def test_a_limit_that_the_layout_does_not_know_counts_as_other() -> None:
    metrics = Metrics(LAYOUT)

    metrics.decision(0, refused("gone"), 1e-6)

    assert outcomes(metrics, LAYOUT, OTHER) == {"refused": 1}


@given(st.lists(st.sets(st.sampled_from(["per-ip", "per-key", "login"]), min_size=1), max_size=30))
def test_tallies_by_set_agree_with_counting_each_limit(sets: list[set[str]]) -> None:
    metrics = Metrics(LAYOUT)

    for names in sets:
        limits = [Limit(name, (), 1, 1_000, 20) for name in sorted(names)]
        metrics.decision(0, admitted(*limits), 1e-6)
        metrics.decision(0, refused(*names), 1e-6)

    for name in ("per-ip", "per-key", "login"):
        expected = sum(name in names for names in sets)
        assert outcomes(metrics, LAYOUT, name) == (
            {"admitted": expected, "refused": expected} if expected else {}
        )


def test_more_sets_of_limits_than_the_table_holds_lose_no_count() -> None:
    metrics = Metrics(LAYOUT)

    for permits in range(5_000):
        metrics.decision(0, admitted(Limit("per-ip", (), permits, 60_000, 1_000)), 1e-6)

    assert outcomes(metrics, LAYOUT, "per-ip") == {"admitted": 5_000}


@given(st.floats(0, 10, allow_nan=False))
def test_an_elapsed_time_falls_in_the_first_bucket_above_it(elapsed_s: float) -> None:
    metrics = Metrics(LAYOUT)

    metrics.decision(0, Verdict(Reason.OK), elapsed_s)

    buckets, total_ns = histogram(metrics, DECISION_SECONDS)
    (bound,) = buckets
    above = [b for b in (*DECISION_SECONDS.bounds, float("inf")) if elapsed_s < b]
    # Beside a bound the last bit of the product decides.
    assert bound == above[0] or elapsed_s == pytest.approx(bound) or elapsed_s == pytest.approx(bound / 2)
    assert total_ns == pytest.approx(elapsed_s * 1e9, abs=1)


def test_a_call_to_the_store_counts_its_time_and_its_batch() -> None:
    metrics = Metrics(LAYOUT)

    metrics.store_call(0.000_3, 1)
    metrics.store_call(0.000_3, 64)
    metrics.store_call(7.0, 65)
    metrics.store_call(0.0, 1_000_000)

    assert histogram(metrics, STORE_SECONDS) == ({5e-5: 1, 0.0004: 2, float("inf"): 1}, 7_000_600_000)
    assert histogram(metrics, STORE_BATCH_SIZE) == ({1: 1, 64: 1, 128: 1, float("inf"): 1}, 1_000_130)


def test_errors_of_the_store_count_by_kind() -> None:
    metrics = Metrics(LAYOUT)

    for kind in ("timeout", "timeout", "connection", "surprise"):
        metrics.store_error(kind)

    first = PLACES[STORE_ERRORS_TOTAL.name]
    counts = metrics.values()[first : first + len(STORE_ERRORS_TOTAL.series)]
    assert dict(zip(STORE_ERRORS_TOTAL.series, counts, strict=True)) == {
        ("timeout",): 2,
        ("connection",): 1,
        ("response",): 0,
        ("protocol",): 0,
        ("other",): 1,
    }


def test_a_gauge_is_set_and_an_event_is_added() -> None:
    metrics = Metrics(LAYOUT)

    metrics.gauge(Gauge.ATTACK_MODE, 0)
    metrics.gauge(Gauge.ATTACK_MODE, 1)
    metrics.count(Count.CONFIG_REJECTED)
    metrics.count(Count.CONFIG_REJECTED)

    assert metrics.values()[PLACES[ATTACK_MODE.name]] == 1
    assert metrics.values()[Count.CONFIG_REJECTED.value] == 2


def test_every_series_has_a_cell_of_its_own() -> None:
    taken: list[int] = []
    for family in FAMILIES:
        first = PLACES[family.name]
        taken += range(first, first + len(family.series) * family.width)
    for cell in LAYOUT.limits.values():
        taken += range(cell, cell + len(OUTCOMES))
    taken += LAYOUT.rules.values()

    assert sorted(taken) == list(range(LAYOUT.size))


def test_every_gauge_of_the_table_can_be_set_and_nothing_else() -> None:
    gauges = {PLACES[family.name] for family in FAMILIES if family.kind is Kind.GAUGE}

    assert {gauge.value for gauge in Gauge} == gauges


def test_a_new_policy_appends_its_names_and_moves_none() -> None:
    extended = LAYOUT.extended(["per-ip", "new"], ["new"])

    assert extended.limits == {**LAYOUT.limits, "new": LAYOUT.size}
    assert extended.rules == {**LAYOUT.rules, "new": LAYOUT.size + len(OUTCOMES)}
    assert "new" not in LAYOUT.limits


def test_a_process_goes_on_counting_under_a_new_policy() -> None:
    metrics = Metrics(LAYOUT)
    metrics.decision(0, refused("per-ip"), 1e-6)
    extended = LAYOUT.extended(["new"], [])

    metrics.adopt(extended)
    metrics.decision(0, refused("new"), 1e-6)

    assert outcomes(metrics, extended, "per-ip") == {"refused": 1}
    assert outcomes(metrics, extended, "new") == {"refused": 1}


def test_reloads_without_end_stay_within_the_capacity() -> None:
    layout = LAYOUT
    for reload in range(40):
        layout = layout.extended([f"limit-{reload}-{n}" for n in range(500)], [f"rule-{reload}"])

    metrics = Metrics(layout, shared_cells())
    metrics.decision(0, refused("limit-39-499"), 1e-6)
    metrics.publish()

    assert layout.size <= CAPACITY
    assert len(layout.limits) * len(OUTCOMES) <= CAPACITY
    assert outcomes(metrics, layout, OTHER) == {"refused": 1}


def test_what_another_process_published_is_read_here() -> None:
    fd = os.memfd_create("metrics")
    os.ftruncate(fd, CAPACITY * 8)
    cells = shared_cells(fd)
    worker = f"""
from sidecar.metrics import Gauge, Layout, Metrics, shared_cells
metrics = Metrics(Layout(), shared_cells({fd}))
metrics.gauge(Gauge.CONNECTIONS, 7)
metrics.publish()
"""

    subprocess.run([sys.executable, "-c", worker], check=True, pass_fds=[fd], env={"PYTHONPATH": os.getcwd()})

    assert cells[Gauge.CONNECTIONS.value] == 7
    os.close(fd)
