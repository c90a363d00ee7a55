"""Doubles for the gate's tests: a loop whose time is an argument, a lane that answers on command, a waiter.

`VirtualLoop` is asyncio's own loop but for the clock: when nothing is ready, time jumps to the next timer, so
that a deadline of a minute passes at once and the same test always runs the same way. Unfaithful in this: work
takes no time, and no real descriptor may be waited for.

`ScriptedLane` grants as `store.memory` does, when the test says so. Unfaithful in this: a batch is carried out
the moment its answer is released, where a real store may have carried it out before.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from sidecar.core.addresses import AddressSet
from sidecar.core.control import EMPTY, Control, Entry
from sidecar.core.ledger import GrantRow, Ledger
from sidecar.core.model import Counts, Dimension, Filter, Limit, Mode, Outage, Request, Verdict
from sidecar.core.policy import Policy
from sidecar.core.proofs import Proofs
from sidecar.core.tokens import Trust
from sidecar.core.window import Ask
from sidecar.gate import Gate
from sidecar.store import Lane, StoreUnavailable
from sidecar.store.memory import MemoryStore
from tests.doubles import HASH_KEY

T = TypeVar("T")

DEADLINE_MS = 20
TURN_MS = 1
"""What the gate adds to a deadline: one turn of the loop, to read an answer that is already there."""
STALL_MS = DEADLINE_MS / 4
"""What it adds instead when it did not run when the deadline came."""


class _JumpingSelector(selectors.SelectSelector):
    """Waits no time at all, and tells the loop how long it would have waited."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen: everybody waits for somebody"
            self._jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._now_s = 1_000.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        return self._now_s

    def stall(self, ms: float) -> None:
        """Time goes by and nothing runs: every timer of that time is late."""
        self._now_s += ms / 1000

    def _jump(self, timeout_s: float) -> None:
        self._now_s += timeout_s


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario in virtual time. A task that failed unseen fails the test."""
    unseen: list[str] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unseen.append(str(context)))
        result = runner.run(scenario)
    assert not unseen, unseen
    return result


def now_ms() -> float:
    """The running loop's virtual time."""
    return asyncio.get_running_loop().time() * 1000


async def passes(ms: float) -> None:
    """Let this much virtual time go by."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    loop.call_later(ms / 1000, over.set_result, None)
    await over


async def turns(count: int = 5) -> None:
    """Let everything happen that can happen now."""
    for _ in range(count):
        await asyncio.sleep(0)


class ScriptedLane:
    """A lane in front of `store`. While `held`, each batch waits for `release` or `fail`.

    asked   the batches, in the order in which they came
    silent  a ping is not answered either, but held like a batch
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.held = False
        self.silent = False
        self.mad = False
        """Answers that are none, such as no store has ever given."""
        self.down = ""
        """With a text, every command fails at once with it: nobody listens there."""
        self.latency_ms = 0.0
        self.asked: list[list[tuple[bytes, Ask]]] = []
        self.pings = 0
        self.cancelled = 0
        self.closed = False
        self._under_way: deque[tuple[list[tuple[bytes, Ask]], asyncio.Future[None]]] = deque()

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    async def take(self, asks: Sequence[tuple[bytes, Ask]]) -> Iterable[GrantRow]:
        self.asked.append(list(asks))
        await self._wait(list(asks), held=self.held)
        if self.mad:
            return cast("Iterable[GrantRow]", [(1, 2)])
        return [self.store.take_one(key, ask) for key, ask in asks]

    async def ping(self) -> None:
        self.pings += 1
        await self._wait([], held=self.silent)

    async def close(self) -> None:
        self.closed = True

    def release(self) -> None:
        """Answer the oldest command under way."""
        self._oldest().set_result(None)

    def fail(self, kind: str = "connection") -> None:
        """Let the oldest command under way fail."""
        self._oldest().set_exception(StoreUnavailable(kind, "the test says so"))

    def _oldest(self) -> asyncio.Future[None]:
        _, future = self._under_way.popleft()
        return future

    async def _wait(self, asks: list[tuple[bytes, Ask]], *, held: bool) -> None:
        if self.down:
            raise StoreUnavailable("connection", self.down)
        assert not self._under_way, "two commands at once on one connection"
        if held:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._under_way.append((asks, future))
            try:
                await future
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        elif self.latency_ms:
            await passes(self.latency_ms)


class Client:
    """Who waits for a verdict: remembers it and when it came."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.answered_ms = 0.0

    def answer(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self.answered_ms = now_ms()

    @property
    def verdict(self) -> Verdict:
        assert len(self.verdicts) == 1, f"answered {len(self.verdicts)} times"
        return self.verdicts[0]

    @property
    def code(self) -> str:
        return self.verdict.reason.code


class Watcher:
    """What the gate told of the store."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.errors: list[str] = []
        self.up: list[bool] = []

    def store_call(self, elapsed_s: float, counters: int) -> None:
        assert elapsed_s >= 0
        self.calls.append(counters)

    def store_error(self, kind: str, message: str) -> None:
        assert message
        self.errors.append(kind)

    def store_up(self, up: bool) -> None:
        self.up.append(up)


