"""The feed: what it believes of the store, against a double in virtual time and against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.control.feed import PERIOD_S, SILENT_MS, Feed, Follows, LastKnown
from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore
from tests.lanes import passes, run
from tests.stores import StoreServer

KEY = b"ab" * 32
OTHER_KEY = b"cd" * 32
SILENT_S = SILENT_MS / 1000


class ScriptedStore:
    """Answers what the test has put into `says`; raises what is an error."""

    def __init__(self) -> None:
        self.says: object = [1, 0, KEY, b""]
        self.memory: object = b"# Memory\r\nmaxmemory_policy:noeviction\r\n"
        self.candidates: list[bytes] = []
        self.commands: list[tuple[bytes, ...]] = []
        self.closed = False

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
        assert script.name == "heartbeat"
        assert len(keys) == 3
        self.candidates.append(arguments[2])
        return self._answer(self.says)

    async def command(self, *words: bytes) -> object:
        self.commands.append(words)
        return self._answer(self.memory)

    async def close(self) -> None:
        self.closed = True

    def _answer(self, answer: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer


class Follower:
    """A feed on a scripted store, and what it told."""

    def __init__(self, store: ScriptedStore, *, own_hash_key: bool = False) -> None:
        self.told: list[Follows] = []
        self.failures: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.feed = Feed(
            store=store,
            prefix="pc:",
            replica="a",
            own_hash_key=own_hash_key,
            apply=self.told.append,
            failed=lambda kind, message: self.failures.append((kind, message)),
            warn=self.warnings.append,
        )

    async def hear(self) -> Follows:
        assert await self.feed.once()
        return self.told[-1]


SILENT = StoreUnavailable("timeout", "no answer")


@contextmanager
def following(follower: Follower) -> Iterator[None]:
    """The feed runs while the block does."""
    task = asyncio.get_running_loop().create_task(follower.feed.run())
    try:
        yield
    finally:
        task.cancel()


# --- attack mode ----------------------------------------------------------------


@pytest.mark.parametrize(("mode", "attack"), [(b"on", True), (b"off", False), (b"", None), (b"ON", None)])
def test_it_reads_unknown_as_unknown(mode: bytes, attack: bool | None) -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        store.says = [1, 0, KEY, mode]

        assert (await Follower(store).hear()).attack is attack

    run(scenario())


def test_it_follows_once_a_second_through_failures() -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        follower = Follower(store)
        with following(follower):
            await passes(2.5 * PERIOD_S * 1000)
            store.says = SILENT
            await passes(2 * PERIOD_S * 1000)
            store.says = [1, 0, KEY, b"on"]
            await passes(PERIOD_S * 1000)

        assert [follows.attack for follows in follower.told] == [None, None, True]
        assert follower.failures == [("timeout", "no answer")] * 2

    run(scenario())


@pytest.mark.parametrize(
    "nonsense", [None, [], b"OK", [1, 0, KEY], [b"1", 0, KEY, b"on"], [1, 0, "key", b"on"]]
)
def test_it_believes_no_nonsense(nonsense: object) -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        store.says = nonsense
        follower = Follower(store)

        assert not await follower.feed.once()
        assert follower.told == []
        assert [kind for kind, _ in follower.failures] == ["response"]

    run(scenario())


# --- how many replicas -----------------------------------------------------------


def test_it_believes_at_once_that_there_are_more_replicas() -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        follower = Follower(store)
        await follower.hear()
        store.says = [3, 2, KEY, b""]

        follows = await follower.hear()

        assert (follows.replicas, follows.rank) == (3, 2)

    run(scenario())


def test_it_believes_that_there_are_fewer_only_after_a_while() -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        store.says = [3, 2, KEY, b""]
        follower = Follower(store)
        await follower.hear()
        store.says = [1, 0, KEY, b""]

        with following(follower):
            await passes((SILENT_S + 0.5) * 1000)
            early = {(follows.replicas, follows.rank) for follows in follower.told}
            await passes(2 * PERIOD_S * 1000)

        assert early == {(3, 2)}
        assert (follower.told[-1].replicas, follower.told[-1].rank) == (1, 0)

    run(scenario())


def test_it_starts_the_while_anew_after_an_outage() -> None:
    async def scenario() -> None:
        # Everybody else looks dead after a long outage, again and again.
        store = ScriptedStore()
        store.says = [2, 1, KEY, b""]
        follower = Follower(store)
        await follower.hear()
        with following(follower):
            for _ in range(5):
                store.says = SILENT
                await passes(2 * SILENT_S * 1000)
                store.says = [1, 0, KEY, b""]
                await passes((SILENT_S - 1) * 1000)

        assert {(follows.replicas, follows.rank) for follows in follower.told} == {(2, 1)}

    run(scenario())


# --- the hash key -----------------------------------------------------------------


def test_it_offers_the_known_hash_key_to_a_store_that_lost_it() -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        follower = Follower(store)
        await follower.hear()
        await follower.hear()

        assert len(store.candidates[0]) == len(KEY)
        assert store.candidates[0] != KEY
        assert store.candidates[1] == KEY

    run(scenario())


@pytest.mark.parametrize("bad", [b"secret", b"xy" * 32, b"ab" * 33, b"AB" * 32])
def test_it_follows_on_when_the_hash_key_is_none_that_a_replica_made(bad: bytes) -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        store.says = [2, 1, bad, b"on"]
        follower = Follower(store)

        assert await follower.hear() == Follows(2, 1, b"", True)
        assert [message for _, message in follower.failures] == [
            "pc:{control}:hash_key in the store is no hash key: delete it"
        ]

    run(scenario())


def test_it_makes_no_hash_key_when_it_has_its_own() -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        store.says = [1, 0, OTHER_KEY, b""]
        follower = Follower(store, own_hash_key=True)

        assert (await follower.hear()).hash_key == b""
        assert store.candidates == [b""]

    run(scenario())


# --- what an operator should know ----------------------------------------------------


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
        store = ScriptedStore()
        store.memory = memory
        follower = Follower(store)

        for _ in range(3):
            await follower.hear()

        assert len(follower.warnings) == warnings
        assert all("noeviction" in warning for warning in follower.warnings)
        assert store.commands == [(b"INFO", b"memory")]
        assert follower.failures == []

    run(scenario())


def test_it_looks_again_when_the_store_fell_silent_meanwhile() -> None:
    async def scenario() -> None:
        store = ScriptedStore()
        follower = Follower(store)
        store.memory = SILENT
        await follower.hear()
        store.memory = b"maxmemory_policy:allkeys-lfu\r\n"
        await follower.hear()

        assert len(follower.warnings) == 1

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
        store = RedisStore(url, patience_s=30.0)
        feed = Feed(
            store=store,
            prefix="pc:",
            replica="a",
            own_hash_key=False,
            apply=lambda _: None,
            failed=lambda kind, message: pytest.fail(f"{kind}: {message}"),
            warn=found.append,
        )
        assert await feed.once()
        await feed.sign_off()
        return len(found)

    assert [asyncio.run(warnings(url)) for url, _ in servers] == [expected for _, expected in servers]


# --- a real store ---------------------------------------------------------------------


def test_it_counts_ranks_and_agrees_in_a_real_store(any_store: StoreServer) -> None:
    async def scenario() -> tuple[list[Follows], Follows]:
        told: list[Follows] = []
        feeds = [
            Feed(
                store=RedisStore(any_store.url(), patience_s=30.0),
                prefix="pc:",
                replica=name,
                own_hash_key=False,
                apply=told.append,
                failed=lambda kind, message: pytest.fail(f"{kind}: {message}"),
            )
            for name in ("c", "a", "b", "")
        ]
        for feed in feeds:
            await feed.once()
        told.clear()
        for feed in feeds:
            await feed.once()
        everybody = list(told)
        await feeds[0].sign_off()
        await feeds[3].once()
        for feed in feeds[1:]:
            await feed.sign_off()
        return everybody, told[-1]

    everybody, _ = asyncio.run(scenario())

    assert [(follows.replicas, follows.rank) for follows in everybody] == [(3, 2), (3, 0), (3, 1), (3, 0)]
    assert len({follows.hash_key for follows in everybody}) == 1
    with any_store.client() as client:
        assert client.zcard("pc:{control}:replicas") == 0


# --- on disk ----------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [True, False])
def test_it_remembers_the_mode_on_disk(tmp_path: Path, attack: bool) -> None:
    LastKnown(tmp_path).write(not attack)
    LastKnown(tmp_path).write(attack)

    assert LastKnown(tmp_path).read() is attack
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"attack": 1}', '{"attack": null}', "\x00" * 20])
def test_it_reads_a_broken_file_as_unknown(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "control.json").write_text(text)

    assert LastKnown(tmp_path).read() is None


def test_it_says_when_the_mode_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        LastKnown(tmp_path / "gone").write(True)
