"""Address lists as files: one prefix a line, `#` begins a comment.

Reading takes what `core.addresses.parse_cidrs` takes, and keeps the line that an entry came from, so that a
refusal can name it. It asks no gate.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from stat import S_IMODE
from typing import Any, Final, NamedTuple

from sidecar.core.addresses import parse_cidrs

BATCH: Final = 5_000
"""Entries of one change."""


class Batch(NamedTuple):
    """Some entries in the order of the file, and the lines of the first and the last."""

    cidrs: list[str]
    first: int
    last: int

    def __str__(self) -> str:
        return f"line {self.first}" if self.first == self.last else f"lines {self.first} to {self.last}"


class ListFile(NamedTuple):
    """A list file that is good as a whole. `repeated` entries stood there before."""

    lines: dict[str, int]
    repeated: int

    def batches(self, size: int = BATCH) -> Iterator[Batch]:
        """The entries in changes of at most `size`."""
        entries = list(self.lines.items())
        for start in range(0, len(entries), size):
            part = entries[start : start + size]
            yield Batch([cidr for cidr, _ in part], part[0][1], part[-1][1])


def read_list(text: str, name: str) -> ListFile:
    """The entries of a list file.

    >>> read_list("# bots\\n192.0.2.0/24 # why\\n\\n192.0.2.0/24\\n", "f").lines
    {'192.0.2.0/24': 2}

    Raises ValueError naming `name`, line and reason of every bad line.
    """
    cidrs = parse_cidrs(text, name)
    numbers = (
        number
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1)
        if line.partition("#")[0].strip()
    )
    lines: dict[str, int] = {}
    for cidr, number in zip(cidrs, numbers, strict=True):
        lines.setdefault(cidr, number)
    return ListFile(lines, len(cidrs) - len(lines))


def written(entries: Iterable[Mapping[str, Any]], headline: str) -> str:
    """A list file of the API's entries; the reason is the comment.

    >>> written([{"cidr": "192.0.2.0/24", "reason": "a\\nbot"}], "deny")
    '# deny\\n192.0.2.0/24  # a bot\\n'
    """
    return "".join([f"# {headline}\n", *map(_line, entries)])


def _line(entry: Mapping[str, Any]) -> str:
    reason = " ".join(str(entry["reason"] or "").split())  # a line break would begin an entry
    shown = "".join(char if char.isprintable() else "?" for char in reason)
    return f"{entry['cidr']}  # {shown}\n" if shown else f"{entry['cidr']}\n"


def write_whole(path: Path, text: str) -> None:
    """Write a file, or leave what was there: never half of it. Raises OSError."""
    if path.exists() and not path.is_file():  # a pipe or a device has no half
        path.write_text(text, encoding="utf-8")
        return
    path = path.resolve()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        mode = path.stat().st_mode if path.exists() else None
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.fchmod(file.fileno(), S_IMODE(mode))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
