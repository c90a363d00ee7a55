"""How many cores, shards and megabytes a load takes: a model, the costs that it multiplies, and its check.

The model (`size`) is arithmetic alone: a load and what one of everything costs go in; store calls, counters, cores,
shards and memory come out. What it must know it takes from the newest files in `results`, by the names of their rows;
what a call costs the store besides its counters is measured here.

    cold    requests of subjects that are seldom seen: each asks the store for all its counters
    hot     requests of few busy subjects: leases answer most, and each counter is asked a few times a slice
    lane    what one replica has with one shard: one batch under way, and who comes meanwhile is the next one

             q requests/s a lane, a batch takes T                  calls/s = 1 / (T + e^(-qT) / q)
    lane     |---- T ----|---- T ----|......|---- T ----|          nobody came during T, with chance e^(-qT):
              one batch    the next    idle                        the lane waits 1/q for the next request

`T` is the round trip, the batch's time at the store and its wait there behind other replicas' batches. The model is
checked by two simulations in virtual time, in `simulated`. What the gate itself adds to `T` is left out, so there are
rather more calls in the model than in life.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, exp
from typing import Final, NamedTuple

from bench.cast import StoreUse, store_use, valkey
from bench.costs import CALL, COUNTER, Costs, costs_of, kept, slope
from bench.processes import cores, on_core
from bench.rounds import Effort
from bench.rows import Findings, Row
from bench.simulated import Lanes, lanes, leases
from sidecar.core.ledger import DRIFT_MS, DRIFT_SHARE
from sidecar.core.window import Ask, slice_for
from sidecar.store.redis import RedisStore

BUSY: Final = 0.6
"""The share of a core that is planned for, gate or store: beyond it the waiting grows faster than the load."""
LEASE_ASKS: Final = 2.0
"""Asks for a leased counter in a slice: half of what the last slice used, then as much as is missing."""

HOT_KEY: Final = "store calls per decision, one hot key with leases"

WINDOW_MS, SLICE_MS, PERMITS = 86_400_000, 1_440_000, 10**9
SIZES: Final = (1, 10, 100)
FILL: Final = 1_000
CLIENTS: Final = 4


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a fleet.

    subjects      live: seen within the longest window
    hot_share     share of the requests that comes from `hot` subjects
    limits        for each request; they count the same subject in the same window
    permits       of each limit, a `window_ms` in `slices`: they say how much a lease may be
    replicas      processes that decide; each worker is one
    met_by        replicas that one subject's requests reach: all (0), or 1 if the proxies hash by subject
    """

    requests_s: float
    subjects: int = 1_000_000
    hot_share: float = 0.0
    hot: int = 1
    limits: int = 2
    permits: int = 1_000
    window_ms: int = 60_000
    slices: int = 60
    replicas: int = 1
    met_by: int = 0
    round_trip_ms: float = 0.5
    most_batch: int = 1_000

    @property
    def met(self) -> int:
        return self.met_by or self.replicas


class Size(NamedTuple):
    """What a load takes. Cores are CPU seconds a second; plan for `BUSY` of each."""

    asking_s: float
    """Requests a second that need the store."""
    counters_s: float
    calls_s: float
    batch: float
    """Counters in a call."""
    cycle_ms: float
    """How long a batch is under way; a request waits for one, or for the rest of one and one more."""
    gate_cores: float
    store_cores: float
    shards: int
    """Servers that keep the store's cores at `BUSY` or less."""
    store_mb: float
    gates_mb: float
    replicas: int
    """Processes that keep the gate's cores at `BUSY` or less; not fewer than there are."""


