"""What a process costs, from /proc, and the core that it runs on.

Two cores play: one belongs to the server under test, the other to who asks it (and to the store). With one
core both are the same, and the ratios say little.

Nothing here starts or ends a process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Cores(NamedTuple):
    asked: int
    """Of the server under test."""
    asking: int
    """Of the load generator and the store."""


@cache
def cores() -> Cores:
    """The first two cores that this process may use, as they were at the first call."""
    mine = sorted(os.sched_getaffinity(0))
    return Cores(mine[0], mine[min(1, len(mine) - 1)])


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Bind this thread, and so every process that it starts meanwhile, to one core."""
    cores()  # before the binding changes what may be used
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds used so far, user and system, by these processes; in steps of 10 ms."""
    ticks = 0
    for pid in pids:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        )
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Resident memory in megabytes (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AssertionError(f"process {pid} has no resident memory")


def children(pid: int) -> tuple[int, ...]:
    """The processes that this one has started and that live."""
    return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()))
