"""Changes: how the control tables are changed and read, one change at a time.

A change is whole or not at all: fields of one table get one value, others go, the epoch rises, a delta
and an audit entry are left, and the new epoch is published (`lua/change.lua`). What a table means is the
resources' business; who follows is `follow`'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import orjson

from sidecar.core.control import NO_EPOCH, Delta, Entry, Epoch
from sidecar.core.keys import LAST_MS
from sidecar.store import StoreUnavailable, scripts

MOST_FIELDS: Final = 5_000
"""Fields of one change: it stops the store's server for some ten milliseconds."""
LOG_KEPT: Final = 1_000
AUDIT_KEPT: Final = 100_000
TOLD_FIELDS: Final = 100
"""Fields that the audit names one by one; of more it tells the number."""
EVENTS: Final = frozenset({"resets"})
"""Tables that are only told: nothing of them is kept."""

Demand = Literal["", "absent", "present"]


class ControlStore(Protocol):
    """Runs our scripts and single commands. Both raise StoreUnavailable."""

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object: ...

    async def command(self, *words: bytes) -> object: ...

    async def close(self) -> None: ...


class Space(NamedTuple):
    """Where the control state lies: one hash tag, so that one script reaches all of it on a cluster."""

    prefix: str

    def key(self, name: str) -> bytes:
        """The key of a table, or of `epoch`, `log`, `audit`, `expiring`, `replicas`, `fleet`, `hash_key`."""
        return f"{self.prefix}{{control}}:{name}".encode()

    @property
    def channel(self) -> bytes:
        """Where new epochs are published."""
        return self.key("epochs")


class Changed(NamedTuple):
    """A change that was made: times in ms by the store's clock, and fields that were new or went."""

    epoch: Epoch
    at_ms: int
    until_ms: int
    added: int
    removed: int


class Conflict(Exception):
    """Nothing was changed: what the caller demanded does not hold.

    why    "epoch" (another is current), "absent" or "present" (a field is not), "value" (it was changed)
    epoch  the current one
    """

    def __init__(self, why: str, epoch: Epoch) -> None:
        super().__init__(f"{why}; the current epoch is {epoch}")
        self.why = why
        self.epoch = epoch


