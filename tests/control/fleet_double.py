"""Followers of one real store, driven step by step, and the adversities that a store can suffer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

import redis

from sidecar.control.beats import Follows
from sidecar.control.changes import Changed, Changes, ControlStore
from sidecar.control.follow import Follower, News
from sidecar.core.control import EMPTY, LISTS, Book, Control, Epoch
from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore, RedisSubscription, SharedStore
from tests.servers import POLL_S, WITHIN_S
from tests.stores import StoreServer

T = TypeVar("T")

PATIENCE_S = 5.0


class InTurn:
    """A store that several tasks may ask: one after the other, however long each takes."""

    def __init__(self, store: ControlStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
        async with self._turn:
            return await self._store.script(script, keys, arguments)

    async def command(self, *words: bytes) -> object:
        async with self._turn:
            return await self._store.command(*words)

    async def close(self) -> None:
        await self._store.close()


class Listener:
    """Who follows, and keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Follows] = []
        self.news: list[News] = []
        self.errors: list[str] = []
        self.stales: list[str] = []
        self.currents = 0
        self.replacements: list[tuple[Epoch, Epoch]] = []

    def counted(self, follows: Follows) -> None:
        self.told.append(follows)

    def adopt(self, news: News) -> None:
        self.news.append(news)

    def store_error(self, kind: str, message: str) -> None:
        self.errors.append(f"{kind}: {message}")

    def current(self) -> None:
        self.currents += 1

    def replaced(self, before: Epoch, now: Epoch) -> None:
        self.replacements.append((before, now))

    def stale(self, why: str) -> None:
        self.stales.append(why)


class Replica:
    """A follower and what it told. Its clocks are the real ones, but for `skipped_ms` of the monotonic one.

    through  what stands between the follower and its store
    url      another way to the server, for commands and the subscription
    """

    def __init__(
        self,
        server: StoreServer,
        prefix: str,
        name: str,
        *,
        through: Callable[[RedisStore], ControlStore] = lambda store: store,
        url: str = "",
    ) -> None:
        url = url or server.url()
        self.name = name
        self.listener = Listener()
        self.told, self.news = self.listener.told, self.listener.news
        self.errors, self.stales = self.listener.errors, self.listener.stales
        self.skipped_ms = 0.0
        self.follower = Follower(
            store=InTurn(through(RedisStore(url, patience_s=PATIENCE_S))),
            subscription=RedisSubscription(url, patience_s=PATIENCE_S),
            prefix=prefix,
            replica=name,
            says=lambda epoch, _stale: b'{"epoch": "%b"}' % str(epoch).encode(),
            own_hash_key=False,
            audience=self.listener,
            clock_ms=lambda: asyncio.get_running_loop().time() * 1000 + self.skipped_ms,
            wall_ms=lambda: 1_000.0,
        )
        self.shared = SharedStore(RedisStore(server.url(), patience_s=PATIENCE_S))
        self.changes = Changes(store=self.shared, prefix=prefix, applied=lambda: self.follower.epoch)

    @property
    def book(self) -> Book:
        return self.follower.book

    @property
    def control(self) -> Control:
        """What it decides by."""
        return self.news[-1].control if self.news else EMPTY

    @property
    def epochs(self) -> list[Epoch]:
        return [news.control.epoch for news in self.news]

    async def change(
        self,
        table: str,
        *put: str,
        delete: Sequence[str] = (),
        for_ms: int = 0,
        payload: Mapping[str, object] | None = None,
    ) -> Changed:
        """A change as an operator makes it through this replica."""
        return await self.changes.change(
            table,
            put=put,
            delete=delete,
            for_ms=for_ms,
            payload=payload,
            actor=self.name,
            action=f"{table}.change",
        )

    async def close(self) -> None:
        await self.follower.sign_off()
        await self.shared.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class FaultyStore:
    """A way to the store that fails once, at the call after the next `faultless` ones; later it is good again."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.faultless = -1
        """Calls until the one that fails; negative: none does."""
        self.carried_out = False
        """Whether the server heard the call, and only its answer was lost."""

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
        return await self._unless_due(lambda: self._store.script(script, keys, arguments))

    async def command(self, *words: bytes) -> object:
        return await self._unless_due(lambda: self._store.command(*words))

    async def close(self) -> None:
        await self._store.close()

    async def _unless_due(self, call: Callable[[], Awaitable[T]]) -> T:
        self.faultless -= 1
        if self.faultless == -1:
            if self.carried_out:
                await call()
            raise StoreUnavailable("connection", "the test says so")
        return await call()


class Relay:
    """A way to a server, on a unix socket, that lets commands through and treats subscriptions badly.

    cut   subscriptions end, and no other is taken
    deaf  they stay, and nothing comes over them any more
    """

    def __init__(self, server: StoreServer, directory: Path) -> None:
        self._server = server
        self._path = directory / "relay"
        self._subscribers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.deaf = False
        self.refusing = False

    @property
    def url(self) -> str:
        return f"unix://{self._path}?db=0"

    @property
    def subscribers(self) -> int:
        return sum(not writer.is_closing() for writer in self._subscribers)

    def cut(self) -> None:
        self.refusing = True
        for writer in self._subscribers:
            writer.close()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        from_server, to_server = await asyncio.open_unix_connection(self._server.socket)
        answers = asyncio.create_task(self._answer(from_server, writer))
        with suppress(OSError):
            while data := await reader.read(65_536):
                if b"SUBSCRIBE" in data:
                    if self.refusing:
                        break
                    self._subscribers.append(writer)
                to_server.write(data)
        answers.cancel()
        to_server.close()
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not (self.deaf and writer in self._subscribers):
                    writer.write(data)


@contextmanager
def running(follower: Follower) -> Iterator[None]:
    """The follower runs while the block does."""
    task = asyncio.get_running_loop().create_task(follower.run())
    try:
        yield
    finally:
        task.cancel()


async def until(condition: Callable[[], bool], what: str, *, within_s: float = WITHIN_S) -> float:
    """Look until `condition` is true; how many seconds that took. Raises AssertionError that names `what`."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while not condition():
        assert loop.time() - begun_s < within_s, f"not within {within_s:g} s: {what}"
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await loop.create_future()
    return loop.time() - begun_s


def shown(control: Control) -> dict[str, object]:
    """A control state as a value to compare, but for its epoch."""
    lists = control.lists
    return {
        **{name: sorted(lists[name].prefixes()) for name in LISTS},
        "attack": {field: entry.members() for field, entry in control.attack.items()},
        "overrides": {field: entry.members() for field, entry in control.overrides.items()},
    }


def dump(client: redis.Redis, prefix: str = "") -> dict[bytes, bytes]:
    """What lies under a prefix now, to be put back by `fail_over`."""
    keys = client.scan_iter(f"{prefix}*", count=1000)
    return {key: dumped for key in keys if (dumped := client.dump(key)) is not None}


def fail_over(client: redis.Redis, kept: Mapping[bytes, bytes], prefix: str = "") -> None:
    """A copy takes over that has only seen what was `kept`."""
    for key in client.scan_iter(f"{prefix}*"):
        client.delete(key)
    for key, dumped in kept.items():
        client.restore(key, 0, dumped)
