"""The Lua verbs as values: text and SHA-1, read once at start.

The files live in `lua/` beside the package in a checkout and inside it in a wheel.
"""

from __future__ import annotations

from hashlib import sha1
from pathlib import Path
from typing import NamedTuple

_PACKAGE = Path(__file__).resolve().parents[1]


class Script(NamedTuple):
    """One verb. `sha` names it to EVALSHA (an identifier, not a protection)."""

    name: str
    text: bytes
    sha: bytes


def read(name: str) -> Script:
    """The verb `name`. Raises FileNotFoundError naming the places that were looked at."""
    places = (_PACKAGE / "lua" / f"{name}.lua", _PACKAGE.parent / "lua" / f"{name}.lua")
    for place in places:
        if place.is_file():
            text = place.read_bytes()
            return Script(name, text, sha1(text, usedforsecurity=False).hexdigest().encode())
    raise FileNotFoundError(f"lua/{name}.lua is in none of: {', '.join(map(str, places))}")
