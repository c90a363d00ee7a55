"""The control state: what operators changed at run time, as every replica knows it.

It lives in tables at the store. Every change raises the epoch and leaves a delta in a bounded log; a
replica that holds one epoch reads the deltas since, or everything when it cannot:

    mine == theirs                     current
    mine is theirs, some deltas ago    apply the deltas
    theirs is mine, some deltas ago    the store lost them (a failover): do them again
    theirs is nothing, or older        keep what is known, and say so: never read as "off"
    else                               another history: read everything

An epoch's number orders; its random id tells apart two histories that reached the same number.

`Control` is what decisions read: immutable, replaced as a whole. `Book` is this process's copy of the
tables, and makes the next `Control` in steps of a few milliseconds, so that a million entries do not
stop the process. Times are milliseconds by the store's clock.

Nothing here reads the store or tells the time. The keys registry is not here: its records are read
when they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Mapping
from enum import Enum
from heapq import heappop, heappush
from types import MappingProxyType
from typing import Final, NamedTuple

from sidecar.core.addresses import AddressSet

LISTS: Final = ("deny", "allow", "exempt", "pass")
FOLLOWED: Final = ("attack", *LISTS, "overrides")
"""The tables that every replica holds whole."""
GLOBAL: Final = "global"
"""The field of `attack` that is about every request."""
MERGE_FROM: Final = 1_000
"""Changes in a list's overlay from which new tables are worth their making."""


class Epoch(NamedTuple):
    """Which state of the control tables. As text `<number>-<id>`.

    >>> Epoch.parse("57-00c0ffee00c0ffee").number
    57
    """

    number: int
    id: str

    @classmethod
    def parse(cls, text: str) -> Epoch:
        """Raises ValueError for anything else than an epoch's text."""
        number, dash, random_id = text.partition("-")
        if not dash or not number.isascii() or not number.isdigit() or not _is_id(random_id):
            raise ValueError(f"{text!r} is no epoch: expected <number>-<16 hexadecimal digits>")
        return cls(int(number), random_id)

    def __str__(self) -> str:
        return f"{self.number}-{self.id}"


NO_EPOCH: Final = Epoch(0, "0" * 16)
"""Before the first change."""


class Entry(NamedTuple):
    """One entry of a table. `until_ms` 0: until it is changed. `payload` is a JSON object."""

    at_ms: int
    until_ms: int
    payload: bytes

    @classmethod
    def parse(cls, value: bytes) -> Entry:
        """An entry as it lies in the store. Raises ValueError."""
        at, until, payload = value.split(b" ", 2)
        return cls(int(at), int(until), payload)

    def written(self) -> bytes:
        return b"%d %d %b" % self

    def members(self) -> dict[str, object]:
        """The members of the payload; none for what is not an object."""
        try:
            members = json.loads(self.payload)
        except ValueError:
            return {}
        return members if isinstance(members, dict) else {}

    def stands(self, now_ms: int) -> bool:
        return self.until_ms == 0 or now_ms < self.until_ms


class Delta(NamedTuple):
    """One change: the fields of one table that got one value, and those that went."""

    before: Epoch
    epoch: Epoch
    table: str
    at_ms: int
    until_ms: int
    payload: bytes
    put: tuple[str, ...]
    delete: tuple[str, ...]


class Step(Enum):
    """What to do about a pair of epochs."""

    CURRENT = "current"
    FOLLOW = "follow"
    RESTORE = "restore"
    KEEP = "keep"


def next_step(mine: Epoch, theirs: Epoch | None, known: Collection[Epoch]) -> Step:
    """What a replica at `mine` does when the store is at `theirs` (None: the store knows of no change).

    `known` are the epochs since which this replica can repeat every change.
    """
    if theirs is None:
        theirs = NO_EPOCH
    if theirs == mine:
        return Step.CURRENT
    if theirs.number >= mine.number:
        return Step.FOLLOW
    return Step.RESTORE if theirs in known else Step.KEEP


