"""The last known control state on disk, so that it survives a restart while the store is away.

    control.json        epoch, attack mode, overrides
    control-deny.txt    one list each: `<cidr> <until ms>` a line

Attack mode is written at once. The epoch is that of the lists, which are written in steps between requests, and
the less often the longer that takes: what lies there is never older than the epoch says, and changes that
are applied twice do no harm.

It follows nothing and decides nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from sidecar.core.control import GLOBAL, LISTS, NO_EPOCH, RECORDS, Book, Control, Entry, Epoch
from sidecar.core.layers import LayeredSet
from sidecar.steps import in_steps

FILE_NAME: Final = "control.json"
LINES: Final = 256
"""Lines written between two requests: two milliseconds."""
REST: Final = 20
"""Lists are written at most for one in so many seconds."""


class LastKnown:
    """The files in one state directory; one process writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, LayeredSet] = {}
        self._listed = NO_EPOCH
        """The epoch of the lists as they were last written."""

    def attack_on(self, now_ms: int) -> bool | None:
        """Whether attack mode was on when it was last written; None when nothing usable is there."""
        control = self._records()
        if control is None or control.attack_on is None:
            return None
        return control.attack_on and control.attack[GLOBAL].stands(now_ms)

    async def read(self, now_ms: int) -> Book | None:
        """The state as last written, without what has expired; None when nothing usable is there.

        Without a usable file for each list it is the state of no epoch: it is read whole from the store.
        """
        control = self._records()
        if control is None:
            return None
        book, lists, epoch = Book(), dict[str, LayeredSet](), control.epoch
        for name in LISTS:
            try:
                lists[name] = await self._read_list(name, book, now_ms)
            except (OSError, ValueError):
                epoch = NO_EPOCH
        if epoch != NO_EPOCH:
            self._written, self._listed = dict(lists), epoch
        records = {table: getattr(control, table) for table in RECORDS}
        await in_steps(book.replace_steps(epoch, lists, records, now_ms))
        return book

    def behind(self, book: Book) -> bool:
        """Whether a list in force is not the one that was written."""
        lists = book.control.lists.items()
        return book.control.epoch != NO_EPOCH and any(
            self._written.get(name) is not listed for name, listed in lists
        )

    async def write_records(self, book: Book) -> None:
        """Replace all but the lists: quick. Raises OSError."""
        control = book.control
        epoch = self._listed if self.behind(book) else control.epoch
        document = {
            "epoch": str(epoch),
            **{
                table: {
                    field: base64.b64encode(entry.written()).decode()
                    for field, entry in getattr(control, table).items()
                }
                for table in RECORDS
            },
        }
        await self._replace(self._folder / FILE_NAME, iter([orjson.dumps(document)]))

    async def write(self, book: Book) -> None:
        """Replace everything that is not what is in force. Raises OSError."""
        await self._write_lists(book)
        await self.write_records(book)

    async def _write_lists(self, book: Book) -> None:
        control = book.control
        fresh = [
            (name, listed, dict(book.expiring(name)))  # as they are now: the book goes on meanwhile
            for name, listed in control.lists.items()
            if self._written.get(name) is not listed
        ]
        for name, listed, untils in fresh:
            await self._replace(self._list_path(name), _lines(listed, untils))
            self._written[name] = listed
        self._listed = control.epoch

    def _records(self) -> Control | None:
        """All but the lists."""
        try:
            document = orjson.loads((self._folder / FILE_NAME).read_bytes())
            document.setdefault("revoked", {})  # which earlier versions did not write
            tables = {
                table: {
                    field: Entry.parse(base64.b64decode(written, validate=True))
                    for field, written in document[table].items()
                }
                for table in RECORDS
            }
            epoch = Epoch.parse(document["epoch"])
            return Control(
                epoch=epoch,
                attack=tables["attack"],
                overrides=tables["overrides"],
                revoked=tables["revoked"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def _read_list(self, name: str, book: Book, now_ms: int) -> LayeredSet:
        """Raises OSError, also when it is not there, for all are written before the epoch; and ValueError."""
        with self._list_path(name).open(encoding="ascii") as file:
            return await in_steps(LayeredSet.build_steps(_standing(file, name, book, now_ms)))

    def _list_path(self, name: str) -> Path:
        return self._folder / f"control-{name}.txt"

    async def _replace(self, path: Path, blocks: Iterator[bytes]) -> None:
        """Write a file whole or not at all."""
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            for block in blocks:
                file.write(block)
                await asyncio.sleep(0)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        os.replace(fresh, path)


class Keeper:
    """Writes the state whenever it has changed; one thing at a time, and always the latest."""

    def __init__(
        self, last_known: LastKnown, *, book: Callable[[], Book], warn: Callable[[str], None]
    ) -> None:
        self._last_known = last_known
        self._book = book
        self._warn = warn
        self._changed = asyncio.Event()
        self._lists_due_s = 0.0
        self._failed = False

    def changed(self) -> None:
        """There is another state to keep."""
        self._changed.set()

    async def run(self) -> None:
        """Keep until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            again = self._last_known.behind(self._book()) and not self._failed
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._lists_due_s - loop.time()) if again else None):
                    await self._changed.wait()
            self._changed.clear()
            await self._keep(lists=loop.time() >= self._lists_due_s)

    async def finish(self) -> None:
        """Keep the last state, after `run` was cancelled."""
        behind = self._last_known.behind(self._book()) and not self._failed
        if self._changed.is_set() or behind:
            await self._keep(lists=True)

    async def _keep(self, *, lists: bool) -> None:
        loop = asyncio.get_running_loop()
        self._failed = False
        try:
            await self._last_known.write_records(self._book())
            if lists and self._last_known.behind(self._book()):
                begun_s = loop.time()
                await self._last_known.write(self._book())
                self._lists_due_s = loop.time() + REST * (loop.time() - begun_s)
        except OSError as exc:
            self._failed = True  # until the next change
            self._warn(f"the control state is not kept on disk: {exc}")


def _standing(lines: Iterator[str], name: str, book: Book, now_ms: int) -> Iterator[str]:
    """The prefixes of a list file that have not expired."""
    for line in lines:
        cidr, _, until = line.partition(" ")
        until_ms = int(until)
        if until_ms == 0 or now_ms < until_ms:
            book.remember(name, cidr, until_ms)
            yield cidr


def _lines(addresses: LayeredSet, untils: dict[str, int]) -> Iterator[bytes]:
    prefixes = addresses.prefixes()
    while block := list(islice(prefixes, LINES)):
        yield "".join([f"{cidr} {untils.get(cidr, 0)}\n" for cidr in block]).encode()
