"""The gate with a registry, in virtual time: who is let in, what is read, and what changes while requests wait."""

from __future__ import annotations

import pytest

from sidecar.core import keys
from sidecar.core.control import Control
from sidecar.core.model import Filter
from sidecar.gate import PROBE_MOST_S
from tests.doubles import presented, registered
from tests.lanes import DEADLINE_MS, Client, limit, now_ms, passes, run, turns
from tests.registries import BAD, ON, asked, codes, guessing, started

# --- who is let in ------------------------------------------------------------------


def test_it_lets_in_who_shows_a_key_and_asks_for_its_record_once() -> None:
    async def scenario() -> None:
        bench = await started(limit(100))

        first = await asked(bench, presented())
        again = await asked(bench, presented())

        assert (first.code, first.verdict.key_id) == ("ok", b"k_a")
        assert b"X-Portcullis-Key: k_a\r\n" in first.verdict.identity
        assert again.code == "ok"
        assert bench.records.asked == [["k_a"]]

    run(scenario())


def test_it_refuses_who_shows_no_valid_key() -> None:
    async def scenario() -> None:
        bench = await started()

        found = await codes(
            bench, None, b"kk_a.hunter2", BAD, presented("k_none"), presented("k_off"), presented("k_off", 9)
        )

        assert found == [
            "credential_missing",
            "credential_invalid",
            "credential_invalid",
            "credential_invalid",
            "credential_disabled",
            "credential_invalid",
        ]

    run(scenario())


def test_it_gives_the_same_answer_for_an_unknown_id_and_a_wrong_secret() -> None:
    async def scenario() -> None:
        origin = {b"origin": b"https://a.example"}
        bench = await started(guessing(100), filters=[Filter("web", kinds=("client",))])
        bench.records.table["web"] = registered("web", kind=keys.Kind.CLIENT, origins=["a.example"])
        answers = []
        for key in (presented("web", 9, "c"), presented("none", 9, "c"), b"cweb\0x", b"cnone\0x"):
            for _ in range(2):  # read from the store, and remembered
                client = bench.ask(key=key, headers=origin)
                await turns(10)
                verdict = client.verdict
                answers.append(
                    (
                        verdict.reason,
                        verdict.status,
                        verdict.allow_origin,
                        verdict.key_id,
                        verdict.rule,
                        verdict.shadow,
                    )
                )

        assert len(set(answers)) == 1

    run(scenario())


def test_it_reads_a_record_once_for_all_who_wait_for_it() -> None:
    async def scenario() -> None:
        bench = await started(limit(1_000))
        bench.records.held = True
        clients = [bench.ask(f"192.0.2.{n}", key=presented(way=way)) for n in range(20) for way in "skb"]
        await turns()
        clients += [bench.ask(f"192.0.3.{n}", key=presented()) for n in range(5)]
        clients += [bench.ask(f"192.0.4.{n}", key=presented("k_b", 1)) for n in range(5)]
        await turns()

        bench.records.held = False
        await turns(20)

        assert {client.code for client in clients} == {"ok"}
        assert bench.records.asked == [["k_a"], ["k_a", "k_b"]], "what came meanwhile is the next batch"

    run(scenario())


def test_it_asks_the_store_nothing_for_what_it_knows_is_not_there() -> None:
    async def scenario() -> None:
        bench = await started()
        await codes(bench, presented("guess"))

        found = await codes(bench, *[presented("guess", number) for number in range(20)])

        assert set(found) == {"credential_invalid"}
        assert bench.records.asked == [["guess"]]

    run(scenario())


# --- what may change while requests wait -------------------------------------------------


def test_it_refuses_who_waits_for_a_record_when_attack_mode_comes() -> None:
    async def scenario() -> None:
        bench = await started(guessing(3))
        bench.records.held = True
        waiting = await asked(bench, presented())

        bench.gate.attack = True
        bench.records.held = False
        await turns()

        assert waiting.code == "attack_mode"

    run(scenario())


