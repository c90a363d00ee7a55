"""The last known control state on disk, so that it survives a restart while the store is away.

    control.json        epoch, attack mode, overrides
    control-deny.txt    one list each: `<cidr> <until ms>` a line

Lists are written first and the epoch last: what lies there is never older than the epoch says, and
changes that are applied twice do no harm. Long lists are written in steps between requests.

It follows nothing and decides nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import orjson

from sidecar.core.addresses import AddressSet
from sidecar.core.control import LISTS, Book, Control, Entry, Epoch
from sidecar.core.prefix_table import SLICE
from sidecar.steps import in_steps

FILE_NAME: Final = "control.json"
TABLES: Final = ("attack", "overrides")


class LastKnown:
    """The files in one state directory; one process writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: dict[str, AddressSet] = {}

    def attack_on(self) -> bool | None:
        """Whether attack mode was on when it was last written; None when nothing usable is there."""
        control = self._records()
        return None if control is None else control.attack_on

    async def read(self, now_ms: int) -> Book | None:
        """The state as last written, without what has expired; None when nothing usable is there."""
        control = self._records()
        if control is None:
            return None
        book = Book()
        lists: dict[str, AddressSet] = {}
        try:
            for name in LISTS:
                lists[name] = await self._read_list(name, book, now_ms)
        except (OSError, ValueError):
            return None
        self._written = dict(lists)
        records = {"attack": control.attack, "overrides": control.overrides}
        await in_steps(book.replace_steps(control.epoch, lists, records, now_ms))
        return book

    async def write(self, book: Book) -> None:
        """Replace what is there. Raises OSError."""
        control = book.control
        fresh = [
            (name, addresses, dict(book.expiring(name)))  # as they are now: the book goes on meanwhile
            for name, addresses in control.lists.items()
            if self._written.get(name) is not addresses
        ]
        for name, addresses, untils in fresh:
            await self._replace(self._list_path(name), _lines(addresses, untils))
            self._written[name] = addresses
        document = {
            "epoch": str(control.epoch),
            **{
                table: {
                    field: base64.b64encode(entry.written()).decode()
                    for field, entry in getattr(control, table).items()
                }
                for table in TABLES
            },
        }
        await self._replace(self._folder / FILE_NAME, iter([orjson.dumps(document)]))

    def _records(self) -> Control | None:
        """All but the lists."""
        try:
            document = orjson.loads((self._folder / FILE_NAME).read_bytes())
            tables = {
                table: {
                    field: Entry.parse(base64.b64decode(written, validate=True))
                    for field, written in document[table].items()
                }
                for table in TABLES
            }
            epoch = Epoch.parse(document["epoch"])
            return Control(epoch=epoch, attack=tables["attack"], overrides=tables["overrides"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    async def _read_list(self, name: str, book: Book, now_ms: int) -> AddressSet:
        """Raises OSError, also when it is not there, for all are written before the epoch; and ValueError."""
        with self._list_path(name).open(encoding="ascii") as file:
            return await in_steps(AddressSet.build_steps(_standing(file, name, book, now_ms)))

    def _list_path(self, name: str) -> Path:
        return self._folder / f"control-{name}.txt"

    async def _replace(self, path: Path, blocks: Iterator[bytes]) -> None:
        """Write a file whole or not at all."""
        fresh = path.with_suffix(f".{os.getpid()}")
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

    def changed(self) -> None:
        """There is another state to keep."""
        self._changed.set()

    async def run(self) -> None:
        """Keep until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._last_known.write(self._book())
            except OSError as exc:
                self._warn(f"the control state is not kept on disk: {exc}")


def _standing(lines: Iterator[str], name: str, book: Book, now_ms: int) -> Iterator[str]:
    """The prefixes of a list file that have not expired."""
    for line in lines:
        cidr, _, until = line.partition(" ")
        until_ms = int(until)
        if until_ms == 0 or now_ms < until_ms:
            book.remember(name, cidr, until_ms)
            yield cidr


def _lines(addresses: AddressSet, untils: dict[str, int]) -> Iterator[bytes]:
    prefixes = addresses.prefixes()
    while block := list(islice(prefixes, SLICE)):
        yield "".join([f"{cidr} {untils.get(cidr, 0)}\n" for cidr in block]).encode()
