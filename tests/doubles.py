"""A fleet in virtual time: real policy, ledger and judge in every replica, one real memory store between them.

What is simulated is everything around them: clocks that differ and drift, a network that delays and loses,
replicas that crash. The lane of a replica does what the gate's lane does (one batch at a time, a late answer is
applied, a lost one is given up), without asyncio.

Unfaithful: events take no time, a batch is one message each way, there is no circuit breaker, and a request
without an answer at its deadline is refused (`outage: closed`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count, repeat
from types import MappingProxyType
from typing import Final, NamedTuple

from sidecar.core.addresses import AddressSet
from sidecar.core.bound import Bound
from sidecar.core.control import EMPTY, Control, Entry
from sidecar.core.decide import judge, lacking
from sidecar.core.keys import Key, Kind, Secret, hash_secret, record, secret_of
from sidecar.core.ledger import Batch, Ledger
from sidecar.core.model import (
    Cost,
    Counts,
    Dimension,
    Filter,
    Limit,
    Match,
    Mode,
    Outage,
    Request,
    Source,
    Verdict,
)
from sidecar.core.policy import NO_NAMES, Policy
from sidecar.core.query_names import CredentialNames
from sidecar.core.window import Grant, slice_for
from sidecar.store.memory import MemoryStore

HASH_KEY: Final = b"k" * 32
EPOCH_MS: Final = 1_700_000_000_000
"""What the store's clock says when the fleet's true time is 0."""
SWEEP_MS: Final = 250.0
DEADLINE_MS: Final = 20.0
PATIENCE_MS: Final = 1_000.0
EVERYTHING: Final = Match()
ONE: Final = Cost()


# --- builders -----------------------------------------------------------------


def limit(
    name: str = "per-ip",
    permits: int = 10,
    window_ms: int = 10_000,
    *,
    per: Sequence[str] = ("ip",),
    slices: int = 60,
    match: Match = EVERYTHING,
    mode: Mode = Mode.ENFORCE,
    outage: Outage = Outage.LOCAL,
    cost: Cost = ONE,
    block_ms: int = 0,
    lease: bool = True,
    plans: Mapping[str, int] = MappingProxyType({}),
    counts: Counts = Counts.REQUESTS,
) -> Limit:
    """A limit with the slices that a configuration would give it. `per` as there: `ip`, `header:x-tenant`."""
    parts = (part.partition(":") for part in per)
    return Limit(
        name,
        tuple(Dimension(kind, header.encode()) for kind, _, header in parts),
        permits,
        window_ms,
        slice_for(window_ms, slices),
        match=match,
        mode=mode,
        outage=outage,
        cost=cost,
        block_ms=block_ms,
        lease=lease and not block_ms,
        plans=plans,
        counts=counts,
    )


def policy(
    limits: Iterable[Limit] = (),
    filters: Iterable[Filter] = (),
    *,
    ledger: Ledger | None = None,
    deny: Iterable[str] = (),
    allow: Iterable[str] = (),
    exempt: Iterable[str] = (),
    passes: Iterable[str] = (),
    default_allow: bool = True,
    ipv6_prefix: int = 64,
    hashed_headers: Sequence[bytes] = (),
    registry: bool = False,
    tenants: Mapping[str, Sequence[str]] = MappingProxyType({}),
    query_names: CredentialNames = NO_NAMES,
    query_mode: Mode = Mode.ENFORCE,
    control: Control = EMPTY,
) -> Policy:
    """A policy of these rules, with a ledger of its own unless one is given."""
    return Policy(
        ledger=Ledger() if ledger is None else ledger,
        limits=tuple(limits),
        filters=tuple(filters),
        deny=AddressSet(deny),
        allow=AddressSet(allow),
        exempt=AddressSet(exempt),
        passes=AddressSet(passes),
        default_allow=default_allow,
        ipv6_prefix=ipv6_prefix,
        hash_key=HASH_KEY,
        hashed_headers=hashed_headers,
        registry=registry,
        tenants={tenant: AddressSet(cidrs) for tenant, cidrs in tenants.items()},
        query_names=query_names,
        query_mode=query_mode,
        control=control,
    )


def request(
    address: str = "203.0.113.9",
    *,
    method: str = "GET",
    host: str = "shop.example",
    path: str = "/",
    headers: dict[bytes, bytes] | None = None,
    content_type: bytes | None = None,
    content_length: int | None = None,
    tls: str | None = None,
    query: bytes = b"",
    key: bytes | None = None,
    malformed: str | None = None,
    cost: int | None = None,
) -> Request:
    """What a front would have read."""
    return Request(
        address=address,
        method=method,
        host=host,
        path=path,
        headers=headers or {},
        content_type=content_type,
        content_length=content_length,
        tls=tls,
        query=query,
        key=key,
        malformed=malformed,
        cost=cost,
    )


# --- keys of the registry -----------------------------------------------------


def secret(number: int = 0) -> str:
    """The text of a secret; each number has another."""
    return secret_of(number.to_bytes(32))


def presented(key_id: str = "k_a", number: int = 0, way: str = "k") -> bytes:
    """A key with its secret as a front hands it on, see `credentials`."""
    return f"{way}{key_id}{chr(0) if way in 'sc' else '.'}{secret(number)}".encode()


def registered(
    key_id: str = "k_a",
    *,
    kind: Kind = Kind.SERVER,
    tenant: str = "",
    plan: str = "",
    scopes: Sequence[str] = (),
    cidrs: Sequence[str] = (),
    origins: Sequence[str] = (),
    enabled: bool = True,
    expires_ms: int = 0,
    created_ms: int = 0,
    secrets: Sequence[tuple[int, int]] = ((0, 0),),
    hash_key: bytes = HASH_KEY,
) -> Entry:
    """A key as the store keeps it; `secrets` are numbers and until when each is valid, the newest first."""
    key = Key(
        id=key_id,
        kind=kind,
        label="of a test",
        tenant=tenant,
        plan=plan,
        scopes=tuple(scopes),
        cidrs=tuple(cidrs),
        origins=tuple(origins) or (("*",) if kind is Kind.CLIENT else ()),
        enabled=enabled,
        expires_ms=expires_ms,
        created_ms=created_ms,
        changed_ms=created_ms,
        secrets=tuple(
            Secret(hash_secret(secret(number).encode(), hash_key), 0, until_ms)
            for number, until_ms in secrets
        ),
    )
    return Entry(created_ms, 0, json.dumps(record(key)).encode())


# --- the oracle ---------------------------------------------------------------


class Admission(NamedTuple):
    at_ms: float
    cost: int


def busiest(admissions: Sequence[Admission], window_ms: float) -> int:
    """The most that any closed interval of this length holds: every one that begins at an admission is counted."""
    return max(
        (
            sum(cost for at_ms, cost in admissions if start_ms <= at_ms <= start_ms + window_ms)
            for start_ms, _ in admissions
        ),
        default=0,
    )


# --- the fleet ----------------------------------------------------------------


class Fate(NamedTuple):
    """What the network does to one batch: milliseconds on the way out and back, and whether it arrives at all.

    `out_ms` is more than 0: in the last millisecond of a slice a replica asks again and again, and time must pass.
    """

    out_ms: float = 0.2
    back_ms: float = 0.2
    request_lost: bool = False
    reply_lost: bool = False


class Clock(NamedTuple):
    """A replica's monotonic clock: an offset of its own, and a rate (1.0005 runs 0.05 % fast)."""

    offset_ms: float = 0.0
    rate: float = 1.0


