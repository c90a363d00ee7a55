"""Limits on failed credentials, in virtual time: who is counted, who is refused, and never more than they permit."""

from __future__ import annotations

from collections import Counter as Tally

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core import keys
from sidecar.core.model import Filter, Mode, Source
from tests.doubles import presented, registered
from tests.lanes import DEADLINE_MS, passes, run, turns
from tests.registries import BAD, OPEN, asked, codes, guessing, started

# --- the limit on failures ----------------------------------------------------------


def test_it_counts_failures_and_refuses_before_it_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bench = await started(guessing(3))
        found = await codes(bench, BAD, b"knothing", presented("none"), BAD)
        hashed: list[bytes] = []
        hash_secret = keys.hash_secret

        def counted(secret: bytes, hash_key: bytes) -> str:
            hashed.append(secret)
            return hash_secret(secret, hash_key)

        monkeypatch.setattr(keys, "hash_secret", counted)
        read = len(bench.records.asked)

        closed = await codes(bench, BAD, presented("none2"), presented("k_b", 1), presented())

        assert found == ["credential_invalid"] * 3 + ["rate_limited"]
        assert closed == ["rate_limited"] * 4
        assert (hashed, len(bench.records.asked)) == ([], read)
        assert (await codes(bench, BAD, address="192.0.2.2")) == ["credential_invalid"], "another address"

    run(scenario())


def test_it_does_not_count_who_succeeds() -> None:
    async def scenario() -> None:
        bench = await started(guessing(2))

        for _ in range(10):
            bench.proofs.follow(None)  # nobody is known any more
            assert await codes(bench, presented(), presented("k_b", 1), presented("k_off")) == [
                "ok",
                "ok",
                "credential_disabled",
            ]
        await passes(3_000)

        assert await codes(bench, BAD, BAD, BAD) == [
            "credential_invalid",
            "credential_invalid",
            "rate_limited",
        ]

    run(scenario())


def test_it_does_not_count_who_shows_nothing() -> None:
    async def scenario() -> None:
        bench = await started(guessing(2), filters=[OPEN])

        assert await codes(bench, *[None] * 5, BAD) == ["ok"] * 5 + ["credential_invalid"]

    run(scenario())


def test_it_refuses_a_proved_credential_of_a_closed_address_from_memory() -> None:
    async def scenario() -> None:
        bench = await started(guessing(2), filters=[OPEN])
        assert await codes(bench, presented(), BAD, BAD, BAD) == [
            "ok",
            *["credential_invalid"] * 2,
            "rate_limited",
        ]
        batches = len(bench.lane.asked)

        refused = bench.ask(key=presented())

        assert (refused.code, refused.verdict.source) == ("rate_limited", Source.MEMORY)
        assert refused.verdict.violated == ("guessing",)
        assert refused.verdict.retry_after_s is not None
        assert len(bench.lane.asked) == batches
        assert await codes(bench, None) == ["ok"], "who shows nothing has failed at nothing"
        assert await codes(bench, presented(), address="192.0.2.2") == ["ok"]

    run(scenario())


@pytest.mark.parametrize(
    ("key", "filters"),
    [
        (presented("k_off"), [OPEN]),
        (presented("k_a"), [Filter("s", scopes=("admin",))]),
        (presented("k_a"), [Filter("c", kinds=("client",))]),
    ],
)
def test_it_says_first_that_the_address_is_closed(key: bytes, filters: list[Filter]) -> None:
    async def scenario() -> None:
        bench = await started(guessing(1), filters=filters)
        before = await codes(bench, key)

        found = await codes(bench, BAD, BAD, key)

        assert before != ["ok"]
        assert found == ["credential_invalid", "rate_limited", "rate_limited"]

    run(scenario())


def test_it_lets_the_page_read_that_its_address_is_closed_whether_proved_or_not() -> None:
    async def scenario() -> None:
        origin = {b"origin": b"https://a.example"}
        web = Filter("web", kinds=("client",), origins=("a.example",))
        bench = await started(guessing(1), filters=[web])
        bench.records.table["web"] = registered("web", kind=keys.Kind.CLIENT)
        good, bad = presented("web", way="c"), presented("web", 9, "c")
        bench.ask(key=good, headers=origin)
        await turns()
        for _ in range(2):
            bench.ask(key=bad, headers=origin)
            await turns()

        proved, unproved = (bench.ask(key=key, headers=origin).verdict for key in (good, bad))

        assert {proved.reason.code, unproved.reason.code} == {"rate_limited"}
        assert proved.allow_origin == unproved.allow_origin == b"https://a.example"

    run(scenario())


def test_it_opens_again_when_the_failures_are_a_window_old() -> None:
    async def scenario() -> None:
        bench = await started(guessing(2, window_ms=1_000))
        await codes(bench, BAD, BAD, BAD)

        await passes(1_105)

        assert await codes(bench, presented(), BAD) == ["ok", "credential_invalid"]

    run(scenario())


def test_it_blocks_an_address_for_as_long_as_the_limit_says() -> None:
    async def scenario() -> None:
        bench = await started(guessing(2, window_ms=1_000, block_ms=30_000))
        found = await codes(bench, BAD, BAD, BAD)
        await passes(29_003)
        still = await codes(bench, presented())
        await passes(1_105)

        assert (found[2], still) == ("rate_limited", ["rate_limited"])
        assert await codes(bench, presented()) == ["ok"]

    run(scenario())


