"""The gate in any order of events: every request is answered once and in time, and nobody over-admits."""

from __future__ import annotations

from collections import Counter as Tally
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.model import Limit, Outage
from tests.lanes import DEADLINE_MS, TURN_MS, Bench, Client, limit, now_ms, passes, run, turns

HOUR_MS = 3_600_000
MOST_PERMITS = 6
SHARDS = 2


@dataclass(frozen=True)
class Ask:
    subject: int
    cost: int


@dataclass(frozen=True)
class Release:
    shard: int


@dataclass(frozen=True)
class Fail:
    shard: int
    kind: str


@dataclass(frozen=True)
class Silence:
    shard: int
    held: bool
    silent: bool


@dataclass(frozen=True)
class Pass:
    ms: float


@dataclass(frozen=True)
class Adopt:
    permits: int


@dataclass(frozen=True)
class Attack:
    on: bool


Event = Ask | Release | Fail | Silence | Pass | Adopt | Attack

shards = st.integers(0, SHARDS - 1)
events = st.one_of(
    st.builds(Ask, st.integers(1, 4), st.integers(1, 3)),
    st.builds(Ask, st.integers(1, 4), st.just(1)),
    st.builds(Release, shards),
    st.builds(Fail, shards, st.sampled_from(["timeout", "connection", "response", "other"])),
    st.builds(Silence, shards, st.booleans(), st.booleans()),
    st.builds(Pass, st.sampled_from([0, 0.5, 1, 5, 19, 20, 21, 22, 300, 1_500])),
    st.builds(Adopt, st.integers(0, MOST_PERMITS)),
    st.builds(Attack, st.booleans()),
)


class History:
    """A gate under two limits, and everybody who ever asked it."""

    def __init__(self) -> None:
        self.bench = Bench(*self._limits(MOST_PERMITS), shards=SHARDS)
        self.clients: list[tuple[Ask, float, Client]] = []

    def _limits(self, permits: int) -> tuple[Limit, ...]:
        local = limit(permits, window_ms=HOUR_MS, lease=True)
        closed = limit(
            3 * permits, name="all", per="global", window_ms=HOUR_MS, outage=Outage.CLOSED, lease=True
        )
        return local, closed

    async def happen(self, event: Event) -> None:
        bench = self.bench
        match event:
            case Ask(subject, cost):
                asked_ms = now_ms()
                self.clients.append((event, asked_ms, bench.ask(f"192.0.2.{subject}", cost=cost)))
            case Release(shard):
                if bench.lanes[shard].under_way:
                    bench.lanes[shard].release()
            case Fail(shard, kind):
                if bench.lanes[shard].under_way:
                    bench.lanes[shard].fail(kind)
            case Silence(shard, held, silent):
                bench.lanes[shard].held, bench.lanes[shard].silent = held, silent
            case Pass(ms):
                await passes(ms)
            case Adopt(permits):
                bench.gate.policy = bench.policy(*self._limits(permits))
            case Attack(on):
                bench.gate.attack = on
        await turns()

    def answered_once_and_in_time(self) -> None:
        for asked, asked_ms, client in self.clients:
            assert len(client.verdicts) == 1, (asked, client.verdicts)
            assert client.answered_ms - asked_ms <= DEADLINE_MS + 2 * TURN_MS, asked

    def admitted(self) -> Tally[int]:
        admitted: Tally[int] = Tally()
        for asked, _, client in self.clients:
            if client.verdict.allowed:
                admitted[asked.subject] += asked.cost
        return admitted


@given(st.lists(events, max_size=60))
@settings(max_examples=300)
def test_it_answers_everybody_once_and_in_time_whatever_happens(history: list[Event]) -> None:
    async def scenario() -> None:
        it = History()
        await it.bench.gate.start()

        for event in history:
            await it.happen(event)
        await passes(DEADLINE_MS + 2 * TURN_MS)

        it.answered_once_and_in_time()
        assert all(count <= 2 * MOST_PERMITS for count in it.admitted().values())
        assert it.admitted().total() <= 3 * MOST_PERMITS, (
            "the limit that closes in an outage has one window only"
        )
        assert not any(lane.cancelled for lane in it.bench.lanes)

    run(scenario())


@given(st.lists(events, max_size=40))
@settings(max_examples=100)
def test_it_answers_everybody_once_when_it_stops_in_the_middle(history: list[Event]) -> None:
    async def scenario() -> None:
        it = History()
        await it.bench.gate.start()
        for event in history:
            await it.happen(event)

        await it.bench.gate.stop()
        await passes(60_000)

        assert {len(client.verdicts) for _, _, client in it.clients} <= {1}
        assert all(lane.closed for lane in it.bench.lanes)

    run(scenario())


@given(st.lists(events, max_size=40))
@settings(max_examples=100)
def test_it_recovers_whatever_happened(history: list[Event]) -> None:
    async def scenario() -> None:
        it = History()
        await it.bench.gate.start()
        for event in history:
            await it.happen(event)

        for lane in it.bench.lanes:
            lane.held = lane.silent = False
            while lane.under_way:
                lane.release()
                await turns()
        await passes(5_000)
        await it.happen(Attack(False))
        it.bench.gate.policy = it.bench.policy(limit(10, name="new"))
        client = it.bench.ask("198.51.100.1")
        await turns()

        assert it.bench.gate.store_up
        assert client.verdict.source.label == "store"

    run(scenario())