@dataclass(eq=False)
class Asked:
    """One request to a replica, and what became of it. `verdict` stays None when the deadline came first."""

    bound: Bound
    missing: int = 0
    answered: bool = False
    verdict: Verdict | None = None
    answered_ms: float = 0.0

    @property
    def allowed(self) -> bool:
        return self.verdict is not None and self.verdict.allowed


class Fleet:
    """Replicas, their network and their store. Nothing happens but in `run_until`; times are true milliseconds."""

    def __init__(
        self,
        limits: Sequence[Limit],
        *,
        clocks: Sequence[Clock] = (Clock(),),
        fates: Iterator[Fate] | None = None,
        most: int = 65_536,
        most_asks: int = 1_000,
    ) -> None:
        self.now_ms = 0.0
        self.limits = tuple(limits)
        self.fates = repeat(Fate()) if fates is None else fates
        self.most = most
        self.most_asks = most_asks
        self.store = MemoryStore(clock_ms=lambda: EPOCH_MS + int(self.now_ms))
        self.store_calls = 0
        self.admitted: dict[bytes, list[Admission]] = {}
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.replicas = [Replica(self, clock, replicas=len(clocks)) for clock in clocks]

    def after(self, delay_ms: float, event: Callable[[], None]) -> None:
        heappush(self._events, (self.now_ms + delay_ms, next(self._order), event))

    def at(self, time_ms: float, event: Callable[[], None]) -> None:
        heappush(self._events, (max(time_ms, self.now_ms), next(self._order), event))

    def run_until(self, time_ms: float) -> None:
        """Let everything happen up to then."""
        while self._events and self._events[0][0] <= time_ms:
            self.now_ms, _, event = heappop(self._events)
            event()
        self.now_ms = time_ms

    def ask(self, asker: Request, *, replica: int = 0, within_ms: float = DEADLINE_MS) -> Asked:
        """One request now, and time goes on until it has its answer."""
        asked = self.replicas[replica].check(asker)
        if not asked.answered:
            self.run_until(self.now_ms + within_ms)
        assert asked.answered
        return asked

    def over_limit(self) -> list[str]:
        """The counters of which some interval as long as the window held more than the permits."""
        found = []
        for key, admissions in self.admitted.items():
            of = next(rule for rule in self.limits if f":{rule.name}:".encode() in key)
            most = busiest(admissions, of.window_ms)
            if most > of.permits:
                found.append(f"{key.decode()} admitted {most} of {of.permits} in {of.window_ms} ms")
        return found


