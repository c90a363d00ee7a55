"""The registry of API keys: made, looked up, changed and taken away in the table `keys`.

An entry of the table stays until the key is deleted: an expired key is shown as expired. What is written
over an entry demands that it is still what was read, so that of two operators none undoes what the other
did; the one who comes second reads again.

A secret leaves through the answer of `create` or `rotate`, once. What is stored, told to the replicas and
audited is its keyed hash at most: the audit names the fields that changed, not their values.

Whether a request may pass is not decided here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from sidecar.control.changes import Changed, Changes, Conflict, ControlStore, Space
from sidecar.control.pages import page_of
from sidecar.core import keys
from sidecar.core.control import NO_EPOCH, Entry, Epoch
from sidecar.core.keys import Key, KeyUnreadable, Kind, Terms
from sidecar.store import StoreUnavailable, scripts

TABLE: Final = "keys"
TRIES: Final = 5
"""How often a change is tried when others change the same key at the same time."""
SLICE: Final = 50
"""Records that are read, or shown, in one go: about a millisecond."""

_TOLD: Final = ("label", "tenant", "plan", "scopes", "cidrs", "origins", "enabled", "expires_ms", "secrets")


class KeyMissing(Exception):
    """There is no such key."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key {key_id}")
        self.id = key_id


class Kept(NamedTuple):
    """A change to a key, and the key as it is now."""

    changed: Changed
    key: Key


@dataclass(frozen=True, slots=True)
class Issued:
    """A change to a key that made a secret, which nobody can show again."""

    changed: Changed
    key: Key
    secret: str = field(repr=False)


class KeyPage(NamedTuple):
    """Some keys in no order, and the ids of records among them that cannot be read.

    `cursor` continues; "" at the end. A page may be short, even empty, before it.
    """

    keys: list[Key]
    unreadable: list[str]
    cursor: str


class KeyRecords:
    """The registry's records as replicas read them, when requests need them. All raise StoreUnavailable.

    `applied` tells the epoch that this process has: records of an older one are not believed.
    """

    def __init__(self, store: ControlStore, prefix: str, *, applied: Callable[[], Epoch]) -> None:
        space = Space(prefix)
        self._store = store
        self._keys = [space.key("epoch"), space.key(TABLE)]
        self._applied = applied
        self._records = scripts.read("records")

    async def records(self, key_ids: Sequence[str]) -> list[Entry | None] | None:
        """Entries of keys, in this order: None where there is none. What is no entry cannot be read as a key.

        None: the store has lost what this process has seen.
        """
        said = await self._store.script(self._records, self._keys, [key_id.encode() for key_id in key_ids])
        match said:
            case [bytes(epoch), list(values)] if len(values) == len(key_ids):
                if _number(epoch) < self._applied().number:
                    return None
                return [None if value is None else _entry(value) for value in values]
        raise StoreUnavailable("response", "the store's answer has not the shape of records'")

    async def ping(self) -> None:
        await self._store.command(b"PING")

    async def close(self) -> None:
        await self._store.close()


