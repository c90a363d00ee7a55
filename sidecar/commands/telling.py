"""Answers in words: what a change did and who has it, times, JSON for scripts.

Times are UTC wherever the operator sits, and relative to now, which a tired reader trusts more.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sidecar.commands.gate import Gate, fail
from sidecar.tables import say


def tell(gate: Gate, answer: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
    """Print an answer: as JSON if asked to, else as `show` does."""
    if gate.as_json:
        say_json(answer)
    else:
        show(answer)


def tell_change(gate: Gate, answer: Mapping[str, Any], done: str, *more: str) -> None:
    """Print what a change did, and end with status 1 if replicas lack it that were waited for.

    >>> answer = {"epoch": "58-00c0ffee00c0ffee", "confirmed": {"replicas": 8, "missing": []}}
    >>> changed(answer, "attack mode is on")
    'attack mode is on (epoch 58): 8 of 8 replicas have it'
    """
    if gate.as_json:
        say_json(answer)
    else:
        say(changed(answer, done), *more)
    confirmed = answer.get("confirmed")
    if confirmed is not None and not confirmed["everywhere"]:
        waited = f" within {gate.wait_s:g} s" if gate.wait_s else ""
        lacking = [_lacking(missing) for missing in confirmed["missing"]]
        fail(
            "\n".join(
                [f"the change is made, but these replicas did not tell{waited} that they have it:", *lacking]
            ),
            "They take it when they reach the store; until then they may act on what they know. "
            "Watch `portcullis fleet`.",
        )


def changed(answer: Mapping[str, Any], done: str) -> str:
    """One line: what was done, until when, at which epoch, who has it."""
    until = ""
    if answer.get("until"):
        until = f" until {moment(answer['until'], parsed(answer.get('at')))}"
    confirmed = answer.get("confirmed")
    have = ""
    if confirmed is not None:
        replicas = confirmed["replicas"]
        have = f": {replicas - len(confirmed['missing'])} of {replicas} replicas have it"
    return f"{done}{until} (epoch {short(answer['epoch'])}){have}"


def _lacking(missing: Mapping[str, Any]) -> str:
    silent_s = missing.get("silent_s") or 0
    if missing["state"] == "lost":
        return f"  {missing['replica']}: lost, silent for {silent_s:.0f} s"
    return f"  {missing['replica']}: {missing['state']}, at epoch {short(missing['epoch'])}"


def short(epoch: str) -> str:
    """The number of an epoch, which tells one from the next.

    >>> short("58-00c0ffee00c0ffee")
    '58'
    """
    return epoch.partition("-")[0]


def counted(count: int, noun: str, plural: str = "") -> str:
    """
    >>> counted(1, "entry", "entries"), counted(2, "replica")
    ('1 entry', '2 replicas')
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def say_json(document: Mapping[str, Any]) -> None:
    """One document on one line."""
    sys.stdout.write(f"{json.dumps(document)}\n")
    sys.stdout.flush()


# --- times ------------------------------------------------------------------------


def moment(text: str | None, now: datetime | None = None) -> str:
    """A time of the API as people read it; "" for none, and what is no time as it is.

    >>> now = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
    >>> moment("2026-11-22T05:59:30.123Z", now)
    '2026-11-22 05:59:30 UTC (in 59 min)'
    """
    at = parsed(text)
    if at is None:
        return text or ""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC ({distance((at - (now or datetime.now(UTC))).total_seconds())})"


def moments(texts: Sequence[str | None]) -> list[str]:
    """`moment` for the cells of one row."""
    return [moment(text) for text in texts]


def parsed(text: str | None) -> datetime | None:
    """The time that a text of the API says, in UTC; None for none."""
    try:
        at = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return None if at is None or at.tzinfo is None else at.astimezone(UTC)


def distance(seconds: float) -> str:
    """How far a time lies from now, which has 0; at most two units, cut off.

    >>> [distance(s) for s in (59 * 60 + 30, -90, 0.4, 3 * 3600 + 300, -26 * 3600, 40 * 86_400)]
    ['in 59 min', '90 s ago', 'now', 'in 3 h 5 min', '26 h ago', 'in 40 d']
    """
    whole = int(abs(seconds))
    if whole < 1:
        return "now"
    if whole < 120:
        text = f"{whole} s"
    elif whole < 7_200:
        text = f"{whole // 60} min"
    elif whole < 48 * 3_600:
        minutes = whole % 3_600 // 60
        text = f"{whole // 3_600} h" + (f" {minutes} min" if minutes else "")
    else:
        text = f"{whole // 86_400} d"
    return f"in {text}" if seconds > 0 else f"{text} ago"
