"""How the cost of a decision grows: with the limits of a request, with live counters, with connections.

CPU for each decision rather than rates where the question is what something costs: it says the same on a machine that
others use too. Rates stand beside the floor's, measured just before.

No goals here: a curve that bends is the finding.
"""

from __future__ import annotations

import asyncio
from typing import Final

from bench.cast import (
    GENEROUS_MS,
    NEVER_LEASED,
    TWO_LIMITS,
    asked_by_nginx,
    floor,
    gate,
    many_clients,
    store_use,
    target,
    valkey,
)
from bench.load import press
from bench.processes import cores, on_core, resident_mb
from bench.rounds import Effort
from bench.rows import Curve, Findings
from sidecar.core.window import Ask
from sidecar.store.redis import RedisStore

MOST_LIMITS: Final = 8
FILL_BATCH: Final = 1_000
CONTROL_KEYS: Final = 5
"""The gate's own in the store may come and go meanwhile: at most these."""
HOUR_MS, DAY_MS = 3_600_000, 86_400_000

_LONG_LIMITS: Final = """
limits:
  - {name: hour, per: [ip], permits: 1000000000, window: 1h, lease: never}
  - {name: day, per: [ip], permits: 1000000000, window: 1d, lease: never}
"""

FROM_MEMORY, WITH_STORE = "from memory", "with the store"


def limits(effort: Effort) -> Findings:
    """1 to 8 limits for each request: CPU of the gate for each decision."""
    counts = (1, 4, 8) if effort.quick else (1, 2, 3, 4, 6, 8)
    points: dict[str, list[tuple[float, float]]] = {FROM_MEMORY: [], WITH_STORE: []}
    with valkey() as store, gate(_nested_limits(), store=store, deadline_ms=GENEROUS_MS) as running:
        for count in counts:
            for name, heads in (
                (FROM_MEMORY, asked_by_nginx(f"/leased/{count}")),
                (WITH_STORE, many_clients(f"/never/{count}")),
            ):
                load = press(target(running), heads, seconds=effort.seconds)
                points[name].append((count, load.cpu_us))
    return Findings(
        curves=[Curve("Limits for each request", "limits", "µs of CPU a decision", points, log_x=False)]
    )


def _nested_limits() -> str:
    """Limit k concerns the paths `/leased/n` and `/never/n` for every n from k: path n comes under n limits."""
    lines = ["limits:"]
    for kind, lease in (("leased", "auto"), ("never", "never")):
        for number in range(1, MOST_LIMITS + 1):
            paths = ", ".join(f"/{kind}/{count}" for count in range(number, MOST_LIMITS + 1))
            lines.append(
                f"  - {{name: {kind}-{number}, per: [ip], permits: 1000000000, window: {number}m, "
                f"lease: {lease}, match: {{paths: [{paths}]}}}}"
            )
    return "\n".join(lines)


def counters(effort: Effort) -> Findings:
    """100 to a million live counters in the store, asked at random: two for each client."""
    counts = (100, 1_000, 10_000) if effort.quick else (100, 1_000, 10_000, 100_000, 1_000_000)
    gate_us: list[tuple[float, float]] = []
    store_us: list[tuple[float, float]] = []
    resident: list[tuple[float, float]] = []
    bytes_each: list[tuple[float, float]] = []
    with (
        valkey() as store,
        store.client() as client,
        gate(_LONG_LIMITS, store=store, deadline_ms=GENEROUS_MS) as running,
    ):
        empty = client.info("memory")["used_memory"]
        before = 0
        for count in counts:
            with on_core(cores().asked):
                asyncio.run(_fill(store.url(), before // 2, count // 2))
            before = count
            live = client.dbsize()
            if live >= 1_000:  # with fewer, the server's own buffers are most of it
                bytes_each.append((count, (client.info("memory")["used_memory"] - empty) / live))
            used = store_use(client)
            asked = running.metric("portcullis_store_batch_size_sum")
            load = press(target(running), many_clients(subjects=count // 2), seconds=effort.seconds)
            asked = running.metric("portcullis_store_batch_size_sum") - asked
            made = client.dbsize() - live
            assert made <= CONTROL_KEYS, f"{made} counters were made anew: the gate names them otherwise"
            gate_us.append((count, load.cpu_us))
            store_us.append((count, store_use(client).since(used).script_us / asked))
            resident.append((count, resident_mb(running.server.pid)))
    return Findings(
        curves=[
            Curve(
                "Live counters: time",
                "counters in the store",
                "µs",
                {"gate CPU, a decision": gate_us, "store, a counter": store_us},
            ),
            Curve(
                "Live counters: memory",
                "counters in the store",
                "bytes a counter in the store",
                {"store": bytes_each},
            ),
            Curve("Live counters: the gate", "counters in the store", "resident MB", {"gate": resident}),
        ]
    )


async def _fill(url: str, begin: int, end: int) -> None:
    """Make both counters of the clients `begin` to `end`, named as the policy names them."""
    store = RedisStore(url, patience_s=30.0)
    try:
        for name, window_ms in (("hour", HOUR_MS), ("day", DAY_MS)):
            slice_ms = window_ms // 60
            ask = Ask(permits=10**9, window_ms=window_ms, slice_ms=slice_ms, want=1, need=1)
            prefix = f"pc:{{0}}:{name}:{window_ms}/{slice_ms}:10."
            for first in range(begin, end, FILL_BATCH):
                some = range(first, min(end, first + FILL_BATCH))
                await store.take(
                    [(f"{prefix}{k >> 16}.{k >> 8 & 255}.{k & 255}".encode(), ask) for k in some]
                )
    finally:
        await store.close()


def connections(effort: Effort) -> Findings:
    """1 to 256 connections: rate against the floor's, and the time to an answer at that rate."""
    counts = (1, 16, 256) if effort.quick else (1, 4, 16, 64, 256)
    ratios: dict[str, list[tuple[float, float]]] = {FROM_MEMORY: [], WITH_STORE: []}
    p99s: dict[str, list[tuple[float, float]]] = {FROM_MEMORY: [], WITH_STORE: [], "`return 204`": []}
    kinds = ((FROM_MEMORY, TWO_LIMITS, asked_by_nginx("/a")), (WITH_STORE, NEVER_LEASED, many_clients()))
    with valkey() as store, floor() as least:
        for name, document, heads in kinds:
            with gate(document, store=store, deadline_ms=GENEROUS_MS) as running:
                for count in counts:
                    base = press(least, heads, seconds=effort.seconds, connections=count)
                    load = press(target(running), heads, seconds=effort.seconds, connections=count)
                    ratios[name].append((count, load.rate / base.rate))
                    p99s[name].append((count, load.latency.p99))
                    if name == FROM_MEMORY:
                        p99s["`return 204`"].append((count, base.latency.p99))
    return Findings(
        curves=[
            Curve("Connections: rate", "connections", "share of `return 204`'s rate", ratios),
            Curve("Connections: p99 at the peak", "connections", "ms", p99s, log_y=True),
        ]
    )
