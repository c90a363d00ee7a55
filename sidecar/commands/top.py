"""`top`: the heaviest and the most refused addresses, keys and routes of the last minutes, fleet-wide.

They come from a bounded sketch: what is heavy is there, the numbers are close.
"""

from __future__ import annotations

import sys
from itertools import zip_longest
from threading import Event
from typing import Annotated, Any, Final

import typer

from sidecar.client import AdminFailed
from sidecar.commands.gate import Gate
from sidecar.commands.options import asks, single
from sidecar.commands.telling import counted, tell
from sidecar.tables import say, show, warn

EVERY_S: Final = 2.0

app = single("top")


@app.command()
@asks
def top(
    gate: Gate,
    *,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100, help="How many of each, at most.")
    ] = 10,
    watch: Annotated[bool, typer.Option("--watch", help="Again every 2 seconds, until Ctrl-C.")] = False,
) -> None:
    """Show who asks most, and who is refused most."""
    answer = gate.get("/v1/top", {"limit": limit})
    if not watch:
        tell(gate, answer, _show)
        return
    try:
        _watch(gate, limit, answer)
    except KeyboardInterrupt:
        return


def _watch(gate: Gate, limit: int, answer: dict[str, Any]) -> None:
    """Show it again and again; a gate that goes away for a while is waited for."""
    pause = Event()
    while True:
        if sys.stdout.isatty() and not gate.as_json:
            sys.stdout.write("\x1b[H\x1b[2J")
        tell(gate, answer, _show)
        while True:
            pause.wait(EVERY_S)
            try:
                answer = gate.client.get("/v1/top", {"limit": limit})
                break
            except AdminFailed as exc:
                warn(f"portcullis: {exc}")
                if not exc.passing:
                    sys.exit(1)


def _show(answer: dict[str, Any]) -> None:
    if not any([*answer["heaviest"].values(), *answer["refused"].values()]):
        say("no replica has told of any requests in the last minutes")
        return
    since = counted(round(answer["since_s"]), "second")
    say(f"the last {since} of {counted(answer['replicas'], 'replica')}")
    for kind in ("addresses", "keys", "routes"):
        heaviest, refused = answer["heaviest"][kind], answer["refused"][kind]
        if heaviest or refused:
            say("")
            show(
                [f"heaviest {kind}", "requests", f"most refused {kind}", "refused"],
                [
                    [*_cells(heavy, "requests"), *_cells(most, "refused")]
                    for heavy, most in zip_longest(heaviest, refused)
                ],
            )


def _cells(entry: dict[str, Any] | None, count: str) -> list[object]:
    return ["", ""] if entry is None else [entry["name"], entry[count]]
