"""The follower: what it believes of its store, and when. A double in virtual time, and real servers' policies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest

from sidecar.control.beats import SILENT_MS, Follows
from sidecar.control.follow import PERIOD_S, Follower
from sidecar.core.control import NO_EPOCH, Delta, Epoch
from sidecar.steps import in_steps
from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore, RedisSubscription
from tests.control.fleet_double import Listener, running
from tests.lanes import now_ms, passes, run, turns
from tests.stores import StoreServer

KEY = b"ab" * 32
OTHER_KEY = b"cd" * 32
SILENT_S = SILENT_MS / 1000
STORE_MS = 1_700_000_000_000
"""What the store's clock says when virtual time begins."""
EPOCHS = [NO_EPOCH, *(Epoch(number, "0" * 15 + str(number)) for number in range(1, 10))]

SILENT = StoreUnavailable("timeout", "no answer")


class ScriptedStore:
    """Answers what the test has put into `says`; raises what is an error.

    Unfaithful in this: it holds no tables, so a follower that asks for some fails the test.
    """

    def __init__(self) -> None:
        self.begun_ms = now_ms()
        self.says: object = [1, 0, KEY]
        self.epoch = b""
        self.memory: object = b"# Memory\r\nmaxmemory_policy:noeviction\r\n"
        self.beats: list[tuple[bytes, bytes]] = []
        self.beats_ms: list[float] = []
        self.candidates: list[bytes] = []
        self.commands: list[tuple[bytes, ...]] = []
        self.closed = False

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
        assert script.name == "heartbeat"
        assert len(keys) == len(arguments) - 1
        self.beats.append((arguments[0], arguments[4]))
        self.beats_ms.append(now_ms() - self.begun_ms)
        self.candidates.append(arguments[3])
        told = self._answer(self.says)
        if isinstance(told, list) and len(told) == 3:
            return [*told, self.epoch, STORE_MS + int(now_ms() - self.begun_ms)]
        return told

    async def command(self, *words: bytes) -> object:
        assert words == (b"INFO", b"memory")
        self.commands.append(words)
        return self._answer(self.memory)

    async def close(self) -> None:
        self.closed = True

    def _answer(self, answer: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer


class ScriptedSubscription:
    """Listens until the test says otherwise."""

    def __init__(self) -> None:
        self.listened = 0
        self.closed = False
        self._ends = asyncio.Event()

    async def listen(self, channel: bytes, hint: Callable[[], None]) -> None:
        assert channel == b"pc:{control}:epochs"
        self.listened += 1
        hint()
        await self._ends.wait()
        self._ends.clear()
        raise StoreUnavailable("connection", "it ended")

    def end(self) -> None:
        self._ends.set()

    async def close(self) -> None:
        self.closed = True


class Subject:
    """A follower of a scripted store, and what it told."""

    def __init__(self, *, replica: str = "a", own_hash_key: bool = False) -> None:
        self.store = ScriptedStore()
        self.subscription = ScriptedSubscription()
        self.listener = Listener()
        self.warnings: list[str] = []
        self.follower = Follower(
            store=self.store,
            subscription=self.subscription,
            prefix="pc:",
            replica=replica,
            says=lambda epoch, _stale: f"I have {epoch}".encode(),
            own_hash_key=own_hash_key,
            audience=self.listener,
            clock_ms=now_ms,
            wall_ms=lambda: 5_000.0,
            warn=self.warnings.append,
        )

    @property
    def told(self) -> list[Follows]:
        return self.listener.told

    @property
    def errors(self) -> list[str]:
        return self.listener.errors

    async def hear(self) -> Follows:
        assert await self.follower.once()
        return self.told[-1]

    async def knows(
        self, table: str, fields: Iterable[str], *, until_ms: int = 0, payload: bytes = b"{}"
    ) -> None:
        """It has one more change."""
        before = self.follower.epoch
        delta = Delta(before, EPOCHS[before.number + 1], table, 1, until_ms, payload, tuple(fields), ())
        await in_steps(self.follower.book.apply_steps([delta], self.follower.store_ms()))
        self.store.epoch = str(delta.epoch).encode()


# --- beats --------------------------------------------------------------------------


def test_it_follows_once_a_second_through_failures() -> None:
    async def scenario() -> None:
        subject = Subject()
        with running(subject.follower):
            await passes(2.5 * PERIOD_S * 1000)
            assert len(subject.told) == 3
            subject.store.says = SILENT
            await passes(2 * PERIOD_S * 1000)
            subject.store.says = [2, 1, KEY]
            await passes(PERIOD_S * 1000)

        assert [follows.replicas for follows in subject.told] == [1, 1, 1, 2]
        assert subject.errors == ["timeout: no answer"] * 2

    run(scenario())


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        [],
        b"OK",
        [1, 0, KEY, b""],
        [b"1", 0, KEY, b"", 5],
        [1, 0, "key", b"", 5],
        [1, 0, KEY, b"", b"5"],
    ],
)
def test_it_believes_no_nonsense(nonsense: object) -> None:
    async def scenario() -> None:
        subject = Subject()
        subject.store.says = nonsense

        assert not await subject.follower.once()
        assert subject.told == []
        assert [error.partition(":")[0] for error in subject.errors] == ["response"]

    run(scenario())