class KeyRegistry:
    """All methods raise StoreUnavailable; those that take `if_epoch` also Conflict.

    hash_key      the fleet's hash key; raises StoreUnavailable while it is not known: a hash with another
                  key would make a secret that no replica accepts
    now_ms        the time by the store's clock
    random_bytes  as many as asked for, that nobody can guess
    """

    def __init__(
        self,
        changes: Changes,
        *,
        hash_key: Callable[[], bytes],
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._changes = changes
        self._hash_key = hash_key
        self.now_ms = now_ms
        self._random_bytes = random_bytes

    async def create(
        self, kind: Kind, terms: Terms, *, key_id: str = "", actor: str, if_epoch: Epoch | None = None
    ) -> Issued:
        """A new key; without `key_id` its id is made.

        Raises FieldRefused, and Conflict "absent" for an id that somebody has.
        """
        for left in reversed(range(TRIES)):
            secret, secret_hash = self._secret()
            chosen = key_id or keys.id_of(self._random_bytes(keys.ID_BYTES))
            key = keys.created(chosen, kind, terms, secret_hash, self.now_ms())
            told = {"label": key.label, "kind": key.kind.value, "tenant": key.tenant, "plan": key.plan}
            try:
                changed = await self._changes.change(
                    TABLE,
                    put=[chosen],
                    payload=keys.record(key),
                    actor=actor,
                    action="key.create",
                    detail={"key": chosen, **told},
                    if_epoch=if_epoch,
                    demand="absent",
                )
            except Conflict as conflict:
                if conflict.why == "absent" and not key_id and left:
                    continue  # the id was made, and somebody has it
                raise
            return Issued(changed, _written(key, changed), secret)
        raise AssertionError("the last try returns or raises")

    async def get(self, key_id: str) -> Key:
        """Raises KeyMissing and KeyUnreadable."""
        return (await self._read(key_id))[1]

    async def page(self, *, cursor: str = "", most: int, tenant: str = "") -> KeyPage:
        """At most `most` keys, of one tenant if it is named. Raises CursorRefused."""

        def wanted(_: str, entry: Entry) -> bool:
            return not tenant or entry.members().get("tenant") == tenant

        page = await page_of(self._changes, TABLE, cursor=cursor, most=most, wanted=wanted)
        found: list[Key] = []
        unreadable: list[str] = []
        for number, (key_id, entry) in enumerate(page.entries, start=1):
            if number % SLICE == 0:
                await asyncio.sleep(0)  # others get their turn
            try:
                found.append(keys.read(key_id, entry.at_ms, entry.payload))
            except KeyUnreadable:
                unreadable.append(key_id)
        return KeyPage(found, unreadable, page.cursor)

    async def update(self, key_id: str, terms: Terms, *, actor: str, if_epoch: Epoch | None = None) -> Kept:
        """The key on other terms. Raises KeyMissing, KeyUnreadable and FieldRefused."""
        if terms.keys() == {"enabled"}:
            action = "key.enable" if terms["enabled"] else "key.disable"
        else:
            action = "key.update"
        return await self._rewrite(
            key_id,
            lambda key: keys.updated(key, terms, self.now_ms()),
            action=action,
            actor=actor,
            detail={},
            if_epoch=if_epoch,
        )

    async def rotate(
        self, key_id: str, *, grace_ms: int, actor: str, if_epoch: Epoch | None = None
    ) -> Issued:
        """A new secret for the key; the one before it is valid until the grace ends.

        Raises KeyMissing, KeyUnreadable and FieldRefused.
        """
        secret, secret_hash = self._secret()
        kept = await self._rewrite(
            key_id,
            lambda key: keys.rotated(key, secret_hash, grace_ms, self.now_ms()),
            action="key.rotate",
            actor=actor,
            detail={"grace_ms": grace_ms},
            if_epoch=if_epoch,
        )
        return Issued(kept.changed, kept.key, secret)

    async def delete(self, key_id: str, *, actor: str, if_epoch: Epoch | None = None) -> Changed:
        """Take the key away, also one whose record cannot be read. Raises KeyMissing."""
        try:
            return await self._changes.change(
                TABLE,
                delete=[key_id],
                actor=actor,
                action="key.delete",
                detail={"key": key_id},
                if_epoch=if_epoch,
                demand="present",
            )
        except Conflict as conflict:
            if conflict.why == "present":
                raise KeyMissing(key_id) from conflict
            raise

    async def _rewrite(
        self,
        key_id: str,
        write: Callable[[Key], Key],
        *,
        action: str,
        actor: str,
        detail: dict[str, object],
        if_epoch: Epoch | None,
    ) -> Kept:
        """Replace what is there by what `write` makes of it, unless somebody else replaced it meanwhile."""
        for left in reversed(range(TRIES)):
            value, before = await self._read(key_id)
            after = write(before)
            fields = [
                name.removesuffix("_ms") for name in _TOLD if getattr(before, name) != getattr(after, name)
            ]
            try:
                changed = await self._changes.change(
                    TABLE,
                    put=[key_id],
                    payload=keys.record(after),
                    actor=actor,
                    action=action,
                    detail={"key": key_id, "fields": fields, **detail},
                    if_epoch=if_epoch,
                    if_value=value,
                )
            except Conflict as conflict:
                if conflict.why == "value" and left:
                    continue
                raise
            return Kept(changed, _written(after, changed))
        raise AssertionError("the last try returns or raises")

    async def _read(self, key_id: str) -> tuple[bytes, Key]:
        """The entry as it lies in the store, and the key that it is."""
        value = await self._changes.raw(TABLE, key_id)
        if value is None:
            raise KeyMissing(key_id)
        try:
            entry = Entry.parse(value)
        except ValueError:
            raise KeyUnreadable(key_id, "it is no entry of a table") from None
        return value, keys.read(key_id, entry.at_ms, entry.payload)

    def _secret(self) -> tuple[str, str]:
        """A new secret and its hash."""
        hash_key = self._hash_key()
        secret = keys.secret_of(self._random_bytes(keys.SECRET_BYTES))
        return secret, keys.hash_secret(secret.encode(), hash_key)


def _number(epoch: bytes) -> int:
    if not epoch:
        return NO_EPOCH.number
    try:
        return Epoch.parse(epoch.decode()).number
    except ValueError as exc:
        raise StoreUnavailable("response", "the epoch in the store is not one of ours") from exc


def _entry(value: bytes) -> Entry:
    try:
        return Entry.parse(value)
    except ValueError:
        return Entry(0, 0, b"")


def _written(key: Key, changed: Changed) -> Key:
    """The key with the store's time of its writing, as everybody reads it from now on."""
    return replace(key, changed_ms=changed.at_ms)