@pytest.mark.parametrize("block_ms", [0, 600_000])
def test_it_refuses_nobody_because_many_come_at_once_before_they_are_proved(block_ms: int) -> None:
    async def scenario() -> None:
        bench = await started(guessing(3, block_ms=block_ms))

        at_once = [bench.ask(key=presented()) for _ in range(12)]
        await turns(20)
        await passes(3_000)
        later = await codes(bench, presented("k_b", 1))

        assert {client.code for client in at_once} == {"ok"}
        assert later == ["ok"], "nobody has failed"

    run(scenario())


@pytest.mark.parametrize("block_ms", [0, 600_000])
def test_it_refuses_nobody_because_many_come_at_once_with_one_who_fails(block_ms: int) -> None:
    async def scenario() -> None:
        bench = await started(guessing(3, block_ms=block_ms))
        await codes(bench, presented("k_b", 9), address="192.0.2.2")  # the records are known

        at_once = [bench.ask(key=key) for key in (presented("k_b", 9), *[presented("k_b", 1)] * 11)]
        await turns(20)
        await passes(3_000)
        bench.proofs.follow(None)
        later = await codes(bench, BAD, presented())

        assert [client.code for client in at_once] == ["credential_invalid", *["ok"] * 11]
        assert later == ["credential_invalid", "ok"], "two of three failures"

    run(scenario())


@pytest.mark.parametrize("block_ms", [0, 600_000])
def test_it_refuses_nobody_because_many_come_at_once_to_several_gates(block_ms: int) -> None:
    async def scenario() -> None:
        rule = guessing(3, block_ms=block_ms)
        one = await started(rule)
        others = [await started(rule, beside=one) for _ in range(3)]
        gates = [one, *others]
        for gate in gates:
            gate.ledger.replicas = 4

        at_once = [gate.ask(key=presented()) for _ in range(4) for gate in gates]
        await turns(30)

        assert Tally(client.code for client in at_once) == {"ok": 16}, "nobody has failed"

    run(scenario())


def test_it_shadows_a_limit_on_failures() -> None:
    async def scenario() -> None:
        bench = await started(guessing(1, mode=Mode.SHADOW))

        clients = [await asked(bench, BAD) for _ in range(3)]
        proved = await asked(bench, presented())

        assert {client.code for client in clients} == {"credential_invalid"}
        assert [client.verdict.shadow for client in clients] == [(), ("guessing",), ("guessing",)]
        assert (proved.code, proved.verdict.shadow) == ("ok", ("guessing",)), "as it would be refused"

    run(scenario())


def test_it_does_not_count_failures_of_an_exempt_address() -> None:
    async def scenario() -> None:
        bench = await started(guessing(1), exempt=["192.0.2.1"])

        assert await codes(bench, *[BAD] * 5) == ["credential_invalid"] * 5
        assert await codes(bench, presented()) == ["exempt"]

    run(scenario())


def test_it_refuses_by_attack_mode_before_it_verifies() -> None:
    async def scenario() -> None:
        bench = await started(guessing(3))
        bench.gate.attack = True

        assert await codes(bench, BAD, presented(), None) == ["attack_mode"] * 3
        assert bench.records.asked == []

    run(scenario())


# --- the bound ------------------------------------------------------------------------------

PERMITS = 3
WINDOW_MS = 1_000

tries = st.tuples(
    st.integers(0, 2),
    st.sampled_from([presented(), BAD, BAD, presented("k_b", 1), presented("none"), b"kx"]),
    st.sampled_from([0, 0, 1, 5, 100, 400]),
)


@given(st.lists(tries, max_size=60), st.booleans())
@settings(max_examples=150, deadline=None)
def test_it_lets_no_more_credentials_fail_in_any_window_than_the_limit_permits(
    history: list[tuple[int, bytes, int]], lease: bool
) -> None:
    async def scenario() -> None:
        rule = guessing(PERMITS, window_ms=WINDOW_MS, lease=lease)
        one = await started(rule)
        gates = [one, await started(rule, beside=one), await started(rule, beside=one)]
        for gate in gates:
            gate.ledger.replicas = 3
            gate.lane.latency_ms = 1
        clients = []
        for at, key, ms in history:
            clients.append(gates[at].ask(key=key))
            await (passes(ms) if ms else turns(1))
        await passes(2 * DEADLINE_MS)

        failed = [client.answered_ms for client in clients if client.code == "credential_invalid"]
        assert {client.code for client in clients} <= {"ok", "credential_invalid", "rate_limited"}
        assert all(sum(begun <= ms <= begun + WINDOW_MS for ms in failed) <= PERMITS for begun in failed)

    run(scenario())


def test_it_lets_who_has_a_right_key_wait_for_those_who_fail_once_at_most() -> None:
    async def scenario() -> None:
        bench = await started(guessing(1_000))
        await codes(bench, presented("k_b", 9), address="192.0.2.2")  # the record is known
        bench.lane.latency_ms = DEADLINE_MS // 4
        failing = [bench.ask(key=presented("k_b", 9)) for _ in range(20)]
        await turns()

        good = bench.ask(key=presented("k_b", 1))
        await passes(DEADLINE_MS)

        assert good.code == "ok"
        assert Tally(client.code for client in failing) == {"credential_invalid": 20}, (
            "none is left to the deadline"
        )

    run(scenario())
