"""The sizing model says what the simulated fleets count, within the factors named here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.costs import CALL, COUNTER, Costs, costs_of, kept
from bench.simulated import lanes, leases
from bench.sizing import BUSY, CASES, Load, carried, cells, divided, hot_asks, size

LANES_FACTOR = 1.5
LEASES_FACTOR = 2.0

COSTS = Costs(
    memory_us=40,
    memory_limit_us=2,
    store_us=100,
    store_limit_us=20,
    call_us=30,
    counter_us=14,
    counter_bytes=150,
    gate_mb=94,
    sources={},
)


def hot(
    requests_s: float, subjects: int, permits: int, replicas: int, *, met_by: int = 0, limits: int = 1
) -> Load:
    """Hot subjects alone, a window of 10 s."""
    return Load(
        requests_s,
        hot_share=1.0,
        hot=subjects,
        limits=limits,
        permits=permits,
        window_ms=10_000,
        replicas=replicas,
        met_by=met_by,
    )


@pytest.mark.parametrize(
    ("requests_s", "replicas", "round_trip_ms"),
    [
        (100, 1, 0.5),
        (1_000, 1, 0.5),
        (5_000, 1, 2.0),
        (10_000, 1, 0.2),
        (10_000, 4, 0.5),
        (10_000, 20, 0.5),
        (20_000, 20, 1.0),
    ],
)
def test_it_predicts_how_batches_form(requests_s: float, replicas: int, round_trip_ms: float) -> None:
    # Most of these fit one store; the last keeps it busier than one should plan for.
    dear = replace(COSTS, counter_us=5, call_us=10)
    load = Load(requests_s, replicas=replicas, round_trip_ms=round_trip_ms)
    model = size(load, replace(dear, memory_us=0, store_us=0, store_limit_us=0))

    simulated = lanes(
        requests_s=requests_s,
        limits=load.limits,
        replicas=replicas,
        round_trip_ms=round_trip_ms,
        call_us=dear.call_us,
        counter_us=dear.counter_us,
        seconds=max(0.5, 200 / requests_s),
    )

    assert model.shards == 1
    ratio = simulated.calls / simulated.decisions / (model.calls_s / requests_s)
    assert 1 / LANES_FACTOR < ratio < LANES_FACTOR
    assert simulated.busy == pytest.approx(model.store_cores, rel=0.25)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("1 000 000/s")])
def test_it_predicts_one_shard_of_a_million_requests_a_second(name: str) -> None:
    model = size(CASES[name], COSTS)

    simulated = lanes(
        requests_s=model.asking_s / model.shards,
        limits=CASES[name].limits,
        replicas=model.replicas,
        round_trip_ms=CASES[name].round_trip_ms,
        call_us=COSTS.call_us,
        counter_us=COSTS.counter_us,
        seconds=1.0,
    )

    ratio = simulated.calls / simulated.decisions / (model.calls_s / model.asking_s)
    assert 1 / LANES_FACTOR < ratio < LANES_FACTOR
    assert simulated.busy == pytest.approx(model.store_cores / model.shards, rel=0.25)
    assert simulated.p99_ms < 20 / 4, "the deadline is far"


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(hot(2_000, 4, 100_000, 4), id="ample"),
        pytest.param(hot(2_000, 1, 100_000, 1), id="one replica"),
        pytest.param(hot(1_000, 4, 5_000, 4, limits=2), id="two limits"),
        pytest.param(hot(1_000, 4, 2_600, 4), id="nearly spent"),
        pytest.param(hot(1_000, 4, 1_000, 4), id="spent"),
        pytest.param(hot(1_000, 4, 100, 4), id="long spent"),
        pytest.param(hot(1_000, 20, 1_000, 20), id="too many replicas to lease"),
        pytest.param(hot(2_000, 20, 20_000, 20, met_by=1), id="hashed by subject"),
        pytest.param(hot(2_000, 20, 500, 20, met_by=1, limits=2), id="hashed by subject, spent"),
    ],
)
def test_it_predicts_how_often_hot_counters_are_asked(load: Load) -> None:
    model_s = hot_asks(load, load.round_trip_ms) * load.hot * load.met * load.limits

    simulated = leases(load, seconds=2.0)

    ratio = simulated.asks / simulated.decisions / (model_s / load.requests_s)
    assert 1 / LEASES_FACTOR < ratio < LEASES_FACTOR


def test_it_says_that_leases_need_room_for_all_replicas() -> None:
    few, many = hot(1_000, 1, 20_000, 2), hot(1_000, 1, 20_000, 200)

    assert hot_asks(few, 0.5) * few.met < 100
    assert hot_asks(many, 0.5) * many.met == pytest.approx(1_000, rel=0.01)
    assert hot_asks(replace(many, met_by=1), 0.5) < 100


@pytest.mark.parametrize("name", CASES)
def test_it_plans_no_core_beyond_its_share(name: str) -> None:
    found = size(CASES[name], COSTS)

    assert found.store_cores / found.shards <= BUSY
    assert found.gate_cores / found.replicas <= BUSY
    assert found.replicas >= CASES[name].replicas
    assert found.counters_s == pytest.approx(found.calls_s * found.batch)


def test_it_divides_a_load_until_one_store_carries_each_part() -> None:
    load = CASES["1 000 000/s, 100 replicas, all cold"]

    number = cells(load, COSTS)

    assert size(divided(load, number), COSTS).shards == 1
    assert size(divided(load, number - 1), COSTS).shards > 1
    assert number < size(load, COSTS).shards, "fewer replicas at each store, fuller batches"


def test_it_says_what_one_store_carries() -> None:
    load = Load(0, replicas=4)

    most_s = carried(load, COSTS)

    assert size(replace(load, requests_s=most_s), COSTS).shards == 1
    assert size(replace(load, requests_s=1.1 * most_s), COSTS).shards > 1
    assert carried(replace(load, limits=4), COSTS) < most_s


def test_a_fleet_that_is_asked_nothing_takes_nothing() -> None:
    found = size(
        Load(1_000, subjects=0, hot_share=1.0, hot=1, permits=10**9), replace(COSTS, memory_us=0, store_us=0)
    )

    assert (found.gate_cores, found.store_mb, found.shards) == (0, 0, 1)
    assert found.store_cores < 0.01


def test_it_takes_its_costs_from_the_newest_result_that_has_the_row() -> None:
    fresh = {"rows": [{"name": CALL, "measured": 1.5}, {"name": COUNTER, "measured": 2.5}], "curves": []}

    costs = costs_of([("fresh", fresh), *kept()])

    assert (costs.call_us, costs.counter_us) == (1.5, 2.5)
    assert costs.sources["call_us"] == f"fresh: {CALL}"
    assert costs.sources["store_us"].endswith("verdict with the store, against `return 204` (CPU)")
    assert 0 < costs.memory_us < costs.store_us


def test_it_names_a_row_that_no_result_has() -> None:
    with pytest.raises(LookupError, match="from memory: leased allow"):
        costs_of([("empty", {"rows": [], "curves": []})])
