"""The store in Redis and Valkey, on real servers: it is served, it is refused, it is kept waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import redis
import uvloop

from sidecar.core.window import Ask, Grant
from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore
from tests.certificates import Certificates
from tests.servers import eventually
from tests.stores import StoreServer

T = TypeVar("T")

PATIENCE_S: Final = 30.0
HASTE_S: Final = 1.0
"""The patience of a test that lets it run out."""


def ask(permits: int = 10, want: int = 1, *, window_ms: int = 60_000) -> Ask:
    return Ask(permits, window_ms, 1_000, want, 1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the loop that the gate uses."""
    return uvloop.run(work)


async def take(store: RedisStore, asks: Sequence[tuple[bytes, Ask]]) -> list[Grant]:
    return [Grant(*row) for row in await store.take(asks)]


def with_store(
    url: str,
    work: Callable[[RedisStore], Awaitable[T]],
    *,
    patience_s: float = PATIENCE_S,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> T:
    """What `work` makes of a store at `url`, which is closed afterwards."""

    async def worked() -> T:
        store = RedisStore(url, patience_s=patience_s, ca=ca, cert=cert, key=key)
        try:
            return await work(store)
        finally:
            await store.close()

    return run(worked())


async def one(store: RedisStore) -> Grant:
    return (await take(store, [(b"pc:k", ask())]))[0]


async def refusal(store: RedisStore) -> StoreUnavailable:
    """The error that a batch ends in."""
    with pytest.raises(StoreUnavailable) as caught:
        await store.take([(b"pc:k", ask())])
    return caught.value


# --- served -------------------------------------------------------------------


def test_it_serves_a_batch_in_its_order(any_store: StoreServer) -> None:
    asks = [(b"pc:%d" % (at % 100), ask(permits=3, want=2)) for at in range(300)]

    grants = with_store(any_store.url(), lambda store: take(store, asks))

    assert [grant.granted for grant in grants] == [2] * 100 + [1] * 100 + [0] * 100


def test_it_serves_one_round_trip_for_a_batch(any_store: StoreServer) -> None:
    asks = [(b"pc:%d" % at, ask()) for at in range(200)]

    async def work(store: RedisStore) -> None:
        for _ in range(5):
            await store.take(asks)

    with any_store.client() as client:
        client.config_resetstat()
        with_store(any_store.url(), work)
        calls = client.info("commandstats")

    assert calls["cmdstat_evalsha"]["calls"] + calls.get("cmdstat_eval", {"calls": 0})["calls"] == 6


def test_it_loads_the_script_again_when_the_server_forgot_it(any_store: StoreServer) -> None:
    async def work(store: RedisStore) -> list[int]:
        granted = []
        for _ in range(3):
            with any_store.client() as client:
                client.script_flush()
            granted += [grant.granted for grant in await take(store, [(b"pc:k", ask()), (b"pc:k", ask())])]
        return granted

    assert with_store(any_store.url(), work) == [1] * 6
    with any_store.client() as client:
        assert client.script_exists(scripts.read("take").sha.decode()) == [True]


def test_it_takes_keys_of_any_bytes_and_size(any_store: StoreServer) -> None:
    keys = [b"", b"\r\n", b"\x00\xff", "größe".encode(), b"k" * 8_192, b"$5\r\nhello\r\n"]

    grants = with_store(any_store.url(), lambda store: take(store, [(key, ask()) for key in keys]))

    assert [grant.granted for grant in grants] == [1] * len(keys)
    with any_store.client() as client:
        assert set(client.keys("*")) == set(keys)


def test_it_selects_the_database_of_its_url(any_store: StoreServer) -> None:
    with_store(any_store.url(db=3), one)

    with any_store.client() as client:
        assert client.dbsize() == 0
    with redis.Redis(unix_socket_path=str(any_store.socket), db=3) as third:
        assert third.dbsize() == 1


def test_it_gives_a_sign_of_life(any_store: StoreServer) -> None:
    with_store(any_store.url(), lambda store: store.ping())


# --- who may ask --------------------------------------------------------------


@pytest.mark.parametrize(("user", "password"), [(None, None), ("gate", "wrong"), ("nobody", "secret")])
def test_it_is_refused_without_the_right_password(
    start_redis7: Callable[..., StoreServer], user: str | None, password: str | None
) -> None:
    server = start_redis7(users=["default off", "gate on >secret ~* +@all"])

    error = with_store(server.url(user=user, password=password), refusal)

    assert "Authentication required" in str(error) or "username-password" in str(error)
    assert "secret" not in str(error)


def test_it_gives_the_default_users_password(start_redis7: Callable[..., StoreServer]) -> None:
    server = start_redis7(requirepass="secret")

    assert with_store(server.url(password="secret"), one).granted == 1


# --- TLS ----------------------------------------------------------------------


def test_it_shows_its_certificate_and_trusts_the_authority_it_was_given(
    start_redis7: Callable[..., StoreServer], certificates: Certificates
) -> None:
    server = start_redis7(certificates=certificates)

    grant = with_store(
        server.tls_url, one, ca=certificates.ca, cert=certificates.client_cert, key=certificates.client_key
    )

    assert grant.granted == 1


def test_it_trusts_no_other_authority(
    start_redis7: Callable[..., StoreServer], certificates: Certificates
) -> None:
    server = start_redis7(certificates=certificates)

    for ca in (certificates.stranger_ca, None):
        error = with_store(
            server.tls_url, refusal, ca=ca, cert=certificates.client_cert, key=certificates.client_key
        )
        assert error.kind == "connection"
        assert "certificate" in str(error).lower()


def test_it_is_refused_without_a_certificate_of_its_own(
    start_redis7: Callable[..., StoreServer], certificates: Certificates
) -> None:
    server = start_redis7(certificates=certificates)

    assert with_store(server.tls_url, refusal, ca=certificates.ca).kind == "connection"


def test_it_insists_on_the_name_in_the_certificate(
    start_redis7: Callable[..., StoreServer], certificates: Certificates
) -> None:
    server = start_redis7(certificates=certificates, bind="127.0.0.2")
    url = server.tls_url.replace("127.0.0.1", "127.0.0.2")

    error = with_store(
        url, refusal, ca=certificates.ca, cert=certificates.client_cert, key=certificates.client_key
    )

    assert error.kind == "connection"


# --- kept waiting -------------------------------------------------------------


def test_it_gives_up_on_a_silent_server_and_never_reads_its_late_answer(
    start_valkey: Callable[..., StoreServer],
) -> None:
    server = start_valkey()

    async def work(store: RedisStore) -> tuple[str, int, list[Grant]]:
        await one(store)
        with server.server.paused(), pytest.raises(StoreUnavailable) as caught:
            await store.take([(b"pc:late", ask(permits=777))] * 3)
        grants = [await take(store, [(b"pc:mine", ask(permits=5))]) for _ in range(3)]
        with server.client() as client:
            eventually(lambda: client.exists("pc:late") == 1, "the late batch was carried out all the same")
        return caught.value.kind, len(grants), [grant for (grant,) in grants]

    kind, _, grants = with_store(server.url(), work, patience_s=HASTE_S)

    assert kind == "timeout"
    assert [grant.room for grant in grants] == [4, 3, 2]


def test_it_gives_up_on_a_server_that_does_not_even_accept(start_valkey: Callable[..., StoreServer]) -> None:
    server = start_valkey(requirepass="secret")

    async def work(store: RedisStore) -> str:
        with server.server.paused():
            return (await refusal(store)).kind

    assert with_store(server.url(password="secret"), work, patience_s=HASTE_S) in {"timeout", "connection"}


def test_it_is_back_when_the_server_is(start_valkey: Callable[..., StoreServer]) -> None:
    server = start_valkey()

    async def work(store: RedisStore) -> list[object]:
        before = (await one(store)).granted
        server.server.kill()
        away = [(await refusal(store)).kind for _ in range(2)]
        server.server.start()
        return [before, *away, (await one(store)).granted]

    assert with_store(server.url(), work) == [1, "connection", "connection", 1]


def test_it_needs_no_server_to_be_made(directory: Path) -> None:
    assert with_store(f"unix://{directory}/nobody", refusal).kind == "connection"


def test_it_connects_anew_when_the_server_hung_up_meanwhile(any_store: StoreServer) -> None:
    async def work(store: RedisStore) -> list[int]:
        granted = [(await one(store)).granted]
        with any_store.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
            client.ping()
        await asyncio.sleep(0)  # one turn of the loop, in which it hears of it
        await asyncio.sleep(0)
        return [*granted, (await one(store)).granted]

    assert with_store(any_store.url(), work) == [1, 1]


# --- answers of another shape -------------------------------------------------


def test_it_survives_a_key_that_is_no_counter(any_store: StoreServer) -> None:
    with any_store.client() as client:
        client.rpush("pc:list", "x")

    async def work(store: RedisStore) -> list[object]:
        with pytest.raises(StoreUnavailable) as caught:
            await store.take([(b"pc:list", ask()), (b"pc:k", ask())])
        return [caught.value.kind, (await one(store)).granted]

    assert with_store(any_store.url(), work) == ["response", 1]


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b":7\r\n",
        b"$-1\r\n",
        b"*0\r\n",
        b"-ERR no\r\n",
        b"?what\r\n",
        b"*7\r\n:1\r\n",
    ],
)
def test_it_uses_no_answer_of_another_shape(directory: Path, reply: bytes) -> None:
    """A server that speaks the protocol and is no Redis; it hangs up after its answer."""
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        while line := await reader.readline():
            if line == b"SETNAME\r\n":
                writer.write(b"+OK\r\n")
            if line == b"EVALSHA\r\n":
                writer.write(reply)
                break
        writer.close()

    async def work() -> list[str]:
        server = await asyncio.start_unix_server(serve, directory / "s")
        store = RedisStore(f"unix://{directory}/s", patience_s=PATIENCE_S)
        kinds = [(await refusal(store)).kind for _ in range(3)]
        await store.close()
        server.close()
        return kinds

    kinds = run(work())

    assert set(kinds) <= {"response", "connection", "other"}
    assert served >= 2  # the next one who asks gets a connection of their own
