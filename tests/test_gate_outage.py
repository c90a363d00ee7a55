"""The gate when the store is silent, refuses or comes back: with doubles, in virtual time."""

from __future__ import annotations

import logging

import pytest

from sidecar.core.model import Outage, Source
from sidecar.gate import PROBE_MOST_S
from tests.lanes import DEADLINE_MS, TURN_MS, Bench, Client, limit, now_ms, passes, run, turns


def codes(clients: list[Client]) -> list[str]:
    return [client.code for client in clients]


async def silenced(bench: Bench) -> Client:
    """Let the store fall silent, and one request find out; returns that request's client."""
    for lane in bench.lanes:
        lane.held = lane.silent = True
    client = bench.ask("192.0.2.99")
    await passes(DEADLINE_MS + TURN_MS)
    await turns()
    assert not bench.gate.store_up
    return client


async def healed(bench: Bench) -> None:
    """Let the store answer whatever it owes, and everything from now on, until the breaker closes."""
    for lane in bench.lanes:
        lane.held = lane.silent = False
        while lane.under_way:
            lane.release()
            await turns()
    await passes(2 * PROBE_MOST_S * 1000)
    assert bench.gate.store_up


# --- the deadline ---------------------------------------------------------------


def test_it_answers_at_the_deadline_by_the_outage_policy() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        begun_ms = now_ms()

        client = await silenced(bench)

        assert client.verdict.source is Source.OUTAGE
        assert client.code == "ok"
        assert client.answered_ms - begun_ms == pytest.approx(DEADLINE_MS + TURN_MS)
        assert bench.watch.errors == ["timeout"]
        assert bench.watch.up == [True, False]

    run(scenario())


def test_it_costs_nothing_once_the_breaker_is_open() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        await silenced(bench)
        asked = len(bench.lane.asked)

        clients = [bench.ask() for _ in range(50)]

        assert codes(clients) == ["ok"] * 10 + ["rate_limited"] * 40
        assert {client.verdict.source for client in clients} == {Source.OUTAGE}
        await passes(10_000)
        assert len(bench.lane.asked) == asked
        assert bench.watch.errors == ["timeout"]

    run(scenario())


def test_it_answers_a_request_that_came_late_to_a_silent_store_with_the_others() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.lane.held = bench.lane.silent = True
        bench.ask()
        await passes(DEADLINE_MS - 1)
        begun_ms = now_ms()

        late = bench.ask("192.0.2.2")
        await passes(1 + TURN_MS)
        await turns()

        assert late.answered_ms - begun_ms <= 1 + TURN_MS
        assert late.verdict.source is Source.OUTAGE

    run(scenario())


def test_it_holds_the_deadline_while_a_slow_store_answers_each_batch_in_time() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1_000))
        await bench.gate.start()
        bench.lane.latency_ms = 15
        first = bench.ask("192.0.2.1")
        await passes(1)
        begun_ms = now_ms()

        second = bench.ask("192.0.2.2")
        await passes(DEADLINE_MS + 2 * TURN_MS)

        assert first.verdict.source is Source.STORE
        assert second.verdict.source is Source.OUTAGE
        assert second.answered_ms - begun_ms <= DEADLINE_MS + 2 * TURN_MS
        assert bench.gate.store_up, "it answers, only not this one in time"

    run(scenario())


def test_it_reads_an_answer_that_came_while_the_loop_was_busy() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.lane.latency_ms = DEADLINE_MS + TURN_MS / 2

        client = bench.ask()
        await passes(DEADLINE_MS + 2 * TURN_MS)

        assert client.verdict.source is Source.STORE
        assert bench.gate.store_up

    run(scenario())


# --- late answers -----------------------------------------------------------------


def test_it_has_the_grants_of_a_late_answer_in_hand() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        await silenced(bench)

        bench.lane.release()
        await turns()
        client = bench.ask("192.0.2.99")
        again = bench.ask("192.0.2.99")

        assert client.verdict.source is Source.MEMORY, "granted to the one that was answered at the deadline"
        assert again.verdict.source is Source.OUTAGE, "that was all"
        assert len(bench.lane.asked) == 1

    run(scenario())


def test_it_answers_nobody_twice_when_the_answer_comes_late() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10), limit(10, name="all", per="global"), shards=2)
        await bench.gate.start()
        clients = [bench.ask(f"192.0.2.{n}") for n in range(9)]
        bench.hold()
        clients += [bench.ask(f"198.51.100.{n}") for n in range(9)]
        await passes(DEADLINE_MS + TURN_MS)

        await healed(bench)

        assert [len(client.verdicts) for client in clients] == [1] * 18

    run(scenario())


def test_it_never_cancels_a_command_under_way() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        await silenced(bench)
        await passes(60_000)

        assert bench.lane.under_way == 1
        assert bench.lane.cancelled == 0
        assert len(bench.lane.asked) == 1
        assert bench.lane.pings == 1, "the probe waits its turn"

    run(scenario())


# --- errors -------------------------------------------------------------------------


def test_it_answers_all_who_wait_when_the_store_fails() -> None:
    async def scenario() -> None:
        bench = Bench(limit(2))
        await bench.gate.start()
        bench.hold()
        under_way = [bench.ask() for _ in range(3)]
        await turns()
        queued = [bench.ask("192.0.2.2") for _ in range(3)]
        begun_ms = now_ms()

        bench.lane.fail("connection")
        await turns()

        assert codes(under_way) == ["ok", "ok", "rate_limited"]
        assert codes(queued) == ["ok", "ok", "rate_limited"]
        assert now_ms() == begun_ms
        assert bench.watch.errors == ["connection"]

    run(scenario())


