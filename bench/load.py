"""Load from wrk: as much as one core sends, over connections that are kept, and what it cost who answered.

A head may hold `{n}`, a number that never comes again, and `{ip}`, one of `subjects` addresses at random
(`lua/heads.lua` fills them in). The floor gets the same bytes, so the generator's own cost is the same.

It says how busy both sides were: a server that was not busy was not at its peak. A constant rate is `pace`'s.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from bench.processes import cores, cpu_s, on_core
from bench.rows import Latency

CONNECTIONS: Final = 64

_SCRIPT: Final = Path(__file__).resolve().parent / "lua" / "heads.lua"
_ENDS_WITHIN_S: Final = 30.0


class Missing(Exception):
    """Something that a row needs is not installed; the text says how to get it."""


class Misanswered(AssertionError):
    """The answers were not those that were asked for, so their speed is of no interest."""


class Heads(NamedTuple):
    """What is asked, again and again. `refused` says which answers are right: 2xx, or 4xx and 5xx."""

    target: str
    headers: tuple[tuple[str, str], ...] = ()
    subjects: int = 1
    refused: bool = False


class Target(NamedTuple):
    """Who is asked: where it listens, and the processes whose CPU counts."""

    port: int
    pids: tuple[int, ...]


class Load(NamedTuple):
    """One round of load."""

    answers: int
    seconds: float
    latency: Latency
    cpu_s: float
    generator_cpu_s: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU of the asked processes for each answer, in microseconds."""
        return 1e6 * self.cpu_s / self.answers

    @property
    def busy(self) -> float:
        """Share of the time that the asked processes ran."""
        return self.cpu_s / self.seconds

    def raw(self) -> dict[str, float]:
        return {
            "answers": self.answers,
            "rate": round(self.rate, 1),
            "p50_ms": self.latency.p50,
            "p99_ms": self.latency.p99,
            "p999_ms": self.latency.p999,
            "cpu_us": round(self.cpu_us, 3),
            "busy": round(self.busy, 3),
            "generator_busy": round(self.generator_cpu_s / self.seconds, 3),
        }


Press = Callable[[], Load]


def press(
    target: Target, heads: Heads, *, seconds: int, connections: int = CONNECTIONS, core: int | None = None
) -> Load:
    """Ask as fast as possible from `core` (the load's own unless told otherwise).

    Raises Missing without wrk, Misanswered when answers are wrong or fail.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise Missing("wrk: apt-get install wrk")
    varies = any("{n}" in text or "{ip}" in text for text in (heads.target, *[v for _, v in heads.headers]))
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(_SCRIPT)]
    for name, value in heads.headers:
        command += ["-H", f"{name}: {value}"]
    command.append(f"http://127.0.0.1:{target.port}{heads.target}")
    env = os.environ | {"BENCH_VARY": "yes" if varies else "", "BENCH_SUBJECTS": str(heads.subjects)}
    before_s, generator_before_s = cpu_s(target.pids), _ended_children_cpu_s()
    with on_core(cores().asking if core is None else core):
        told = subprocess.run(
            command, env=env, check=True, capture_output=True, text=True, timeout=seconds + _ENDS_WITHIN_S
        ).stdout
    used_s = cpu_s(target.pids) - before_s
    found = re.search(r"^bench: (.*)$", told, re.MULTILINE)
    assert found, told
    answers, micros, failed, refused, p50, p99, p999 = map(float, found[1].split())
    wrong = answers - refused if heads.refused else refused
    if failed or wrong or not answers:
        raise Misanswered(
            f"{heads.target}: of {answers:.0f} answers {wrong:.0f} were not "
            f"{'refusals' if heads.refused else 'allowed'}, and {failed:.0f} requests failed"
        )
    return Load(
        int(answers),
        micros / 1e6,
        Latency(p50 / 1000, p99 / 1000, p999 / 1000),
        used_s,
        _ended_children_cpu_s() - generator_before_s,
    )


def pressing(
    target: Target, heads: Heads, seconds: int, connections: int = CONNECTIONS, core: int | None = None
) -> Press:
    """The same as something to be done again and again."""
    return partial(press, target, heads, seconds=seconds, connections=connections, core=core)


def _ended_children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
