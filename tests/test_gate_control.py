"""The gate under what operators change at run time: overrides act at once, resets forget, also in an outage."""

from __future__ import annotations

import pytest

from sidecar.core.model import Cost, Dimension, Limit, Match
from sidecar.core.window import Ask
from tests.controls import control
from tests.lanes import Bench, Client, limit, now_ms, passes, run, turns

HOUR_MS = 3_600_000


def codes(clients: list[Client]) -> list[str]:
    return [client.code for client in clients]


def override(bench: Bench, permits: int | None, field: str = "per-ip address:192.0.2.1/32") -> None:
    state = control(overrides={} if permits is None else {field: permits})
    bench.gate.policy = bench.gate.policy.under(state)


def elsewhere(bench: Bench, permits: int) -> None:
    """Another replica spends permits of the usual subject."""
    ((counter, _),) = bench.gate.policy.bind(bench.request("192.0.2.1")).charges
    rule = counter.limit
    bench.store.take_one(counter.key, Ask(rule.permits, rule.window_ms, rule.slice_ms, permits, permits))


async def spend(bench: Bench, times: int, address: str = "192.0.2.1", path: str = "/") -> list[Client]:
    clients = [bench.ask(address, path=path) for _ in range(times)]
    await turns(20)
    return clients


# --- overrides ----------------------------------------------------------------


@pytest.mark.parametrize("lease", [False, True])
def test_it_raises_a_limit_on_the_counts_that_stand_at_once(lease: bool) -> None:
    async def scenario() -> None:
        bench = Bench(limit(3, window_ms=HOUR_MS, lease=lease))
        await bench.gate.start()
        before = await spend(bench, 5)

        override(bench, 5)
        after = await spend(bench, 4)

        assert codes(before) == ["ok"] * 3 + ["rate_limited"] * 2
        assert codes(after) == ["ok"] * 2 + ["rate_limited"] * 2
        assert after[0].verdict.policy_header == b'"per-ip";q=5;w=3600'
        assert [quota.limit.permits for quota in after[3].verdict.quotas] == [5]

    run(scenario())


@pytest.mark.parametrize("lease", [False, True])
def test_it_lowers_a_limit_on_the_counts_that_stand_at_once(lease: bool) -> None:
    async def scenario() -> None:
        bench = Bench(limit(1_000, window_ms=HOUR_MS, lease=lease))
        await bench.gate.start()
        before = await spend(bench, 50)

        override(bench, 52)
        after = await spend(bench, 4)
        override(bench, None)
        ended = await spend(bench, 4)

        assert codes(before) == ["ok"] * 50
        assert codes(after) == ["ok"] * 2 + ["rate_limited"] * 2
        assert codes(ended) == ["ok"] * 4

    run(scenario())


def test_it_closes_a_limit_without_permits_and_opens_it_again() -> None:
    async def scenario() -> None:
        bench = Bench(limit(3, window_ms=HOUR_MS))
        await bench.gate.start()
        override(bench, 0)
        (closed,) = await spend(bench, 1)
        others = await spend(bench, 1, "192.0.2.2")
        override(bench, None)
        (opened,) = await spend(bench, 1)

        assert (closed.code, closed.verdict.retry_after_s) == ("rate_limited", None)
        assert codes(others) == ["ok"]
        assert opened.code == "ok"

    run(scenario())


def test_it_judges_by_the_new_permits_who_waits_for_the_old_ones() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10, window_ms=HOUR_MS))
        await bench.gate.start()
        bench.hold()
        waiting = [bench.ask() for _ in range(5)]
        await turns()

        override(bench, 2)
        later = [bench.ask() for _ in range(5)]
        bench.hold(False)
        bench.lane.release()
        await turns(30)

        assert codes(waiting + later).count("ok") == 2

    run(scenario())


def test_it_closes_nothing_by_an_answer_that_was_asked_before_the_limit_was_raised() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1, window_ms=HOUR_MS))
        await bench.gate.start()
        elsewhere(bench, 1)
        bench.hold()
        waiting = bench.ask()
        await turns()

        override(bench, 3)
        later = bench.ask()
        bench.hold(False)
        bench.lane.release()
        await turns(30)

        assert codes([waiting, later]) == ["ok", "ok"]
        assert codes(await spend(bench, 1)) == ["rate_limited"]

    run(scenario())


def test_it_refuses_a_cost_above_the_permits_of_an_override() -> None:
    async def scenario() -> None:
        dear = Limit("per-ip", (Dimension("ip"),), 10, HOUR_MS, 60_000, cost=Cost(5))
        bench = Bench(dear)
        await bench.gate.start()
        override(bench, 3)

        (client,) = await spend(bench, 1)

        assert (client.code, client.verdict.retry_after_s) == ("rate_limited", None)

    run(scenario())


def test_it_counts_its_share_of_an_override_in_an_outage() -> None:
    async def scenario() -> None:
        bench = Bench(limit(2, window_ms=HOUR_MS))
        bench.lane.down = "nobody listens"
        await bench.gate.start()
        before = await spend(bench, 3)

        override(bench, 4)
        after = await spend(bench, 3)

        assert codes(before) == ["ok", "ok", "rate_limited"]
        assert codes(after) == ["ok", "ok", "rate_limited"]

    run(scenario())


# --- resets -------------------------------------------------------------------