def test_it_survives_what_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()

        bench.lane.mad = True
        unlucky = bench.ask()
        await turns()
        bench.lane.mad = False
        await passes(1_000)
        client = bench.ask("192.0.2.2")
        await turns()

        assert unlucky.verdict.source is Source.OUTAGE
        assert client.verdict.source is Source.STORE
        assert bench.watch.errors == ["other"]

    with caplog.at_level(logging.CRITICAL, "portcullis.gate"):
        run(scenario())


@pytest.mark.parametrize(
    ("outage", "expected"),
    [
        (Outage.LOCAL, ["ok", "ok", "rate_limited", "rate_limited"]),
        (Outage.OPEN, ["ok", "ok", "ok", "ok"]),
        (Outage.CLOSED, ["store_unavailable"] * 4),
    ],
)
def test_it_follows_the_outage_policy_of_each_limit(outage: Outage, expected: list[str]) -> None:
    async def scenario() -> None:
        bench = Bench(limit(2, outage=outage), limit(100, name="wide"))
        await bench.gate.start()
        await silenced(bench)

        clients = [bench.ask() for _ in range(4)]

        assert codes(clients) == expected
        assert {client.verdict.status for client in clients} <= {200, 429, 503}

    run(scenario())


def test_it_still_refuses_what_the_store_closed_before_the_outage() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1, outage=Outage.OPEN))
        await bench.gate.start()
        bench.ask()
        await turns()
        await silenced(bench)

        assert bench.ask().code == "rate_limited"
        assert bench.ask("192.0.2.2").code == "ok"

    run(scenario())


# --- shares --------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "share"), [(0, 4), (1, 3), (2, 3)])
def test_it_enforces_its_share_of_the_permits_alone(rank: int, share: int) -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        bench.ledger.replicas = 3
        bench.gate.share.rank = rank
        await bench.gate.start()
        await silenced(bench)

        assert codes([bench.ask() for _ in range(10)]).count("ok") == share

    run(scenario())


def test_it_keeps_local_windows_while_the_store_comes_and_goes() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()

        admitted = 0
        for _ in range(6):
            await silenced(bench)
            admitted += codes([bench.ask() for _ in range(20)]).count("ok")
            await healed(bench)

        assert admitted == 10

    run(scenario())


def test_it_admits_at_most_twice_the_permits_around_an_outage_with_leases_in_hand() -> None:
    async def scenario() -> None:
        permits = 1_000
        bench = Bench(limit(permits, lease=True))
        await bench.gate.start()
        for _ in range(60):
            bench.ask()
            await turns()
        asked = [ask for batch in bench.lane.asked for _, ask in batch]
        assert any(ask.want > ask.need for ask in asked), "it leases"

        await silenced(bench)
        alone = [bench.ask() for _ in range(2 * permits)]
        await healed(bench)
        until_ms = now_ms() + 57_000  # the window, less what `healed` took
        after: list[Client] = []
        while now_ms() < until_ms:
            after += [bench.ask() for _ in range(100)]
            await passes(1_000)

        assert codes(alone).count("ok") <= permits
        assert codes(alone + after).count("ok") <= 2 * permits

    run(scenario())


# --- the breaker -----------------------------------------------------------------------


def test_it_closes_the_breaker_by_a_probe_and_asks_again() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        await silenced(bench)
        await healed(bench)

        client = bench.ask("192.0.2.2")
        await turns()

        assert client.verdict.source is Source.STORE
        assert bench.watch.up == [True, False, True]

    run(scenario())


def test_it_does_not_close_the_breaker_for_a_probe_that_took_too_long() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        await silenced(bench)
        bench.lane.held = bench.lane.silent = False
        bench.lane.latency_ms = 2 * DEADLINE_MS
        bench.lane.release()
        await passes(5_000)
        slow = bench.gate.store_up

        bench.lane.latency_ms = 1
        await passes(2_000)

        assert not slow
        assert bench.gate.store_up

    run(scenario())


def test_it_waits_for_every_lane_before_it_closes_the_breaker() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10), shards=2)
        await bench.gate.start()
        bench.lanes[0].down = bench.lanes[1].down = "nobody listens"
        bench.ask("192.0.2.1")
        await turns()
        bench.lanes[0].down = ""
        await passes(5_000)
        half = bench.gate.store_up
        bench.lanes[1].down = ""
        await passes(5_000)

        assert not half
        assert bench.gate.store_up

    run(scenario())


def test_it_tries_ever_less_often_a_store_that_lives_and_refuses_batches() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.hold()

        refusals = 0
        for _ in range(30 * 200):
            bench.ask("192.0.2.7")
            await turns(2)
            if bench.lane.under_way:
                bench.lane.fail("response")
                refusals += 1
            await passes(5)

        assert 5 < refusals < 45, "some doubling pauses, then about one a second"

    run(scenario())


def test_it_starts_without_a_store_and_finds_it_later() -> None:
    async def scenario() -> None:
        bench = Bench(limit(2))
        bench.lane.down = "nobody listens"
        await bench.gate.start()
        alone = [bench.ask() for _ in range(3)]

        bench.lane.down = ""
        await passes(2_000)
        client = bench.ask("192.0.2.2")
        await turns()

        assert codes(alone) == ["ok", "ok", "rate_limited"]
        assert client.verdict.source is Source.STORE
        assert bench.watch.up == [False, True]

    run(scenario())
