"""The gate, the spine of the process: decide, wait for grants, decide again.

`check` is synchronous. When the ledger lacks permits the request joins the current batch and
is judged again, by the same function, when the batch's answer has come.

    check --verdict--------------------------------------> front
      | None
      v
    waiting --(lane: collect, take, apply)--> judged again --> waiter.answer
      |
      +--deadline--> outage policy, circuit breaker opens

One lane per shard; one batch of a lane is under way at a time, and whatever arrives meanwhile
is its next batch. A command in flight is never cancelled: a late answer is applied, its
grants are in hand until their slice ends.

A deadline is the store's time to answer. A process that did not run (starved, stopped, suspended)
finds its timers overdue and its answers unread in the socket, so it reads before it judges.

Breaker: the first missed deadline or error opens it, and from then on nobody waits; a probe
that is answered within the deadline closes it.

A request that presents a credential which has not been proved yet is judged in two turns: may it be tried,
and then whoever it names. What that takes (permits to fail, a record of the registry) it waits for like any
other (see `records`).

What is decided is `core.decide`'s business, what is held `core.ledger`'s, who is who `core.proofs`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from sidecar.core.bound import Bound
from sidecar.core.decide import judge, judge_alone, lacking
from sidecar.core.ledger import FOREVER, Batch, Ledger
from sidecar.core.model import Request, Source, Verdict
from sidecar.core.policy import Policy
from sidecar.core.proofs import Proofs
from sidecar.core.trial import Lack, Missing, Tried, bind, judge_trial, judge_trial_alone
from sidecar.records import Records, RecordStore
from sidecar.share import Share
from sidecar.store import Lane, Pinged, StoreUnavailable
from sidecar.supervision import persistently

SWEEP_S: Final = 0.25
PROBE_S: Final = 0.025
PROBE_MOST_S: Final = 1.0
TURN_S: Final = 0.001
TURNS: Final = 3
"""Of the loop, from an answer in the socket to its verdicts: one reads it, one wakes the lane, one to spare."""
STALL: Final = 0.25
"""Of the deadline: a timer that fires later than this says that this process did not run, and
whoever waited then waits as long again, once."""
FAREWELL_S: Final = 1.0
"""How long a stop waits for the store to take back what is in hand."""

_log = logging.getLogger("portcullis.gate")


class Waiter(Protocol):
    """Who asked: gets the verdict once, on the loop, unless it was given at once."""

    def answer(self, verdict: Verdict) -> None: ...


class Watch(Protocol):
    """Who is told what the store does (metrics, log)."""

    def store_call(self, elapsed_s: float, counters: int) -> None: ...

    def store_error(self, kind: str, message: str) -> None: ...

    def store_up(self, up: bool) -> None: ...


class Pending:
    """A request that waits for the store."""

    __slots__ = ("answered", "bound", "deadline_ms", "missing", "request", "waited", "waiter")

    def __init__(self, request: Request, bound: Bound, waiter: Waiter, deadline_ms: float) -> None:
        self.request = request
        self.bound = bound
        self.waiter = waiter
        self.deadline_ms = deadline_ms
        self.missing = 0
        self.answered = self.waited = False


class Gate:
    """One replica's decisions.

    proofs    who is who, for policies with a registry; `records` is where it lies
    clock_ms  monotonic, also runs while suspended; `wall_ms` is the store's clock, by which keys end
    """

    def __init__(
        self,
        *,
        policy: Policy,
        ledger: Ledger,
        lanes: Sequence[Lane],
        proofs: Proofs,
        records: RecordStore,
        clock_ms: Callable[[], float],
        wall_ms: Callable[[], int],
        deadline_ms: int,
        watch: Watch,
        most_local: int = 65_536,
    ) -> None:
        self.attack = False
        self._policy = policy
        self._ledger = ledger
        self._proofs = proofs
        self._clock_ms = clock_ms
        self._wall_ms = wall_ms
        self._deadline_ms = deadline_ms
        self._watch = watch
        self._lanes = lanes
        self.share = Share(replicas=lambda: ledger.replicas, clock_ms=clock_ms, most=most_local)
        self._records = Records[Pending](
            store=records, proofs=proofs, clock_ms=clock_ms, answered=self._read_records, failed=self._trip
        )
        self._waiting: deque[Pending] = deque()
        self._timer: asyncio.Handle | None = None
        self._wakes: list[asyncio.Event] = []
        self._locks: list[asyncio.Lock] = []
        self._sent_ms = [FOREVER] * len(lanes)
        self._tasks: list[asyncio.Task[None]] = []
        self._open = True
        self._probe_after_s = PROBE_S
        self._probing: asyncio.Task[None] | None = None

    @property
    def policy(self) -> Policy:
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        """Switch to another policy, in one step: the next request is judged by it."""
        self._policy = policy

    @property
    def store_up(self) -> bool:
        """Whether the circuit breaker lets requests wait for the store."""
        return not self._open

    def check(self, request: Request, waiter: Waiter) -> Verdict | None:
        """The verdict, or None: then `waiter.answer` gets it later, within the deadline."""
        now_ms = self._clock_ms()
        bound = request.bound
        if request.key is not None:  # whose it is may change with time
            bound = self._bind(request)
        elif type(bound) is not Bound or bound.policy is not self._policy:
            bound = self._policy.bind(request)
        missing: Missing = Lack.PERMITS
        if bound.trial:
            bound, verdict, missing = self._try(request, bound, now_ms, Source.MEMORY, waited=False)
        else:
            verdict = judge(bound, self.attack, now_ms, Source.MEMORY)
        if verdict is not None:
            return verdict
        if self._open:
            return self._alone(request, bound, now_ms)
        pending = Pending(request, bound, waiter, now_ms + self._deadline_ms)
        self._want(pending, missing, now_ms)
        self._waiting.append(pending)
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline_ms / 1000, self._due)
        return None

    def forget(self, limit: str, kind: str, value: str) -> None:
        """Forget what a `key`, `tenant` or `address` has used under a limit, in an outage, too.

        A limit that this replica does not have, or that counts by something else here, has nothing to forget.
        """
        try:
            chosen = self._policy.chosen(limit, kind, value)
        except ValueError:
            return
        self._policy = self._policy.forget(chosen)
        self.share.forget(chosen)

    async def start(self) -> None:
        """Start the lanes; the first probe decides whether the store is there."""
        self._loop = asyncio.get_running_loop()
        self._wakes = [asyncio.Event() for _ in self._lanes]
        self._locks = [asyncio.Lock() for _ in self._lanes]
        self._tasks = [asyncio.create_task(self._run(shard)) for shard in range(len(self._lanes))]
        self._tasks.append(asyncio.create_task(self._sweep()))
        self._tasks.append(asyncio.create_task(persistently("reading records", self._records.run)))
        await self._probe_once()
        if self._open:
            self._watch.store_up(False)
            self._probing = asyncio.create_task(self._probe())

    async def stop(self) -> None:
        """Give back what is in hand, answer who still waits, and close. Nothing may be checked afterwards."""
        self._ledger.release_all()
        for wake in self._wakes:
            wake.set()
        until_s = self._loop.time() + FAREWELL_S
        while self._loop.time() < until_s:
            if self._open or not self._busy():
                break
            await asyncio.sleep(0.005)
        if self._timer is not None:
            self._timer.cancel()
        self._open = True
        self._answer_alone(self._waiting)
        tasks = [*self._tasks, *([self._probing] if self._probing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane in self._lanes:
            await lane.close()
        await self._records.store.close()

    def _busy(self) -> bool:
        """Whether a batch is under way or waits to be sent."""
        under_way = any(sent_ms != FOREVER for sent_ms in self._sent_ms)
        return under_way or any(self._ledger.has_work(shard) for shard in range(len(self._lanes)))

    def _bind(self, request: Request) -> Bound:
        return bind(request, self._policy, self._proofs, self._wall_ms())

    def _try(self, request: Request, trial: Bound, now_ms: float, source: Source, *, waited: bool) -> Tried:
        wall_ms = self._wall_ms()
        return judge_trial(trial, request, self._proofs, self.attack, waited, now_ms, wall_ms, source)

    def _alone(self, request: Request, bound: Bound, now_ms: float) -> Verdict:
        """The verdict without the store."""
        if bound.trial or bound.policy is not self._policy:
            bound = self._bind(request)  # it has waited: by what is in force and known now
            verdict = None if bound.trial else judge(bound, self.attack, now_ms, Source.MEMORY)
            if verdict is not None:
                return verdict
        if not bound.trial:
            return judge_alone(bound, now_ms, self.share.take)
        return judge_trial_alone(
            bound,
            request,
            self._proofs,
            attack=self.attack,
            now_ms=now_ms,
            wall_ms=self._wall_ms(),
            take=self.share.take,
            look=lambda counter, _, need: self.share.look(counter, need),
        )

    def _want(self, pending: Pending, missing: Missing, now_ms: float) -> None:
        if isinstance(missing, str):
            self._records.want(missing, pending)
            return
        if missing is Lack.OTHERS:
            pending.waited = True
            for counter, _ in pending.bound.charges:
                if counter.waiting:
                    self._ledger.join(counter, pending)
            return
        want, wakes = self._ledger.want, self._wakes
        for counter, cost in lacking(pending.bound, now_ms):
            want(counter, cost, pending)
            wakes[counter.shard].set()

    async def _run(self, shard: int) -> None:
        """The lane: one batch after the other, as long as there is something to ask."""
        ledger, lane, wake = self._ledger, self._lanes[shard], self._wakes[shard]
        while True:
            await wake.wait()
            wake.clear()
            while not self._open and ledger.has_work(shard):
                sent_ms = self._clock_ms()
                batch = ledger.collect(shard, sent_ms)
                if not batch.asks:
                    continue
                self._sent_ms[shard] = sent_ms
                try:
                    async with self._locks[shard]:
                        grants = await lane.take(batch.asks)
                    now_ms = self._clock_ms()
                    self._watch.store_call((now_ms - sent_ms) / 1000, len(batch.asks))
                    if not self._open:
                        self._probe_after_s = PROBE_S
                    ledger.apply(batch, grants, sent_ms, now_ms)
                    self._again(batch, now_ms)
                    ledger.settle(batch)
                except StoreUnavailable as exc:
                    self._trip(exc.kind, str(exc))
                except Exception as exc:
                    # A lane that ended would leave everybody waiting until the deadline, for ever.
                    _log.exception("a batch failed")
                    self._trip("other", repr(exc))
                finally:
                    self._sent_ms[shard] = FOREVER

    def _again(self, batch: Batch, now_ms: float) -> None:
        """Judge those whose last missing counter this batch has answered."""
        for waiters in batch.waiters:
            for pending in waiters:
                assert isinstance(pending, Pending)
                pending.missing -= 1
                if pending.missing or pending.answered:
                    continue
                self._judge_again(pending, now_ms)

    def _read_records(self, waiting: Iterable[Pending]) -> None:
        """Judge those again who waited for records."""
        now_ms = self._clock_ms()
        for pending in waiting:
            if not pending.answered:
                self._judge_again(pending, now_ms)

    def _judge_again(self, pending: Pending, now_ms: float) -> None:
        bound = pending.bound
        missing: Missing = Lack.PERMITS
        if bound.trial:
            bound = self._bind(pending.request)  # by what is in force and known now
        if bound.trial:
            pending.bound, verdict, missing = self._try(
                pending.request, bound, now_ms, Source.STORE, waited=pending.waited
            )
        else:
            pending.bound, verdict = bound, judge(bound, self.attack, now_ms, Source.STORE)
        if verdict is not None:
            pending.answered = True
            pending.waiter.answer(verdict)
        elif self._open:
            self._answer_alone([pending])
        else:
            self._want(pending, missing, now_ms)

    def _due(self) -> None:
        """The oldest deadline has come. An answer that already lies in the socket is read first:
        a busy loop is not a silent store. After a stall, what was never sent is sent, too."""
        self._timer = None
        waiting = self._waiting
        while waiting and waiting[0].answered:
            waiting.popleft()
        if not waiting:
            return
        late_s = (self._clock_ms() - waiting[0].deadline_ms) / 1000
        if late_s <= -TURN_S:  # who began this wait has been answered
            self._timer = self._loop.call_later(-late_s, self._due)
            return
        stall_s = self._deadline_ms * STALL / 1000
        self._timer = self._loop.call_later(stall_s if late_s > stall_s else TURN_S, self._read, TURNS)

    def _read(self, turns: int) -> None:
        """Let the loop turn: time alone does not read, when the process has just stalled again."""
        if turns:
            self._timer = self._loop.call_soon(self._read, turns - 1)
        else:
            self._overdue()

    def _overdue(self) -> None:
        """Answer those whose deadline has passed without the store; open the breaker if it is silent."""
        self._timer = None
        now_ms = self._clock_ms()
        waiting = self._waiting
        sent_ms = (*self._sent_ms, self._records.sent_ms)
        silent = any(now_ms - since_ms >= self._deadline_ms for since_ms in sent_ms)
        if silent and any(not pending.answered for pending in waiting):
            self._trip("timeout", f"no answer within {self._deadline_ms} ms")
            return
        overdue: list[Pending] = []
        while waiting and (waiting[0].answered or waiting[0].deadline_ms <= now_ms):
            overdue.append(waiting.popleft())
        self._answer_alone(overdue)
        if waiting:
            delay_s = max(TURN_S, (waiting[0].deadline_ms - now_ms) / 1000)
            self._timer = self._loop.call_later(delay_s, self._due)

    def _trip(self, kind: str, message: str) -> None:
        """Open the breaker: nobody waits for the store until a probe is answered."""
        self._watch.store_error(kind, message)
        self._ledger.abandon()
        if not self._open:
            self._open = True
            self._watch.store_up(False)
        waiting, self._waiting = self._waiting, deque()
        self._answer_alone(waiting)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._probe())

    def _answer_alone(self, waiting: Iterable[Pending]) -> None:
        now_ms = self._clock_ms()
        for pending in waiting:
            if not pending.answered:
                pending.answered = True
                pending.waiter.answer(self._alone(pending.request, pending.bound, now_ms))

    async def _probe(self) -> None:
        """Ask the store for a sign of life until it gives one within the deadline.

        The pause doubles until a batch is answered: a store that lives and yet refuses batches
        (a read-only copy, one without memory) is tried about once a second.
        """
        while self._open:
            await asyncio.sleep(self._probe_after_s)
            self._probe_after_s = min(2 * self._probe_after_s, PROBE_MOST_S)
            await self._probe_once()

    async def _probe_once(self) -> None:
        """Close the breaker if every lane answers in time. A late batch is waited for first.

        A late answer may be this process's own fault (it stalled, it was still connecting): the store is
        asked once more.
        """
        most_ms = self._deadline_ms
        asked: list[tuple[Pinged, asyncio.Lock]] = list(zip(self._lanes, self._locks, strict=True))
        if self._policy.registry:
            asked.append((self._records.store, self._records.lock))
        for lane, lock in asked:
            async with lock:
                try:
                    if await self._ping_ms(lane) > most_ms and await self._ping_ms(lane) > most_ms:
                        return
                except StoreUnavailable as exc:
                    self._watch.store_error(exc.kind, str(exc))
                    return
                except Exception as exc:  # as in `_run`: nobody else would ever ask again
                    _log.exception("a probe failed")
                    self._watch.store_error("other", repr(exc))
                    return
        self._open = False
        self._watch.store_up(True)
        for wake in self._wakes:
            wake.set()

    async def _ping_ms(self, lane: Pinged) -> float:
        sent_ms = self._clock_ms()
        await lane.ping()
        return self._clock_ms() - sent_ms

    async def _sweep(self) -> None:
        """Queue idle and lapsed permits for return, and drop answered requests."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._ledger.sweep(self._clock_ms())
            while self._waiting and self._waiting[0].answered:
                self._waiting.popleft()
            for shard, wake in enumerate(self._wakes):
                if self._ledger.has_work(shard):
                    wake.set()