class Control:
    """What operators set at run time. Immutable.

    deny, allow, exempt, passes   run-time entries alone, beside those of the configuration
    attack                        field of the table -> entry, `global` among them
    overrides                     `<limit> key:<ID>`, `<limit> tenant:<T>` or `<limit> address:<CIDR>` -> entry
    attacked                      the `key:<ID>` and `tenant:<T>` whose requests alone are refused now
    attack_on                     whether attack mode is on; None when nobody ever said
    """

    __slots__ = (
        "_addresses",
        "_permits",
        "allow",
        "attack",
        "attack_on",
        "attacked",
        "deny",
        "epoch",
        "exempt",
        "overrides",
        "passes",
    )

    def __init__(
        self,
        *,
        epoch: Epoch = NO_EPOCH,
        lists: Mapping[str, AddressSet] = MappingProxyType({}),
        attack: Mapping[str, Entry] = MappingProxyType({}),
        overrides: Mapping[str, Entry] = MappingProxyType({}),
    ) -> None:
        self.epoch = epoch
        self.deny, self.allow, self.exempt, self.passes = (lists.get(name, _NOBODY) for name in LISTS)
        self.attack = attack
        self.overrides = overrides
        self.attacked = frozenset(
            field for field, entry in attack.items() if field != GLOBAL and entry.members().get("on") is True
        )
        said = attack.get(GLOBAL)
        self.attack_on = None if said is None else said.members().get("on") is True
        self._permits: dict[str, int] = {}
        self._addresses: dict[str, AddressSet] = {}
        networks: dict[str, list[str]] = {}
        for field, entry in overrides.items():
            permits = entry.members().get("permits")
            limit, _, subject = field.partition(" ")
            if isinstance(permits, int):
                self._permits[field] = permits
                if subject.startswith("address:"):
                    networks.setdefault(limit, []).append(subject.removeprefix("address:"))
        self._addresses = {limit: AddressSet(cidrs) for limit, cidrs in networks.items()}

    @property
    def lists(self) -> dict[str, AddressSet]:
        """The four address lists by the names of their tables."""
        return dict(zip(LISTS, (self.deny, self.allow, self.exempt, self.passes), strict=True))

    def permits(self, limit: str, *, key: str = "", tenant: str = "", address: str = "") -> int | None:
        """Other permits for this subject on a limit, or None.

        Empty names are not looked for. A key's override beats its tenant's, and that the most specific
        network's around the address.
        """
        known = self._permits
        if not known:
            return None
        for kind, name in (("key", key), ("tenant", tenant)):
            if name and (permits := known.get(f"{limit} {kind}:{name}")) is not None:
                return permits
        networks = self._addresses.get(limit)
        if address and networks is not None and (cidr := networks.match(address)) is not None:
            return known.get(f"{limit} address:{cidr}")
        return None


_NOBODY: Final = AddressSet()
EMPTY: Final = Control()