def size(load: Load, costs: Costs) -> Size:
    """What `load` takes, with as many shards and replicas as it needs: more of either ask more often.

    >>> costs = Costs(40, 0, 100, 20, 0, 10, 150, 100, {})
    >>> cold = size(Load(10_000, replicas=4), costs)
    >>> cold.counters_s, round(cold.gate_cores, 2), round(cold.store_cores, 2), cold.shards, cold.store_mb
    (20000.0, 1.0, 0.2, 1, 300.0)
    """
    shards, further = 1, load.limits - 2
    while True:
        asking_s, calls_s, cycle_ms = _lanes(load, costs, shards)
        counters_s = asking_s * load.limits
        store_cores = (calls_s * costs.call_us + counters_s * costs.counter_us) / 1e6
        gate_cores = (
            (load.requests_s - asking_s) * (costs.memory_us + further * costs.memory_limit_us)
            + asking_s * (costs.store_us + further * costs.store_limit_us)
        ) / 1e6
        needed, replicas = ceil(store_cores / BUSY), ceil(gate_cores / BUSY)
        if needed <= shards and replicas <= load.replicas:
            break
        shards = max(shards, needed)
        load = replace(load, replicas=max(load.replicas, replicas))
    return Size(
        asking_s=asking_s,
        counters_s=counters_s,
        calls_s=calls_s,
        batch=counters_s / calls_s if calls_s else 0.0,
        cycle_ms=cycle_ms,
        gate_cores=gate_cores,
        store_cores=store_cores,
        shards=shards,
        store_mb=load.subjects * load.limits * costs.counter_bytes / 1e6,
        gates_mb=load.replicas * costs.gate_mb,
        replicas=load.replicas,
    )


def hot_asks(load: Load, cycle_ms: float) -> float:
    """Requests a second of one hot subject at one of the replicas that it meets that ask the store.

    A lease is at most `room / (4 replicas)`, and without one everybody asks who does not wait already. Once the
    permits are spent, each replica asks once a slice, and for what has come back.
    """
    rate_s = load.requests_s * load.hot_share / load.hot / load.met
    if not rate_s:
        return 0.0
    slice_s = slice_for(load.window_ms, load.slices) / 1000
    window_s = load.window_ms / 1000
    alone_s = _calls(rate_s, cycle_ms / 1000)
    used = rate_s * load.met * window_s
    if used >= load.permits:
        return min(alone_s, 1 / slice_s + load.permits / window_s / load.met)
    lease = (load.permits - used) // (4 * load.replicas)
    # At a slice's end permits lapse a little early, for clocks that drift: from there to the next slice nothing holds.
    early_s = DRIFT_MS / 1000 + (1 - DRIFT_SHARE) * slice_s
    leased_s = max((LEASE_ASKS + alone_s * early_s) / slice_s, rate_s / (1 + lease))
    return min(alone_s, leased_s)