def test_it_lets_the_page_read_that_attack_mode_is_on() -> None:
    async def scenario() -> None:
        origin = b"https://a.example"
        bench = await started(filters=[Filter("web", kinds=("client",), origins=("a.example",))])
        bench.gate.attack = True

        readable = [
            bench.ask(headers={b"origin": each}).verdict.allow_origin
            for each in (origin, b"https://b.example")
        ]

        assert readable == [origin, b""]

    run(scenario())


def test_it_reads_a_key_again_that_was_changed_while_it_was_read() -> None:
    async def scenario() -> None:
        bench = await started()
        bench.records.held = True
        waiting = await asked(bench, presented())

        bench.records.table["k_a"] = registered("k_a", enabled=False)
        bench.proofs.follow({"k_a": bench.records.table["k_a"]})
        bench.records.held = False
        await turns(20)

        assert waiting.code == "credential_disabled"
        assert bench.records.asked == [["k_a"], ["k_a"]]

    run(scenario())


@pytest.mark.parametrize("already", [True, False])
def test_it_judges_who_waits_by_the_control_state_in_force(already: bool) -> None:
    async def scenario() -> None:
        attacked = Control(attack={"key:k_a": ON})
        bench = await started(guessing(3))
        if already:
            bench.gate.policy = bench.gate.policy.under(attacked)
        bench.records.held = True
        waiting = await asked(bench, presented())

        bench.gate.policy = bench.gate.policy.under(attacked)  # some change of some table
        bench.records.held = False
        await turns(20)

        assert waiting.code == "attack_mode"

    run(scenario())


def test_it_judges_who_waits_by_the_control_state_in_force_at_the_deadline_too() -> None:
    async def scenario() -> None:
        attacked = Control(attack={"key:k_a": ON})
        bench = await started(guessing(3))
        bench.gate.policy = bench.gate.policy.under(attacked)
        await codes(bench, presented())
        bench.hold()
        waiting = await asked(bench, presented(way="s"), "192.0.2.7")  # of a record that is known

        bench.gate.policy = bench.gate.policy.under(attacked)
        await passes(2 * DEADLINE_MS)

        assert waiting.code == "attack_mode"

    run(scenario())


def test_it_judges_who_waits_for_a_record_by_the_policy_in_force() -> None:
    async def scenario() -> None:
        bench = await started(guessing(3))
        bench.records.held = True
        waiting = await asked(bench, presented("k_b", 1))

        bench.gate.policy = bench.policy(filters=[Filter("s", scopes=("admin",))])
        bench.records.held = False
        await turns(20)

        assert waiting.code == "scope"

    run(scenario())


def test_it_ends_a_key_in_time_for_a_request_that_comes_again() -> None:
    async def scenario() -> None:
        bench = await started()
        bench.records.table["k_a"] = registered("k_a", expires_ms=int(now_ms()) + 1_000)
        await codes(bench, presented())
        asker = bench.request("192.0.2.1", key=presented())
        before = bench.gate.check(asker, Client())
        await passes(1_001)

        after = bench.gate.check(asker, Client())

        assert before is not None
        assert after is not None
        assert (before.reason.code, after.reason.code) == ("ok", "credential_invalid")

    run(scenario())


def test_it_refuses_a_changed_key_at_the_next_request() -> None:
    async def scenario() -> None:
        bench = await started()
        await codes(bench, presented())

        bench.proofs.follow({"k_a": registered("k_a", enabled=False)})

        assert bench.ask(key=presented()).code == "credential_disabled"

    run(scenario())


def test_it_asks_nothing_for_those_who_were_answered_meanwhile() -> None:
    async def scenario() -> None:
        bench = await started()
        bench.records.held = True
        await asked(bench, presented())
        gone = await asked(bench, presented("gone"), "192.0.2.2")
        await passes(2 * DEADLINE_MS)
        bench.records.held = False
        await passes(2 * PROBE_MOST_S * 1000)

        await codes(bench, presented("k_b", 1))

        assert gone.code == "store_unavailable"
        assert bench.records.asked == [["k_a"], ["k_b"]]

    run(scenario())