def forget_in_store(bench: Bench) -> None:
    bench.store.forget(list(bench.store))


@pytest.mark.parametrize("lease", [False, True])
def test_it_forgets_what_a_subject_has_used(lease: bool) -> None:
    async def scenario() -> None:
        bench = Bench(limit(3, window_ms=HOUR_MS, lease=lease))
        await bench.gate.start()
        before = await spend(bench, 4)

        forget_in_store(bench)
        bench.gate.forget("per-ip", "address", "192.0.2.1")
        after = await spend(bench, 4)

        assert codes(before) == codes(after) == ["ok"] * 3 + ["rate_limited"]

    run(scenario())


def test_it_forgets_a_block() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1, window_ms=1_000, block_ms=HOUR_MS))
        await bench.gate.start()
        before = await spend(bench, 2)

        forget_in_store(bench)
        bench.gate.forget("per-ip", "address", "192.0.2.1")
        after = await spend(bench, 2)

        assert codes(before) == codes(after) == ["ok", "rate_limited"]

    run(scenario())


def test_it_forgets_the_counters_of_all_routes() -> None:
    async def scenario() -> None:
        by_route = Limit(
            "login",
            (Dimension("ip"), Dimension("route")),
            1,
            HOUR_MS,
            60_000,
            match=Match(paths=("/a", "/b/*")),
        )
        bench = Bench(by_route)
        await bench.gate.start()
        paths = ("/a", "/b/c")
        before = [(await spend(bench, 2, path=path))[1] for path in paths]

        forget_in_store(bench)
        bench.gate.forget("login", "address", "192.0.2.1")
        after = [(await spend(bench, 1, path=path))[0] for path in paths]

        assert codes(before) == ["rate_limited"] * 2
        assert codes(after) == ["ok"] * 2

    run(scenario())


def test_it_does_not_remember_again_what_a_late_answer_says() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1, window_ms=HOUR_MS))
        await bench.gate.start()
        elsewhere(bench, 1)
        bench.hold()
        waiting = bench.ask()
        await turns()

        bench.gate.forget("per-ip", "address", "192.0.2.1")
        bench.lane.release()  # carried out before the store forgot: it says that nothing is left
        await turns()
        early = len(waiting.verdicts)
        forget_in_store(bench)
        bench.lane.release()
        await turns()

        assert early == 0, "it asks again"
        assert waiting.code == "ok"

    run(scenario())


@pytest.mark.parametrize("per", ["address", "key"])
def test_it_forgets_what_it_counted_alone(per: str) -> None:
    async def scenario() -> None:
        bench = Bench(limit(2, window_ms=HOUR_MS), limit(100, name="per-key", per="key"))
        bench.lane.down = "nobody listens"
        await bench.gate.start()
        before = await spend(bench, 3)
        others = await spend(bench, 3, "192.0.2.2")

        bench.gate.forget("per-ip", per, "192.0.2.1")
        after = await spend(bench, 3)
        same = await spend(bench, 1, "192.0.2.2")

        assert codes(before) == codes(others) == ["ok", "ok", "rate_limited"]
        assert codes(after) == (["ok", "ok", "rate_limited"] if per == "address" else ["rate_limited"] * 3)
        assert codes(same) == ["rate_limited"]

    run(scenario())


def test_it_counts_no_permits_of_before_a_reset_in_an_outage() -> None:
    async def scenario() -> None:
        bench = Bench(limit(4, window_ms=HOUR_MS))
        bench.lane.down = "nobody listens"
        await bench.gate.start()
        ((counter, _),) = bench.gate.policy.bind(bench.request("192.0.2.1")).charges
        counter.left, counter.lapse_ms = 3, now_ms() + 1_000

        bench.gate.forget("per-ip", "address", "192.0.2.1")
        clients = await spend(bench, 5)

        assert codes(clients) == ["ok"] * 4 + ["rate_limited"]

    run(scenario())


def test_it_ignores_a_reset_of_what_it_does_not_have() -> None:
    async def scenario() -> None:
        bench = Bench(limit(2))
        await bench.gate.start()
        policy = bench.gate.policy

        for case in (("gone", "address", "192.0.2.1"), ("per-ip", "key", "k"), ("per-ip", "address", "x")):
            bench.gate.forget(*case)

        assert bench.gate.policy is policy

    run(scenario())


# --- attack mode --------------------------------------------------------------


def test_it_refuses_one_key_without_asking_the_store() -> None:
    async def scenario() -> None:
        bench = Bench(limit(2))
        await bench.gate.start()
        key_id = bench.gate.policy.key_id(b"k1").decode()
        asker, other = bench.request("192.0.2.1"), bench.request("192.0.2.1")
        asker.key, other.key = b"k1", b"k2"
        assert bench.gate.check(asker, Client()) is None
        await turns()
        asked = len(bench.lane.asked)

        bench.gate.policy = bench.gate.policy.under(control(attacked=[f"key:{key_id}"]))
        refused = bench.gate.check(asker, Client())
        still_asked = len(bench.lane.asked)
        let_through = bench.gate.check(other, client := Client())
        await passes(1)

        assert refused is not None
        assert (refused.reason.code, refused.status) == ("attack_mode", 503)
        assert still_asked == asked
        assert (let_through or client.verdict).reason.code == "ok"

    run(scenario())
