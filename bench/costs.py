"""What one of everything costs, from the newest results that have the row.

Nothing here measures.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).resolve().parent / "results"
CALL: Final = "sizing: store CPU for each call"
COUNTER: Final = "sizing: store CPU for each counter"


@dataclass(frozen=True, slots=True)
class Costs:
    """What one of everything costs; `sources` says for each name the file and the row.

    The gate's times are CPU for a decision under two limits, and what every further limit adds.
    """

    memory_us: float
    memory_limit_us: float
    store_us: float
    store_limit_us: float
    call_us: float
    counter_us: float
    counter_bytes: float
    gate_mb: float
    sources: Mapping[str, str]


def costs_of(documents: Iterable[tuple[str, Mapping[str, Any]]]) -> Costs:
    """From results by the name of their file, the newest first. Raises LookupError for a row that none has."""
    files = list(documents)
    sources: dict[str, str] = {}

    def row(name: str, title: str, field: str = "measured") -> float:
        for file, found in files:
            for each in found["rows"]:
                if each["name"] == title and each[field] is not None:
                    sources[name] = f"{file}: {title}" + (" (CPU)" if field == "cpu_us" else "")
                    return float(each[field])
        raise LookupError(f"no result has the row {title!r}")

    def points(name: str, title: str, series: str) -> Sequence[tuple[float, float]]:
        for file, found in files:
            for curve in found["curves"]:
                if curve["title"] == title and len(curve["series"][series]) > 1:
                    sources[name] = f"{file}: curve {title}, {series}"
                    of: list[tuple[float, float]] = curve["series"][series]
                    return of
        raise LookupError(f"no result has the curve {title!r}")

    return Costs(
        memory_us=row("memory_us", "from memory: leased allow, two limits, heads never repeat", "cpu_us"),
        memory_limit_us=slope(points("memory_limit_us", "Limits for each request", "from memory")),
        store_us=row("store_us", "verdict with the store, against `return 204`", "cpu_us"),
        store_limit_us=slope(points("store_limit_us", "Limits for each request", "with the store")),
        call_us=row("call_us", CALL),
        counter_us=row("counter_us", COUNTER),
        counter_bytes=points("counter_bytes", "Live counters: memory", "store")[-1][1],
        gate_mb=points("gate_mb", "Live counters: the gate", "gate")[-1][1],
        sources=sources,
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line with the least squares.

    >>> slope([(1, 3.0), (2, 5.0), (4, 9.0)])
    2.0
    """
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def kept() -> list[tuple[str, dict[str, Any]]]:
    """The result files, the newest first."""
    files = [(path.name, json.loads(path.read_text())) for path in RESULTS.glob("*.json")]
    return sorted(files, key=lambda file: str(file[1]["date"]), reverse=True)
