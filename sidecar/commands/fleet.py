"""`fleet`: the replicas, what each has applied, and whether all run one configuration.

It changes nothing, and an unwell fleet is no failure of the command: status 0.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sidecar.commands.gate import Gate
from sidecar.commands.options import asks, single
from sidecar.commands.telling import counted, moments, short, tell
from sidecar.tables import say, show

app = single("fleet")


@app.command()
@asks
def fleet(gate: Gate) -> None:
    """Show every replica: its state, what it has applied, its configuration."""
    answer = gate.get("/v1/fleet")
    tell(gate, answer, _show)


def _show(answer: dict[str, Any]) -> None:
    replicas = answer["replicas"]
    states = Counter(replica["state"] for replica in replicas)
    counts = ", ".join(f"{states[state]} {state}" for state in ("current", "behind", "lost") if states[state])
    say(f"{counted(len(replicas), 'replica')} at epoch {answer['epoch']}: {counts or 'none told of itself'}")
    if answer["configurations"] > 1:
        say(f"they run {answer['configurations']} different configurations: see the column config")
    show(
        ["replica", "name", "state", "epoch", "lag", "config", "version", "seen", "started"],
        [_row(replica) for replica in replicas],
    )


def _row(replica: dict[str, Any]) -> list[object]:
    behind = f" ({replica['behind']} behind)" if replica["behind"] else ""
    lag_s = replica["lag_s"]
    return [
        replica["replica"],
        replica["name"],
        replica["state"],
        f"{short(replica['epoch'])}{behind}",
        "" if lag_s is None else f"{lag_s:.1f} s",
        replica["config"],
        replica["version"],
        *moments([replica["seen"], replica["started"]]),
    ]
