"""Pages of a control table: no more entries than asked for, however many the table has.

The store's scan gives about as many entries as it is asked for, sometimes more. What does not fit is
scanned again: most of a page comes in large steps, the end in steps of one bucket, and a bucket that does
not fit is cut in the order of the names. A cursor names the place of the scan and, behind a dot, the last
name that was shown of a bucket that was cut.

    ""  ──> 0 ──> 96 ──> 160 ──> 160.name ──> ... ──> ""
        steps of the scan        cut

An entry that is there all the time comes at least once. Only if the table shrinks just then, one of a bucket
that was cut may be passed over.

What the entries mean is the resources' business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from sidecar.core.control import Entry

STEP: Final = 100
"""Entries of one large step: what is done with them stays below a few milliseconds."""
SLACK: Final = 32
"""By how many entries a large step may give more than was asked for."""
MOST_LOOKED: Final = 10_000
"""Entries that one page looks at, when few of them are wanted."""

_CURSOR: Final = re.compile(r"([0-9]{1,20})(?:\.(.{1,300}))?")


class Scan(Protocol):
    """One step of a scan: about `count` entries from a place on, and the next place; 0 is start and end."""

    async def page(self, table: str, cursor: int, count: int) -> tuple[int, list[tuple[str, Entry]]]: ...


class Page(NamedTuple):
    """Entries with their fields. `cursor` continues; "" at the end. A page may be short, even empty, before it."""

    entries: list[tuple[str, Entry]]
    cursor: str


class CursorRefused(ValueError):
    """No cursor that a page ended with."""


async def page_of(
    scan: Scan,
    table: str,
    *,
    cursor: str = "",
    most: int,
    wanted: Callable[[str, Entry], bool] = lambda field, entry: True,
) -> Page:
    """The next page: at most `most` wanted entries. Raises CursorRefused and StoreUnavailable."""
    place, shown = _place(cursor)
    entries: list[tuple[str, Entry]] = []
    looked = 0
    by_bucket = bool(shown)
    while True:
        room = most - len(entries)
        step = 1 if by_bucket else max(1, min(STEP, room - SLACK))
        following, found = await scan.page(table, place, step)
        fresh = sorted(one for one in found if one[0] > shown and wanted(*one))
        if len(fresh) > room:
            if step > 1:
                by_bucket = True
                continue
            entries += fresh[:room]
            return Page(entries, f"{place}.{entries[-1][0]}")
        entries += fresh
        looked += len(found)
        place, shown, by_bucket = following, "", False
        if place == 0:
            return Page(entries, "")
        if len(entries) == most or looked >= MOST_LOOKED:
            return Page(entries, f"{place}")


def _place(cursor: str) -> tuple[int, str]:
    if not cursor:
        return 0, ""
    found = _CURSOR.fullmatch(cursor)
    if found is None or int(found[1]) >= 1 << 64:
        raise CursorRefused("expected the cursor of the page before")
    return int(found[1]), found[2] or ""
