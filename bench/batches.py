"""Server time of the script for each counter, in batches of 50, 100 and 200.

Through the gate's own store client, one batch after the other, for 100 000 clients at random under one limit of a
minute. The time is the server's own (`INFO commandstats`, EVALSHA). Here Valkey is the server under test and has its
core alone.

The time that the server spends reading and writing the socket is not in it; it is in the row's CPU.
"""

from __future__ import annotations

import asyncio
import random
from statistics import median
from typing import Final

from bench.cast import SUBJECTS, StoreUse, store_use, valkey
from bench.processes import cores, on_core
from bench.rounds import Effort
from bench.rows import Findings, Goal, Row
from sidecar.core.window import Ask
from sidecar.store.redis import RedisStore

GOAL: Final = Goal(6.0, most=True)
SIZES: Final = (50, 100, 200)
COUNTERS: Final = 30_000
"""Asked for in a round."""

WINDOW_MS, SLICE_MS, PERMITS = 60_000, 1_000, 100


def measure(effort: Effort) -> Findings:
    found = Findings()
    with valkey(core=cores().asked) as server, server.client() as client, on_core(cores().asking):
        for size in SIZES:
            uses: list[StoreUse] = []
            for seed in range(max(3, effort.rounds)):
                before = store_use(client)
                asyncio.run(_ask(server.url(), size, random.Random(seed)))
                uses.append(store_use(client).since(before))
            each_us = [use.script_us / COUNTERS for use in uses]
            found.rows.append(
                Row(
                    f"server time per counter, batches of {size}",
                    median(each_us),
                    unit="µs",
                    goal=GOAL,
                    cpu_us=median(1e6 * use.cpu_s / COUNTERS for use in uses),
                    note=f"best round {min(each_us):.2f} µs; CPU is the server's for each counter",
                    raw={"rounds_us": each_us, "store_cpu_s": [use.cpu_s for use in uses]},
                )
            )
    return found


async def _ask(url: str, size: int, chance: random.Random) -> None:
    store = RedisStore(url, patience_s=10.0)
    try:
        for _ in range(COUNTERS // size):
            subjects = chance.sample(range(SUBJECTS), size)
            await store.take([(counter_name(subject), _ASK) for subject in subjects])
    finally:
        await store.close()


def counter_name(subject: int) -> bytes:
    """As the policy names it."""
    address = f"10.{subject >> 16}.{subject >> 8 & 255}.{subject & 255}"
    return f"pc:{{0}}:per-ip:{WINDOW_MS}/{SLICE_MS}:{address}".encode()


_ASK: Final = Ask(permits=PERMITS, window_ms=WINDOW_MS, slice_ms=SLICE_MS, want=1, need=1)
