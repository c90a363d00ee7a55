"""`attack on|off|status`: refuse everybody, or one tenant or key, except who is let through.

Whom attack mode lets through is an address list: `address add pass …`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import typer

from sidecar.commands import arguments
from sidecar.commands.gate import Gate
from sidecar.commands.options import ForOption, KeyOption, ReasonOption, TenantOption, asks, changes, group
from sidecar.commands.telling import counted, moment, moments, tell, tell_change
from sidecar.tables import say, show

app = group(
    "attack",
    "Attack mode: refuse everybody but those on the pass list, or all requests of one tenant or key.",
)


@app.command("on")
@changes
def on(
    gate: Gate,
    *,
    reason: ReasonOption = "",
    duration: ForOption = None,
    tenant: TenantOption = None,
    key: KeyOption = None,
) -> None:
    """Refuse everybody but those on the pass list (or: one tenant's or key's requests)."""
    _switch(gate, True, reason, duration, tenant, key)


@app.command("off")
@changes
def off(
    gate: Gate,
    *,
    reason: ReasonOption = "",
    duration: ForOption = None,
    tenant: TenantOption = None,
    key: KeyOption = None,
) -> None:
    """Let requests in again. Until a person says otherwise, no trigger turns it on."""
    _switch(gate, False, reason, duration, tenant, key)


@app.command("status")
@asks
def status(gate: Gate, *, tenant: TenantOption = None, key: KeyOption = None) -> None:
    """Say whether it is on, who turned it on, why, until when, and who passes."""
    subject = arguments.subject(tenant=tenant, key=key, optional=True)
    answer = gate.get("/v1/attack", subject)
    tell(gate, answer, partial(_show_subject, subject=subject) if subject else _show)


def _switch(
    gate: Gate, turn_on: bool, reason: str, duration: str | None, tenant: str | None, key: str | None
) -> None:
    subject = arguments.subject(tenant=tenant, key=key, optional=True)
    if subject and not turn_on and duration is not None:
        raise typer.BadParameter("off for one tenant or key has no end: leave it out", param_hint="--for")
    document = {
        "on": turn_on,
        "reason": arguments.reason(reason),
        **arguments.duration(duration, "--for"),
        **subject,
    }
    answer = gate.change("PUT", "/v1/attack", document)
    about = "".join(f" for {kind} {name}" for kind, name in subject.items())
    tell_change(gate, answer, f"attack mode is {_switched(turn_on)}{about}")


def _show(answer: dict[str, Any]) -> None:
    known = (
        ""
        if answer["known"]
        else ", as the configuration says: nobody has switched it that this gate knows of"
    )
    say(f"attack mode is {_switched(answer['on'])} (epoch {answer['epoch']}){known}")
    _show_entry(answer["global"])
    configured, run_time = answer["pass"]["configuration"], answer["pass"]["run_time"]
    passing = [*configured, *([f"{counted(run_time, 'network')} of `address list pass`"] if run_time else [])]
    say(f"  passes  {', '.join(passing) or 'nobody'}")
    if answer["subjects"]:
        say("")
        show(
            ["subject", "attack", "by", "why", "since", "until"],
            [
                [
                    _subject(entry),
                    _switched(entry["on"]),
                    entry["actor"],
                    entry["reason"],
                    *moments([entry["at"], entry["until"]]),
                ]
                for entry in answer["subjects"]
            ],
        )
    if answer["more"]:
        say("there are more: --key or --tenant shows one of them")


def _show_subject(answer: dict[str, Any], subject: dict[str, str]) -> None:
    (about,) = (f"{kind} {name}" for kind, name in subject.items())
    entry = next(iter(answer["subjects"]), None)
    state = _switched(entry is not None and entry["on"])
    say(
        f"attack mode is {state} for {about}, and {_switched(answer['on'])} for all (epoch {answer['epoch']})"
    )
    _show_entry(entry)


def _show_entry(entry: dict[str, Any] | None) -> None:
    if entry is None:
        return
    lines = {
        "by": entry["actor"],
        "why": entry["reason"] or "no reason given",
        "since": moment(entry["at"]),
        "until": moment(entry["until"]) or "somebody turns it off" if entry["on"] else moment(entry["until"]),
    }
    say(*(f"  {name:<6}  {text}" for name, text in lines.items() if text))


def _subject(entry: dict[str, Any]) -> str:
    kind = "tenant" if entry.get("tenant") is not None else "key"
    return f"{kind} {entry[kind]}"


def _switched(is_on: bool) -> str:
    return "on" if is_on else "off"
