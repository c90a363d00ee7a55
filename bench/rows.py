"""What was found: rows with a goal, curves without one, and the table that shows both.

Nothing here measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

Raw = Mapping[str, object]
"""Further numbers of a row, for the JSON file."""

COLUMNS: Final = ("what", "goal", "measured", "", "p50", "p99", "p99.9", "CPU", "and")


class Goal(NamedTuple):
    """What a row should reach: `bound` is the least that will do, or with `most` the most."""

    bound: float
    most: bool = False

    def met_by(self, measured: float) -> bool:
        return measured <= self.bound if self.most else measured >= self.bound


class Latency(NamedTuple):
    """Milliseconds."""

    p50: float
    p99: float
    p999: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    measured   in `unit` ("" for a ratio or a plain number), or None: then `note` says why
    cpu_us     CPU of the server under test for each answer, in microseconds
    """

    name: str
    measured: float | None
    unit: str = ""
    goal: Goal | None = None
    latency: Latency | None = None
    cpu_us: float | None = None
    note: str = ""
    raw: Raw = field(default_factory=dict)
    failed: bool = False

    @property
    def outcome(self) -> str:
        """`ok`, `missed`, `missing`, `failed`, or nothing for a row without a goal."""
        if self.measured is None:
            return "failed" if self.failed else "missing"
        if self.goal is None:
            return ""
        return "ok" if self.goal.met_by(self.measured) else "missed"


@dataclass(frozen=True, slots=True)
class Curve:
    """How something grows: one panel of the plot. Points are (x, y), x ascending."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = True
    log_y: bool = False


@dataclass(slots=True)
class Findings:
    """What the answer to one question consists of."""

    rows: list[Row] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    lines = [COLUMNS, *[_cells(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS) - 1)]
    shown = []
    for line in lines:
        first, *rest = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        shown.append("  ".join([first, *rest, line[-1]]).rstrip())
    return "\n".join(shown)


def curve_table(curve: Curve) -> str:
    """The points of a curve as aligned text, one line for each series."""
    xs = sorted({x for points in curve.series.values() for x, _ in points})
    lines = [[curve.x_label, *[f"{x:g}" for x in xs]]]
    for name, points in curve.series.items():
        known = dict(points)
        lines.append([name, *[number(known[x]) if x in known else "-" for x in xs]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    body = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([f"{curve.title}: {curve.y_label}", *body])


def number(value: float) -> str:
    """Three digits that matter.

    >>> number(0.61234), number(15.27), number(1234.5), number(0.000021)
    ('0.612', '15.3', '1234', '2.1e-05')
    """
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _cells(row: Row) -> tuple[str, ...]:
    unit = f" {row.unit}" if row.unit else ""
    goal = "" if row.goal is None else f"{'≤' if row.goal.most else '≥'} {row.goal.bound:g}{unit}"
    measured = "-" if row.measured is None else f"{number(row.measured)}{unit}"
    latency = ("", "", "") if row.latency is None else tuple(f"{number(ms)} ms" for ms in row.latency)
    cpu = "" if row.cpu_us is None else f"{row.cpu_us:.1f} µs"
    return (row.name, goal, measured, row.outcome, *latency, cpu, row.note)
