"""The rights that a gate needs at its store: what README says, all of them, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from redis import Redis

from sidecar.control.audit import Audit
from sidecar.control.changes import Changes
from sidecar.control.fleet import Fleet
from sidecar.control.reset import STEP
from sidecar.control.top import TopReader
from sidecar.core.control import NO_EPOCH, Epoch
from sidecar.core.window import Ask, Grant
from sidecar.store import StoreUnavailable, scripts
from sidecar.store.redis import RedisStore, RedisSubscription
from tests.control.fleet_double import Replica
from tests.stores import StoreServer

README: Final = Path(__file__).resolve().parents[2] / "README.md"
LEAST_RIGHTS: Final = (
    "resetkeys ~pc:* resetchannels &pc:* -@all +ping +client|setname +evalsha +eval +time +get +set +del +scan"
    " +hget +hset +hdel +hlen +hmget +hgetall +hscan +zadd +zrem +zrange +zrangebyscore +zrevrangebyscore"
    " +pexpire +xadd +xrange +xrevrange +publish +subscribe"
)
"""The ACL that a gate needs, and nothing more: its own keys, its scripts, and what they call."""
RIGHTS: Final = [word for word in LEAST_RIGHTS.split() if word[0] in "+~&"]
PATIENCE_S: Final = 30.0


@pytest.fixture
def allow(redis7: StoreServer) -> Iterator[Redis]:
    """Where a test says what the user `gate` may."""
    with redis7.client() as client:
        yield client
        client.acl_deluser("gate")


def test_it_needs_these_rights(allow: Redis, redis7: StoreServer) -> None:
    _allow(allow, LEAST_RIGHTS)

    asyncio.run(_everything(redis7))


@pytest.mark.parametrize("right", RIGHTS)
def test_it_says_so_when_one_is_missing(allow: Redis, redis7: StoreServer, right: str) -> None:
    _allow(allow, " ".join(word for word in LEAST_RIGHTS.split() if word != right))

    with pytest.raises(StoreUnavailable) as caught:
        asyncio.run(_everything(redis7))

    assert caught.value.kind in {"response", "connection"}


def test_it_may_touch_no_key_outside_its_prefix(allow: Redis, redis7: StoreServer) -> None:
    _allow(allow, LEAST_RIGHTS)

    with pytest.raises(StoreUnavailable) as caught:
        asyncio.run(_everything(redis7, prefix="other:"))

    assert caught.value.kind == "response"


def test_it_is_what_the_readme_says() -> None:
    text = README.read_text(encoding="utf-8")

    assert f"ACL SETUSER portcullis on >PASSWORD {LEAST_RIGHTS}`" in text


def _allow(client: Redis, rights: str) -> None:
    words = ("ACL", "SETUSER", "gate", "reset", "on", ">secret", *rights.split())
    client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py types no raw command


async def _everything(server: StoreServer, prefix: str = "pc:") -> None:
    """All that a gate and its admin plane ever ask of a store. Raises StoreUnavailable."""
    url = server.url(user="gate", password="secret")
    store = RedisStore(url, patience_s=PATIENCE_S)
    subscription = RedisSubscription(url, patience_s=PATIENCE_S)
    replica = Replica(server, prefix, "gate/1", url=url)
    try:
        await _counters(store, prefix)
        await _control(store, replica, prefix)
        heard = asyncio.Event()
        listening = asyncio.create_task(
            subscription.listen(f"{prefix}{{control}}:epochs".encode(), heard.set)
        )
        await asyncio.wait([listening, asyncio.create_task(heard.wait())], return_when="FIRST_COMPLETED")
        if not heard.is_set():
            await listening
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    finally:
        await subscription.close()
        await replica.close()
        await store.close()


async def _counters(store: RedisStore, prefix: str) -> None:
    await store.ping()
    key = f"{prefix}{{0}}:k".encode()
    [row] = await store.take([(key, Ask(10, 60_000, 1_000, 1, 1))])
    grant = Grant(*row)
    await store.take([(key, Ask(10, 60_000, 1_000, 0, 1, 1, grant.slice_id, grant.made))])
    await store.command(b"SCAN", b"0", b"MATCH", key, b"COUNT", b"%d" % STEP, b"TYPE", b"string")


async def _control(store: RedisStore, replica: Replica, prefix: str) -> None:
    if not await replica.follower.once():
        raise StoreUnavailable("response", replica.errors[-1])
    changes = Changes(store=store, prefix=prefix)
    await changes.change("deny", put=["192.0.2.0/24"], for_ms=60_000, actor="a", action="a", demand="absent")
    await changes.change("deny", delete=["192.0.2.0/24"], actor="a", action="a")
    await changes.raw("deny", "192.0.2.0/24")
    await changes.page("deny", 0, 10)
    await changes.size("deny")
    await changes.epoch()
    await changes.deltas(NO_EPOCH, 10)
    await Audit(store=store, prefix=prefix).read(None, 10)
    fleet = Fleet(store=store, prefix=prefix, gate="gate", reached=_at_once)
    await fleet.members()
    top = [f"{prefix}{{control}}:{name}".encode() for name in ("top", "top_times")]
    summary = b'{"since_s": 1, "heaviest": {}, "refused": {}}'
    for told in (summary, b"", summary):
        await store.script(scripts.read("top"), top, [b"gate/1", told, b"60000"])
    await TopReader(store=store, prefix=prefix).read(10)


async def _at_once(_: Epoch) -> None:
    pass
