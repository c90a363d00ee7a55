"""`python -m bench.soak`: what the tests ask for seconds, asked for long.

    histories   the same random history on memory and on the script, on Valkey and redis-server
    bound       no interval ever holds more than the limit: histories that Hypothesis makes up, in virtual time
    storms      the same for load well above the limit, each from a seed of its own
    live        the same for real: four gates, one store, one hot subject; and their latency and memory meanwhile
    credentials random credentials, headers and tokens on all four fronts: only what is good passes, nothing breaks

They take turns until the time is over; each turn prints a line. The first violation ends it with status 1 and
says how to see it again. The tests hold the same properties for as long as one waits for a test.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count, cycle
from random import SystemRandom
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import run_state_machine_as_test

from bench.processes import resident_mb
from sidecar.core.model import Limit
from tests import stores
from tests.core.test_bound import BURSTS, CLOCKS, NETWORKS, Burst, limits, play, storm
from tests.credentials.guesses import besieged
from tests.doubles import Clock, Fate, Fleet
from tests.gates import gate
from tests.load import certainly_busiest, forwarded, press
from tests.store.test_take import Histories
from tests.test_bound_live import DOCUMENT, LIMITS, PER_S

TURN_S: Final = 20.0
GATES: Final = 4
FOR_LONG: Final = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

Turns = Iterator[str]
"""What one kind of question says after each of its turns. It raises AssertionError for a violation."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, metavar="NAME", help=", ".join(QUESTIONS))
    asked = parser.parse_args()

    end_s = time.monotonic() + 60 * asked.minutes
    with ExitStack() as running:
        turns = {name: QUESTIONS[name](running) for name in asked.only or QUESTIONS}
        for name in cycle(turns):
            if time.monotonic() >= end_s:
                return 0
            try:
                print(f"{name:10} {next(turns[name])}", flush=True)
            except AssertionError as violation:
                print(f"{name:10} VIOLATED: {violation}", flush=True)
                notes: list[str] = getattr(violation, "__notes__", [])
                print(*notes, sep="\n", flush=True)
                return 1
    return 0


def histories(running: ExitStack) -> Turns:
    servers = {
        "valkey": running.enter_context(stores.valkey()),
        "redis-server": running.enter_context(stores.redis7()),
    }
    clients = {name: running.enter_context(server.client()) for name, server in servers.items()}
    for turn, (name, client) in enumerate(cycle(clients.items()), 1):
        machine = type("OnThisServer", (Histories,), {"client": client})
        run_state_machine_as_test(machine, settings=settings(FOR_LONG, stateful_step_count=40))
        yield f"{name}: turn {turn}, {FOR_LONG.max_examples} histories of up to 40 batches"


@FOR_LONG
@given(rules=limits(), clocks=CLOCKS, network=NETWORKS, bursts=BURSTS)
def _keeps_the_bound(
    rules: list[Limit], clocks: list[Clock], network: list[Fate], bursts: list[Burst]
) -> None:
    fleet = Fleet(rules, clocks=clocks, fates=cycle(network))
    play(fleet, bursts)
    assert fleet.over_limit() == []


def bound(_: ExitStack) -> Turns:
    for turn in count(1):
        _keeps_the_bound()
        yield f"{turn * FOR_LONG.max_examples} histories"


def storms(_: ExitStack) -> Turns:
    first = seed = SystemRandom().randrange(10**9)
    while True:
        end_s = time.monotonic() + TURN_S
        while time.monotonic() < end_s:
            assert (found := storm(seed).over_limit()) == [], f"storm({seed}): {found}"
            seed += 1
        yield f"{seed - first} storms, from seed {first}"


def live(running: ExitStack) -> Turns:
    store = running.enter_context(stores.valkey())
    gates = [
        running.enter_context(gate(DOCUMENT, store_url=store.url(), deadline_ms=None)) for _ in range(GATES)
    ]
    ports = [one.check_port for one in gates]
    requests = [(path, forwarded(path, "203.0.113.9")) for path in LIMITS]
    while True:
        said = asyncio.run(press(ports, requests, connections=4, per_s=PER_S, lasting_s=TURN_S))
        used = []
        for path, (permits, window_s) in LIMITS.items():
            admitted = [one for one in said if one.target == path and one.status == 200]
            most = certainly_busiest(admitted, window_s)
            assert most <= permits, f"{path}: {most} of {permits} in {window_s:g} s"
            used.append(f"{path} {len(admitted) * window_s / (permits * TURN_S):.0%}")
        waits_ms = sorted(1_000 * (one.answer_s - one.start_s) for one in said)
        p50, p99, p999 = (waits_ms[int(len(waits_ms) * share)] for share in (0.5, 0.99, 0.999))
        memory = " ".join(f"{resident_mb(one.server.pid):.0f}" for one in gates)
        yield (
            f"{len(said)} answers, of each limit {', '.join(used)};"
            f" p50 {p50:.2f} p99 {p99:.2f} p99.9 {p999:.2f} ms; resident {memory} MB"
        )


def credentials(running: ExitStack) -> Turns:
    gate = running.enter_context(besieged())
    seed = SystemRandom().randrange(10**9)
    while True:
        end_s = time.monotonic() + TURN_S
        first, answers, proved = seed, 0, 0
        while time.monotonic() < end_s:
            guessed = gate.guess(seed, 1_000)
            answers, proved, seed = answers + guessed.statuses.total(), proved + guessed.proved, seed + 1
        assert (found := gate.complaints()) == [], found
        resident = f"resident {resident_mb(gate.gate.server.pid):.0f} MB"
        yield f"{answers} guesses, {proved} of them good, from seed {first}; {resident}"


QUESTIONS: Final[dict[str, Callable[[ExitStack], Turns]]] = {
    "histories": histories,
    "bound": bound,
    "storms": storms,
    "live": live,
    "credentials": credentials,
}

if __name__ == "__main__":
    sys.exit(main())
