"""Following: how this process learns of changes, and says that it has them.

    hint (a published epoch, a new subscription) ─┐
    every second ─────────────────────────────────┴─> beat ─> compare epochs ─> deltas, or everything
                                                       ^                               │
                                                       └────────── say so <── adopt <──┘

The subscription is only a hint: what it loses, the comparison of the next second finds. A replica
also learns from a beat how many there are (its share of a limit in an outage, the size of leases), its
rank among them, and the fleet's hash key.

Fewer replicas than before are believed only when the store has said so for a while: after an
outage everybody else looks dead until their next sign of life, and a share that is too large
would admit too much.

Entries expire by the store's clock as last told, also while the store is silent.

It does not change anything, but for what the store lost: changes that this process has seen are
done again, and the last word on attack mode is said again, by whoever notices first.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from sidecar.control.changes import Changes, Conflict, ControlStore, Space
from sidecar.core.addresses import AddressSet
from sidecar.core.control import (
    FOLLOWED,
    GLOBAL,
    LISTS,
    NO_EPOCH,
    Book,
    Control,
    Delta,
    Entry,
    Epoch,
    Step,
    next_step,
)
from sidecar.core.prefix_table import SLICE
from sidecar.steps import in_steps
from sidecar.store import StoreUnavailable, scripts

PERIOD_S: Final = 1.0
SILENT_MS: Final = 5_000
"""A replica that did not say that it lives for this long is not counted."""
LOST_MS: Final = 300_000
"""Nor is it waited for any more after this long."""
PAGE: Final = 1_000
DELTAS: Final = 16
"""Changes applied at a time."""
REMEMBERED: Final = 64
REMEMBERED_FIELDS: Final = 20_000
"""Changes that this process can do again: so many, while their fields are not more than that."""
EXPIRED_PER_BEAT: Final = 100

_HASH_KEY: Final = re.compile(rb"(?:[0-9a-f]{64})?")
_POLICY: Final = re.compile(rb"^maxmemory_policy:(allkeys-[a-z-]+)", re.MULTILINE)


class Follows(NamedTuple):
    """What a beat said. `hash_key` is 64 hexadecimal digits, or b"" when there is none."""

    replicas: int
    rank: int
    hash_key: bytes


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

    def adopt(self, news: News) -> None:
        """Decide by another control state from now on."""

    def store_error(self, kind: str, message: str) -> None:
        """The store could not be asked."""

    def stale(self, why: str) -> None:
        """The store's control state is empty or older than what is in force; "" when that is over."""


