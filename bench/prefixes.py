"""Address look-up in lists of 100 to a million prefixes: time, resident memory, and what a gate with such a list costs.

Each list is built in a process of its own (`python -m bench.prefixes N`), so that the memory is the list's. Nine in
ten prefixes are IPv4, of the lengths that block lists have; half of the addresses looked up are covered by a prefix
of the list. No address comes twice within a round, so the processor's caches help as little as they would.

Changes at run time (the overlay) are not in it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from statistics import median
from typing import Final

from bench.cast import gate
from bench.processes import cores, on_core, resident_mb
from bench.rounds import Effort
from bench.rows import Curve, Findings, Goal, Row
from sidecar.core.addresses import AddressSet
from tests.servers import ServerFailed

LOOK_UP_GOAL: Final = Goal(1.0, most=True)
RESIDENT_GOAL: Final = Goal(150.0, most=True)
MOST: Final = 1_000_000
LOOK_UPS: Final = 20_000
ENDS_WITHIN_S: Final = 120.0

_LENGTHS: Final = (16, 20, 22, 24, 24, 24, 28, 32, 32)
_ROOT: Final = Path(__file__).resolve().parent.parent

Cost = dict[str, float]


def measure(effort: Effort) -> Findings:
    sizes = (100, 1_000, 10_000) if effort.quick else (100, 1_000, 10_000, 100_000, MOST)
    costs = {size: _alone(size) for size in sizes}
    gates = {size: _in_a_gate(size) for size in sizes if size != 1_000}
    found = Findings()
    found.curves += [
        Curve(
            "Address look-up",
            "prefixes",
            "ns a look-up",
            {"look-up": [(size, cost["look_up_ns"]) for size, cost in costs.items()]},
        ),
        Curve(
            "Memory of an address list",
            "prefixes",
            "resident MB",
            {
                "the list alone": [(size, cost["resident_mb"]) for size, cost in costs.items()],
                "a gate with it": [(size, cost["resident_mb"]) for size, cost in gates.items() if cost],
            },
        ),
    ]
    largest = sizes[-1]
    cost, whole = costs[largest], gates[largest]
    of = f"{largest:,} prefixes".replace(",", " ")
    found.rows += [
        Row(
            f"address look-up, {of}",
            cost["look_up_ns"] / 1000,
            unit="µs",
            goal=LOOK_UP_GOAL,
            note=f"median round {cost['look_up_median_ns'] / 1000:.2f} µs; built in {cost['build_s']:.1f} s",
            raw={str(size): each for size, each in costs.items()},
        ),
        Row(
            f"resident memory, {of}",
            cost["resident_mb"],
            unit="MB",
            goal=RESIDENT_GOAL,
            note=f"a gate with it: {whole['resident_mb']:.0f} MB, ready after {whole['ready_s']:.1f} s"
            if whole
            else "a gate with it was not ready within 20 s",
            raw={str(size): each for size, each in gates.items()},
        ),
    ]
    return found


def _alone(size: int) -> Cost:
    with on_core(cores().asked):
        told = subprocess.run(
            (sys.executable, "-m", "bench.prefixes", str(size)),
            cwd=_ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN_S,
        )
    cost: Cost = json.loads(told.stdout)
    return cost


def _in_a_gate(size: int) -> Cost:
    """Resident memory and time to ready of a gate that denies all of these; empty if it is not ready in time."""
    document = "addresses: {deny: {files: [deny.txt]}}"
    try:
        with gate(document, store=None, files={"deny.txt": "\n".join(listed(size))}) as running:
            return {"ready_s": running.server.start_s, "resident_mb": resident_mb(running.server.pid)}
    except ServerFailed:
        return {}


def listed(size: int) -> Iterator[str]:
    """`size` prefixes, the same ones every time; a few come twice, as they do in lists put together from several."""
    chance = random.Random(1)
    for _ in range(size):
        if chance.random() < 0.1:
            length = chance.choice((32, 48, 64))
            yield f"{IPv6Address((0x2000 << 112 | chance.getrandbits(112)) >> 128 - length << 128 - length)}/{length}"
        else:
            length = chance.choice(_LENGTHS)
            yield f"{_dotted(chance.getrandbits(length) << 32 - length)}/{length}"


def _looked_up(size: int) -> list[str]:
    """Addresses of the same mixture: every other one is the first of a listed prefix."""
    chance = random.Random(2)
    covered = [cidr.partition("/")[0] for number, cidr in enumerate(listed(size)) if number < LOOK_UPS // 2]
    others = [_dotted(chance.getrandbits(32)) for _ in range(LOOK_UPS - len(covered))]
    together = [*covered, *others]
    chance.shuffle(together)
    return together


def _dotted(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _cost(size: int) -> Cost:
    before_mb = _own_resident_mb()
    begun_s = time.perf_counter()
    prefixes = AddressSet(listed(size))
    build_s = time.perf_counter() - begun_s
    grown_mb = _own_resident_mb() - before_mb
    addresses = _looked_up(size)
    contains = prefixes.contains
    rounds_ns: list[int] = []
    for _ in range(40):
        begun_ns = time.perf_counter_ns()
        for address in addresses:
            contains(address)
        rounds_ns.append(time.perf_counter_ns() - begun_ns)
    return {
        "build_s": build_s,
        "resident_mb": grown_mb,
        "look_up_ns": min(rounds_ns) / len(addresses),
        "look_up_median_ns": median(rounds_ns) / len(addresses),
    }


def _own_resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    print(json.dumps(_cost(int(sys.argv[1]))))
