"""`python -m bench`: ask the questions, print the table, write the numbers.

A whole run is kept in `bench/results`; one of a part, or a quick one, in `bench/out`, unless told where. What fails or
is not installed takes its own rows with it and nothing else; the exit status is 1 when something failed. A goal
that is missed is a finding, not a failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench import (
    auth_request,
    batches,
    control,
    credentials,
    growth,
    latency,
    machine,
    memory,
    micro,
    patterns,
    plot,
    prefixes,
    sizing,
    start,
    with_store,
)
from bench.load import Missing
from bench.rounds import FULL, QUICK, Effort
from bench.rows import Curve, Findings, Row, curve_table, table

QUESTIONS: Final[Mapping[str, Callable[[Effort], Findings]]] = {
    "memory": memory.measure,
    "auth_request": auth_request.measure,
    "store": with_store.measure,
    "credentials": credentials.measure,
    "patterns": patterns.measure,
    "batches": batches.measure,
    "prefixes": prefixes.measure,
    "latency": latency.measure,
    "control": control.measure,
    "start": start.measure,
    "limits": growth.limits,
    "counters": growth.counters,
    "connections": growth.connections,
    "micro": micro.measure,
    "sizing": sizing.measure,
}

_HERE: Final = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, metavar="NAME", help=", ".join(QUESTIONS))
    parser.add_argument(
        "--quick", action="store_true", help="one round each, fewer points: to see that it runs"
    )
    parser.add_argument("--out", type=Path, help="directory for the JSON and the SVG")
    given = parser.parse_args()
    names: list[str] = given.only or list(QUESTIONS)
    whole = not given.only and not given.quick
    folder: Path = given.out or _HERE / ("results" if whole else "out")
    return run(names, QUICK if given.quick else FULL, folder)


def run(names: list[str], effort: Effort, folder: Path) -> int:
    """Ask these questions in turn, and write to `folder`; returns the exit status."""
    began = datetime.now(UTC)
    commit, described, versions = machine.commit(), machine.describe(), machine.versions()
    witness = machine.Witness()
    together = Findings()
    seconds: dict[str, float] = {}
    for name in names:
        begun_s = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        found = _ask(name, effort)
        together.rows += found.rows
        together.curves += found.curves
        seconds[name] = round(time.monotonic() - begun_s, 1)
        print(f"{seconds[name]} s", file=sys.stderr, flush=True)
    disturbed = witness.report()

    _show(together, disturbed)
    told = {
        "date": began.isoformat(timespec="seconds"),
        "commit": commit,
        "effort": effort._asdict(),
        "machine": described,
        "versions": versions,
        "disturbed": disturbed,
        "seconds": seconds,
        "rows": [_row(row) for row in together.rows],
        "curves": [_curve(curve) for curve in together.curves],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{began:%Y-%m-%d}-{commit}.json"
    path.write_text(json.dumps(told, indent=1) + "\n")
    print(f"\n{path}")
    if together.curves:
        caption = f"Portcullis {commit}, {began:%Y-%m-%d %H:%M} UTC, {described['cpu']}"
        path.with_suffix(".svg").write_text(plot.svg(together.curves, caption))
        print(path.with_suffix(".svg"))
    return int(any(row.failed for row in together.rows))


def _ask(name: str, effort: Effort) -> Findings:
    try:
        return QUESTIONS[name](effort)
    except Missing as exc:
        return Findings([Row(name, None, note=f"needs {exc}")])
    except Exception as exc:  # the outermost task: what one question meets does not take the others' answers
        traceback.print_exc()
        return Findings(
            [Row(name, None, note=f"{type(exc).__name__}: {exc}".partition("\n")[0], failed=True)]
        )


def _show(found: Findings, disturbed: Mapping[str, float]) -> None:
    print(table(found.rows))
    for curve in found.curves:
        print(f"\n{curve_table(curve)}")
    print(
        f"\nOf the two cores {disturbed['others']:.0%} were other processes' and {disturbed['stolen']:.0%} other "
        "machines'. Above a few per cent believe the ratios by CPU, and nothing else."
    )


def _row(row: Row) -> dict[str, object]:
    return {
        "name": row.name,
        "measured": row.measured,
        "unit": row.unit,
        "goal": None if row.goal is None else {"bound": row.goal.bound, "most": row.goal.most},
        "outcome": row.outcome,
        "latency_ms": None if row.latency is None else row.latency._asdict(),
        "cpu_us": row.cpu_us,
        "note": row.note,
        "raw": row.raw,
    }


def _curve(curve: Curve) -> dict[str, object]:
    return {
        "title": curve.title,
        "x": curve.x_label,
        "y": curve.y_label,
        "series": {name: list(points) for name, points in curve.series.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