@pytest.mark.parametrize("nonsense", [b"junk", b"\xff", b"57", b"57-XYZ"])
def test_it_believes_no_nonsense_about_the_epoch(nonsense: bytes) -> None:
    async def scenario() -> None:
        subject = Subject()
        await subject.knows("deny", ["192.0.2.0/24"])
        subject.store.epoch = nonsense

        assert not await subject.follower.once()
        assert len(subject.told) == 1
        assert subject.listener.news == []
        assert subject.errors[0].startswith("response: pc:{control}:epoch in the store: ")

    run(scenario())


def test_it_compares_at_once_when_something_may_be_new() -> None:
    async def scenario() -> None:
        subject = Subject()
        with running(subject.follower):
            await passes(300)
            subject.follower.hint()
            subject.follower.hint()
            await passes(300)
            assert subject.store.beats_ms == pytest.approx([0, 300], abs=5)
            await passes(1_000)

        assert subject.store.beats_ms == pytest.approx([0, 300, 1_000], abs=5)

    run(scenario())


def test_it_subscribes_again_when_a_subscription_ends() -> None:
    async def scenario() -> None:
        subject = Subject()
        with running(subject.follower):
            await passes(200)
            for _ in range(3):
                subject.subscription.end()
                await passes(800)

        assert subject.subscription.listened == 4
        assert subject.errors == ["connection: it ended"] * 3
        assert subject.store.beats_ms == pytest.approx([0, 700, 1_000, 1_500, 2_000, 2_300], abs=5)

    run(scenario())


def test_it_says_who_it_is_and_what_it_has() -> None:
    async def scenario() -> None:
        subject = Subject(replica="gate/3")
        await subject.hear()
        await subject.knows("deny", ["192.0.2.0/24"])
        await subject.hear()
        await subject.follower.sign_off()

        assert subject.store.beats == [
            (b"gate/3", f"I have {NO_EPOCH}".encode()),
            (b"gate/3", f"I have {EPOCHS[1]}".encode()),
            (b"gate/3", b""),
        ]
        assert subject.store.closed
        assert subject.subscription.closed

    run(scenario())


def test_it_only_reads_without_a_name() -> None:
    async def scenario() -> None:
        subject = Subject(replica="")
        await subject.hear()
        await subject.follower.sign_off()

        assert subject.store.beats == [(b"", b"")]
        assert subject.store.closed

    run(scenario())


def test_it_ends_although_the_store_is_silent() -> None:
    async def scenario() -> None:
        subject = Subject()
        subject.store.says = SILENT
        await subject.follower.sign_off()

        assert subject.errors == ["timeout: no answer"]
        assert subject.store.closed

    run(scenario())


def test_it_stops_listening_with_the_task() -> None:
    async def scenario() -> None:
        subject = Subject()
        with running(subject.follower):
            await passes(10)
        await turns(10)

        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scenario())


# --- how many replicas -----------------------------------------------------------------


def test_it_believes_at_once_that_there_are_more_replicas() -> None:
    async def scenario() -> None:
        subject = Subject()
        await subject.hear()
        subject.store.says = [3, 2, KEY]

        follows = await subject.hear()

        assert (follows.replicas, follows.rank) == (3, 2)

    run(scenario())


def test_it_believes_that_there_are_fewer_only_after_a_while() -> None:
    async def scenario() -> None:
        subject = Subject()
        subject.store.says = [3, 2, KEY]
        await subject.hear()
        subject.store.says = [1, 0, KEY]

        with running(subject.follower):
            await passes((SILENT_S - 0.5) * 1000)
            early = {(follows.replicas, follows.rank) for follows in subject.told}
            await passes(2 * PERIOD_S * 1000)

        assert early == {(3, 2)}
        assert (subject.told[-1].replicas, subject.told[-1].rank) == (1, 0)

    run(scenario())


