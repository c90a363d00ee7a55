"""The audit trail: what operators did, in the order in which it happened, as the store keeps it.

Entries are written with the change that they tell of, by the same script; here they are only read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

from sidecar.control.changes import ControlStore, Space
from sidecar.core.keys import LAST_MS
from sidecar.store import StoreUnavailable

LOOK_S: Final = 0.25

_ID: Final = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_LAST: Final = (1 << 64) - 1


class AuditEntry(NamedTuple):
    """One entry. `id` orders; `outcome` is "done", "done again" (the store had lost it) or "refused: …"."""

    id: str
    at_ms: int
    actor: str
    action: str
    outcome: str
    epoch: str
    reason: str
    until_ms: int
    detail: Mapping[str, object]


class Audit:
    """The trail of one store."""

    def __init__(self, *, store: ControlStore, prefix: str) -> None:
        self._store = store
        self._key = Space(prefix).key("audit")

    async def read(self, after: str | None, limit: int, wait_s: float = 0.0) -> list[AuditEntry]:
        """The next entries after an id, at most `limit`, oldest first; without an id the newest.

        With nothing new it waits up to `wait_s`. Raises ValueError for what is no id, and StoreUnavailable.
        """
        if after is not None and not _is_id(after):
            raise ValueError(f"{after!r} is no id of an audit entry")
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while True:
            entries = await self._read(after, limit)
            if entries or loop.time() >= until_s:
                return entries
            await asyncio.sleep(LOOK_S)

    async def _read(self, after: str | None, limit: int) -> list[AuditEntry]:
        count = (b"COUNT", b"%d" % limit)
        if after is None:
            said = await self._store.command(b"XREVRANGE", self._key, b"+", b"-", *count)
        else:
            said = await self._store.command(b"XRANGE", self._key, b"(" + after.encode(), b"+", *count)
        if not isinstance(said, list):
            raise StoreUnavailable("response", "the store's answer has not the shape of XRANGE's")
        entries = [_entry(entry_id.decode(), flat) for entry_id, flat in said]
        return entries[::-1] if after is None else entries


def _is_id(text: str) -> bool:
    """Two numbers of 64 bits each; nothing comes after the last of them."""
    if not _ID.fullmatch(text):
        return False
    time, number = map(int, text.split("-"))
    return max(time, number) <= _LAST and (time, number) != (_LAST, _LAST)


def _entry(entry_id: str, flat: list[bytes]) -> AuditEntry:
    try:
        members = dict(zip(flat[::2], flat[1::2], strict=True))
        detail = orjson.loads(members[b"what"])
        entry = AuditEntry(
            entry_id,
            int(members[b"at"]),
            str(detail.pop("actor", "")),
            str(detail.pop("action", "")),
            members[b"outcome"].decode(),
            members[b"epoch"].decode(),
            str(detail.pop("reason", "")),
            int(members[b"until"]),
            detail,
        )
        if not (0 <= entry.at_ms <= LAST_MS and 0 <= entry.until_ms <= LAST_MS):
            raise ValueError("it could not be shown")
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise StoreUnavailable("response", "an entry of the audit trail is not one of ours") from exc
    return entry