class Follower:
    """Follows the control state of one store.

    replica       this replica's id; "" only reads, and is not counted
    says          what it says of itself, as JSON, given the epoch that it has
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
        says: Callable[[Epoch], bytes],
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
        self._heartbeat = scripts.read("heartbeat")
        names = ("replicas", "fleet", "hash_key", "epoch", "expiring", *FOLLOWED)
        self._keys = [self._space.key(name) for name in names]
        self._replica = replica
        self._says = says
        self._own_hash_key = own_hash_key
        self._audience = audience
        self._clock_ms = clock_ms
        self._offset_ms = wall_ms() - clock_ms()
        self._warn = warn
        self._candidate = b"" if own_hash_key else os.urandom(32).hex().encode()
        self._counted = (1, 0)
        self._fewer_since_s: float | None = None
        self._known: deque[Delta] = deque()
        self._stale = ""
        self._hint = asyncio.Event()
        self._moved = asyncio.Event()

    @property
    def epoch(self) -> Epoch:
        """The epoch in force here."""
        return self.book.control.epoch

    def store_ms(self) -> int:
        """The time by the store's clock."""
        return int(self._clock_ms() + self._offset_ms)

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
            while not await self._compare(await self._beat()):
                pass
        except StoreUnavailable as exc:
            self._fewer_since_s = None
            self._audience.store_error(exc.kind, str(exc))
            return False
        except ValueError as exc:  # a field that no resource would have put there
            self._audience.store_error("response", f"the store's control state: {exc}")
            return False
        await self._look_at_policy()
        return True

    async def run(self) -> None:
        """Follow until cancelled."""
        listening = asyncio.create_task(self._listen())
        loop = asyncio.get_running_loop()
        beat_s = loop.time() + PERIOD_S
        try:
            while True:
                await self._wait(beat_s - loop.time())
                await self._expire()
                if self._hint.is_set() or loop.time() >= beat_s:
                    self._hint.clear()
                    beat_s = loop.time() + PERIOD_S
                    await self.once()
                    await self._in_force(self.book.tidy_steps())
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def sign_off(self) -> None:
        """A clean stop: this replica is not counted any more."""
        if self._replica:
            try:
                await self._store.script(self._heartbeat, self._keys, self._arguments(b""))
            except StoreUnavailable as exc:
                self._audience.store_error(exc.kind, str(exc))
        await self._subscription.close()
        await self._store.close()

    # --- when ---

    async def _wait(self, most_s: float) -> None:
        """Until there is a hint, an entry expires, or so long has passed."""
        due_ms = self.book.next_due_ms
        if due_ms is not None:
            most_s = min(most_s, (due_ms - self.store_ms()) / 1000)
        try:
            async with asyncio.timeout(max(0.001, most_s)):
                await self._hint.wait()
        except TimeoutError:
            pass

    async def _listen(self) -> None:
        """Keep a subscription; what is missed between two of them a comparison finds."""
        while True:
            try:
                await self._subscription.listen(self._space.channel, self.hint)
            except StoreUnavailable as exc:
                self._audience.store_error(exc.kind, str(exc))
            await asyncio.sleep(PERIOD_S / 2)

    # --- a beat ---

    async def _beat(self) -> Epoch | None:
        """Say that this replica lives; the store's epoch. Raises StoreUnavailable."""
        says = self._says(self.epoch) if self._replica else b""
        sent_ms = self._clock_ms()
        said = await self._store.script(self._heartbeat, self._keys, self._arguments(says))
        match said:
            case [int(replicas), int(rank), bytes(hash_key), bytes(epoch), int(now_ms)]:
                self._offset_ms = now_ms - (sent_ms + self._clock_ms()) / 2
                self._audience.counted(Follows(*self._count(replicas, rank), self._usable(hash_key)))
            case _:
                raise StoreUnavailable("response", "the store's answer has not the shape of heartbeat's")
        try:
            return Epoch.parse(epoch.decode("ascii", "replace")) if epoch else None
        except ValueError as exc:
            raise StoreUnavailable("response", f"{self._keys[3].decode()} in the store: {exc}") from exc

    def _arguments(self, says: bytes) -> list[bytes]:
        numbers = [b"%d" % SILENT_MS, b"%d" % LOST_MS]
        names = [name.encode() for name in FOLLOWED]
        return [self._replica.encode(), *numbers, self._candidate, says, b"%d" % EXPIRED_PER_BEAT, *names]

    def _count(self, replicas: int, rank: int) -> tuple[int, int]:
        """How many replicas to reckon with, and which of them this one is."""
        now_s = asyncio.get_running_loop().time()
        if replicas >= self._counted[0]:
            self._counted, self._fewer_since_s = (replicas, rank), None
        elif self._fewer_since_s is None:
            self._fewer_since_s = now_s
        elif now_s - self._fewer_since_s >= SILENT_MS / 1000:
            self._counted, self._fewer_since_s = (replicas, rank), None
        return self._counted

    def _usable(self, hash_key: bytes) -> bytes:
        """The fleet's hash key; b"" for one that no replica made. It is offered again to a store that lost it."""
        if self._own_hash_key:
            return b""
        if not _HASH_KEY.fullmatch(hash_key):
            self._audience.store_error(
                "response", f"{self._keys[2].decode()} in the store is no hash key: delete it"
            )
            return b""
        self._candidate = hash_key or self._candidate
        return hash_key

    # --- what is new ---

    async def _compare(self, theirs: Epoch | None) -> bool:
        """Do what follows from the store's epoch; whether all is done, else beat again. Raises StoreUnavailable."""
        match next_step(self.epoch, theirs, {delta.before for delta in self._known}):
            case Step.CURRENT:
                self._tell_stale("")
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
        control = await in_steps(self.book.apply_steps(deltas, self.store_ms()))
        self._remember(deltas)
        keys: dict[str, Entry | None] = {}
        for delta in deltas:
            if delta.table == "keys":
                keys |= dict.fromkeys(delta.delete)
                keys |= dict.fromkeys(delta.put, Entry(delta.at_ms, delta.until_ms, delta.payload))
        resets = tuple(field for delta in deltas if delta.table == "resets" for field in delta.put)
        self._adopt(News(control, resets, keys))

    async def _read_whole(self) -> None:
        """Read all tables, page by page, and then what was changed meanwhile: together one state.

        It need not catch up with changes that began after the last page: they are followed as any other.
        """
        while (epoch := await self._changes.epoch()).number >= self.epoch.number:
            book = Book(self.book.control)
            lists = {name: await self._read_list(name, book) for name in LISTS}
            tables = {name: await self._read_table(name) for name in ("attack", "overrides")}
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
                if GLOBAL not in tables["attack"]:
                    await self._say_again(book.control.attack.get(GLOBAL))
                self.book = book
                self._known.clear()
                self._adopt(News(book.control, None, None))
                return

    async def _say_again(self, entry: Entry | None) -> None:
        """Tell a store that lost all word of attack mode what the last one was."""
        if entry is not None:
            with suppress(Conflict):  # somebody else did
                await self._changes.change(
                    "attack",
                    put=[GLOBAL],
                    payload=entry.members(),
                    until_ms=entry.until_ms,
                    actor=self._replica or "gate",
                    action="restore",
                    reason="the store had lost it",
                    demand="absent",
                )

    async def _read_list(self, name: str, book: Book) -> AddressSet:
        pending: deque[str] = deque()
        building = AddressSet.build_steps(_drained(pending))
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

    async def _expire(self) -> None:
        """Let go of what has expired; the store need not say so."""
        due_ms = self.book.next_due_ms
        if due_ms is not None and due_ms <= self.store_ms():
            await self._in_force(self.book.expire_steps(self.store_ms()))

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

    async def _look_at_policy(self) -> None:
        """Warn, once, of a store that may forget control keys when its memory is full."""
        if self._warn is None:
            return
        try:
            said = await self._store.command(b"INFO", b"memory")
        except StoreUnavailable as exc:
            if exc.kind == "response":  # it forbids the question: nothing to say
                self._warn = None
            return
        if isinstance(said, bytes) and (found := _POLICY.search(said)):
            policy = found[1].decode()
            self._warn(
                f"the store's maxmemory-policy is {policy}: when its memory is full it may forget counters, attack "
                "mode and the fleet's hash key; set it to noeviction"
            )
        self._warn = None


def _drained(pending: deque[str]) -> Generator[str, None, None]:
    """What is pending, until nothing is."""
    while pending:
        yield pending.popleft()
