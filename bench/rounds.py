"""Rounds: the floor and what is measured take turns, so that a machine's moods meet both.

    floor  a  b  floor  a  b  floor  a  b  floor

A round's ratio is its rate against the mean of the floors before and after it; the row's is the median of its
rounds. Beside it stands the same ratio of CPU time for each answer, which other processes disturb less; where the two
differ much, the machine was not quiet, or the generator was the limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

from bench.load import Load, Press
from bench.rows import Goal, Latency, Raw, Row


class Effort(NamedTuple):
    """How long to look: `rounds` of `seconds` each; `quick` also means fewer points on a curve."""

    rounds: int
    seconds: int
    quick: bool


QUICK = Effort(1, 1, True)
FULL = Effort(5, 1, False)


class Alternated(NamedTuple):
    """One more floor than rounds: `loads[name][i]` ran between `floors[i]` and `floors[i + 1]`."""

    floors: list[Load]
    loads: dict[str, list[Load]]

    def ratio(self, name: str) -> float:
        """Answers a second, as a share of the floor's."""
        return median(
            load.rate / ((before.rate + after.rate) / 2)
            for load, before, after in zip(self.loads[name], self.floors, self.floors[1:], strict=False)
        )

    def cpu_ratio(self, name: str) -> float:
        """The floor's CPU for each answer, as a share of this one's: 1.0 is as cheap as the floor."""
        return median(floor.cpu_us for floor in self.floors) / self.cpu_us(name)

    def against(self, name: str, other: str) -> float:
        """Answers a second, as a share of another's in the same round."""
        pairs = zip(self.loads[name], self.loads[other], strict=True)
        return median(one.rate / two.rate for one, two in pairs)

    def cpu_us(self, name: str) -> float:
        return median(load.cpu_us for load in self.loads[name])

    def latency(self, name: str) -> Latency:
        """The median of each percentile over the rounds."""
        return middle([load.latency for load in self.loads[name]])

    def answers(self, name: str) -> int:
        return sum(load.answers for load in self.loads[name])

    def rate(self, name: str) -> float:
        return median(load.rate for load in self.loads[name])

    def floor_rate(self) -> float:
        return median(load.rate for load in self.floors)

    def row(self, title: str, name: str, goal: Goal | None, note: str = "") -> Row:
        """The row of what is measured as `name`, against the floor."""
        busy = median(load.busy for load in self.loads[name])
        words = [
            f"{self.rate(name) / 1000:.1f}k/s to {self.floor_rate() / 1000:.1f}k/s",
            f"by CPU {self.cpu_ratio(name):.2f}",
            *([f"only {busy:.0%} busy"] if busy < 0.9 else []),
            *([note] if note else []),
        ]
        return Row(
            title,
            self.ratio(name),
            goal=goal,
            latency=self.latency(name),
            cpu_us=self.cpu_us(name),
            note="; ".join(words),
            raw=self.raw(name),
        )

    def raw(self, name: str) -> Raw:
        return {
            "cpu_ratio": round(self.cpu_ratio(name), 4),
            "floor_cpu_us": round(median(floor.cpu_us for floor in self.floors), 3),
            "floors": [load.raw() for load in self.floors],
            "rounds": [load.raw() for load in self.loads[name]],
        }


def alternate(floor: Press, measured: Mapping[str, Press], effort: Effort) -> Alternated:
    """The rounds in turns, the floor first and last."""
    floors = [floor()]
    loads: dict[str, list[Load]] = {name: [] for name in measured}
    for _ in range(effort.rounds):
        for name, once in measured.items():
            loads[name].append(once())
        floors.append(floor())
    return Alternated(floors, loads)


def middle(latencies: list[Latency]) -> Latency:
    """The median of each percentile."""
    p50, p99, p999 = (median(values) for values in zip(*latencies, strict=True))
    return Latency(p50, p99, p999)
