"""The store's verb in Lua, on real servers, against the reference in Python: one history, the same grants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from struct import pack
from typing import Final, cast

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from sidecar.core.window import Ask, Grant
from sidecar.store import scripts
from sidecar.store.memory import MemoryStore
from tests.stores import StoreServer

TAKE: Final = scripts.read("take")
NOW: Final = 1_700_000_000_000
KEYS: Final = (b"pc:{0}:a:60000/1000:x", b"pc:{0}:a:60000/1000:y", b"pc:{0}:a:60000/1000:z")


def take(client: redis.Redis, asks: Sequence[tuple[bytes, Ask]], *, now_ms: int | None = NOW) -> list[Grant]:
    """One call of the script; without `now_ms` by the server's own clock."""
    numbers = pack(f"<{9 * len(asks)}q", *chain.from_iterable(ask for _, ask in asks))
    clock = b"" if now_ms is None else str(now_ms).encode()
    keys = [key for key, _ in asks]
    reply = client.eval(TAKE.text.decode(), len(keys), *keys, clock, numbers)
    flat = iter(cast("list[int]", reply))
    return [Grant(*row) for row in zip(*[flat] * 7, strict=True)]


def ask(permits: int = 10, want: int = 1, need: int = 1, *, block_ms: int = 0) -> Ask:
    return Ask(permits, 60_000, 1_000, want, need, block_ms=block_ms)


@pytest.fixture
def client(any_store: StoreServer) -> Iterator[redis.Redis]:
    with any_store.client() as connected:
        yield connected


# --- the same history, the same grants ----------------------------------------

COSTS = st.integers(1, 6)
TURNS = st.tuples(
    st.sampled_from(KEYS),
    st.one_of(st.just(0), COSTS, st.just(40)),  # want
    COSTS,  # need
    st.integers(-2, 3),  # permits more than usual
    st.sampled_from(["", "", "all", "one", "too many", "wrong slice", "wrong state", "an old one"]),
    st.booleans(),  # block
)
"""One ask of a batch: what is wanted, and what of an earlier grant goes back."""

Turn = tuple[bytes, int, int, int, str, bool]