class Changes:
    """`applied` tells the epoch that this process has: no change gets a smaller number."""

    def __init__(
        self, *, store: ControlStore, prefix: str, applied: Callable[[], Epoch] = lambda: NO_EPOCH
    ) -> None:
        self._store = store
        self._space = Space(prefix)
        self._applied = applied
        self._change = scripts.read("change")

    async def change(
        self,
        table: str,
        *,
        put: Sequence[str] = (),
        delete: Sequence[str] = (),
        payload: Mapping[str, object] | None = None,
        for_ms: int = 0,
        until_ms: int = 0,
        actor: str,
        action: str,
        reason: str = "",
        detail: Mapping[str, object] | None = None,
        if_epoch: Epoch | None = None,
        demand: Demand = "",
        if_value: bytes | None = None,
    ) -> Changed:
        """Make one change. Raises Conflict and StoreUnavailable, whose outcome is unknown after a timeout.

        put, delete  names without a line end, and not empty
        payload   of the fields to put
        for_ms    for how long the fields stand; else `until_ms`; 0 and 0: until they are changed
        detail    for the audit, beside actor, action, reason and fields
        demand    what the fields to put (else to delete) must all be
        if_value  what `raw` said of the only field
        """
        assert len(put) + len(delete) <= MOST_FIELDS, "split it before"
        assert all(field and "\n" not in field for field in (*put, *delete)), "it would name other fields"
        what = {"actor": actor, "action": action, "reason": reason, "table": table, **_named(put, delete)}
        return await self._run(
            table,
            epoch_id=os.urandom(8).hex(),
            above=self._applied().number,
            if_epoch="" if if_epoch is None else str(if_epoch),
            demand=demand,
            if_value=if_value or b"",
            for_ms=for_ms,
            until_ms=until_ms,
            payload=orjson.dumps({} if payload is None else payload),
            put=put,
            delete=delete,
            what=orjson.dumps(what | dict(detail or {})),
            again="",
        )

    async def repeat(self, delta: Delta, actor: str) -> bool:
        """Do a change again that the store has lost; whether it was done, and not by somebody else before."""
        named = _named(delta.put, delta.delete)
        what = {"actor": actor, "action": "restore", "reason": "the store had lost it", "table": delta.table}
        try:
            await self._run(
                delta.table,
                epoch_id=delta.epoch.id,
                above=0,
                if_epoch=str(delta.before),
                demand="",
                if_value=b"",
                for_ms=0,
                until_ms=delta.until_ms,
                payload=delta.payload,
                put=delta.put,
                delete=delta.delete,
                what=orjson.dumps(what | named),
                again=f"{delta.epoch.number} {delta.at_ms}",
            )
        except Conflict:
            return False
        return True

    async def _run(
        self,
        table: str,
        *,
        epoch_id: str,
        above: int,
        if_epoch: str,
        demand: str,
        if_value: bytes,
        for_ms: int,
        until_ms: int,
        payload: bytes,
        put: Sequence[str],
        delete: Sequence[str],
        what: bytes,
        again: str,
    ) -> Changed:
        key = self._space.key
        arguments = [
            self._space.channel,
            epoch_id.encode(),
            b"%d" % above,
            if_epoch.encode(),
            demand.encode(),
            if_value,
            b"%d" % for_ms,
            b"%d" % until_ms,
            b"0" if table in EVENTS else b"1",
            payload,
            "\n".join(put).encode(),
            "\n".join(delete).encode(),
            table.encode(),
            what,
            b"%d" % LOG_KEPT,
            b"%d" % AUDIT_KEPT,
            again.encode(),
        ]
        keys = [key("epoch"), key("log"), key("audit"), key("expiring"), key(table), key("floor")]
        match await self._store.script(self._change, keys, arguments):
            case [b"ok", bytes(epoch), int(at_ms), int(until), int(added), int(removed)]:
                return Changed(_epoch(epoch), at_ms, until, added, removed)
            case [bytes(why), bytes(epoch), int(), int(), int(), int()]:
                raise Conflict(why.decode(), _epoch(epoch))
            case _:
                raise StoreUnavailable("response", "the store's answer has not the shape of change's")

    async def entry(self, table: str, field: str) -> Entry | None:
        """One entry; None when there is none. Raises StoreUnavailable."""
        value = await self.raw(table, field)
        return None if value is None else _entry(value)

    async def raw(self, table: str, field: str) -> bytes | None:
        """One entry as it lies in the store, to demand it of a change. Raises StoreUnavailable."""
        value = await self._store.command(b"HGET", self._space.key(table), field.encode())
        return value if isinstance(value, bytes) else None

    async def size(self, table: str) -> int:
        """Entries of a table. Raises StoreUnavailable."""
        size = await self._store.command(b"HLEN", self._space.key(table))
        return size if isinstance(size, int) else 0

    async def page(self, table: str, cursor: int, count: int) -> tuple[int, list[tuple[str, Entry]]]:
        """About `count` entries of a table from a cursor (at first 0) on, in no order, and the next cursor.

        The next cursor is 0 at the end. An entry that is there all the time comes at least once; what was
        changed meanwhile may come or not. One that has expired comes until a replica has removed it: who
        reads asks `Entry.stands`. Raises StoreUnavailable.
        """
        said = await self._store.command(
            b"HSCAN", self._space.key(table), b"%d" % cursor, b"COUNT", b"%d" % count
        )
        match said:
            case [bytes(following), list(flat)]:
                pairs = zip(flat[::2], flat[1::2], strict=True)
                try:
                    return int(following), [(field.decode(), _entry(value)) for field, value in pairs]
                except ValueError as exc:
                    raise StoreUnavailable("response", "a field of a table is not one of ours") from exc
            case _:
                raise StoreUnavailable("response", "the store's answer has not the shape of HSCAN's")

    async def epoch(self) -> Epoch:
        """The store's epoch; NO_EPOCH before the first change. Raises StoreUnavailable."""
        said = await self._store.command(b"GET", self._space.key("epoch"))
        return _epoch(said) if isinstance(said, bytes) else NO_EPOCH

    async def deltas(self, since: Epoch, most: int) -> list[Delta] | None:
        """The next changes after an epoch, in order, at most `most`; None when the log does not know it.

        Raises StoreUnavailable.
        """
        said = await self._store.command(
            b"XRANGE",
            self._space.key("log"),
            b"%d" % max(1, since.number),
            b"+",
            b"COUNT",
            b"%d" % (most + 1),
        )
        if not isinstance(said, list):
            raise StoreUnavailable("response", "the store's answer has not the shape of XRANGE's")
        found: list[Delta] = []
        reached = since
        for _, flat in said:
            delta = _delta(flat)
            if delta.epoch == since:
                continue
            if delta.before != reached:
                break
            found.append(delta)
            reached = delta.epoch
        return found or None


def _named(put: Sequence[str], delete: Sequence[str]) -> dict[str, object]:
    """The fields of a change as the audit tells them."""
    named: dict[str, object] = {}
    for word, fields in (("put", put), ("deleted", delete)):
        if fields:
            named[word] = list(fields[:TOLD_FIELDS])
        if len(fields) > TOLD_FIELDS:
            named[f"{word}_count"] = len(fields)
    return named


# --- what lies in the store: whatever is not as it was written raises StoreUnavailable, and nothing else ---


def _epoch(said: bytes) -> Epoch:
    try:
        return Epoch.parse(said.decode())
    except ValueError as exc:
        raise StoreUnavailable("response", "the epoch in the store is not one of ours") from exc


def _entry(value: bytes) -> Entry:
    try:
        entry = Entry.parse(value)
        if not (0 <= entry.at_ms <= LAST_MS and 0 <= entry.until_ms <= LAST_MS):
            raise ValueError("it could not be shown, nor waited for")
    except ValueError as exc:
        raise StoreUnavailable("response", "an entry of a control table is not one of ours") from exc
    return entry


def _delta(flat: list[bytes]) -> Delta:
    try:
        members = dict(zip(flat[::2], flat[1::2], strict=True))
        delta = Delta(
            Epoch.parse(members[b"before"].decode()),
            Epoch.parse(members[b"epoch"].decode()),
            members[b"table"].decode(),
            int(members[b"at"]),
            int(members[b"until"]),
            members[b"payload"],
            tuple(filter(None, members[b"put"].decode().split("\n"))),
            tuple(filter(None, members[b"del"].decode().split("\n"))),
        )
        if not (0 <= delta.at_ms <= LAST_MS and 0 <= delta.until_ms <= LAST_MS):
            raise ValueError("it could not be shown, nor waited for")
    except (KeyError, ValueError) as exc:
        raise StoreUnavailable("response", "an entry of the log of changes is not one of ours") from exc
    return delta
