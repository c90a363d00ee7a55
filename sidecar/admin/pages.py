"""How listings are asked for in pages, and the pages of what the configuration lists itself.

Every page ends with a cursor that says where the next begins; it is nothing to make up oneself. Tables in
the store are `control.pages`'; what stands in the configuration is numbered. A configuration that changed
between two pages is told: numbers would mean others.

Does not know what is listed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from sidecar.admin.operations import refused
from sidecar.admin.problems import Problem
from sidecar.control import pages
from sidecar.control.pages import CursorRefused, Page, Scan
from sidecar.core.control import Entry

PageLimit = Annotated[int, Meta(ge=1, le=1000, description="How many entries a page holds at most.")]
Cursor = Annotated[
    str,
    Meta(
        max_length=400,
        description="Where the page begins: what the page before said. Leave it out for the first.",
    ),
]
NextCursor = Annotated[str | None, Meta(description="Where the next page begins; null at the end.")]

_NUMBERED: Final = re.compile(r"c\.([0-9a-f]{1,32})\.([0-9]{1,9})")


class Paged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which page of a listing."""

    cursor: Cursor = ""
    limit: PageLimit = 100


async def page_of(scan: Scan, table: str, *, cursor: str, limit: int, now_ms: int) -> Page:
    """One page of a table, without what has expired. Raises Problem for a cursor that is none."""

    def stands(_: str, entry: Entry) -> bool:
        return entry.stands(now_ms)

    try:
        return await pages.page_of(scan, table, cursor=cursor, most=limit, wanted=stands)
    except CursorRefused as exc:
        raise refused([("cursor", str(exc))]) from None


class Numbered(NamedTuple):
    """A page of what the configuration lists, and where the next begins; "" at the end."""

    entries: Sequence[str]
    cursor: str


def numbered_page(entries: Sequence[str], digest: str, *, cursor: str, limit: int) -> Numbered | None:
    """One page; None when the cursor is another listing's. `digest`: the configuration's.

    Raises Problem when the configuration is another by now.
    """
    found = _NUMBERED.fullmatch(cursor)
    if cursor and found is None:
        return None
    begin = 0
    if found is not None:
        if found[1] != digest:
            raise Problem(
                409, "The configuration has changed since the page before: begin anew, without cursor."
            )
        begin = int(found[2])
    end = begin + limit
    return Numbered(entries[begin:end], f"c.{digest}.{end}" if end < len(entries) else "")
