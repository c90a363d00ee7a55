"""A subscription on real servers: it hints when it begins and for every message, and says when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore, RedisSubscription, SharedStore
from tests.certificates import Certificates
from tests.control.fleet_double import until
from tests.stores import StoreServer

CHANNEL = b"pc:{control}:epochs"
PATIENCE_S = 5.0


class Listening:
    """A subscription that listens while the block runs, and how often it hinted."""

    def __init__(self, subscription: RedisSubscription, channel: bytes = CHANNEL) -> None:
        self.subscription = subscription
        self.hints = 0
        self._channel = channel

    def hint(self) -> None:
        self.hints += 1

    async def __aenter__(self) -> Listening:
        self.task = asyncio.create_task(self.subscription.listen(self._channel, self.hint))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, StoreUnavailable):
            await self.task
        await self.subscription.close()

    async def hinted(self, times: int) -> None:
        await until(lambda: self.hints == times, f"{times} hints")

    async def ended(self) -> StoreUnavailable:
        with pytest.raises(StoreUnavailable) as caught:
            await asyncio.wait_for(self.task, PATIENCE_S)
        return caught.value


def subscribers(client: redis.Redis) -> int:
    return int(client.pubsub_numsub(CHANNEL.decode())[0][1])


def test_it_hints_when_it_listens_and_for_every_message(any_store: StoreServer) -> None:
    async def scenario() -> None:
        with any_store.client() as client:
            async with Listening(RedisSubscription(any_store.url(), patience_s=PATIENCE_S)) as listening:
                await listening.hinted(1)
                assert subscribers(client) == 1
                for _ in range(5):
                    client.publish(CHANNEL.decode(), "57-00c0ffee00c0ffee")
                client.publish("another channel", "x")
                await listening.hinted(6)
                assert not listening.task.done()
            await until(lambda: subscribers(client) == 0, "it listens no more")

    asyncio.run(scenario())


def test_it_says_when_it_ends_and_listens_again(any_store: StoreServer) -> None:
    async def scenario() -> None:
        subscription = RedisSubscription(any_store.url(), patience_s=PATIENCE_S)
        with any_store.client() as client:
            for _ in range(3):
                async with Listening(subscription) as listening:
                    await listening.hinted(1)
                    client.client_kill_filter(_type="pubsub")
                    assert (await listening.ended()).kind == "connection"

    asyncio.run(scenario())


def test_it_says_when_nobody_is_there(any_store: StoreServer, directory: Path) -> None:
    async def scenario() -> None:
        subscription = RedisSubscription(f"unix://{directory / 'nobody'}?db=0", patience_s=PATIENCE_S)
        async with Listening(subscription) as listening:
            assert (await listening.ended()).kind == "connection"
            assert listening.hints == 0

    asyncio.run(scenario())


def test_it_says_when_it_may_not_listen(start_redis7: Callable[..., StoreServer]) -> None:
    server = start_redis7(users=["default off", "gate on >secret ~pc:* resetchannels &pc:other +@all"])

    async def scenario() -> None:
        url = server.url(user="gate", password="secret")
        async with Listening(RedisSubscription(url, patience_s=PATIENCE_S)) as listening:
            ended = await listening.ended()
            assert ended.kind == "response"
            assert "permissions" in str(ended)
            assert listening.hints == 0
        async with Listening(RedisSubscription(url, patience_s=PATIENCE_S), b"pc:other") as listening:
            await listening.hinted(1)

    asyncio.run(scenario())


def test_it_listens_over_tls(start_redis7: Callable[..., StoreServer], certificates: Certificates) -> None:
    server = start_redis7(certificates=certificates)

    async def scenario() -> None:
        subscription = RedisSubscription(
            server.tls_url,
            patience_s=PATIENCE_S,
            ca=certificates.ca,
            cert=certificates.client_cert,
            key=certificates.client_key,
        )
        async with Listening(subscription) as listening:
            await listening.hinted(1)
            with server.client() as client:
                client.publish(CHANNEL.decode(), "x")
            await listening.hinted(2)
        # It does not wait for the server's goodbye; this loop does, so that nothing is left open.
        with server.client() as client:
            await until(lambda: subscribers(client) == 0, "it listens no more")
        loop = asyncio.get_running_loop()
        ended_s = loop.time()
        await until(lambda: loop.time() - ended_s > 0.1, "the goodbye has come")

    asyncio.run(scenario())


def test_it_waits_for_a_message_for_as_long_as_it_takes(any_store: StoreServer) -> None:
    async def scenario() -> None:
        async with Listening(RedisSubscription(any_store.url(), patience_s=0.05)) as listening:
            await listening.hinted(1)
            loop = asyncio.get_running_loop()
            begun_s = loop.time()
            await until(lambda: loop.time() - begun_s > 0.2, "the patience for a connection is over")
            assert not listening.task.done()
            with any_store.client() as client:
                client.publish(CHANNEL.decode(), "x")
            await listening.hinted(2)

    asyncio.run(scenario())


# --- a store for many ------------------------------------------------------------------------


def test_it_answers_many_at_once_one_after_the_other(any_store: StoreServer) -> None:
    async def scenario() -> None:
        store = SharedStore(RedisStore(any_store.url(), patience_s=PATIENCE_S))
        try:
            script = scripts.read("heartbeat")
            keys = [f"pc:{{control}}:{name}".encode() for name in "abcdef"]
            beats = [store.script(script, keys, [b"", b"1", b"1", b"", b"", b"1", b"0"]) for _ in range(20)]
            echoes = [store.command(b"ECHO", b"%d" % number) for number in range(20)]
            told = await asyncio.gather(*echoes, *beats)

            assert told[:20] == [b"%d" % number for number in range(20)]
            assert all(isinstance(beat, list) and len(beat) == 5 for beat in told[20:])
            with any_store.client() as client:
                assert len(client.client_list()) == 2, "one connection, and this one"
        finally:
            await store.close()

    asyncio.run(scenario())


def test_it_lets_nobody_wait_for_more_than_a_turn_and_an_answer(directory: Path) -> None:
    path, patience_s = directory / "hung", 0.5

    async def scenario() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1 << 16):
                pass
            writer.close()

        loop = asyncio.get_running_loop()
        async with await asyncio.start_unix_server(hang, path):
            store = SharedStore(RedisStore(f"unix://{path}?db=0", patience_s=patience_s))

            async def asked() -> tuple[str, float]:
                begun_s = loop.time()
                with pytest.raises(StoreUnavailable) as caught:
                    await store.command(b"PING")
                return caught.value.kind, loop.time() - begun_s

            told = await asyncio.gather(*(asked() for _ in range(12)))
            await store.close()

        assert max(took_s for _, took_s in told) < 3 * patience_s
        assert {kind for kind, _ in told} == {"timeout", "connection"}
        assert [kind for kind, _ in told].count("timeout") <= 2, "the others sent nothing, and say so"

    asyncio.run(scenario())


def test_it_answers_when_the_one_before_gave_up_its_turn(any_store: StoreServer) -> None:
    async def scenario() -> None:
        store = SharedStore(RedisStore(any_store.url(), patience_s=0.2))
        try:
            with any_store.client() as client:
                client.client_pause(500, all=True)
                told = await asyncio.gather(
                    *(store.command(b"ECHO", b"x") for _ in range(4)), return_exceptions=True
                )
                assert all(isinstance(each, StoreUnavailable) for each in told)
                client.ping()

            assert await store.command(b"ECHO", b"y") == b"y"
        finally:
            await store.close()

    asyncio.run(scenario())


def test_it_goes_on_when_somebody_stops_waiting(any_store: StoreServer) -> None:
    async def scenario() -> None:
        store = SharedStore(RedisStore(any_store.url(), patience_s=PATIENCE_S))
        try:
            waiting = [asyncio.create_task(store.command(b"ECHO", b"%d" % number)) for number in range(6)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
            told = await asyncio.gather(*waiting, return_exceptions=True)

            assert [isinstance(each, asyncio.CancelledError) for each in told] == [True, False] * 3
            assert told[1::2] == [b"1", b"3", b"5"]
        finally:
            await store.close()

    asyncio.run(scenario())
