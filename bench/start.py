"""From the start of the command to ready, and the resident memory of one idle worker.

The configuration is the default one, so the start includes that of the embedded Valkey, whose memory is not
counted. Ready is what `/readyz` says; everything runs on one core.

The first start after an installation is slower: Python compiles what it imports.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from bench.cast import gate
from bench.processes import children, resident_mb
from bench.rounds import Effort
from bench.rows import Findings, Goal, Row

READY_GOAL: Final = Goal(1.0, most=True)
RESIDENT_GOAL: Final = Goal(80.0, most=True)
SETTLES_S: Final = 1.0


def measure(effort: Effort) -> Findings:
    starts_s: list[float] = []
    idle_mb: list[float] = []
    store_mb = 0.0
    for _ in range(1 if effort.quick else 3):
        with gate(store=None) as running:
            starts_s.append(running.server.start_s)
            time.sleep(SETTLES_S)
            pid = running.server.pid
            idle_mb.append(resident_mb(pid))
            store_mb = sum(map(resident_mb, children(pid)))
    return Findings(
        [
            Row(
                "start to ready, with the embedded store",
                median(starts_s),
                unit="s",
                goal=READY_GOAL,
                note=f"of {len(starts_s)} starts",
                raw={"starts_s": starts_s},
            ),
            Row(
                "idle resident memory of one worker",
                median(idle_mb),
                unit="MB",
                goal=RESIDENT_GOAL,
                note=f"and {store_mb:.0f} MB for the embedded store",
                raw={"idle_mb": idle_mb, "store_mb": store_mb},
            ),
        ]
    )
