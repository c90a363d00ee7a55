"""The gate with a registry while the store is silent, in virtual time."""

from __future__ import annotations

import pytest

from sidecar.core.model import Filter, Outage, Source
from sidecar.gate import PROBE_MOST_S
from tests.doubles import presented
from tests.lanes import DEADLINE_MS, TURN_MS, Bench, limit, now_ms, passes, run, turns
from tests.registries import BAD, OPEN, codes, guessing, started

# --- the store is silent ----------------------------------------------------------------


async def silenced(bench: Bench) -> None:
    for lane in bench.lanes:
        lane.down = "nobody there"
    bench.records.silent = True
    bench.ask("192.0.2.99", key=presented("nobody"))
    await turns(20)
    assert not bench.gate.store_up


def test_it_serves_known_keys_and_no_others_while_the_store_is_silent() -> None:
    async def scenario() -> None:
        bench = await started(limit(100), guessing(10))
        await codes(bench, presented())
        await silenced(bench)

        known, unknown, nobody = [bench.ask(key=key) for key in (presented(), presented("k_b", 1), None)]

        assert (known.code, known.verdict.source) == ("ok", Source.OUTAGE)
        assert (unknown.code, unknown.verdict.status) == ("store_unavailable", 503)
        assert unknown.verdict.retry_after_s == 1
        assert nobody.code == "credential_missing"
        assert bench.ask(key=presented(way="s")).code == "ok", (
            "of a record that is known, presented otherwise"
        )

    run(scenario())


def test_it_counts_failures_by_its_share_while_the_store_is_silent() -> None:
    async def scenario() -> None:
        bench = await started(guessing(4))
        bench.ledger.replicas = 2
        await codes(bench, presented())
        await silenced(bench)

        found = [bench.ask(key=key).code for key in (presented(way="s"), BAD, presented(way="b"), BAD, BAD)]

        assert found == ["ok", "store_unavailable", "ok", "store_unavailable", "rate_limited"]
        assert bench.ask(key=presented("k_b", 1)).code == "rate_limited", "before anything is verified"

    run(scenario())


def test_it_blocks_by_its_share_while_the_store_is_silent() -> None:
    async def scenario() -> None:
        bench = await started(guessing(2, window_ms=1_000, block_ms=30_000))
        await codes(bench, presented())
        await silenced(bench)
        found = [bench.ask(key=BAD).code for _ in range(3)]
        await passes(5_003)
        assert not bench.gate.store_up

        assert found == ["store_unavailable", "store_unavailable", "rate_limited"]
        assert bench.ask(key=BAD).code == "rate_limited"

    run(scenario())


@pytest.mark.parametrize("outage", [Outage.OPEN, Outage.CLOSED])
def test_it_tells_nothing_of_a_wrong_credential_while_the_store_is_silent(outage: Outage) -> None:
    async def scenario() -> None:
        bench = await started(guessing(1, outage=outage))
        bench.proofs.ask(["k_a"])
        bench.proofs.answer({"k_a": bench.records.table["k_a"]})
        await silenced(bench)

        assert [bench.ask(key=BAD).code for _ in range(3)] == ["store_unavailable"] * 3
        assert bench.ask(key=presented(way="s")).code == "ok", "a right one of a known record"

    run(scenario())


def test_it_honours_the_deadline_when_records_hang_and_recovers() -> None:
    async def scenario() -> None:
        bench = await started(limit(100))
        bench.records.held = True
        begun_ms = now_ms()
        waiting = bench.ask(key=presented())
        await passes(2 * DEADLINE_MS)

        assert waiting.code == "store_unavailable"
        assert waiting.answered_ms - begun_ms <= DEADLINE_MS + 2 * TURN_MS
        assert bench.watch.up == [True, False]
        assert bench.ask(key=presented("k_b", 1)).code == "store_unavailable", "nobody waits any more"
        await passes(3_000)
        assert not bench.gate.store_up, "the registry does not answer yet"

        bench.records.held = False
        await passes(2 * PROBE_MOST_S * 1000)

        assert await codes(bench, presented(), presented("k_b", 1)) == ["ok", "ok"]
        assert bench.watch.up == [True, False, True]

    run(scenario())


def test_it_answers_all_who_wait_when_a_read_fails() -> None:
    async def scenario() -> None:
        bench = await started(limit(100))
        bench.records.held = True
        waiting = [bench.ask(key=key) for key in (presented(), presented("k_b", 1), presented("k_off"))]
        await turns()

        bench.records.silent = True
        bench.records.held = False
        await turns(20)

        assert [client.code for client in waiting] == ["store_unavailable"] * 3
        assert bench.watch.errors == ["connection"]

    run(scenario())


def test_it_refuses_at_the_deadline_what_was_proved_and_may_not_meanwhile() -> None:
    async def scenario() -> None:
        bench = await started(guessing(3), filters=[Filter("s", scopes=("admin",))])
        await codes(bench, BAD, address="192.0.2.3")  # the record is known
        bench.hold()
        failing, behind = bench.ask(key=BAD), bench.ask(key=presented())
        elsewhere = bench.ask("192.0.2.2", key=presented())
        await passes(2 * DEADLINE_MS)

        assert failing.code == "store_unavailable"
        assert [client.code for client in (elsewhere, behind)] == ["scope", "scope"]

    run(scenario())


@pytest.mark.parametrize("attacked", [True, False])
def test_it_refuses_at_the_deadline_whoever_was_denied_meanwhile(attacked: bool) -> None:
    async def scenario() -> None:
        bench = await started(guessing(3), filters=[OPEN])
        bench.records.held = True
        waiting = bench.ask(key=presented())
        await turns()

        if attacked:
            bench.gate.attack = True
        else:
            bench.gate.policy = bench.policy(filters=[Filter("no", deny=True)])
        await passes(2 * DEADLINE_MS)

        assert waiting.code == ("attack_mode" if attacked else "path")

    run(scenario())


def test_it_spends_no_permit_on_what_it_could_not_know() -> None:
    async def scenario() -> None:
        bench = await started(guessing(2))
        await codes(bench, presented())
        await silenced(bench)

        found = [bench.ask(key=presented("k_b", 1)).code for _ in range(5)]

        assert found == ["store_unavailable"] * 5
        assert [bench.ask(key=BAD).code for _ in range(3)][1:] == ["store_unavailable", "rate_limited"]

    run(scenario())


def test_it_answers_everybody_when_it_stops_while_records_are_read() -> None:
    async def scenario() -> None:
        bench = await started(limit(10))
        bench.records.held = True
        clients = [bench.ask(key=key) for key in (presented(), presented("k_b", 1))]
        await turns()

        await bench.gate.stop()

        assert [client.code for client in clients] == ["store_unavailable"] * 2

    run(scenario())


def test_it_believes_no_record_of_a_store_that_fell_back() -> None:
    async def scenario() -> None:
        bench = await started(limit(100))
        bench.records.older = True
        waiting = bench.ask(key=presented())
        await passes(2 * DEADLINE_MS)

        assert (waiting.code, bench.gate.store_up) == ("store_unavailable", True)
        bench.records.older = False
        assert await codes(bench, presented()) == ["ok"], "when the store has it again"

    run(scenario())
