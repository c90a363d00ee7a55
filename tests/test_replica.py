"""One replica, put together: in this process, on a real store, asked through a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.assembly import fronts_of, layout_of
from sidecar.config import Config, parse
from sidecar.control.last_known import LastKnown
from sidecar.decision_log import DecisionLog
from sidecar.fronts.described import Described, asked_by
from sidecar.metrics import Gauge, Layout, Metrics
from sidecar.replica import Replica
from tests.gates import patient
from tests.operators import attack
from tests.servers import WITHIN_S
from tests.stores import StoreServer

CONTROL = "pc:{control}:"
QUESTION = (
    b"GET /auth/forward HTTP/1.1\r\nHost: gate\r\nX-Forwarded-For: %b\r\nX-Forwarded-Method: GET\r\n"
    b"X-Forwarded-Uri: /\r\n%b\r\n"
)


class Rig:
    """A replica, what it logged, and a connection to it."""

    def __init__(
        self, store: StoreServer, folder: Path, document: str, *, hash_key: bytes | None = None
    ) -> None:
        self.folder = folder
        self.config = self.read(document)
        self.layout = layout_of(self.config)
        self.metrics = Metrics(self.layout)
        self.lines: list[dict[str, Any]] = []
        self.replica = Replica(
            self.config,
            store_url=store.url(),
            hash_key=hash_key,
            replica_id="gate/1",
            keeps=True,
            metrics=self.metrics,
            log=DecisionLog(
                lambda line: self.lines.append(json.loads(line)), refusals_per_s=10, wall_s=lambda: 0.0
            ),
        )

    def read(self, document: str) -> Config:
        return parse(patient(document), name="test", folder=self.folder)

    async def ask(self, address: str = "203.0.113.9", *, key: str = "") -> int:
        """The status of one request on the connection."""
        header = f"X-Api-Key: {key}\r\n" if key else ""
        self._writer.write(QUESTION % (address.encode(), header.encode()))
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)
        return int(head.split(b" ", 2)[1])

    async def adopt(self, document: str) -> None:
        config = self.read(document)
        self.layout = layout_of(config, self.layout)
        self.replica.switch(await self.replica.prepare(config, self.layout))

    def gauge(self, gauge: Gauge) -> int:
        self.replica.keep_books()
        return self.metrics.values()[gauge.value]

    def shows(self, gauge: Gauge, value: int) -> bool:
        return self.gauge(gauge) == value

    def events(self) -> list[str]:
        return [str(line["event"]) for line in self.lines]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Started, connected to, and stopped at the end."""
        listener = socket.create_server(("127.0.0.1", 0))
        await self.replica.start([listener])
        self._reader, self._writer = await asyncio.open_connection(*listener.getsockname())
        try:
            yield
        finally:
            self._writer.close()
            await self.replica.stop(1.0)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Let the loop turn until `condition` is true."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + WITHIN_S
    turned = asyncio.Event()
    while not condition():
        assert loop.time() < end_s, f"not within {WITHIN_S:g} s: {what}"
        turned.clear()
        loop.call_later(0.01, turned.set)
        await turned.wait()


def _is(tell: Callable[[], object], value: object) -> bool:
    return tell() is value


TWO = "limits: [{name: per-ip, per: [ip], permits: 2, window: 1m}]"


