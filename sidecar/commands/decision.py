"""`decision`: what a gate decided about one request, by the id that its client was told.

It asks one gate, which knows its own last decisions; behind a balancer the log knows which gate it was.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import typer

from sidecar.commands.gate import Gate
from sidecar.commands.options import asks, single
from sidecar.commands.telling import moment, tell
from sidecar.tables import say

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)

app = single("decision")


@app.command()
@asks
def decision(
    gate: Gate,
    request_id: Annotated[
        str, typer.Argument(metavar="REQUEST-ID", help="What X-Request-Id, or a problem's request_id, said.")
    ],
) -> None:
    """Show what was decided about a request, if this gate still knows it."""
    if not _REQUEST_ID.fullmatch(request_id):
        raise typer.BadParameter(
            f"{request_id!r}: expected 1 to 128 of A-Z a-z 0-9 . _ -", param_hint="REQUEST-ID"
        )
    answer = gate.get(
        f"/v1/decisions/{request_id}", hint="The logs of all gates may have its line: look there for the id."
    )
    tell(gate, answer, _show)


def _show(answer: dict[str, Any]) -> None:
    for number, found in enumerate(answer["decisions"]):
        if number:
            say("")
        outcome = "allowed" if found["event"] == "allowed" else "refused"
        by = f" by {found['rule']}" if found["rule"] else ""
        say(f"{outcome} with {found['status']}: {found['reason']}{by}, {moment(found['ts'])}")
        for name, value in found.items():
            if name not in _TOLD and value not in (None, "", []):
                say(f"  {name:<14} {', '.join(value) if isinstance(value, list) else value}")


_TOLD: Final = {"ts", "event", "status", "reason", "rule", "suppressed"}
