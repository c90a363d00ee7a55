"""What an argument must be: told before the gate is asked, as wrong usage (status 2) that names it.

Only the forms that every gate takes; bounds and what exists are the gate's to judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import typer

from sidecar.core.addresses import canonical_address, parse_cidr
from sidecar.core.control import Epoch
from sidecar.core.keys import SECRET_PREFIX, holds_secret

MOST_AT_ONCE: Final = 5_000
"""Entries of one change."""
LONGEST_REASON: Final = 200

_DURATION: Final = re.compile(r"0*[1-9][0-9]{0,8}[smhd]", re.ASCII)
_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}(?::[A-Za-z0-9._:/*%-]{1,128})?", re.ASCII)
_EXPIRES: Final = "expected a duration such as 30d, or a time such as 2027-01-31T00:00:00Z"


def epoch(text: str) -> str:
    """An epoch's text.

    >>> epoch("57-00c0ffee00c0ffee")
    '57-00c0ffee00c0ffee'
    """
    try:
        return str(Epoch.parse(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--if-epoch") from None


def duration(text: str | None, option: str, *, or_none: bool = False) -> dict[str, str]:
    """The API's member of this name, if anything was said. `or_none`: 0s is one, too."""
    if text is None:
        return {}
    if not _DURATION.fullmatch(text) and not (or_none and text == "0s"):
        raise typer.BadParameter(
            f"{text!r}: expected a whole number with s, m, h or d, such as 90s or 1h", param_hint=option
        )
    return {option.removeprefix("--"): text}


def expiry(text: str) -> str:
    """When a key ends: a duration from now, or a time with its offset."""
    if _DURATION.fullmatch(text):
        return text
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: {_EXPIRES}", param_hint="--expires") from None
    if at.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} does not say in which time zone: end it with Z for UTC", param_hint="--expires"
        )
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def cidrs(texts: Sequence[str], option: str) -> list[str]:
    """Canonical prefixes, each once. Tells every bad one."""
    good: dict[str, None] = {}
    bad: list[str] = []
    for text in texts:
        try:
            good[parse_cidr(text)] = None
        except ValueError as exc:
            bad.append(str(exc))
    if bad:
        raise typer.BadParameter("; ".join(bad[:20]), param_hint=option)
    if len(good) > MOST_AT_ONCE:
        raise typer.BadParameter(
            f"{len(good)} entries: at most {MOST_AT_ONCE} at once; `portcullis address import` takes files of any "
            "length",
            param_hint=option,
        )
    return list(good)


def subject(
    *, tenant: str | None = None, key: str | None = None, address: str | None = None, optional: bool = False
) -> dict[str, str]:
    """The API's member for whom a command is about: exactly one, or none if that is allowed."""
    options = {"tenant": tenant, "key": key, "address": address}
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) > 1:
        named = " and ".join(f"--{name}" for name in given)
        raise typer.BadParameter("one subject at a time: name only one of them", param_hint=named)
    if not given and not optional:
        raise typer.BadParameter("name whom it is about", param_hint="--key, --tenant or --address")
    for name, value in given.items():
        if name == "key":
            known_id(value, "--key")
        else:
            _worded(value, f"--{name}")
    return given


def network(text: str) -> str:
    """The canonical text of a prefix given with --address."""
    return cidrs([text], "--address")[0]


def address_or_network(text: str) -> str:
    """The canonical text of an address, or of a prefix, given with --address."""
    return canonical_address(text) or network(text)


def key_path(key_id: str) -> str:
    """The key's resource."""
    return f"/v1/keys/{known_id(key_id, 'ID')}"


def known_id(text: str, option: str) -> str:
    """A key's id. Tells a secret that was given instead by its form, and does not repeat it."""
    if SECRET_PREFIX in text:
        raise typer.BadParameter(
            "this is a secret, not an id; now that it stood in a command line, rotate its key",
            param_hint=option,
        )
    if not _KEY_ID.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r} is no id of a key: expected a letter or digit, then up to 63 of A-Z a-z 0-9 _ -",
            param_hint=option,
        )
    return text


def reason(text: str) -> str:
    """One line for the audit. Does not repeat a secret that stands in it."""
    if holds_secret(text):
        raise typer.BadParameter(
            "holds the secret of a key; now that it stood in a command line, rotate that key",
            param_hint="--reason",
        )
    if len(text) > LONGEST_REASON:
        raise typer.BadParameter(f"{len(text)} characters: at most {LONGEST_REASON}", param_hint="--reason")
    if not text.isprintable():
        raise typer.BadParameter("one line of printable text, please", param_hint="--reason")
    return text


def name(text: str, option: str) -> str:
    """A word: something, and printable."""
    _worded(text, option)
    return text


def _worded(text: str, option: str) -> None:
    if not text or not text.isprintable() or " " in text:
        raise typer.BadParameter(
            f"{text!r}: expected a name, without blanks" if text else "nothing was named", param_hint=option
        )
