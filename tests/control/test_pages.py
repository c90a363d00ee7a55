"""Pages of a table: never too long, and nothing passed over, on real servers and on a scan of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.control.changes import Changes
from sidecar.control.pages import MOST_LOOKED, CursorRefused, Page, Scan, page_of
from sidecar.core.control import Entry
from sidecar.store.redis import RedisStore
from tests.stores import StoreServer

NOTHING = Entry(1, 0, b"{}")


class Buckets:
    """A table that is scanned bucket by bucket until there is enough, as a server does it.

    Unlike a server's, its buckets stay where they are.
    """

    def __init__(self, buckets: list[list[str]]) -> None:
        self._buckets = buckets
        self.looks = 0

    async def page(self, table: str, cursor: int, count: int) -> tuple[int, list[tuple[str, Entry]]]:
        assert table == "keys"
        self.looks += 1
        found: list[tuple[str, Entry]] = []
        while cursor < len(self._buckets) and len(found) < count:
            found += [(name, NOTHING) for name in self._buckets[cursor]]
            cursor += 1
        return cursor % max(1, len(self._buckets)), found


async def walk(
    scan: Scan, most: Callable[[], int], wanted: Callable[[str, Entry], bool] = lambda name, entry: True
) -> list[Page]:
    """All pages from the first to the last."""
    pages = [await page_of(scan, "keys", most=most(), wanted=wanted)]
    while pages[-1].cursor:
        pages.append(await page_of(scan, "keys", cursor=pages[-1].cursor, most=most(), wanted=wanted))
    return pages


def names(pages: list[Page]) -> list[str]:
    return [name for page in pages for name, _ in page.entries]


@given(st.lists(st.integers(0, 60), max_size=20), st.data())
def test_pages_hold_every_entry_once_and_no_page_too_many(sizes: list[int], data: st.DataObject) -> None:
    buckets = [[f"{at}.{number}" for number in range(size)] for at, size in enumerate(sizes)]
    asked: list[int] = []

    def most() -> int:
        asked.append(data.draw(st.integers(1, 200)))
        return asked[-1]

    pages = asyncio.run(walk(Buckets(buckets), most))

    assert sorted(names(pages)) == sorted(name for bucket in buckets for name in bucket)
    assert all(len(page.entries) <= limit for page, limit in zip(pages, asked, strict=True))


def test_pages_are_full_but_for_the_last() -> None:
    pages = asyncio.run(walk(Buckets([[f"{at}-{n}" for n in range(7)] for at in range(100)]), lambda: 60))

    assert [len(page.entries) for page in pages] == [60] * 11 + [40]


def test_a_page_in_which_little_is_wanted_ends_nevertheless() -> None:
    scan = Buckets([[str(number)] for number in range(3 * MOST_LOOKED)])
    pages = asyncio.run(walk(scan, lambda: 1_000, lambda name, _: name == str(2 * MOST_LOOKED + 1)))

    assert [len(page.entries) for page in pages] == [0, 0, 1]
    assert scan.looks <= 3 * MOST_LOOKED / 50


def test_a_small_table_that_comes_in_one_piece_is_cut() -> None:
    pages = asyncio.run(walk(Buckets([[f"name {n:03} with .dots" for n in range(500)]]), lambda: 90))

    assert [len(page.entries) for page in pages] == [90] * 5 + [50]
    assert names(pages) == sorted(names(pages))


def test_a_cut_goes_on_behind_a_name_that_is_gone() -> None:
    async def scenario() -> None:
        before = await page_of(Buckets([["a", "b", "c"]]), "keys", most=2)
        after = await page_of(Buckets([["a", "c"]]), "keys", most=2, cursor=before.cursor)

        assert (before.cursor, after) == ("0.b", Page([("c", NOTHING)], ""))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "cursor", ["x", "-1", "1.", ".a", " 1", "1 ", "٣", str(1 << 64), "1" * 30, "1\n", "0.a\n"]
)
def test_a_cursor_that_no_page_ended_with_is_refused(cursor: str) -> None:
    with pytest.raises(CursorRefused, match="the cursor of the page before"):
        asyncio.run(page_of(Buckets([["a"]]), "keys", cursor=cursor, most=1))


@pytest.mark.parametrize("count", [0, 1, 5, 100, 129, 513, 5_000])
@pytest.mark.parametrize("most", [1, 7, 100, 1_000])
def test_real_servers_give_every_entry_once(any_store: StoreServer, count: int, most: int) -> None:
    with any_store.client() as client:
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            pipeline.hset("pc:{control}:keys", f"k_{number}", "1 0 {}")
        pipeline.execute()

    limit = most if count < 1_000 else max(most, 100)

    async def scenario() -> list[Page]:
        store = RedisStore(any_store.url(), patience_s=5)
        try:
            return await walk(Changes(store=store, prefix="pc:"), lambda: limit)
        finally:
            await store.close()

    pages = asyncio.run(scenario())

    assert sorted(names(pages)) == sorted(f"k_{number}" for number in range(count))
    assert max(len(page.entries) for page in pages) <= limit