class Book:
    """This process's copy of the tables that it follows.

    `control` is the state that its epoch names. The methods that end in `_steps` are generators: between any
    two steps other work may go on, and what they return becomes `control` only at the end.
    """

    def __init__(self, control: Control = EMPTY) -> None:
        self.control = control
        self._untils: dict[str, dict[str, int]] = {table: {} for table in FOLLOWED}
        self._due: list[tuple[int, str, str]] = []

    @property
    def next_due_ms(self) -> int | None:
        """When the next entry expires; None when none does. It may have been changed meanwhile."""
        return self._due[0][0] if self._due else None

    def apply_steps(self, deltas: Iterable[Delta], now_ms: int) -> Generator[None, None, Control]:
        """The state after the deltas, each of which follows on the one before, and the first on the current one."""
        control = self.control
        listed: dict[str, dict[str, bool]] = {name: {} for name in LISTS}
        records = {"attack": dict(control.attack), "overrides": dict(control.overrides)}
        reached = control.epoch
        for delta in deltas:
            reached = delta.epoch
            entry = Entry(delta.at_ms, delta.until_ms, delta.payload)
            changes = [(field, None) for field in delta.delete], [(field, entry) for field in delta.put]
            for field, put in (*changes[0], *changes[1]):
                if delta.table in listed:
                    listed[delta.table][field] = put is not None and put.stands(now_ms)
                elif delta.table in records:
                    _put(records[delta.table], delta.table, field, put, now_ms)
                else:
                    break
                self._note(delta.table, field, put)
            yield
        lists = control.lists
        for name, changes_ in listed.items():
            if changes_:
                lists[name] = yield from lists[name].changed_steps(changes_)
        return self._become(reached, lists, records)

    def replace_steps(
        self,
        epoch: Epoch,
        lists: Mapping[str, AddressSet],
        tables: Mapping[str, Mapping[str, Entry]],
        now_ms: int,
    ) -> Generator[None, None, Control]:
        """The state that was read whole: built lists, and the entries of `attack` and `overrides`.

        For a new book, to which `remember` has said what expires in the lists. Whether attack mode is on is
        not unlearned: tables in which nobody ever said are those of a store that lost its data.
        """
        records: dict[str, dict[str, Entry]] = {}
        for table in ("attack", "overrides"):
            records[table] = {}
            for field, entry in tables.get(table, {}).items():
                _put(records[table], table, field, entry, now_ms)
        if GLOBAL not in records["attack"] and GLOBAL in self.control.attack:
            records["attack"][GLOBAL] = self.control.attack[GLOBAL]
        for table, entries in records.items():
            for field, entry in entries.items():
                self._note(table, field, entry)
        yield
        return self._become(epoch, lists, records)

    def remember(self, table: str, field: str, until_ms: int) -> None:
        """That an entry of a list expires."""
        if until_ms:
            self._untils[table][field] = until_ms
            heappush(self._due, (until_ms, table, field))

    def expire_steps(self, now_ms: int) -> Generator[None, None, Control]:
        """The state without what has expired; the same one when nothing has."""
        control = self.control
        listed: dict[str, dict[str, bool]] = {name: {} for name in LISTS}
        records = {"attack": dict(control.attack), "overrides": dict(control.overrides)}
        expired = 0
        while self._due and self._due[0][0] <= now_ms:
            until_ms, table, field = heappop(self._due)
            if self._untils[table].get(field) != until_ms:
                continue  # it was changed meanwhile
            expired += 1
            if table in listed:
                listed[table][field] = False
            else:
                del self._untils[table][field]
                _put(records[table], table, field, records[table].get(field), now_ms)
            if expired % 1_000 == 0:
                yield
        if not expired:
            return control
        lists = control.lists
        for name, changes in listed.items():
            if changes:
                lists[name] = yield from lists[name].changed_steps(changes)
        control = self._become(control.epoch, lists, records)
        for name, changes in listed.items():  # not before: somebody may be writing down what is in force
            for number, field in enumerate(changes, start=1):
                del self._untils[name][field]
                if number % 1_000 == 0:
                    yield
        return control

    def tidy_steps(self) -> Generator[None, None, Control]:
        """The same state with lists that are quicker to look up, where there is something to gain."""
        control = self.control
        lists = control.lists
        ripe = [name for name, addresses in lists.items() if addresses.pending >= MERGE_FROM]
        if not ripe:
            return control
        for name in ripe:
            lists[name] = yield from lists[name].merge_steps()
        return self._become(control.epoch, lists, {"attack": control.attack, "overrides": control.overrides})

    def expiring(self, table: str) -> Mapping[str, int]:
        """The entries of a list that expire, and when."""
        return MappingProxyType(self._untils[table])

    def _become(
        self, epoch: Epoch, lists: Mapping[str, AddressSet], records: Mapping[str, Mapping[str, Entry]]
    ) -> Control:
        self.control = Control(
            epoch=epoch, lists=lists, attack=records["attack"], overrides=records["overrides"]
        )
        return self.control

    def _note(self, table: str, field: str, entry: Entry | None) -> None:
        if entry is not None and entry.until_ms:
            self.remember(table, field, entry.until_ms)
        else:
            self._untils[table].pop(field, None)


def _put(entries: dict[str, Entry], table: str, field: str, entry: Entry | None, now_ms: int) -> None:
    """Bring one field of a small table up to date. The end of attack mode's entry is somebody's "off", too."""
    if entry is not None and entry.stands(now_ms):
        entries[field] = entry
    elif table == "attack" and field == GLOBAL and entry is not None:
        entries[field] = Entry(entry.until_ms, 0, b'{"on": false, "actor": "", "reason": "it expired"}')
    else:
        entries.pop(field, None)


def _is_id(text: str) -> bool:
    return len(text) == 16 and all(digit in "0123456789abcdef" for digit in text)
