"""`audit`: what operators (and the trigger) did, oldest first; `--follow` goes on as it happens.

Following asks for what came after the last entry that was shown, so that nothing is left out while the gate
or its store was away.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from threading import Event
from typing import Annotated, Any, Final

import typer

from sidecar.client import AdminFailed
from sidecar.commands.gate import Gate
from sidecar.commands.options import asks, single
from sidecar.commands.telling import moment, say_json, short, tell
from sidecar.tables import say, show, warn

LONG_POLL_S: Final = 20
AGAIN_S: Final = 2.0
PAGE: Final = 1000
BEGINNING: Final = "0-0"
MOST_NAMED: Final = 3
"""Things of one list that are named; of more the number is told."""

_TOLD: Final = frozenset({"id", "at", "actor", "action", "outcome", "epoch", "reason", "until"})

app = single("audit")


@app.command()
@asks
def audit(
    gate: Gate,
    *,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=PAGE, help="How many of the newest, at most.")
    ] = 50,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Go on as things happen, until Ctrl-C; with --json one line each."),
    ] = False,
) -> None:
    """Show who did what, when and why."""
    answer = gate.get("/v1/audit", {"limit": limit})
    if not follow:
        tell(gate, answer, _show)
        return
    try:
        _follow(gate, answer)
    except KeyboardInterrupt:
        return


def _follow(gate: Gate, answer: dict[str, Any]) -> None:
    pause = Event()
    after = BEGINNING
    away = False
    while True:
        for entry in answer["entries"]:
            if gate.as_json:
                say_json(entry)
            else:
                say("  ".join(filter(None, _row(entry))))
        after = answer["after"] or after
        while True:
            try:
                query = {"after": after, "limit": PAGE, "wait": LONG_POLL_S}
                answer = gate.client.get("/v1/audit", query, patience_s=LONG_POLL_S)
            except AdminFailed as exc:
                if not away:
                    warn(f"portcullis: {exc}")
                if not exc.passing:
                    sys.exit(1)
                if not away:
                    warn("portcullis: asking again until it answers")
                away = True
                pause.wait(AGAIN_S)
                continue
            if away:
                warn("portcullis: it answers again; nothing is left out")
            away = False
            break


def _show(answer: dict[str, Any]) -> None:
    entries = answer["entries"]
    if not entries:
        say("nobody has done anything yet")
    show(
        ["when", "who", "what", "about", "outcome", "epoch", "why", "until"],
        [_row(entry) for entry in entries],
    )


def _row(entry: Mapping[str, Any]) -> list[str]:
    return [
        moment(entry["at"]),
        str(entry["actor"]),
        str(entry["action"]),
        " ".join(
            _about(name, value, entry)
            for name, value in entry.items()
            if name not in _TOLD and name.removesuffix("_count") not in entry.keys() - {name}
        ),
        str(entry["outcome"]),
        short(str(entry["epoch"] or "")),
        str(entry["reason"] or ""),
        moment(entry["until"]),
    ]


def _about(name: str, value: object, entry: Mapping[str, Any]) -> str:
    """One member; of a long list the first few and how many there are, which another member may say."""
    if isinstance(value, list) and len(value) > MOST_NAMED:
        count = entry.get(f"{name}_count", len(value))
        return f"{name}={_worded(value[:MOST_NAMED])},… ({count})"
    return f"{name}={_worded(value)}"


def _worded(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
