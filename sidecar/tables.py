"""Lines and tables for people: aligned text, and colours where somebody is looking.

On a terminal rich draws them; into a pipe or a file goes plain text that `cut` and `grep` understand. What
is not printable never reaches a terminal: part of it may be what a client sent.

It asks nobody and decides nothing; what is in a table is the commands' business.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

STYLES: Final = {
    "passed": "green",
    "yes": "green",
    "refused": "red",
    "no": "red",
    "shadow": "yellow",
    "unknown": "yellow",
    "current": "green",
    "behind": "yellow",
    "lost": "red",
}
"""Words that have a colour, whatever the column."""


def show(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table to stdout; nothing for no rows."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    if not texts:
        return
    if sys.stdout.isatty():
        _draw(headings, texts)
    else:
        sys.stdout.write(aligned(headings, texts))


def say(*lines: str) -> None:
    """Print lines to stdout, at once: who follows a log through a pipe reads them as they come."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.flush()


def warn(*lines: str) -> None:
    """Print lines to stderr."""
    sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stderr.flush()


def printable(text: str) -> str:
    """The text with what would steer a terminal made visible.

    >>> printable("red \\x1b[31m alert")
    'red \\ufffd[31m alert'
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table as lines, two blanks between columns, none at a line's end.

    >>> print(aligned(["limit", "left"], [["per-ip", "3"]]), end="")
    limit   left
    per-ip  3
    """
    lines = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )
    return "".join(f"{line.rstrip()}\n" for line in padded)


def _draw(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a terminal pays for loading it
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")  # cutting off a counter's name would cut off its subject
    for row in rows:
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    Console().print(table)
