"""Following: how this process learns of changes, and says that it has them.

    hint (a published epoch, a new subscription) ─┐
    every second ─────────────────────────────────┴─> beat ─> compare epochs ─> deltas, or everything
                                                       ^                               │
                                                       └────────── say so <── adopt <──┘

The subscription is only a hint: what it loses, the comparison of the next second finds.

Entries expire by the store's clock as last told, also while the store is silent.

It does not change anything, but for what the store lost: changes that this process has seen are
done again, and the last word on attack mode is said again, by whoever notices first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from sidecar.control.beats import Beats, Follows
from sidecar.control.changes import Changes, Conflict, ControlStore, Space
from sidecar.core.control import (
    GLOBAL,
    LISTS,
    NO_EPOCH,
    RECORDS,
    Book,
    Control,
    Delta,
    Entry,
    Epoch,
    Step,
    kept_attack,
    next_step,
)
from sidecar.core.layers import LayeredSet
from sidecar.core.prefix_table import SLICE
from sidecar.steps import in_steps
from sidecar.store import StoreUnavailable

PERIOD_S: Final = 1.0
PAGE: Final = 1_000
DELTAS: Final = 16
"""Changes applied at a time."""
REMEMBERED: Final = 64
REMEMBERED_FIELDS: Final = 20_000
"""Changes that this process can do again: so many, while their fields are not more than that."""
ROUNDS: Final = 64
"""Comparisons in a row before something else gets its turn."""
QUIET_S: Final = 2.0
"""Without a hint for so long, lists are tidied up: during an import that would be work for nothing."""
EXPIRY_LOOK_S: Final = 0.25
"""An entry that is to expire sooner than the ones before is noticed within this time."""


class News(NamedTuple):
    """Another control state, and what else a replica has to forget.

    resets   fields of the table `resets` since the last news; None: unknown, so everything
    keys     records of the registry that were changed, None for those that went; None: unknown which
    """

    control: Control
    resets: tuple[str, ...] | None
    keys: Mapping[str, Entry | None] | None


class Subscription(Protocol):
    """Calls `hint` when it begins to listen, and for every message. Raises StoreUnavailable when it ends."""

    async def listen(self, channel: bytes, hint: Callable[[], None]) -> None: ...

    async def close(self) -> None: ...


class Audience(Protocol):
    """Who follows: told on the loop, between two requests."""

    def counted(self, follows: Follows) -> None:
        """A beat was answered."""

    def current(self) -> None:
        """What is in force here is what the store says."""

    def adopt(self, news: News) -> None:
        """Decide by another control state from now on."""

    def store_error(self, kind: str, message: str) -> None:
        """The store could not be asked."""

    def stale(self, why: str) -> None:
        """What is in force here is kept, because the store's state is empty, older, or cannot be followed; "" when
        that is over."""

    def replaced(self, before: Epoch, now: Epoch) -> None:
        """Another history than the one that was kept is in force now: what the store had lost is gone."""


class Follower:
    """Follows the control state of one store.

    replica       this replica's id; "" only reads, and is not counted
    says          what it says of itself, as JSON, given the epoch that it has and whether it is stale
    own_hash_key  the hash key came from the environment, so none is made in the store
    clock_ms      monotonic; `wall_ms` is the clock of this machine, used until the store has told its own
    warn          told once what an operator should change about the store; None does not look
    """

    def __init__(
        self,
        *,
        store: ControlStore,
        subscription: Subscription,
        prefix: str,
        replica: str,
        says: Callable[[Epoch, bool], bytes],
        own_hash_key: bool,
        audience: Audience,
        clock_ms: Callable[[], float],
        wall_ms: Callable[[], float],
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.book = Book()
        self._store = store
        self._subscription = subscription
        self._space = Space(prefix)
        self._changes = Changes(store=store, prefix=prefix)
        self._replica = replica
        self._audience = audience
        self._beats = Beats(
            store=store,
            prefix=prefix,
            replica=replica,
            says=says,
            own_hash_key=own_hash_key,
            counted=audience.counted,
            store_error=audience.store_error,
            clock_ms=clock_ms,
            wall_ms=wall_ms,
            warn=warn,
        )
        self.store_ms = self._beats.store_ms
        self._known: deque[Delta] = deque()
        self._stale = ""
        self._hint = asyncio.Event()
        self._moved = asyncio.Event()
        self._writing = asyncio.Lock()
        """Who makes the next state of the book: one at a time, and never while waiting for the store."""

    @property
    def epoch(self) -> Epoch:
        """The epoch in force here."""
        return self.book.control.epoch

    def hint(self) -> None:
        """Something may have changed: compare soon."""
        self._hint.set()

    async def reached(self, epoch: Epoch) -> None:
        """Wait until this epoch, or a later one, is in force here."""
        self.hint()
        while self.epoch.number < epoch.number:
            await self._moved.wait()

    async def once(self) -> bool:
        """One sign of life, and whatever it shows to be new; whether the store answered."""
        try:
            for _ in range(ROUNDS):
                theirs = await self._beats.beat(self.epoch, stale=bool(self._stale))
                if await self._compare(theirs):
                    break
            else:
                self.hint()  # there is more, and it comes faster than it can be followed
        except StoreUnavailable as exc:
            self._audience.store_error(exc.kind, str(exc))
            if exc.kind == "response":
                self._tell_stale(f"the store's control state cannot be followed: {exc}")
            return False
        except ValueError as exc:  # a field that no resource would have put there
            self._audience.store_error("response", f"the store's control state: {exc}")
            self._tell_stale(f"the store's control state cannot be followed: {exc}")
            return False
        await self._beats.look_at_policy()
        return True

    async def run(self) -> None:
        """Follow until cancelled."""
        parts = (self._listen, self._keep_beating, self._keep_following, self._keep_expiring)
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(part())

    async def sign_off(self) -> None:
        """A clean stop: this replica is not counted any more."""
        try:
            await self._beats.sign_off(self.epoch)
        except StoreUnavailable as exc:
            self._audience.store_error(exc.kind, str(exc))
        await self._subscription.close()
        await self._store.close()

    # --- when ---

    async def _keep_beating(self) -> None:
        """Say every second that this replica lives, however long the work on its lists takes."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                theirs = await self._beats.beat(self.epoch, stale=bool(self._stale))
            except StoreUnavailable as exc:
                self._audience.store_error(exc.kind, str(exc))
                continue
            if (theirs or NO_EPOCH) == self.epoch:
                self._audience.current()
            else:
                self.hint()

    async def _keep_following(self) -> None:
        """Compare at every hint; when there is none for a while, tidy up what became slow to look up."""
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._hint.wait()
            except TimeoutError:
                await self._tidy()
                continue
            self._hint.clear()
            if not await self.once():
                await asyncio.sleep(PERIOD_S / 2)  # the next beat gives a hint again

    async def _keep_expiring(self) -> None:
        """Let go of what expires, on time, whatever the store does."""
        while True:
            due_ms = self.book.next_due_ms
            wait_s = PERIOD_S if due_ms is None else (due_ms - self.store_ms()) / 1000
            await asyncio.sleep(min(max(0.001, wait_s), EXPIRY_LOOK_S))
            due_ms = self.book.next_due_ms
            if due_ms is not None and due_ms <= self.store_ms():
                async with self._writing:
                    await self._in_force(self.book.expire_steps(self.store_ms()))

    async def _tidy(self) -> None:
        """Make lists quicker to look up, unless there is something to follow: then another time."""
        steps = self.book.tidy_steps()
        async with self._writing:
            before = self.book.control
            for _ in steps:
                await asyncio.sleep(0)
                if self._hint.is_set():
                    return
            if self.book.control is not before:
                self._adopt(News(self.book.control, (), {}))

    async def _listen(self) -> None:
        """Keep a subscription; what is missed between two of them a comparison finds."""
        while True:
            try:
                await self._subscription.listen(self._space.channel, self.hint)
            except StoreUnavailable as exc:
                self._audience.store_error(exc.kind, str(exc))
            await asyncio.sleep(PERIOD_S / 2)

    # --- what is new ---

    async def _compare(self, theirs: Epoch | None) -> bool:
        """Do what follows from the store's epoch; whether all is done, else beat again. Raises StoreUnavailable."""
        match next_step(self.epoch, theirs, {delta.before for delta in self._known}):
            case Step.CURRENT:
                self._tell_stale("")
                self._audience.current()
                return True
            case Step.FOLLOW:
                await self._follow()
                return False
            case Step.RESTORE:
                await self._restore(theirs or NO_EPOCH)
                return False
            case Step.KEEP:
                found = "empty" if theirs is None else f"at epoch {theirs}"
                self._tell_stale(f"the store's control state is {found}, this replica's at {self.epoch}")
                return True

    async def _follow(self) -> None:
        """Apply the next changes, or read everything; adopt the outcome in one step."""
        deltas = await self._changes.deltas(self.epoch, DELTAS)
        if deltas is None:
            await self._read_whole()
            return
        async with self._writing:
            control = await in_steps(self.book.apply_steps(deltas, self.store_ms()))
            self._remember(deltas)
            self._adopt(News(control, _resets(deltas), _keys(deltas)))

    async def _read_whole(self) -> None:
        """Read all tables, page by page, and then what was changed meanwhile: together one state.

        It need not catch up with changes that began after the last page: they are followed as any other.
        """
        while (epoch := await self._changes.epoch()).number >= self.epoch.number:
            book = Book(self.book.control)
            lists = {name: await self._read_list(name, book) for name in LISTS}
            tables = {name: await self._read_table(name) for name in RECORDS}
            await in_steps(book.replace_steps(epoch, lists, tables, self.store_ms()))
            seen = await self._changes.epoch()
            passed = {epoch}
            while seen not in passed:
                deltas = await self._changes.deltas(book.control.epoch, DELTAS)
                if deltas is None:
                    break
                await in_steps(book.apply_steps(deltas, self.store_ms()))
                passed.update(delta.epoch for delta in deltas)
            if seen in passed:
                await self._say_again(tables["attack"])
                async with self._writing:
                    before, self.book = self.epoch, book
                    self._known.clear()
                    self._adopt(News(book.control, None, None))
                if self._stale:
                    self._audience.replaced(before, book.control.epoch)
                return

    async def _say_again(self, table: Mapping[str, Entry]) -> None:
        """Tell a store that lost the last word on attack mode what it was."""
        mine = kept_attack(self.book.control, table)
        if mine is None:
            return
        theirs = table.get(GLOBAL)
        with suppress(Conflict):  # somebody else did, or an operator has said something new
            await self._changes.change(
                "attack",
                put=[GLOBAL],
                payload=mine.members(),
                until_ms=mine.until_ms,
                actor=self._replica or "gate",
                action="restore",
                reason="the store had lost it",
                demand="absent" if theirs is None else "",
                if_value=None if theirs is None else theirs.written(),
            )

    async def _read_list(self, name: str, book: Book) -> LayeredSet:
        pending: deque[str] = deque()
        building = LayeredSet.build_steps(_drained(pending))
        cursor, more = 0, True
        while more:
            cursor, entries = await self._changes.page(name, cursor, PAGE)
            now_ms = self.store_ms()
            for field, entry in entries:
                if entry.stands(now_ms):
                    pending.append(field)
                    book.remember(name, field, entry.until_ms)
            more = cursor != 0
            while len(pending) >= SLICE:
                next(building)  # takes exactly so many
                await asyncio.sleep(0)
        return await in_steps(building)

    async def _read_table(self, name: str) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        cursor, more = 0, True
        while more:
            cursor, entries = await self._changes.page(name, cursor, PAGE)
            found |= dict(entries)
            more = cursor != 0
        return found

    async def _restore(self, theirs: Epoch) -> None:
        """Do the changes again that the store lost, until somebody else is doing so."""
        deltas = list(self._known)
        start = next(number for number, delta in enumerate(deltas) if delta.before == theirs)
        for delta in deltas[start:]:
            if not await self._changes.repeat(delta, self._replica or "gate"):
                return

    def _remember(self, deltas: list[Delta]) -> None:
        self._known.extend(deltas)
        fields = sum(len(delta.put) + len(delta.delete) for delta in self._known)
        while len(self._known) > REMEMBERED or fields > REMEMBERED_FIELDS:
            gone = self._known.popleft()
            fields -= len(gone.put) + len(gone.delete)

    async def _in_force(self, steps: Generator[None, None, Control]) -> None:
        """Adopt the same epoch's state in another form, or less what has expired."""
        before = self.book.control
        if await in_steps(steps) is not before:
            self._adopt(News(self.book.control, (), {}))

    def _adopt(self, news: News) -> None:
        self._audience.adopt(news)
        self._moved.set()
        self._moved.clear()

    def _tell_stale(self, why: str) -> None:
        if why != self._stale:
            self._stale = why
            self._audience.stale(why)


def _resets(deltas: Iterable[Delta]) -> tuple[str, ...]:
    return tuple(field for delta in deltas if delta.table == "resets" for field in delta.put)


def _keys(deltas: Iterable[Delta]) -> dict[str, Entry | None]:
    """The records of the registry that were changed, None for those that went."""
    keys: dict[str, Entry | None] = {}
    for delta in deltas:
        if delta.table == "keys":
            keys |= dict.fromkeys(delta.delete)
            keys |= dict.fromkeys(delta.put, Entry(delta.at_ms, delta.until_ms, delta.payload))
    return keys


def _drained(pending: deque[str]) -> Generator[str, None, None]:
    """What is pending, until nothing is."""
    while pending:
        yield pending.popleft()
