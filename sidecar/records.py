"""Records of the registry that requests wait for, read from the store in batches.

One batch is under way at a time, and whatever is wanted meanwhile is its next batch; a record is asked for once,
however many wait for it. What comes back is handed to the proofs, and those who waited are judged again.

It judges nothing, and gives nobody a deadline: that is the gate's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from sidecar.core.control import Entry
from sidecar.core.ledger import FOREVER
from sidecar.core.proofs import Proofs
from sidecar.store import StoreUnavailable

MOST: Final = 500
"""Records of one batch."""


class RecordStore(Protocol):
    """Where the registry lies. All raise StoreUnavailable."""

    async def records(self, key_ids: Sequence[str]) -> Sequence[Entry | None] | None:
        """The records of keys, None for those that are not there; None for all if they cannot be believed."""

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class Pending(Protocol):
    """A request that waits."""

    answered: bool


P = TypeVar("P", bound=Pending)


class Records(Generic[P]):
    """`answered` is told who waited, on the loop; `failed` the kind and the words of an error."""

    def __init__(
        self,
        *,
        store: RecordStore,
        proofs: Proofs,
        clock_ms: Callable[[], float],
        answered: Callable[[Iterable[P]], None],
        failed: Callable[[str, str], None],
    ) -> None:
        self.store = store
        self.sent_ms = FOREVER
        """When the batch under way was sent."""
        self._proofs = proofs
        self._clock_ms = clock_ms
        self._answered = answered
        self._failed = failed
        self._wanted: dict[str, list[P]] = {}
        self._wake = asyncio.Event()
        self.lock = asyncio.Lock()
        """Held while the store is asked."""

    def want(self, key_id: str, pending: P) -> None:
        """Read this record, and then judge the request again."""
        self._wanted.setdefault(key_id, []).append(pending)
        self._wake.set()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._wanted:
                await self._read()

    async def _read(self) -> None:
        """One batch. Those whose deadline has passed meanwhile ask for nothing."""
        batch: dict[str, list[P]] = {}
        while self._wanted and len(batch) < MOST:
            key_id, waiting = self._wanted.popitem()
            if alive := [pending for pending in waiting if not pending.answered]:
                batch[key_id] = alive
        if not batch:
            return
        self._proofs.ask(batch)
        self.sent_ms = self._clock_ms()
        try:
            async with self.lock:
                entries = await self.store.records(list(batch))
            if entries is None:
                return  # who waits is answered at the deadline, as if the store were silent
            self._proofs.answer(dict(zip(batch, entries, strict=True)))
        except StoreUnavailable as exc:
            self._failed(exc.kind, str(exc))
        finally:
            self.sent_ms = FOREVER
        self._answered([pending for waiting in batch.values() for pending in waiting])
