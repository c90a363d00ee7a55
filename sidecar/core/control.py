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

from sidecar.core.addresses import finish
from sidecar.core.layers import LayeredSet
from sidecar.core.permits import NO_PERMITS, Permits

LISTS: Final = ("deny", "allow", "exempt", "pass")
RECORDS: Final = ("attack", "overrides", "revoked")
FOLLOWED: Final = (*RECORDS, *LISTS)
"""The tables that every replica holds whole; `RECORDS` are small, and each change copies them."""
GLOBAL: Final = "global"
"""The field of `attack` that is about every request."""
SLICE: Final = 1_000
"""Fields worked on between two yields: a millisecond or two."""
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
        except (ValueError, RecursionError):
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
    overrides                     `<limit> key:<ID>`, `<limit> tenant:<T>` or `<limit> address:<CIDR>` -> entry;
    revoked                       ids of tokens that were taken back, until they would have ended
    compiled                      the same, to be found by subject; made here unless `permits` brings it
    attacked                      the `key:<ID>` and `tenant:<T>` whose requests alone are refused now
    attack_on                     whether attack mode is on; None when nobody ever said
    """

    __slots__ = (
        "allow",
        "attack",
        "attack_on",
        "attacked",
        "compiled",
        "deny",
        "epoch",
        "exempt",
        "overrides",
        "passes",
        "revoked",
    )

    def __init__(
        self,
        *,
        epoch: Epoch = NO_EPOCH,
        lists: Mapping[str, LayeredSet] = MappingProxyType({}),
        attack: Mapping[str, Entry] = MappingProxyType({}),
        overrides: Mapping[str, Entry] = MappingProxyType({}),
        revoked: Mapping[str, Entry] = MappingProxyType({}),
        permits: Permits | None = None,
    ) -> None:
        self.epoch = epoch
        self.deny, self.allow, self.exempt, self.passes = (lists.get(name, _NOBODY) for name in LISTS)
        self.attack = attack
        self.overrides = overrides
        self.revoked = revoked
        self.attacked = frozenset(
            field for field, entry in attack.items() if field != GLOBAL and entry.members().get("on") is True
        )
        said = attack.get(GLOBAL)
        self.attack_on = None if said is None else said.members().get("on") is True
        if permits is None:
            permits = finish(Permits.steps(overrides)) if overrides else NO_PERMITS
        self.compiled = permits

    @property
    def overridden(self) -> frozenset[str]:
        """The names of the limits that have an override."""
        return self.compiled.limits

    @property
    def lists(self) -> dict[str, LayeredSet]:
        """The four address lists by the names of their tables."""
        return dict(zip(LISTS, (self.deny, self.allow, self.exempt, self.passes), strict=True))

    def permits(self, limit: str, *, key: str = "", tenant: str = "", address: str = "") -> int | None:
        """Other permits for this subject on a limit, or None.

        Empty names are not looked for. A key's override beats its tenant's, and that the most specific
        network's around the address.
        """
        return self.compiled.find(limit, key=key, tenant=tenant, address=address)


_NOBODY: Final = LayeredSet()
EMPTY: Final = Control()


class Book:
    """This process's copy of the tables that it follows.

    `control` is the state that its epoch names. The methods that end in `_steps` are generators: between any
    two steps other work may go on, and what they return becomes `control` only at the end.
    """

    def __init__(self, control: Control = EMPTY) -> None:
        self.control = control
        self._untils: dict[str, dict[str, int]] = {table: {} for table in FOLLOWED}
        self._due: list[tuple[int, str]] = []
        self._ending: dict[tuple[int, str], list[str]] = {}

    @property
    def next_due_ms(self) -> int | None:
        """When the next entry expires; None when none does. It may have been changed meanwhile."""
        return self._due[0][0] if self._due else None

    def apply_steps(self, deltas: Iterable[Delta], now_ms: int) -> Generator[None, None, Control]:
        """The state after the deltas, each of which follows on the one before, and the first on the current one."""
        changes: dict[str, dict[str, Entry | None]] = {table: {} for table in FOLLOWED}
        epoch = self.control.epoch
        for delta in deltas:
            epoch = delta.epoch
            if delta.table in changes:
                changes[delta.table] |= dict.fromkeys(delta.delete)
                changes[delta.table] |= dict.fromkeys(
                    delta.put, Entry(delta.at_ms, delta.until_ms, delta.payload)
                )
            yield
        yield from self._change_steps(epoch, changes, now_ms)
        for table, changed in changes.items():
            yield from self._note_steps(table, changed)
        return self.control

    def replace_steps(
        self,
        epoch: Epoch,
        lists: Mapping[str, LayeredSet],
        tables: Mapping[str, Mapping[str, Entry]],
        now_ms: int,
    ) -> Generator[None, None, Control]:
        """The state that was read whole: built lists, and the entries of the other tables.

        For a new book, to which `remember` has said what expires in the lists. Whether attack mode is on is
        not unlearned: tables in which nobody ever said are those of a store that lost its data.
        """
        records: dict[str, dict[str, Entry]] = {}
        for table in RECORDS:
            records[table] = {}
            for number, (field, entry) in enumerate(tables.get(table, {}).items(), start=1):
                _put(records[table], table, field, entry, now_ms)
                if number % SLICE == 0:
                    yield
        if (mine := kept_attack(self.control, tables.get("attack", {}))) is not None:
            records["attack"][GLOBAL] = mine
        permits = yield from Permits.steps(records["overrides"])
        for table, entries in records.items():
            yield from self._note_steps(table, entries)
        self.control = Control(
            epoch=epoch,
            lists=lists,
            attack=records["attack"],
            overrides=records["overrides"],
            revoked=records["revoked"],
            permits=permits,
        )
        return self.control

    def remember(self, table: str, field: str, until_ms: int) -> None:
        """That an entry of a list expires."""
        if until_ms:
            self._untils[table][field] = until_ms
            moment = (until_ms, table)
            if moment in self._ending:
                self._ending[moment].append(field)
            else:
                self._ending[moment] = [field]
                heappush(self._due, moment)

    def expire_steps(self, now_ms: int) -> Generator[None, None, Control]:
        """The state without what has expired; the same one when nothing has."""
        expired: dict[str, dict[str, Entry | None]] = {table: {} for table in FOLLOWED}
        while self._due and self._due[0][0] <= now_ms:
            until_ms, table = moment = heappop(self._due)
            untils = self._untils[table]
            for number, field in enumerate(self._ending.pop(moment), start=1):
                if untils.get(field) == until_ms:  # else it was changed meanwhile
                    expired[table][field] = self.control.attack.get(field) if table == "attack" else None
                if number % SLICE == 0:
                    yield
        if any(expired.values()):
            yield from self._change_steps(self.control.epoch, expired, now_ms)
            for table, fields in expired.items():  # not before: somebody may be writing down what is in force
                yield from self._note_steps(table, dict.fromkeys(fields))
        return self.control

    def tidy_steps(self) -> Generator[None, None, Control]:
        """The same state with lists that are quicker to look up, where there is something to gain.

        For quiet times: takes seconds for a million. Nothing else may be changed meanwhile: abandon it first,
        which does no harm.
        """
        control = self.control
        lists = control.lists
        ripe = [name for name, each in lists.items() if len(each.layers) > 1 or each.pending >= MERGE_FROM]
        if not ripe:
            return control
        for name in ripe:
            lists[name] = yield from lists[name].merged_steps()
        self.control = Control(
            epoch=control.epoch,
            lists=lists,
            attack=control.attack,
            overrides=control.overrides,
            revoked=control.revoked,
            permits=control.compiled,
        )
        return self.control

    def expiring(self, table: str) -> Mapping[str, int]:
        """The entries of a list that expire, and when."""
        return MappingProxyType(self._untils[table])

    def _change_steps(
        self, epoch: Epoch, changes: Mapping[str, Mapping[str, Entry | None]], now_ms: int
    ) -> Generator[None, None, None]:
        """Make the state with these fields changed, None for those that go, the one in force."""
        control = self.control
        lists = control.lists
        for name in LISTS:
            if changes[name]:
                listed: dict[str, bool] = {}
                for number, (cidr, entry) in enumerate(changes[name].items(), start=1):
                    listed[cidr] = entry is not None and entry.stands(now_ms)
                    if number % SLICE == 0:
                        yield
                lists[name] = yield from lists[name].changed_steps(listed)
        attack, overrides, permits = control.attack, control.overrides, control.compiled
        if changes["attack"]:
            attack = _changed(attack, "attack", changes["attack"], now_ms)
        if changes["overrides"]:
            overrides = _changed(overrides, "overrides", changes["overrides"], now_ms)
            permits = permits.with_changes({field: overrides.get(field) for field in changes["overrides"]})
        revoked = control.revoked
        if changes["revoked"]:
            revoked = _changed(revoked, "revoked", changes["revoked"], now_ms)
        self.control = Control(
            epoch=epoch, lists=lists, attack=attack, overrides=overrides, revoked=revoked, permits=permits
        )

    def _note_steps(self, table: str, changes: Mapping[str, Entry | None]) -> Generator[None, None, None]:
        """Remember when these entries expire, or that they do not."""
        untils = self._untils[table]
        for number, (field, entry) in enumerate(changes.items(), start=1):
            if entry is not None and entry.until_ms:
                self.remember(table, field, entry.until_ms)
            else:
                untils.pop(field, None)
            if number % SLICE == 0:
                yield


def kept_attack(control: Control, table: Mapping[str, Entry]) -> Entry | None:
    """What this process knows of attack mode, where a table that was read whole knows less: nothing, or only
    what was said before. Such a table is of a store that lost its data; attack mode is not unlearned from it."""
    mine, theirs = control.attack.get(GLOBAL), table.get(GLOBAL)
    return mine if mine is not None and (theirs is None or theirs.at_ms < mine.at_ms) else None


def _changed(
    entries: Mapping[str, Entry], table: str, changes: Mapping[str, Entry | None], now_ms: int
) -> dict[str, Entry]:
    changed = dict(entries)
    for field, entry in changes.items():
        _put(changed, table, field, entry, now_ms)
    return changed


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
