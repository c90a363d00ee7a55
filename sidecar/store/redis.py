"""The store in Redis or Valkey, one connection for one lane of batches.

redis-py makes and authenticates the connection (TLS, ACL user, unix socket); the batch goes
out as one packed EVALSHA and its numbers as one binary argument, because packing each number
as an argument of its own costs more than everything else together.

A batch is sent at most once: redis-py's retries are off, and only `NOSCRIPT`, which says that
nothing ran, is sent again. A reply that does not come within `patience_s` costs the
connection, never the next caller's reply: the connection is dropped with it.

The deadline of a request is shorter than that and is the gate's business.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import chain
from pathlib import Path
from struct import pack
from typing import Any, Final, cast

from hiredis import pack_command
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from sidecar.core.ledger import GrantRow
from sidecar.core.window import Ask
from sidecar.store import StoreUnavailable, scripts

NUMBERS: Final = 9
ANSWERS: Final = 7


class RedisStore:
    """`url` is `redis://`, `rediss://` or `unix://`; `ca`, `cert` and `key` are PEM files for TLS."""

    def __init__(
        self,
        url: str,
        *,
        patience_s: float,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._take = scripts.read("take")
        self.patience_s: Final = patience_s
        self._connection = connection_to(url, patience_s=patience_s, ca=ca, cert=cert, key=key)

    async def take(self, asks: Sequence[tuple[bytes, Ask]]) -> Iterable[GrantRow]:
        """Serve a batch: one round trip. Raises StoreUnavailable."""
        numbers = pack(f"<{NUMBERS * len(asks)}q", *chain.from_iterable([ask for _, ask in asks]))
        reply = await self.script(self._take, [key for key, _ in asks], [b"", numbers])
        if not isinstance(reply, list) or len(reply) != ANSWERS * len(asks):
            await self._connection.disconnect(nowait=True)
            raise StoreUnavailable("response", "the store's answer has not the shape of take's")
        return cast("Iterable[GrantRow]", zip(*[iter(reply)] * ANSWERS, strict=True))

    async def ping(self) -> None:
        """Ask for a sign of life. Raises StoreUnavailable."""
        await self.command(b"PING")

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
        """Run one of our scripts. Raises StoreUnavailable."""
        words = [str(len(keys)).encode(), *keys, *arguments]
        try:
            try:
                return await self._call([b"EVALSHA", script.sha, *words])
            except NoScriptError:
                return await self._call([b"EVAL", script.text, *words])
        except RedisError as exc:
            raise _unavailable(exc) from exc

    async def command(self, *words: bytes) -> object:
        """Any one command. Raises StoreUnavailable."""
        try:
            return await self._call(list(words))
        except RedisError as exc:
            raise _unavailable(exc) from exc

    async def close(self) -> None:
        """End the connection, and wait until it is ended: TLS says goodbye."""
        with suppress(RedisError):  # a server that does not is left without
            await self._connection.disconnect()

    async def _call(self, command: list[bytes]) -> object:
        """One command, one reply; on any doubt about whose reply comes next the connection is dropped."""
        connection = self._connection
        sure = False
        try:
            async with asyncio.timeout(self.patience_s):
                if _hung_up(connection):
                    await connection.disconnect(nowait=True)
                await connection.send_packed_command(
                    pack_command(tuple[Any, ...](command)), check_health=False
                )
                reply: object = await connection.read_response(disable_decoding=True, timeout=math.inf)
            sure = True
            return reply
        except ResponseError:
            sure = True
            raise
        except TimeoutError as exc:
            raise StoreUnavailable("timeout", f"no answer within {self.patience_s:g} s") from exc
        except OSError as exc:
            raise StoreUnavailable("connection", str(exc)) from exc
        finally:
            if not sure:
                await connection.disconnect(nowait=True)


class RedisSubscription:
    """Listens to one channel, on a connection of its own."""

    def __init__(
        self,
        url: str,
        *,
        patience_s: float,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._connection = connection_to(url, patience_s=patience_s, ca=ca, cert=cert, key=key)

    async def listen(self, channel: bytes, hint: Callable[[], None]) -> None:
        """Call `hint` when listening begins and for every message. Raises StoreUnavailable when it ends."""
        connection = self._connection
        try:
            words: tuple[Any, ...] = (b"SUBSCRIBE", channel)
            await connection.send_packed_command(pack_command(words), check_health=False)
            while True:
                await connection.read_response(disable_decoding=True, timeout=math.inf)
                hint()
        except RedisError as exc:
            raise _unavailable(exc) from exc
        except OSError as exc:
            raise StoreUnavailable("connection", str(exc)) from exc
        finally:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        with suppress(RedisError):
            await self._connection.disconnect()


class SharedStore:
    """A store that many may ask at once: one after the other.

    While the store hangs, each of them waits for its turn once as long as for an answer, and no longer:
    their number adds nothing.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._turn = asyncio.Lock()

    async def script(self, script: scripts.Script, keys: list[bytes], arguments: list[bytes]) -> object:
        """As RedisStore does."""
        async with self._in_turn():
            return await self._store.script(script, keys, arguments)

    async def command(self, *words: bytes) -> object:
        """As RedisStore does."""
        async with self._in_turn():
            return await self._store.command(*words)

    async def close(self) -> None:
        await self._store.close()

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        patience_s = self._store.patience_s
        try:
            async with asyncio.timeout(patience_s):
                await self._turn.acquire()
        except TimeoutError as exc:
            why = f"others wait for its answer, for {patience_s:g} s and more, so nothing was sent"
            raise StoreUnavailable("connection", why) from exc
        try:
            yield
        finally:
            self._turn.release()


def connection_to(
    url: str, *, patience_s: float, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> Connection | UnixDomainSocketConnection:
    """A redis-py connection, not yet open: no retries of its own, no health checks, RESP2."""
    options: dict[str, Any] = dict(parse_url(url))  # redis-py's own, of many types
    kind: type[Connection] = options.pop("connection_class", Connection)
    if issubclass(kind, SSLConnection):
        options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        options |= {"ssl_ca_certs": str(ca)} if ca else {}
        options |= {"ssl_certfile": str(cert), "ssl_keyfile": str(key)} if cert and key else {}
    return kind(
        **options,
        protocol=2,
        socket_timeout=None,
        socket_connect_timeout=patience_s,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        driver_info=None,
        client_name="portcullis",
    )


def _hung_up(connection: Connection | UnixDomainSocketConnection) -> bool:
    """Whether the server closed the connection while nobody asked (its `timeout`, a proxy in between):
    nothing was sent on it, so a new one may be made."""
    reader = connection._reader
    return reader is not None and reader.at_eof()


def _unavailable(exc: RedisError) -> StoreUnavailable:
    """The store's errors in four kinds; the text is the server's, without keys or numbers."""
    if isinstance(exc, AuthenticationError | ResponseError):
        return StoreUnavailable("response", str(exc)[:200])
    if isinstance(exc, RedisConnectionError):
        return StoreUnavailable("connection", str(exc)[:200])
    return StoreUnavailable("other", str(exc)[:200])
