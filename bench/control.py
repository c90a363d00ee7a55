"""The control plane: how soon a change is everywhere, and what long lists cost those who are being answered.

    switches     eight processes on one store: from just before the PUT until the last has said that it has the epoch
    cut          the same for two, while the subscription of one loses every message: the comparison finds it
    a million    a file imported by the command line, in changes of 5000, while the check plane is asked at a constant
                 rate; the floor, nginx on the same core, is asked at that rate in turns with it, so that its longest
                 answer holds what the machine does and not the gate
    one more     a prefix added to the million, until both of two processes have it
    listing      100 000 of the million listed page by page, again and again, while the check plane is asked;
                 in turns with the same without the listing

Whom the list denies is not asked about: the client's address is in no prefix of it. The eight processes share
both cores with the store; the others are placed as everywhere here.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from bench.cast import GENEROUS_MS, TWO_LIMITS, asked_by_nginx, floor, gate, target, valkey
from bench.latency import at_rate
from bench.load import Misanswered, Target
from bench.pace import Paced
from bench.prefixes import listed
from bench.processes import cores, on_core, resident_mb
from bench.rounds import Effort
from bench.rows import Findings, Goal, Latency, Row
from tests import gates
from tests.control.between import between
from tests.control.operators import Propagation, command, fleet, percentile_ms
from tests.gates import TOKEN, Gate
from tests.servers import eventually, short_directory
from tests.stores import StoreServer

SWITCH_GOAL: Final = Goal(50.0, most=True)
CUT_GOAL: Final = Goal(2.0, most=True)
RESIDENT_GOAL: Final = Goal(150.0, most=True)
PAUSE_GOAL: Final = Goal(20.0, most=True)
LISTING_GOAL: Final = Goal(1.1, most=True)

RATE: Final = 500.0
WINDOW_S: Final = 2.0
CONNECTIONS: Final = 16
ENDS_WITHIN_S: Final = 60.0
IMPORTED_WITHIN_S: Final = 300.0
SETTLES_S: Final = 3.0
PAGE: Final = 1_000
HEADS: Final = asked_by_nginx("/a", address="fd00::9")

_ROOT: Final = Path(__file__).resolve().parent.parent
_CURSOR: Final = re.compile(rb'"cursor":"([^"]+)"\}$')


class Sizes(NamedTuple):
    processes: int
    switches: int
    cut: int
    prefixes: int
    added: int
    listed: int
    rounds: int


FULL_SIZES: Final = Sizes(8, 200, 10, 1_000_000, 20, 100_000, 5)
QUICK_SIZES: Final = Sizes(3, 20, 2, 10_000, 3, 2_000, 1)


def measure(effort: Effort) -> Findings:
    sizes = QUICK_SIZES if effort.quick else FULL_SIZES
    return Findings([_switches(sizes), _cut(sizes), *_long_lists(sizes)])


# --- how soon a change is everywhere --------------------------------------------------


def _switches(sizes: Sizes) -> Row:
    with valkey() as store, fleet(store, TWO_LIMITS, [1] * sizes.processes) as running:
        time.sleep(SETTLES_S)
        taken_s = Propagation(running.gates[0], store, running.replicas).seconds(sizes.switches)
    return _propagated(f"a switch reaches {sizes.processes} processes, p99", taken_s, SWITCH_GOAL)


def _propagated(name: str, taken_s: list[float], goal: Goal, more: str = "") -> Row:
    p50, p99, p999, longest = (percentile_ms(taken_s, share) for share in (0.5, 0.99, 0.999, 1.0))
    return Row(
        name,
        p99,
        unit="ms",
        goal=goal,
        latency=Latency(p50, p99, p999),
        note=f"of {len(taken_s)}; the longest {longest:.0f} ms{'; ' if more else ''}{more}",
        raw={"taken_ms": [round(1000 * each, 2) for each in taken_s]},
    )


def _cut(sizes: Sizes) -> Row:
    with (
        valkey() as store,
        between(store) as network,
        gate(TWO_LIMITS, store=store) as told,
        gates.gate(TWO_LIMITS, store_url=network.url) as deaf,
    ):
        eventually(lambda: network.subscribed > 0, "it has subscribed")
        network.swallows = True
        taken_s = Propagation(told, store, 2).seconds(sizes.cut)
        swallowed, network.swallows = network.swallowed, False
        deaf.server.stop()
    if swallowed < sizes.cut:
        raise Misanswered(f"only {swallowed} of {sizes.cut} messages were lost")
    return Row(
        "a switch reaches a process whose subscription is cut, longest",
        max(taken_s),
        unit="s",
        goal=CUT_GOAL,
        note=f"median of {sizes.cut}: {median(taken_s):.2f} s",
        raw={"taken_s": taken_s},
    )


# --- long lists -----------------------------------------------------------------------


def _long_lists(sizes: Sizes) -> list[Row]:
    with (
        valkey() as store,
        floor() as least,
        gate(TWO_LIMITS, store=store, deadline_ms=GENEROUS_MS) as running,
    ):
        rows = _import(running, least, store, sizes)
        rows.append(_one_more(running, store, sizes))
        rows.append(_listing(running, least, sizes))
    return rows


def _import(running: Gate, least: Target, store: StoreServer, sizes: Sizes) -> list[Row]:
    pid, asked = running.server.pid, target(running)
    before_mb = resident_mb(pid)
    with short_directory() as directory, ThreadPoolExecutor(1) as pool:
        file = directory / "deny.txt"
        file.write_text("\n".join(listed(sizes.prefixes)))
        begun_s = time.monotonic()
        importing = pool.submit(_imported, running, file)
        floors: list[Paced] = []
        rounds: list[Paced] = []
        while not importing.done():
            floors.append(_paced(least))
            rounds.append(_paced(asked))
        taken_s = importing.result() - begun_s
    with store.client() as client:
        arrived = int(client.hlen("pc:{control}:deny"))
    time.sleep(SETTLES_S)
    grown_mb = resident_mb(pid) - before_mb
    of = f"{sizes.prefixes:,} denied prefixes".replace(",", " ")
    pause, least_pause = (max(each.longest for each in some) for some in (rounds, floors))
    raw = {"rounds": [each._asdict() for each in rounds], "floors": [each._asdict() for each in floors]}
    return [
        Row(
            f"{of}: import by the command line",
            taken_s,
            unit="s",
            note=f"{arrived / taken_s / 1000:.0f}k/s, confirmed"
            if taken_s < IMPORTED_WITHIN_S
            else f"only {arrived} in that time, then it was ended",
            failed=taken_s >= IMPORTED_WITHIN_S,
        ),
        Row(
            f"{of}: resident memory more",
            grown_mb,
            unit="MB",
            goal=RESIDENT_GOAL,
            note=f"{before_mb:.0f} MB before; {_peak_mb(pid):.0f} MB at most, while it was imported",
        ),
        Row(
            f"{of}: longest answer while they are imported, beyond the floor's",
            max(0.0, pause - least_pause),
            unit="ms",
            goal=PAUSE_GOAL,
            latency=_latency(rounds),
            note=f"{pause:.1f} and {least_pause:.1f} ms at {RATE:g}/s",
            raw=raw,
        ),
    ]


def _imported(running: Gate, file: Path) -> float:
    """Import a file as an operator does; when it was done, or was ended (monotonic)."""
    words = ("address", "import", "deny", str(file), "--wait-s", "60")
    with on_core(cores().asking):
        ran = command(running, *words, within_s=IMPORTED_WITHIN_S)
    if ran.status > 0:
        raise Misanswered(f"the import failed: {ran.err}")
    return ran.answered_s


def _peak_mb(pid: int) -> float:
    found = re.search(r"(?m)^VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found, "the kernel tells the most that was resident"
    return int(found[1]) * 1024 / 1e6


def _one_more(running: Gate, store: StoreServer, sizes: Sizes) -> Row:
    def add(number: int) -> tuple[str, str, dict[str, object]]:
        return "POST", "/v1/addresses/deny", {"add": [f"2001:db8:{number:x}::/48"]}

    with gate(TWO_LIMITS, store=store, deadline_ms=GENEROUS_MS) as other:
        started_s = other.server.start_s
        time.sleep(SETTLES_S)
        taken_s = Propagation(running, store, 2).seconds(sizes.added, add)
    return _propagated(
        "one prefix more reaches both of two processes with that list, p99",
        taken_s,
        SWITCH_GOAL,
        f"the second was ready with the list after {started_s:.1f} s",
    )


def _listing(running: Gate, least: Target, sizes: Sizes) -> Row:
    asked = target(running)
    kinds: dict[str, list[Paced]] = {"quiet": [], "listing": [], "floor": [], "floor, listing": []}
    pages = 0
    begun_s = time.monotonic()
    for _ in range(sizes.rounds):
        kinds["floor"].append(_paced(least))
        kinds["quiet"].append(_paced(asked))
        with _lists_pages(running, sizes.listed) as count:
            kinds["floor, listing"].append(_paced(least))
            kinds["listing"].append(_paced(asked))
        pages += count()
    p99 = {name: median(each.p99 for each in rounds) for name, rounds in kinds.items()}
    listing_s = 2 * WINDOW_S * sizes.rounds
    return Row(
        f"p99 of a verdict while {sizes.listed:,} prefixes are listed, to that without".replace(",", " "),
        p99["listing"] / p99["quiet"],
        goal=LISTING_GOAL,
        latency=_latency(kinds["listing"]),
        note=f"{p99['listing']:.2f} to {p99['quiet']:.2f} ms; the floor's {p99['floor, listing']:.2f} to "
        f"{p99['floor']:.2f}; {pages / listing_s:.0f} pages of {PAGE}/s; {time.monotonic() - begun_s:.0f} s",
        raw={name: [each._asdict() for each in rounds] for name, rounds in kinds.items()},
    )


@contextmanager
def _lists_pages(running: Gate, entries: int) -> Iterator[Callable[[], int]]:
    """List the first entries again and again while the block runs; gives who says how many pages it were."""
    over = threading.Event()

    def run() -> int:
        pages, cursor = 0, ""
        connection = HTTPConnection("127.0.0.1", running.admin_port, timeout=ENDS_WITHIN_S)
        with on_core(cores().asking):
            while not over.is_set():
                query = f"/v1/addresses/deny?limit={PAGE}&cursor={cursor}"
                connection.request("GET", query, headers={"Authorization": f"Bearer {TOKEN}"})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    raise Misanswered(f"{query}: {answer.status}")
                pages += 1
                found = _CURSOR.search(body)
                cursor = found[1].decode() if found and pages % max(1, entries // PAGE) else ""
        connection.close()
        return pages

    with ThreadPoolExecutor(1) as pool:
        listing = pool.submit(run)
        try:
            yield listing.result
        finally:
            over.set()


# --- a constant rate ------------------------------------------------------------------


def _paced(asked: Target) -> Paced:
    """One window. Raises Misanswered."""
    return at_rate(asked, HEADS, RATE, seconds=WINDOW_S, connections=CONNECTIONS)


def _latency(rounds: list[Paced]) -> Latency:
    return Latency(*(median(getattr(each, name) for each in rounds) for name in ("p50", "p99", "p999")))