class Histories(RuleBasedStateMachine):
    """Both stores live through the same batches. `client` is set by the test."""

    client: redis.Redis

    @initialize(
        cut=st.sampled_from(
            [(60_000, 1_000), (60_000, 7_000), (90_000, 30_000), (45_000, 45_000), (30_000, 500)]
        ),
        permits=st.sampled_from([0, 1, 3, 10, 50]),
        block_ms=st.sampled_from([0, 0, 700, 100_000]),
    )
    def begin(self, cut: tuple[int, int], permits: int, block_ms: int) -> None:
        self.client.flushall()
        self.window_ms, self.slice_ms = cut
        self.permits, self.block_ms = permits, block_ms
        self.now_ms = NOW
        self.before: set[int] = set()
        self.memory = MemoryStore(clock_ms=lambda: self.now_ms)
        self.held: dict[bytes, list[tuple[Grant, Grant]]] = {key: [] for key in KEYS}
        self.named: dict[tuple[bytes, int], int] = {}
        """How each calls the state that the other calls so: memory's names with a minus."""

    @rule(turns=st.lists(TURNS, min_size=1, max_size=6), pause_ms=st.integers(0, 3_000))
    def soon(self, turns: list[Turn], pause_ms: int) -> None:
        self._play(turns, pause_ms)

    @rule(
        turns=st.lists(TURNS, min_size=1, max_size=3),
        slices=st.integers(1, 70),
        off_ms=st.sampled_from([-1, 0, 1]),
    )
    def around_the_end_of_a_slice(self, turns: list[Turn], slices: int, off_ms: int) -> None:
        end_ms = (self.now_ms // self.slice_ms + slices) * self.slice_ms
        self._play(turns, end_ms + off_ms - self.now_ms)

    @rule(turns=st.lists(TURNS, min_size=1, max_size=3), windows=st.sampled_from([1.0, 1.5, 4.0, 1_000.0]))
    def after_an_idle_time(self, turns: list[Turn], windows: float) -> None:
        self._play(turns, int(windows * self.window_ms))

    @rule(
        turns=st.lists(TURNS, min_size=1, max_size=3),
        windows=st.sampled_from([0.001, 0.02, 0.5, 1.0, 1.1, 4.0, 1_000.0]),
    )
    def after_the_clock_went_back(self, turns: list[Turn], windows: float) -> None:
        self._play(turns, -int(windows * self.window_ms))

    def _play(self, turns: list[Turn], pause_ms: int) -> None:
        self.now_ms += pause_ms
        while self.now_ms in self.before:  # a state is named after the clock, and no two may share a name
            self.now_ms += 1
        self.before.add(self.now_ms)
        # The server expires by a clock of its own, and not by the override: what memory let expire goes here.
        for key in {turn[0] for turn in turns}:
            if key not in self.memory:
                self.client.delete(key)
        both = [(key, *self._asks(turn)) for turn in turns for key in turn[:1]]

        by_memory = [self.memory.take_one(key, one) for key, one, _ in both]
        by_script = take(self.client, [(key, other) for key, _, other in both], now_ms=self.now_ms)

        assert [grant[:6] for grant in by_script] == [grant[:6] for grant in by_memory]
        for (key, _, _), one, other in zip(both, by_memory, by_script, strict=True):
            if one.granted:
                self.held[key].append((one, other))
                assert self.named.setdefault((key, other.made), one.made) == one.made
                assert self.named.setdefault((key, -one.made), other.made) == other.made
        self._check_expiry()

    def _asks(self, turn: Turn) -> tuple[Ask, Ask]:
        """The ask as memory gets it and as the script gets it: they differ in the names of states alone."""
        key, want, need, more, returning, block = turn
        asked = Ask(
            max(0, self.permits + more),
            self.window_ms,
            self.slice_ms,
            want,
            min(need, want) if want else need,
            block_ms=self.block_ms if block else 0,
        )
        if not (returning and self.held[key]):
            return asked, asked
        one, other = self.held[key][0 if returning == "an old one" else -1]
        permits = {"one": 1, "too many": one.granted + 1}.get(returning, one.granted)
        slice_id = one.slice_id - (returning == "wrong slice")
        wrong = returning == "wrong state"
        return (
            asked._replace(
                give_back=permits, give_back_slice=slice_id, give_back_made=one.made + 1_000_000 * wrong
            ),
            asked._replace(give_back=permits, give_back_slice=slice_id, give_back_made=other.made + wrong),
        )

    def _check_expiry(self) -> None:
        """Every key of this history goes away by itself, and in time."""
        for key in KEYS:
            ttl_ms = self.client.pttl(key)
            assert ttl_ms == -2 or 0 < ttl_ms <= self.window_ms + self.slice_ms + self.block_ms


def test_it_gives_the_same_grants_as_the_reference(client: redis.Redis) -> None:
    class OnThisServer(Histories):
        pass

    OnThisServer.client = client
    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- what only a server can show ----------------------------------------------


def test_it_reads_the_servers_clock_once_for_the_batch(client: redis.Redis) -> None:
    seconds, micros = client.time()

    grants = take(client, [(b"k%d" % at, ask()) for at in range(50)], now_ms=None)

    assert len({(grant.slice_id, grant.slice_left_ms, grant.made) for grant in grants}) == 1
    assert 0 <= grants[0].slice_id - seconds <= 5
    assert 0 <= grants[0].made - (seconds * 1_000_000 + micros) <= 5_000_000


def test_it_answers_integers_in_the_order_of_the_keys(client: redis.Redis) -> None:
    grants = take(client, [(b"k%d" % (at % 7), ask(permits=3)) for at in range(28)])

    assert all(type(number) is int for grant in grants for number in grant)
    assert [grant.granted for grant in grants] == [1] * 21 + [0] * 7


def test_it_counts_a_billion_permits_exactly(client: redis.Redis) -> None:
    most = 10**9

    first, second, third = take(
        client, [(b"k", ask(most, most - 1)), (b"k", ask(most, 10**12)), (b"k", ask(most, 1))]
    )

    assert (first.granted, first.room) == (most - 1, 1)
    assert (second.granted, second.room) == (1, 0)
    assert (third.granted, third.retry_ms) == (0, 61_000)


def test_it_cuts_the_longest_window_finely(client: redis.Redis) -> None:
    month_ms = 31 * 24 * 3_600_000
    asked = Ask(5, month_ms, month_ms // 1_000 + 1, 5, 1)

    granted, refused = take(client, [(b"k", asked), (b"k", asked)])

    assert granted.granted == 5
    assert month_ms <= refused.retry_ms <= month_ms + asked.slice_ms
    assert 0 < client.pttl(b"k") <= month_ms + asked.slice_ms


def test_it_stores_only_slices_that_hold_something(client: redis.Redis) -> None:
    take(client, [(b"once", ask(want=3))])
    for second in range(200):
        take(client, [(b"often", ask(1_000))], now_ms=NOW + 1_000 * second)

    assert client.strlen(b"once") == 20 + 10
    assert client.strlen(b"often") == 20 + 10 * 61


def test_it_leaves_nothing_behind_for_who_only_looked(client: redis.Redis) -> None:
    grant = take(client, [(b"k", ask(want=0))])[0]
    taken = take(client, [(b"k", ask(want=2))])[0]
    returned = ask(want=0)._replace(give_back=2, give_back_slice=taken.slice_id, give_back_made=taken.made)
    take(client, [(b"k", returned)])

    assert grant.room == 10
    assert client.exists(b"k") == 0


def test_it_keeps_a_key_for_as_long_as_it_is_blocked(client: redis.Redis) -> None:
    take(client, [(b"k", ask(permits=1, want=2, block_ms=3_600_000))])

    assert 3_600_000 < client.pttl(b"k") <= 60_000 + 1_000 + 3_600_000


def test_it_ignores_permits_of_a_state_that_the_server_lost(client: redis.Redis) -> None:
    lost = take(client, [(b"k", ask(want=10))], now_ms=None)[0]
    client.delete(b"k")
    take(client, [(b"k", ask(want=10))], now_ms=None)
    returned = ask(want=10)._replace(give_back=10, give_back_slice=lost.slice_id, give_back_made=lost.made)

    assert take(client, [(b"k", returned)], now_ms=None)[0].granted == 0


def test_it_refuses_a_key_that_is_no_counter_and_touches_none_before_it(client: redis.Redis) -> None:
    client.rpush(b"list", b"x")

    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        take(client, [(b"list", ask()), (b"k", ask())])

    assert client.exists(b"k") == 0