@dataclass(eq=False)
class _Flight:
    """A batch under way."""

    batch: Batch
    sent_ms: float
    over: bool = False
    grants: list[Grant] = field(default_factory=list)


class Replica:
    """One process that decides, as the gate does it: judge, wait for grants, judge again."""

    def __init__(self, fleet: Fleet, clock: Clock, *, replicas: int) -> None:
        self._fleet = fleet
        self._clock = clock
        self._replicas = replicas
        self._start()
        fleet.after(SWEEP_MS, self._sweep)

    def _start(self) -> None:
        fleet = self._fleet
        self.ledger = Ledger(most=fleet.most, most_asks=fleet.most_asks)
        self.ledger.replicas = self._replicas
        self.policy = policy(fleet.limits, ledger=self.ledger)
        self._flight: _Flight | None = None

    def clock_ms(self) -> float:
        return self._clock.offset_ms + self._clock.rate * self._fleet.now_ms

    def crash(self) -> None:
        """Everything in memory is gone; a new process takes its place."""
        if self._flight is not None:
            self._flight.over = True
        self._start()

    def stop(self) -> None:
        """Give back what is in hand, as a clean stop does."""
        self.ledger.release_all()
        self._pump()

    def check(self, asker: Request) -> Asked:
        bound = asker.bound
        if type(bound) is not Bound or bound.policy is not self.policy:
            bound = self.policy.bind(asker)
        asked = Asked(bound)
        if not self._judge(asked, Source.MEMORY):
            self._fleet.after(DEADLINE_MS, lambda: self._due(asked))
            self._want(asked)
            self._pump()
        return asked

    def _judge(self, asked: Asked, source: Source) -> bool:
        fleet = self._fleet
        verdict = judge(asked.bound, False, self.clock_ms(), source)
        if verdict is None:
            return False
        asked.answered, asked.verdict, asked.answered_ms = True, verdict, fleet.now_ms
        if verdict.allowed:
            for counter, cost in asked.bound.charges:
                fleet.admitted.setdefault(counter.key, []).append(Admission(fleet.now_ms, cost))
        return True

    def _want(self, asked: Asked) -> None:
        for counter, cost in lacking(asked.bound, self.clock_ms()):
            self.ledger.want(counter, cost, asked)

    def _due(self, asked: Asked) -> None:
        if not asked.answered:
            asked.answered, asked.answered_ms = True, self._fleet.now_ms

    def _pump(self) -> None:
        """Send the next batch, unless one is under way."""
        if self._flight is not None or not self.ledger.has_work(0):
            return
        fleet, sent_ms = self._fleet, self.clock_ms()
        batch = self.ledger.collect(0, sent_ms)
        if not batch.asks:
            self._pump()
            return
        fate = next(fleet.fates)
        flight = self._flight = _Flight(batch, sent_ms)
        fleet.store_calls += 1
        fleet.after(PATIENCE_MS, lambda: self._give_up(flight))
        if not fate.request_lost:
            fleet.after(fate.out_ms, lambda: self._serve(flight, fate))

    def _serve(self, flight: _Flight, fate: Fate) -> None:
        """At the store; the replica may have crashed meanwhile."""
        flight.grants = [self._fleet.store.take_one(key, ask) for key, ask in flight.batch.asks]
        if not fate.reply_lost:
            self._fleet.after(fate.back_ms, lambda: self._answer(flight))

    def _answer(self, flight: _Flight) -> None:
        if flight.over:
            return
        flight.over, self._flight = True, None
        self.ledger.apply(flight.batch, flight.grants, flight.sent_ms, self.clock_ms())
        for waiters in flight.batch.waiters:
            for asked in waiters:
                assert isinstance(asked, Asked)
                asked.missing -= 1
                if not (asked.missing or asked.answered or self._judge(asked, Source.STORE)):
                    self._want(asked)
        self.ledger.settle(flight.batch)
        self._pump()

    def _give_up(self, flight: _Flight) -> None:
        if flight.over:
            return
        flight.over, self._flight = True, None
        self.ledger.abandon()

    def _sweep(self) -> None:
        self.ledger.sweep(self.clock_ms())
        self._pump()
        self._fleet.after(SWEEP_MS, self._sweep)
