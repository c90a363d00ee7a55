"""The gate when its own process does not run for a while: the store is not to blame. With doubles, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.core.model import Source
from tests.lanes import DEADLINE_MS, STALL_MS, TURN_MS, Bench, VirtualLoop, limit, now_ms, passes, run, turns


async def stalls(ms: float) -> None:
    """The loop does not run for so long, from the next thing that it would do on: SIGSTOP, or no processor."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    loop.stall(ms)
    await asyncio.sleep(0)


def test_it_sends_what_a_stall_kept_from_the_store_before_it_judges() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.lane.latency_ms = STALL_MS - TURN_MS

        clients = [bench.ask() for _ in range(3)]
        await stalls(10 * DEADLINE_MS)
        await passes(DEADLINE_MS)

        assert [client.verdict.source for client in clients] == [Source.STORE] * 3
        assert bench.watch.up == [True]

    run(scenario())


def test_it_reads_what_has_arrived_even_when_it_stalls_again_before() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.lane.latency_ms = DEADLINE_MS + TURN_MS / 2

        client = bench.ask()
        await passes(DEADLINE_MS + TURN_MS / 4)
        await stalls(10 * DEADLINE_MS)
        await passes(DEADLINE_MS)

        assert client.verdict.source is Source.STORE
        assert bench.watch.up == [True]

    run(scenario())


@pytest.mark.parametrize("sent", [True, False])
def test_it_gives_a_silent_store_little_after_a_stall(sent: bool) -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.hold()

        client = bench.ask()
        await turns(5 if sent else 0)
        await stalls(10 * DEADLINE_MS)
        runs_ms = now_ms()
        await passes(DEADLINE_MS)

        assert client.verdict.source is Source.OUTAGE
        assert client.answered_ms - runs_ms == pytest.approx(STALL_MS)
        assert bench.watch.up == ([True, False] if sent else [True]), "one never asked is not silent"

    run(scenario())


def test_it_gives_a_silent_store_nothing_more_when_stall_follows_stall() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.hold()

        client = bench.ask()
        await turns()
        await stalls(10 * DEADLINE_MS)
        await passes(STALL_MS / 2)
        await stalls(10 * DEADLINE_MS)
        runs_ms = now_ms()
        await turns()

        assert client.answered_ms == pytest.approx(runs_ms)

    run(scenario())


def test_it_finds_the_store_at_the_start_although_the_first_answer_is_late() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        bench.lane.latency_ms = 1
        starting = asyncio.create_task(bench.gate.start())
        await turns()
        await stalls(10 * DEADLINE_MS)
        await starting

        assert bench.watch.up == [True]

    run(scenario())