def test_it_decides_counts_and_logs(valkey: StoreServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        rig = Rig(valkey, tmp_path, TWO)
        async with rig.serving():
            statuses = [await rig.ask() for _ in range(3)]
            gauges = [
                rig.gauge(gauge) for gauge in (Gauge.STORE_UP, Gauge.CONNECTIONS, Gauge.LEDGER_COUNTERS)
            ]

        assert statuses == [200, 200, 429]
        assert gauges == [1, 1, 1]
        assert rig.events() == ["store_up", "refused"]

    asyncio.run(scenario())


def test_it_gives_back_and_signs_off_when_it_stops(valkey: StoreServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        rig = Rig(valkey, tmp_path, "limits: [{name: all, per: [global], permits: 1000, window: 1h}]")
        async with rig.serving():
            for _ in range(30):
                await rig.ask()

        other = Rig(
            valkey, tmp_path, "limits: [{name: all, per: [global], permits: 1000, window: 1h, lease: never}]"
        )
        async with other.serving():
            assert await other.ask() == 200
            (counter,) = [counter for counter, _ in _bound(other).charges]
            assert counter.room == 1000 - 31

    asyncio.run(scenario())
    with valkey.client() as client:
        assert client.zcard(f"{CONTROL}replicas") == 0


def _bound(rig: Rig) -> Any:
    front = next(front for front in fronts_of(rig.config) if front.name == "forward")
    request = front.read(asked_by("forward", Described("203.0.113.9", "GET", "", "/", {})))
    return rig.replica.gate.policy.bind(request)


def test_it_decides_by_another_configuration_from_one_request_to_the_next(
    valkey: StoreServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        rig = Rig(valkey, tmp_path, TWO)
        async with rig.serving():
            before = [await rig.ask() for _ in range(3)]
            await rig.adopt(TWO.replace("permits: 2", "permits: 3"))
            raised = [await rig.ask() for _ in range(2)]
            await rig.adopt(TWO + "\naddresses: {deny: {cidrs: [203.0.113.0/24]}}")
            denied = await rig.ask()

        assert (before, raised, denied) == ([200, 200, 429], [200, 429], 403)

    asyncio.run(scenario())


def test_it_agrees_with_the_others_on_the_hash_key(valkey: StoreServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        per_key = "limits: [{name: per-key, per: [key], permits: 3, window: 1h, lease: never}]"
        rigs = [Rig(valkey, tmp_path / name, per_key) for name in ("a", "b")]
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
        async with rigs[0].serving(), rigs[1].serving():
            statuses = [await rig.ask(key="opaque") for rig in (*rigs, *rigs)]

        assert statuses == [200, 200, 200, 429]

    asyncio.run(scenario())
    with valkey.client() as client:
        assert "opaque" not in str(client.keys())


def test_it_keeps_its_own_hash_key(valkey: StoreServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        rig = Rig(valkey, tmp_path, TWO, hash_key=b"k" * 32)
        async with rig.serving():
            assert await rig.ask() == 200

    asyncio.run(scenario())
    with valkey.client() as client:
        assert not client.exists(f"{CONTROL}hash_key")


def test_it_survives_a_hash_key_that_no_replica_made(valkey: StoreServer, tmp_path: Path) -> None:
    with valkey.client() as client:
        client.set(f"{CONTROL}hash_key", "not hexadecimal")
    attack(valkey, True)

    async def scenario() -> None:
        rig = Rig(valkey, tmp_path, TWO)
        async with rig.serving():
            assert await rig.ask() == 503

    asyncio.run(scenario())


def test_it_follows_attack_mode_and_keeps_it_on_disk(valkey: StoreServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        rig = Rig(valkey, tmp_path, TWO)
        kept = LastKnown(tmp_path / "portcullis-data").attack_on
        async with rig.serving():
            for on in (True, False):
                await asyncio.to_thread(attack, valkey, on)
                await until(partial(rig.shows, Gauge.ATTACK_MODE, int(on)), "attack mode is followed")
                await until(partial(_is, partial(kept, 0), on), "attack mode is kept")

        assert [line["on"] for line in rig.lines if line["event"] == "attack_mode"] == [True, False]

    (tmp_path / "portcullis-data").mkdir()
    asyncio.run(scenario())


def test_it_says_once_that_attack_mode_cannot_be_kept(valkey: StoreServer, tmp_path: Path) -> None:
    async def scenario() -> None:
        rig = Rig(valkey, tmp_path, TWO)  # and nobody made its state_dir
        async with rig.serving():
            await asyncio.to_thread(attack, valkey, True)
            await until(lambda: rig.gauge(Gauge.ATTACK_MODE) == 1, "attack mode is followed")
            await until(lambda: "warning" in rig.events(), "it is said")

        warnings = [line for line in rig.lines if line["event"] == "warning"]
        assert len(warnings) == 1
        assert "not kept on disk" in warnings[0]["message"]

    asyncio.run(scenario())


def test_it_warns_of_a_store_that_may_forget(
    start_valkey: Callable[..., StoreServer], tmp_path: Path
) -> None:
    store = start_valkey(maxmemory_policy="allkeys-lru")

    async def scenario() -> None:
        rig = Rig(store, tmp_path, TWO)
        async with rig.serving():
            pass

        assert [line["message"].partition(":")[0] for line in rig.lines if line["event"] == "warning"] == [
            "the store's maxmemory-policy is allkeys-lru"
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize("workers", [1, 3])
def test_it_reckons_with_its_own_workers_before_the_store_says_more(
    start_valkey: Callable[..., StoreServer], tmp_path: Path, workers: int
) -> None:
    store = start_valkey()
    store.server.kill()

    async def scenario() -> list[int]:
        rig = Rig(store, tmp_path, TWO.replace("permits: 2", "permits: 6") + f"\nworkers: {workers}")
        async with rig.serving():
            return [await rig.ask() for _ in range(10)]

    assert asyncio.run(scenario()).count(200) == 6 // workers


def test_it_reads_no_credentials_when_none_are_to_be_read(tmp_path: Path) -> None:
    texts = ("credentials: {mode: none}", "credentials: {headers: [X-Token]}")

    keys = []
    for text in texts:
        config = parse(text, name="test", folder=tmp_path)
        front = next(front for front in fronts_of(config) if front.name == "api")
        described = Described("192.0.2.1", "GET", "", "/", {"X-Token": "t", "X-Api-Key": "k"})
        keys.append(front.read(asked_by("api", described)).key)

    assert keys == [None, b"t"]


def test_it_counts_what_the_configuration_names_and_keeps_the_places_of_what_it_named(tmp_path: Path) -> None:
    def layout(text: str, before: Layout | None = None) -> Layout:
        return layout_of(parse(text, name="test", folder=tmp_path), before)

    first = layout(TWO)
    shadowed = TWO.replace("1m}", "1m, mode: shadow}").replace("per-ip", "new")
    second = layout(shadowed, first)

    assert "per-ip" in first.limits
    assert second.limits["per-ip"] == first.limits["per-ip"]
    assert "new" in second.limits
    assert "new" in second.rules
