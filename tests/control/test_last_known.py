"""What is known last: files that survive a restart, and are never believed when they are broken."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.control.last_known import FILE_NAME, Keeper, LastKnown
from sidecar.core.control import EMPTY, GLOBAL, LISTS, NO_EPOCH, Book, Delta, Entry, Epoch
from sidecar.steps import in_steps
from tests.control.fleet_double import shown, until

NOW_MS = 1_000_000
CIDRS = ("192.0.2.0/24", "192.0.2.9/32", "2001:db8::/32")
ON = b'{"on":true,"actor":"ann"}'
JSON = FILE_NAME
DENY = "control-deny.txt"


async def knows(
    book: Book, table: str, *put: str, delete: tuple[str, ...] = (), until_ms: int = 0, payload: bytes = b"{}"
) -> None:
    """A book learns of one more change."""
    number = book.control.epoch.number + 1
    delta = Delta(book.control.epoch, Epoch(number, "a" * 16), table, 1, until_ms, payload, put, delete)
    await in_steps(book.apply_steps([delta], NOW_MS))


async def some_book() -> Book:
    book = Book()
    await knows(book, "deny", *CIDRS)
    await knows(book, "deny", CIDRS[1], until_ms=NOW_MS + 10)
    await knows(book, "allow", CIDRS[0])
    await knows(book, "exempt", CIDRS[1], until_ms=NOW_MS + 20)
    await knows(book, "pass", CIDRS[2])
    await knows(book, "attack", GLOBAL, "tenant:größe", until_ms=NOW_MS + 10, payload=ON)
    await knows(book, "overrides", "per-ip address:192.0.2.0/24", payload=b'{"permits":7}')
    return book


async def read(folder: Path, now_ms: int = NOW_MS) -> Book:
    book = await LastKnown(folder).read(now_ms)
    assert book is not None
    return book


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


# --- round trips --------------------------------------------------------------------------


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    async def scenario() -> None:
        book = await some_book()
        await LastKnown(tmp_path).write(book)
        again = await read(tmp_path)

        assert again.control.epoch == book.control.epoch
        assert shown(again.control) == shown(book.control)
        assert again.control.attack == book.control.attack
        assert again.control.overrides == book.control.overrides
        assert again.control.permits("per-ip", address="192.0.2.1") == 7
        for name in LISTS:
            assert dict(again.expiring(name)) == dict(book.expiring(name))
        assert LastKnown(tmp_path).attack_on(0) is True
        for control in (
            await in_steps(again.expire_steps(NOW_MS + 10)),
            (await read(tmp_path, NOW_MS + 10)).control,
        ):
            assert set(control.deny.prefixes()) == {CIDRS[0], CIDRS[2]}
            assert set(control.exempt.prefixes()) == {CIDRS[1]}
            assert control.attack_on is False
            assert control.attacked == frozenset()

    run(scenario())


def test_it_writes_a_state_of_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        await LastKnown(tmp_path).write(Book())
        book = await read(tmp_path)

        assert shown(book.control) == shown(EMPTY)
        assert book.control.epoch == EMPTY.epoch
        assert LastKnown(tmp_path).attack_on(0) is None

    run(scenario())


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        book = await some_book()
        last_known = LastKnown(tmp_path)
        await last_known.write(book)
        for _ in range(2):
            last_known = LastKnown(tmp_path)
            again = await last_known.read(NOW_MS)
            assert again is not None
            await knows(again, "deny", "203.0.113.0/24", delete=(CIDRS[0],))
            await knows(again, "allow", "198.51.100.0/24")
            await last_known.write(again)
            assert shown((await read(tmp_path)).control) == shown(again.control)
            assert (await read(tmp_path)).control.epoch == again.control.epoch

    run(scenario())


def test_it_writes_only_the_lists_that_have_changed(tmp_path: Path) -> None:
    async def scenario() -> None:
        def written() -> dict[str, int]:
            return {path.name: path.stat().st_ino for path in tmp_path.iterdir()}

        last_known, book = LastKnown(tmp_path), await some_book()
        await last_known.write(book)
        before = written()
        await knows(book, "deny", "203.0.113.0/24")
        await last_known.write(book)
        after = written()

        assert {name for name in before if after[name] != before[name]} == {JSON, DENY}
        assert set(after) == {JSON, *(f"control-{name}.txt" for name in LISTS)}, "and leaves nothing else"

    run(scenario())


def test_it_writes_what_nobody_else_may_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = os.umask(0)
        try:
            await LastKnown(tmp_path).write(await some_book())
        finally:
            os.umask(before)

    run(scenario())

    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_it_writes_and_reads_long_lists_in_steps(tmp_path: Path) -> None:
    async def scenario() -> None:
        book = Book()
        fields = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(30_000)]
        await knows(book, "deny", *fields, until_ms=NOW_MS + 10)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        other = asyncio.create_task(others())
        try:
            await LastKnown(tmp_path).write(book)
            assert turns > 30_000 / 2_500
            turns = 0
            again = await read(tmp_path)
            assert turns > 30_000 / 2_500
        finally:
            other.cancel()

        assert len(again.control.deny) == len(again.expiring("deny")) == 30_000

    run(scenario())


# --- what goes wrong ------------------------------------------------------------------------


class CrashedError(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("crash_at", range(1, 6))
def test_it_reads_a_state_whatever_was_written_before_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    async def scenario() -> None:
        book = await some_book()
        await LastKnown(tmp_path).write(book)
        old = book.control.epoch
        changes: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
            ("deny", ("203.0.113.0/24",), (CIDRS[0],)),
            ("pass", (CIDRS[0],), (CIDRS[2],)),
            ("deny", (CIDRS[0],), ("203.0.113.0/24",)),
            ("attack", ("key:a",), (GLOBAL,)),
        ]
        for table, put, gone in changes:
            await knows(book, table, *put, delete=gone)
        replaced = 0
        replace = os.replace

        def crash(source: Path, target: Path) -> None:
            nonlocal replaced
            replaced += 1
            if replaced == crash_at:
                raise CrashedError
            replace(source, target)

        monkeypatch.setattr(os, "replace", crash)
        with pytest.raises(CrashedError):
            await LastKnown(tmp_path).write(book)
        again = await read(tmp_path)
        assert again.control.epoch == old, "never newer than all lists are"
        for table, put, gone in changes:
            await knows(again, table, *put, delete=gone)

        assert shown(again.control) == shown(book.control)

    run(scenario())


GOOD = {
    "epoch": "5-" + "a" * 16,
    "attack": {GLOBAL: base64.b64encode(b"1 0 " + ON).decode()},
    "overrides": {},
}


def broken_json() -> Iterator[bytes]:
    whole = orjson.dumps(GOOD)
    yield from (
        b"",
        b"{",
        b"[]",
        b"null",
        b"\x00" * 20,
        b'"text"',
        b'{"attack": true}',
        whole[: len(whole) // 2],
    )
    for name in GOOD:
        yield orjson.dumps({key: value for key, value in GOOD.items() if key != name})
        for value in (None, 1, [], ["x"], "", {"x": 1}, {"x": None}, {"x": "%%%"}, {"x": "AAAA"}):
            yield orjson.dumps(GOOD | {name: value})
    for epoch in ("5", "5-", "x-" + "a" * 16, "5-" + "A" * 16):
        yield orjson.dumps(GOOD | {"epoch": epoch})
    entry = base64.b64encode(b'1 0 {"permits":1}').decode()
    yield orjson.dumps(GOOD | {"overrides": {"per-ip address:junk": entry}})


@pytest.mark.parametrize("text", sorted(set(broken_json()) - {orjson.dumps(GOOD | {"attack": []})}))
def test_it_reads_a_broken_file_as_unknown(tmp_path: Path, text: bytes) -> None:
    async def scenario() -> None:
        await LastKnown(tmp_path).write(await some_book())
        (tmp_path / JSON).write_bytes(text)

        assert LastKnown(tmp_path).attack_on(0) is None
        assert await LastKnown(tmp_path).read(NOW_MS) is None

    run(scenario())


@pytest.mark.parametrize(
    "text",
    [
        b"junk",
        b"10.0.0.1/8 0\n",
        b"10.0.0.0/8\n",
        b"10.0.0.0/8 x\n",
        b"10.0.0.0/8 0 0\n",
        b"\xff\xfe 0\n",
        b"\n",
        b"\x00" * 20,
        b"10.0.0.0/8 0\n11.0.0.0/8 0\n12.0.",
    ],
)
def test_it_takes_a_broken_list_for_no_epoch_and_keeps_the_rest(tmp_path: Path, text: bytes) -> None:
    async def scenario() -> None:
        await LastKnown(tmp_path).write(await some_book())
        (tmp_path / DENY).write_bytes(text)

        book = await read(tmp_path)
        assert (book.control.epoch, book.control.attack_on) == (NO_EPOCH, True)
        assert len(book.control.deny) == 0

    run(scenario())


def test_it_reads_nothing_without_files_or_with_some(tmp_path: Path) -> None:
    async def scenario() -> None:
        assert await LastKnown(tmp_path).read(NOW_MS) is None
        assert await LastKnown(tmp_path / "gone").read(NOW_MS) is None
        await LastKnown(tmp_path).write(await some_book())
        (tmp_path / DENY).unlink()
        assert (await read(tmp_path)).control.epoch == NO_EPOCH, "a list that is gone is not an empty one"
        (tmp_path / DENY).mkdir()
        assert (await read(tmp_path)).control.epoch == NO_EPOCH
        (tmp_path / JSON).unlink()
        (tmp_path / JSON).mkdir()
        assert await LastKnown(tmp_path).read(NOW_MS) is None
        assert LastKnown(tmp_path).attack_on(0) is None

    run(scenario())


def test_it_does_not_write_down_as_lasting_what_expires_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        book = Book()
        await knows(book, "pass", *CIDRS, until_ms=NOW_MS + 10)
        replace = os.replace

        def replace_and_expire(source: Path, target: Path) -> None:
            replace(source, target)
            if target.name == DENY:
                for _ in book.expire_steps(NOW_MS + 10):
                    pass

        monkeypatch.setattr(os, "replace", replace_and_expire)
        await LastKnown(tmp_path).write(book)
        assert len(book.control.passes) == 0, "it expired while the first list was written"

        # Here the process ends, before it writes the new state.
        assert len((await read(tmp_path, NOW_MS + 10)).control.passes) == 0
        assert len((await read(tmp_path, NOW_MS + 9)).control.passes) == len(CIDRS)

    run(scenario())


# --- the keeper -----------------------------------------------------------------------------


def test_it_keeps_the_latest_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        book = await some_book()
        warnings: list[str] = []
        keeper = Keeper(LastKnown(tmp_path), book=lambda: book, warn=warnings.append)
        running = asyncio.create_task(keeper.run())
        try:
            await asyncio.sleep(0)
            assert os.listdir(tmp_path) == [], "nothing has changed"
            for number in range(50):
                await knows(book, "deny", f"10.0.0.{number}/32")
                keeper.changed()
                await asyncio.sleep(0)
            last = str(book.control.epoch).encode()
            await until(lambda: last in _text(tmp_path / JSON), "it is written")
        finally:
            running.cancel()

        assert shown((await read(tmp_path)).control) == shown(book.control)
        assert warnings == []

    run(scenario())


def test_it_warns_and_tries_again_where_it_cannot_write(tmp_path: Path) -> None:
    async def scenario() -> None:
        book = await some_book()
        folder = tmp_path / "gone"
        warnings: list[str] = []
        keeper = Keeper(LastKnown(folder), book=lambda: book, warn=warnings.append)
        running = asyncio.create_task(keeper.run())
        try:
            for times in (1, 2):
                keeper.changed()
                await until(partial(_many, warnings, times), "it warns")
            folder.mkdir()
            keeper.changed()
            epoch = str(book.control.epoch).encode()
            await until(lambda: epoch in _text(folder / JSON), "it is written")
        finally:
            running.cancel()

        assert all("not kept on disk" in warning and "No such file" in warning for warning in warnings)
        assert shown((await read(folder)).control) == shown(book.control)

    run(scenario())


def _many(things: list[str], number: int) -> bool:
    return len(things) == number


def _text(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_its_entries_are_as_in_the_store(tmp_path: Path) -> None:
    async def scenario() -> None:
        await LastKnown(tmp_path).write(await some_book())
        document = orjson.loads((tmp_path / JSON).read_bytes())
        written = base64.b64decode(document["attack"][GLOBAL])

        assert Entry.parse(written) == Entry(1, NOW_MS + 10, ON)

    run(scenario())


def test_it_keeps_the_last_change_of_a_process_that_is_told_to_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        book = await some_book()
        keeper = Keeper(LastKnown(tmp_path), book=lambda: book, warn=lambda _: None)
        keeper.changed()
        await keeper.finish()

        assert shown((await read(tmp_path)).control) == shown(book.control)

    run(scenario())


def test_it_keeps_attack_mode_before_the_lists(tmp_path: Path) -> None:
    async def scenario() -> None:
        book = await some_book()
        await LastKnown(tmp_path).write_records(book)

        assert LastKnown(tmp_path).attack_on(NOW_MS) is True
        assert (await read(tmp_path)).control.epoch == NO_EPOCH, "as old as the lists that are there"

    run(scenario())