def test_it_starts_the_while_anew_after_an_outage() -> None:
    async def scenario() -> None:
        # Everybody else looks dead after a long outage, again and again.
        subject = Subject()
        subject.store.says = [2, 1, KEY]
        await subject.hear()
        with running(subject.follower):
            for _ in range(5):
                subject.store.says = SILENT
                await passes(2 * SILENT_S * 1000)
                subject.store.says = [1, 0, KEY]
                await passes((SILENT_S - 1) * 1000)

        assert {(follows.replicas, follows.rank) for follows in subject.told} == {(2, 1)}

    run(scenario())


# --- the hash key -----------------------------------------------------------------------


def test_it_offers_the_known_hash_key_to_a_store_that_lost_it() -> None:
    async def scenario() -> None:
        subject = Subject()
        await subject.hear()
        await subject.hear()

        assert len(subject.store.candidates[0]) == len(KEY)
        assert subject.store.candidates[0] != KEY
        assert subject.store.candidates[1] == KEY

    run(scenario())


@pytest.mark.parametrize("bad", [b"secret", b"xy" * 32, b"ab" * 33, b"AB" * 32])
def test_it_follows_on_when_the_hash_key_is_none_that_a_replica_made(bad: bytes) -> None:
    async def scenario() -> None:
        subject = Subject()
        subject.store.says = [2, 1, bad]

        assert await subject.hear() == Follows(2, 1, b"")
        assert subject.errors == ["response: pc:{control}:hash_key in the store is no hash key: delete it"]

    run(scenario())


def test_it_makes_no_hash_key_when_it_has_its_own() -> None:
    async def scenario() -> None:
        subject = Subject(own_hash_key=True)
        subject.store.says = [1, 0, OTHER_KEY]

        assert (await subject.hear()).hash_key == b""
        assert subject.store.candidates == [b""]

    run(scenario())


# --- what an operator should know ---------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "warnings"),
    [
        (b"maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", 1),
        (b"maxmemory_policy:allkeys-random\r\n", 1),
        (b"maxmemory_policy:volatile-ttl\r\n", 0),
        (b"maxmemory_policy:noeviction\r\n", 0),
        (b"", 0),
        (StoreUnavailable("response", "NOPERM"), 0),
    ],
)
def test_it_warns_once_of_a_store_that_may_forget(memory: object, warnings: int) -> None:
    async def scenario() -> None:
        subject = Subject()
        subject.store.memory = memory

        for _ in range(3):
            await subject.hear()

        assert len(subject.warnings) == warnings
        assert all("noeviction" in warning for warning in subject.warnings)
        assert subject.store.commands == [(b"INFO", b"memory")]
        assert subject.errors == []

    run(scenario())


def test_it_looks_again_when_the_store_fell_silent_meanwhile() -> None:
    async def scenario() -> None:
        subject = Subject()
        subject.store.memory = SILENT
        await subject.hear()
        subject.store.memory = b"maxmemory_policy:allkeys-lfu\r\n"
        await subject.hear()

        assert len(subject.warnings) == 1

    run(scenario())


def test_it_finds_the_policy_of_a_real_server(
    start_valkey: Callable[..., StoreServer], start_redis7: Callable[..., StoreServer]
) -> None:
    rules = ["default off", "gate on >secret ~pc:* +@all -info"]
    servers = [
        (start_valkey(maxmemory_policy="allkeys-lru").url(), 1),
        (start_redis7(maxmemory_policy="allkeys-lfu").url(), 1),
        (start_valkey(maxmemory_policy="volatile-lru").url(), 0),
        (start_redis7(users=rules, maxmemory_policy="allkeys-lru").url(user="gate", password="secret"), 0),
    ]

    async def warnings(url: str) -> int:
        found: list[str] = []
        listener = Listener()
        follower = Follower(
            store=RedisStore(url, patience_s=5.0),
            subscription=RedisSubscription(url, patience_s=5.0),
            prefix="pc:",
            replica="a",
            says=lambda _epoch, _stale: b"{}",
            own_hash_key=False,
            audience=listener,
            clock_ms=lambda: 0.0,
            wall_ms=lambda: 0.0,
            warn=found.append,
        )
        assert await follower.once()
        await follower.sign_off()
        assert listener.errors == []
        return len(found)

    assert [asyncio.run(warnings(url)) for url, _ in servers] == [expected for _, expected in servers]