class ScriptedRecords:
    """The registry's records. While `held`, answers wait; while `silent`, there is no store;
    while `older`, it has lost what the process has seen.

    Unfaithful: answers come in the same turn of the loop.
    """

    def __init__(self) -> None:
        self.table: dict[str, Entry] = {}
        self.asked: list[list[str]] = []
        self.silent = False
        self.older = False
        self._free = asyncio.Event()
        self._free.set()

    @property
    def held(self) -> bool:
        return not self._free.is_set()

    @held.setter
    def held(self, held: bool) -> None:
        if held:
            self._free.clear()
        else:
            self._free.set()

    async def records(self, key_ids: Sequence[str]) -> Sequence[Entry | None] | None:
        self.asked.append(sorted(key_ids))
        found = [self.table.get(key_id) for key_id in key_ids]
        await self._free.wait()
        await self.ping()
        return None if self.older else found

    async def ping(self) -> None:
        if self.silent:
            raise StoreUnavailable("connection", "nobody there")

    async def close(self) -> None: ...


class Bench:
    """A gate on `shards` scripted lanes that share one memory store. Made inside a running loop.

    `registry`: keys are checked, by the records in `records.table`; `beside`: on the store of another gate.
    """

    def __init__(
        self,
        *limits: Limit,
        shards: int = 1,
        deadline_ms: int = DEADLINE_MS,
        most_asks: int = 1_000,
        registry: bool = False,
        filters: Sequence[Filter] = (),
        exempt: Sequence[str] = (),
        beside: Bench | None = None,
    ) -> None:
        self.registry = registry
        self.filters = tuple(filters)
        self.exempt = AddressSet(exempt)
        self.watch = Watcher()
        self.store: MemoryStore = beside.store if beside else MemoryStore(clock_ms=lambda: int(now_ms()))
        self.lanes = [ScriptedLane(self.store) for _ in range(shards)]
        self.ledger = Ledger(shards=shards, most_asks=most_asks)
        lanes: list[Lane] = list(self.lanes)
        self.records = ScriptedRecords()
        if beside:
            self.records.table = beside.records.table
        self.proofs = Proofs(digest_key=b"1" * 32, hash_key=HASH_KEY, roles={}, trust=Trust(None, (), {}))
        self.gate = Gate(
            policy=self.policy(*limits),
            ledger=self.ledger,
            lanes=lanes,
            proofs=self.proofs,
            records=self.records,
            clock_ms=now_ms,
            wall_ms=lambda: int(now_ms()),
            deadline_ms=deadline_ms,
            watch=self.watch,
        )

    @property
    def lane(self) -> ScriptedLane:
        return self.lanes[0]

    def policy(
        self, *limits: Limit, filters: Sequence[Filter] | None = None, control: Control = EMPTY
    ) -> Policy:
        nobody = AddressSet(())
        return Policy(
            ledger=self.ledger,
            limits=limits,
            filters=self.filters if filters is None else filters,
            deny=nobody,
            allow=nobody,
            exempt=self.exempt,
            passes=nobody,
            hash_key=HASH_KEY,
            registry=self.registry,
            control=control,
        )

    def request(
        self,
        address: str,
        *,
        path: str = "/",
        cost: int | None = None,
        key: bytes | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Request:
        return Request(
            address=address, method="GET", host="", path=path, headers=headers or {}, cost=cost, key=key
        )

    def ask(
        self,
        address: str = "192.0.2.1",
        *,
        path: str = "/",
        cost: int | None = None,
        key: bytes | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Client:
        """Check one request; the client has its verdict already if the gate knew it."""
        client = Client()
        asker = self.request(address, path=path, cost=cost, key=key, headers=headers)
        verdict = self.gate.check(asker, client)
        if verdict is not None:
            client.answer(verdict)
        return client

    def hold(self, held: bool = True) -> None:
        for lane in self.lanes:
            lane.held = held


def limit(
    permits: int,
    *,
    name: str = "per-ip",
    per: str = "ip",
    window_ms: int = 60_000,
    slice_ms: int | None = None,
    outage: Outage = Outage.LOCAL,
    block_ms: int = 0,
    lease: bool = False,
    mode: Mode = Mode.ENFORCE,
    counts: Counts = Counts.REQUESTS,
) -> Limit:
    return Limit(
        name,
        (Dimension(per),),
        permits,
        window_ms,
        slice_ms or max(20, window_ms // 60),
        outage=outage,
        block_ms=block_ms,
        lease=lease,
        mode=mode,
        counts=counts,
    )