def divided(load: Load, cells: int) -> Load:
    """One of `cells` fleets with a store each: the proxies hash by subject, so each subject has its cell."""
    replicas = max(1, load.replicas // cells)
    return replace(
        load,
        requests_s=load.requests_s / cells,
        subjects=ceil(load.subjects / cells),
        hot=max(1, ceil(load.hot / cells)),
        replicas=replicas,
        met_by=min(load.met_by, replicas),
    )


def cells(load: Load, costs: Costs) -> int:
    """The least number of fleets, with one store each, that carries `load`."""
    number = 1
    while size(divided(load, number), costs).shards > 1:
        number += 1
    return number


def carried(load: Load, costs: Costs) -> float:
    """The most requests a second of this kind that one store carries, whatever `load.requests_s` says."""
    least, most = 1.0, 1e7
    while most > 1.001 * least:
        middle = (least * most) ** 0.5
        if size(replace(load, requests_s=middle), costs).shards == 1:
            least = middle
        else:
            most = middle
    return least


def _lanes(load: Load, costs: Costs, shards: int) -> tuple[float, float, float]:
    """Requests a second that ask, calls a second of all lanes, and the milliseconds of one batch."""
    asking_s = calls_s = 0.0
    cycle_ms = load.round_trip_ms
    for _ in range(100):  # each depends on the other: half a step at a time, until they agree
        hot_s = hot_asks(load, cycle_ms) * load.hot * load.met
        asking_s = load.requests_s * (1 - load.hot_share) + hot_s
        lane_s = asking_s / load.replicas / shards
        if not lane_s:
            return 0.0, 0.0, cycle_ms
        each_s = max(_calls(lane_s, cycle_ms / 1000), lane_s * load.limits / load.most_batch)
        calls_s = each_s * load.replicas * shards
        served_ms = (costs.call_us + lane_s * load.limits / each_s * costs.counter_us) / 1000
        away_ms = load.round_trip_ms + 1000 * exp(-lane_s * cycle_ms / 1000) / lane_s
        at_store_ms = _at_store(load.replicas, away_ms, served_ms)
        cycle_ms = (cycle_ms + load.round_trip_ms + at_store_ms) / 2
    return asking_s, calls_s, cycle_ms


def _at_store(replicas: int, away_ms: float, served_ms: float) -> float:
    """Waiting and service of one batch, if each replica has one: away for `away_ms`, then at the store again.

    Mean value analysis of a closed queue: who arrives finds what there would be without it.

    >>> _at_store(1, 1.0, 0.5), round(_at_store(100, 0.5, 1.0), 1)
    (0.5, 99.5)
    """
    there = at_store_ms = 0.0
    for number in range(1, replicas + 1):
        at_store_ms = served_ms * (1 + there)
        there = number * at_store_ms / (away_ms + at_store_ms)
    return at_store_ms


def _calls(requests_s: float, cycle_s: float) -> float:
    """Calls a second of a lane, see the drawing above."""
    return 1 / (cycle_s + exp(-requests_s * cycle_s) / requests_s)


# --- the question -------------------------------------------------------------

TEN_THOUSAND: Final = Load(10_000, replicas=4)
MILLION: Final = Load(1e6, subjects=10_000_000, hot_share=0.9, hot=10_000, permits=20_000, replicas=100)
CASES: Final[Mapping[str, Load]] = {
    "10 000/s, all cold": TEN_THOUSAND,
    "10 000/s, half from 100 hot": replace(TEN_THOUSAND, hot_share=0.5, hot=100, permits=10_000),
    "10 000/s, nine in ten from 100 hot": replace(TEN_THOUSAND, hot_share=0.9, hot=100, permits=10_000),
    "1 000 000/s, 100 replicas, all cold": Load(1e6, subjects=10_000_000, replicas=100),
    "1 000 000/s, 100 replicas, nine in ten from 10 000 hot": MILLION,
    "1 000 000/s, 100 replicas, the same, hashed by subject": replace(MILLION, met_by=1),
}


def measure(effort: Effort) -> Findings:
    """What a call and a counter cost the store, what the model makes of the loads above, and its checks."""
    found = Findings(rows=_store_costs(effort))
    fresh = {"rows": [{"name": row.name, "measured": row.measured} for row in found.rows], "curves": []}
    costs = costs_of([("this run", fresh), *kept()])
    for name, load in CASES.items():
        found.rows.append(_row(name, size(load, costs), costs))
        number = cells(load, costs)
        if number > 1:
            one = divided(load, number)
            found.rows.append(_row(f"{name}: one of {number} cells", size(one, costs), costs))
    found.rows += [_one_store(limits, costs, effort) for limits in (1, 2, 4)]
    return Findings([*found.rows, *_checks(costs, effort)])


def _one_store(limits: int, costs: Costs, effort: Effort) -> Row:
    load = Load(0, limits=limits, replicas=4)
    load = replace(load, requests_s=carried(load, costs))
    sim = _simulated(load, costs, 0.1 if effort.quick else 0.5)
    return Row(
        f"sizing: one store carries, all cold, limits: {limits}",
        load.requests_s,
        unit="requests/s",
        note=f"p50 {sim.p50_ms:.2f} ms, p99 {sim.p99_ms:.2f} ms to a grant, of which the round trip is 0.5 ms",
    )


def _simulated(load: Load, costs: Costs, seconds: float) -> Lanes:
    return lanes(
        requests_s=load.requests_s,
        limits=load.limits,
        replicas=load.replicas,
        round_trip_ms=load.round_trip_ms,
        call_us=costs.call_us,
        counter_us=costs.counter_us,
        seconds=seconds,
    )


def _row(name: str, of: Size, costs: Costs) -> Row:
    note = (
        f"{of.counters_s:.0f} counters/s in {of.calls_s:.0f} calls/s, {of.batch:.1f} each; "
        f"gate {of.gate_cores:.2f} cores, {of.replicas} replicas; shards {of.shards}; "
        f"{of.store_mb:.0f} MB in the store; a batch takes {of.cycle_ms:.2f} ms"
    )
    raw = {"size": of._asdict(), "sources": dict(costs.sources)}
    return Row(f"sizing: {name}", of.store_cores, unit="store cores", note=note, raw=raw)


def _checks(costs: Costs, effort: Effort) -> list[Row]:
    """Simulated calls for each decision, over the model's."""
    cold = TEN_THOUSAND
    model = size(cold, costs)
    one = replace(cold, requests_s=cold.requests_s / model.shards, replicas=model.replicas)
    sim = _simulated(one, costs, 0.1 if effort.quick else 0.5)
    rows = [
        Row(
            "sizing: simulated calls over the model's, lanes, 10 000/s cold",
            sim.calls / sim.decisions / (model.calls_s / cold.requests_s),
            note=f"p50 {sim.p50_ms:.2f} ms, p99 {sim.p99_ms:.2f} ms from request to grant",
        )
    ]
    hot = Load(2_000, hot_share=1.0, hot=4, limits=1, permits=100_000, window_ms=10_000, replicas=4)
    fleet = leases(hot, seconds=2.0 if effort.quick else 5.0)
    asks_s = hot_asks(hot, hot.round_trip_ms) * hot.hot * hot.met
    told = fleet.asks / fleet.decisions / (asks_s / hot.requests_s)
    rows.append(
        Row(
            "sizing: simulated asks over the model's, leases, 2 000/s of 4 hot",
            told,
            note=f"{fleet.asks} asks",
        )
    )
    return [*rows, _measured_hot_key()]


def _measured_hot_key() -> Row:
    """A real gate's calls for one hot key, as `memory` measured them last, over the model's.

    Its store is on a unix socket: a round trip of 0.1 ms is assumed.
    """
    title = "sizing: measured calls over the model's, one hot key"
    for file, found in kept():
        for row in found["rows"]:
            if row["name"] == HOT_KEY and row["raw"]:
                rounds: list[tuple[int, int]] = row["raw"]["rounds"]
                seconds = 2 * found["effort"]["seconds"] * len(rounds)
                calls, decisions = (sum(numbers) for numbers in zip(*rounds, strict=True))
                load = Load(decisions / seconds, hot_share=1.0, permits=10**9, round_trip_ms=0.1)
                model = hot_asks(load, load.round_trip_ms) * seconds
                return Row(title, calls / model, note=f"{calls} calls, the model says {model:.0f}; {file}")
    return Row(title, None, note=f"no result has the row {HOT_KEY!r}")


def _store_costs(effort: Effort) -> list[Row]:
    """Calls of 1, 10 and 100 counters among many live ones: the line through them is a call's cost and a counter's.

    The server's own CPU, sockets included; the least of the rounds, since others only add to it.
    """
    live = 10_000 if effort.quick else 1_000_000
    counters = {1: 3_000, 10: 10_000, 100: 30_000}
    each_us: list[tuple[float, float]] = []
    with valkey(core=cores().asked) as server, server.client() as client, on_core(cores().asking):
        asyncio.run(_take(server.url(), [range(k, k + FILL) for k in range(0, live, FILL)]))
        for many in SIZES:
            calls = counters[many] // many
            uses: list[StoreUse] = []
            for seed in range(max(3, effort.rounds)):
                chance = random.Random(seed)
                before = store_use(client)
                asyncio.run(_take(server.url(), [chance.sample(range(live), many) for _ in range(calls)]))
                uses.append(store_use(client).since(before))
            each_us.append((many, min(1e6 * use.cpu_s / calls for use in uses)))
    counter_us = slope(each_us)
    call_us = max(0.0, each_us[0][1] - counter_us)
    raw = {"cpu_us_a_call_by_counters": each_us, "live": live}
    note = f"calls of 1, 10 and 100 among {live} live counters; the least of {max(3, effort.rounds)} rounds"
    return [
        Row(CALL, call_us, unit="µs", note=note, raw=raw),
        Row(COUNTER, counter_us, unit="µs", note=note, raw=raw),
    ]


async def _take(url: str, batches: Iterable[Sequence[int]]) -> None:
    """Several clients share the batches: a server that sleeps between two calls pays for waking, too."""
    shared = iter(batches)
    await asyncio.gather(*[_share(url, shared) for _ in range(CLIENTS)])


async def _share(url: str, batches: Iterator[Sequence[int]]) -> None:
    store = RedisStore(url, patience_s=30.0)
    ask = Ask(permits=PERMITS, window_ms=WINDOW_MS, slice_ms=SLICE_MS, want=1, need=1)
    prefix = f"pc:{{0}}:day:{WINDOW_MS}/{SLICE_MS}:10."
    try:
        for batch in batches:
            await store.take([(f"{prefix}{k >> 16}.{k >> 8 & 255}.{k & 255}".encode(), ask) for k in batch])
    finally:
        await store.close()
