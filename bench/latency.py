"""What the gate adds to a request: time to its verdict at half of its peak, from memory and with the store.

The peak is measured first, by wrk, with the same heads; then `pace` asks at half of that rate, and every answer's time
counts from when its request was due. The floor, nginx `return 204` at the same rate, says how much of it is the
client's. Heads never repeat; with the store the deadline is the default one, 20 ms.

With the store, Valkey shares its core with the client, as it does in no production.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from bench.cast import NEVER_LEASED, TWO_LIMITS, asked_by_nginx, floor, gate, many_clients, target, valkey
from bench.load import CONNECTIONS, Heads, Misanswered, Target, press
from bench.pace import Order, Paced
from bench.processes import cores, cpu_s, on_core
from bench.rounds import Effort, middle
from bench.rows import Findings, Goal, Latency, Row

MEMORY_GOAL: Final = Goal(1.0, most=True)
STORE_GOAL: Final = Goal(3.0, most=True)
SHARE_OF_PEAK: Final = 0.5
SECONDS: Final = 2.0
ENDS_WITHIN_S: Final = 60.0

_ROOT: Final = Path(__file__).resolve().parent.parent


def measure(effort: Effort) -> Findings:
    found = Findings()
    kinds = (
        ("from memory", TWO_LIMITS, asked_by_nginx("/a", novel=True), MEMORY_GOAL),
        ("with the store", NEVER_LEASED, many_clients(), STORE_GOAL),
    )
    with valkey() as store, floor() as least:
        for name, document, heads, goal in kinds:
            with gate(document, store=store) as running:
                asked = target(running)
                peak = median(press(asked, heads, seconds=1).rate for _ in range(min(3, effort.rounds)))
                rate = SHARE_OF_PEAK * peak
                round_of = partial(at_rate, heads=heads, rate=rate, seconds=SECONDS, connections=CONNECTIONS)
                floors: list[Paced] = []
                rounds: list[Paced] = []
                used_s = 0.0
                decided = running.metric("portcullis_decisions_total")
                outage = running.metric("portcullis_decisions_total", source="outage")
                for _ in range(min(3, effort.rounds)):
                    floors.append(round_of(least))
                    before_s = cpu_s(asked.pids)
                    rounds.append(round_of(asked))
                    used_s += cpu_s(asked.pids) - before_s
                decided = running.metric("portcullis_decisions_total") - decided
                outage = running.metric("portcullis_decisions_total", source="outage") - outage
            found.rows.append(_row(name, goal, rate, floors, rounds, used_s, outage / decided))
    return found


def _row(
    name: str,
    goal: Goal,
    rate: float,
    floors: list[Paced],
    rounds: list[Paced],
    used_s: float,
    outage_share: float,
) -> Row:
    latency, least = _middle(rounds), _middle(floors)
    words = [f"the floor's {least.p50:.2g}, {least.p99:.2g}, {least.p999:.2g} ms", f"at {rate / 1000:.1f}k/s"]
    if outage_share:
        words.append(f"{outage_share:.2%} by the outage policy")
    return Row(
        f"added latency at half the peak, p99, {name}",
        latency.p99,
        unit="ms",
        goal=goal,
        latency=latency,
        cpu_us=1e6 * used_s / sum(paced.sent for paced in rounds),
        note="; ".join(words),
        raw={
            "rate": round(rate, 1),
            "outage_share": outage_share,
            "rounds": [paced._asdict() for paced in rounds],
            "floors": [paced._asdict() for paced in floors],
        },
    )


def _middle(rounds: list[Paced]) -> Latency:
    return middle([Latency(paced.p50, paced.p99, paced.p999) for paced in rounds])


def at_rate(asked: Target, heads: Heads, rate: float, *, seconds: float, connections: int) -> Paced:
    """One round of constant rate from a process of its own, on the load's core. Raises Misanswered."""
    lines = [
        f"GET {heads.target} HTTP/1.1",
        "Host: 127.0.0.1",
        *[f"{name}: {text}" for name, text in heads.headers],
    ]
    order = Order(
        port=asked.port,
        head="\r\n".join([*lines, "", ""]),
        subjects=heads.subjects,
        rate=rate,
        seconds=seconds,
        connections=connections,
    )
    with on_core(cores().asking):
        told = subprocess.run(
            (sys.executable, "-m", "bench.pace"),
            cwd=_ROOT,
            input=json.dumps(order),
            check=False,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN_S,
        )
    if told.returncode:
        raise Misanswered(f"the client with a constant rate failed: {told.stderr[-500:]}")
    paced = Paced(**json.loads(told.stdout))
    if paced.wrong:
        raise Misanswered(f"{paced.wrong} of {paced.sent} answers were not 2xx")
    return paced
