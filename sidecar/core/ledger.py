"""The ledger: what this process holds of the fleet's counters.

For each counter it knows: permits in hand and the moment they lapse, until when the counter
is closed, and who waits for it. From that most requests are answered without the store:

    enough in hand        spend, answer now
    known to be closed    refuse now
    else                  want more, join the next batch

Life of a permit:

    store --grant--> in hand --spend--> used
                        |
                        +--lapse, idle, shutdown--> give back --> store

Permits in hand never outlive the store's slice (`lapse_ms`), so the bound of `window` holds
for all replicas together, however many permits lie in hands. A busy counter asks for more
than it needs now (a lease) by what it lately used, and never for so much that others starve.

Times are milliseconds of one monotonic clock that also runs while the machine is suspended.
The tables are bounded; eviction forgets, it never creates permits. Nothing here sends,
receives or waits: the gate moves `collect`'s asks to a store and its answers to `apply`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from sidecar.core.model import Limit
from sidecar.core.recent import Recent
from sidecar.core.window import NEVER, Ask

FOREVER: Final = float("inf")
DRIFT_SHARE: Final = 0.999
DRIFT_MS: Final = 1.0
IDLE_SWEEPS: Final = 4
"""Sweeps without a spend after which permits in hand go back: about a second."""

GrantRow = tuple[int, int, int, int, int, int, int]
"""The seven integers of `window.Grant`, as any tuple."""


class Waiter(Protocol):
    """A request that waits for one or more counters."""

    missing: int


_ask: Final = tuple.__new__
"""Makes an Ask of its nine integers in a third of the time of its own constructor (`bench` micro)."""

_NOBODY: Final[list[Waiter]] = []
"""Shared by all counters that nobody waits for; never added to."""


class Counter:
    """One limit for one subject, as this process knows it.

    in_hand            permits that may be spent until `lapse_ms`
    closed_until_ms    costs of `closed_cost` or more are refused until then
    retry_at_ms        when the store said that `closed_cost` permits could be granted
    room, grows_at_ms  room at the store as last told, and when it grows
    waiting, least     sum and smallest of the costs that wait for the next batch
    granted, lease     what the last slice used, and what to ask for beyond what waits
    left               what the last batch left in hand: so much at most was spent since without asking

    Most counters are asked once and never seen again, so what is not yet known stays in the class:
    making one costs four assignments instead of twenty.
    """

    in_hand = 0
    lapse_ms = 0.0
    slice_id = 0
    made = 0
    granted = 0
    left = 0
    closed_until_ms = 0.0
    closed_cost = 1
    retry_at_ms = 0.0
    room = 0
    grows_at_ms = 0.0
    waiting = 0
    least = 0
    waiters: list[Waiter] = _NOBODY
    lease = 0
    seen = 0
    idle_sweeps = 0

    def __init__(self, limit: Limit, permits: int, key: bytes, shard: int) -> None:
        self.limit = limit
        self.permits = permits
        self.key = key
        self.shard = shard


class Batch:
    """One batch under way: its asks, and for each ask the counter and who waits for the answer.

    A pure give-back has no counter: its answer is of no interest. `strays` stand for counters about which this
    process has forgotten everything while the batch was under way.
    """

    __slots__ = ("_places", "asks", "counters", "shard", "strays", "waiters")

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self.asks: list[tuple[bytes, Ask]] = []
        self.counters: list[Counter | None] = []
        self.waiters: list[list[Waiter]] = []
        self.strays: list[Counter] = []
        self._places: dict[Counter, int] | None = None

    def part(self, counter: Counter) -> None:
        """Let the answer for a counter, if one is awaited, go to a stray that nobody can spend from."""
        if self._places is None:
            self._places = {asked: at for at, asked in enumerate(self.counters) if asked is not None}
        at = self._places.pop(counter, None)
        if at is not None:
            stray = Counter(counter.limit, counter.permits, counter.key, counter.shard)
            self.counters[at] = stray
            self.strays.append(stray)


class Ledger:
    """All counters of this process, what is wanted of the store and what goes back to it.

    `replicas` is the number of replicas last seen; it sizes leases. `most` bounds the counters
    of one policy, `most_asks` the size of one batch.
    """

    def __init__(self, *, shards: int = 1, most: int = 65_536, most_asks: int = 1_000) -> None:
        self.replicas = 1
        self._most = most
        self._most_asks = most_asks
        self._wanted: list[list[Counter]] = [[] for _ in range(shards)]
        self._returns: list[list[tuple[bytes, Ask]]] = [[] for _ in range(shards)]
        self._under_way: list[Batch | None] = [None] * shards
        self._holding: dict[Counter, None] = {}

    @property
    def shards(self) -> int:
        return len(self._wanted)

    def tables(self, limits: int) -> list[Recent[str, Counter]]:
        """One empty table of counters by subject for each limit of a policy, sharing the bound.

        Who is forgotten is not lost: what it has in hand goes back by `sweep`, and the store still
        knows whether it is closed.
        """
        return [Recent(self._most // max(1, limits)) for _ in range(limits)]

    def want(self, counter: Counter, cost: int, waiter: Waiter) -> None:
        """Let `waiter` wait until the store has answered for `counter`."""
        if counter.waiting:
            counter.waiting += cost
            counter.waiters.append(waiter)
            if cost < counter.least:
                counter.least = cost
        else:
            self._wanted[counter.shard].append(counter)
            counter.waiting = counter.least = cost
            counter.waiters = [waiter]
        waiter.missing += 1

    def join(self, counter: Counter, waiter: Waiter) -> None:
        """Let `waiter` wait with those who wait for `counter` already; it may not need a permit of its own, and asks
        for none."""
        assert counter.waiting, "nobody would answer"
        counter.waiters.append(waiter)
        waiter.missing += 1

    def has_work(self, shard: int) -> bool:
        return bool(self._wanted[shard] or self._returns[shard])

    def collect(self, shard: int, now_ms: float) -> Batch:
        """What waits for this shard, as one batch of at most `most_asks` asks; it may be empty."""
        batch = self._under_way[shard] = Batch(shard)
        asks, counters, waiters = batch.asks, batch.counters, batch.waiters
        room = self._most_asks
        if returns := self._returns[shard]:
            # First, so that an ask of the same counter finds them there again.
            asks += returns[: (room + 1) // 2]
            self._returns[shard] = returns[len(asks) :]
            counters += [None] * len(asks)
            waiters += [_NOBODY] * len(asks)
            room -= len(asks)
        wanted, self._wanted[shard] = self._wanted[shard], []
        if len(wanted) > room:
            self._wanted[shard] = wanted[room:]
            del wanted[room:]
        replicas = self.replicas
        for counter in wanted:
            limit = counter.limit
            want = counter.waiting
            if not want:
                continue  # the last batch answered them
            if limit.lease and (counter.room or counter.lapse_ms):
                want += _lease(counter, now_ms, replicas)
            asks.append(
                (
                    counter.key,
                    _ask(
                        Ask,
                        (
                            counter.permits,
                            limit.window_ms,
                            limit.slice_ms,
                            want,
                            counter.least,
                            counter.in_hand,
                            counter.slice_id,
                            counter.made,
                            limit.block_ms,
                        ),
                    ),
                )
            )
            counters.append(counter)
            waiters.append(counter.waiters)
            counter.in_hand = 0
            counter.waiting = 0
            counter.waiters = _NOBODY
        return batch

    def apply(self, batch: Batch, grants: Iterable[GrantRow], sent_ms: float, now_ms: float) -> None:
        """Take the store's answers into hand. `sent_ms` is when the batch left."""
        several = self.replicas > 1
        for counter, waiters, (_, ask), grant in zip(
            batch.counters, batch.waiters, batch.asks, grants, strict=True
        ):
            if counter is None:
                continue
            if counter.waiting:
                # Who came while the batch was under way is answered from it too. Else the next batch would
                # give back what is now in hand and ask for it again, and the next one, for ever.
                waiters += counter.waiters
                counter.waiting = 0
                counter.waiters = _NOBODY
            granted, room, slice_id, slice_left_ms, retry_ms, next_ms, made = grant
            counter.room = room
            counter.grows_at_ms = FOREVER if next_ms == NEVER else now_ms + next_ms
            if granted:
                if counter.in_hand:
                    self._give_back(counter, counter.in_hand, counter.slice_id, counter.made)
                counter.granted = granted if slice_id != counter.slice_id else counter.granted + granted
                counter.in_hand = granted
                counter.lapse_ms = sent_ms + slice_left_ms * DRIFT_SHARE - DRIFT_MS
                counter.slice_id = slice_id
                counter.made = made
            # Lapsed on the way, they go back with the next ask: only its answer says what is closed.
            if retry_ms == 0 or (granted and counter.lapse_ms <= now_ms):
                counter.retry_at_ms = counter.closed_until_ms = 0.0
                continue
            counter.closed_cost = ask.need
            counter.retry_at_ms = FOREVER if retry_ms == NEVER else now_ms + retry_ms
            counter.closed_until_ms = counter.retry_at_ms
            if counter.limit.block_ms and granted == ask.want:
                # Spent, but nobody was refused yet: the next request asks, and its refusal closes it for all.
                counter.closed_until_ms = 0.0
            elif several and counter.limit.lease and retry_ms > slice_left_ms:
                counter.closed_until_ms = now_ms + slice_left_ms

    def settle(self, batch: Batch) -> None:
        """After the waiting requests were judged again: remember who still holds permits."""
        for counter in batch.counters:
            if counter is None:
                continue
            if counter.in_hand:
                counter.left = counter.in_hand
                self._holding[counter] = None
            elif counter.left:
                counter.left = 0
        self._under_way[batch.shard] = None
        for stray in batch.strays:
            self.release(stray)

    def sweep(self, now_ms: float) -> None:
        """Queue for return what lapsed or lies idle; to be called about four times a second."""
        done: list[Counter] = []
        for counter in self._holding:
            if counter.in_hand and now_ms < counter.lapse_ms:
                if counter.in_hand != counter.seen:
                    counter.seen = counter.in_hand
                    counter.idle_sweeps = 0
                    continue
                counter.idle_sweeps += 1
                if counter.idle_sweeps < IDLE_SWEEPS:
                    continue
            done.append(counter)
        for counter in done:
            self.release(counter)

    def release(self, counter: Counter) -> None:
        """Give back what a counter has in hand."""
        self._holding.pop(counter, None)
        counter.seen = 0
        counter.idle_sweeps = 0
        if counter.in_hand:
            self._give_back(counter, counter.in_hand, counter.slice_id, counter.made)
            counter.left = max(0, counter.left - counter.in_hand)
            counter.in_hand = 0
            counter.lease = 0
            counter.retry_at_ms = counter.closed_until_ms = 0.0

    def forget(self, counter: Counter) -> None:
        """End what is known here of a counter: its permits changed, or what it had used was reset.

        Permits in hand go back. So does what a batch under way brings, which was asked on other terms; who waits
        for that asks again.
        """
        batch = self._under_way[counter.shard]
        if batch is not None:
            batch.part(counter)
        self.release(counter)
        counter.closed_cost = 1
        counter.retry_at_ms = counter.closed_until_ms = counter.grows_at_ms = 0.0
        counter.room = counter.granted = counter.lease = 0

    def release_all(self) -> None:
        """Give back everything: a clean stop."""
        for counter in list(self._holding):
            self.release(counter)

    def abandon(self) -> list[Waiter]:
        """Forget what is wanted and not yet asked (the store is silent); returns who waited."""
        waiters: list[Waiter] = []
        for shard, wanted in enumerate(self._wanted):
            for counter in wanted:
                waiters += counter.waiters
                counter.waiters = _NOBODY
                counter.waiting = 0
            self._wanted[shard] = []
            self._returns[shard] = []
        return waiters

    def _give_back(self, counter: Counter, permits: int, slice_id: int, made: int) -> None:
        limit = counter.limit
        returns = self._returns[counter.shard]
        if len(returns) < self._most:
            ask = Ask(
                counter.permits,
                limit.window_ms,
                limit.slice_ms,
                0,
                1,
                permits,
                slice_id,
                made,
                limit.block_ms,
            )
            returns.append((counter.key, ask))


def enough(counter: Counter, cost: int, now_ms: float) -> bool:
    """Whether `cost` permits can be spent from what is in hand."""
    return counter.in_hand >= cost and now_ms < counter.lapse_ms


def closed(counter: Counter, cost: int, now_ms: float) -> bool:
    """Whether the counter is known to refuse `cost`, without asking: what is in hand would go back first."""
    return now_ms < counter.closed_until_ms and cost - counter.in_hand >= counter.closed_cost


def _lease(counter: Counter, now_ms: float, replicas: int) -> int:
    """How many permits to ask for beyond what waits now.

    Asked again within one slice: the last lease was too small, double it. In a new slice:
    half of what the last one used. At most a quarter of this replica's share of the room.
    """
    if now_ms < counter.lapse_ms:
        counter.lease = 2 * counter.lease + counter.waiting
    else:
        counter.lease = (counter.granted - counter.in_hand) // 2
        counter.granted = 0
    most = counter.room // (4 * replicas)
    counter.lease = min(counter.lease, most)
    return counter.lease
