"""The gate with doubles, in virtual time: batches, what waits, and stops. Outages are in `test_gate_outage`."""

from __future__ import annotations

from sidecar.core.model import Dimension, Limit, Match, Mode, Outage, Source
from tests.lanes import DEADLINE_MS, Bench, Client, limit, now_ms, passes, run, turns


def codes(clients: list[Client]) -> list[str]:
    return [client.code for client in clients]


# --- batches ------------------------------------------------------------------


def test_it_asks_once_for_all_who_wait() -> None:
    async def scenario() -> None:
        bench = Bench(limit(100))
        await bench.gate.start()

        clients = [bench.ask(f"192.0.2.{n % 4}") for n in range(40)]
        await turns()

        assert codes(clients) == ["ok"] * 40
        assert {client.verdict.source for client in clients} == {Source.STORE}
        (batch,) = bench.lane.asked
        assert sorted(ask.want for _, ask in batch) == [10, 10, 10, 10]

    run(scenario())


def test_it_makes_the_next_batch_of_what_arrives_meanwhile() -> None:
    async def scenario() -> None:
        bench = Bench(limit(100))
        await bench.gate.start()
        bench.hold()
        first = bench.ask("192.0.2.1")
        await turns()
        meanwhile = [bench.ask(f"192.0.2.{n}") for n in (1, 1, 2)]
        await turns()
        assert bench.lane.under_way == 1, "one batch at a time"

        bench.lane.release()
        await turns()
        before = [len(client.verdicts) for client in meanwhile]
        bench.lane.release()
        await turns()

        assert first.code == "ok"
        assert before == [0, 0, 0]
        assert codes(meanwhile) == ["ok"] * 3
        assert [[ask.want for _, ask in batch] for batch in bench.lane.asked] == [[1], [2, 1]]

    run(scenario())


def test_it_asks_for_no_more_than_a_batch_holds_at_once() -> None:
    async def scenario() -> None:
        bench = Bench(limit(100), most_asks=8)
        await bench.gate.start()

        clients = [bench.ask(f"192.0.2.{n}") for n in range(20)]
        await turns(20)

        assert codes(clients) == ["ok"] * 20
        assert [len(batch) for batch in bench.lane.asked] == [8, 8, 4]

    run(scenario())


def test_it_waits_for_every_limit_and_charges_none_if_one_refuses() -> None:
    async def scenario() -> None:
        wide, narrow = limit(10, name="wide", per="global"), limit(2, name="narrow")
        bench = Bench(wide, narrow)
        await bench.gate.start()

        spent = [bench.ask("192.0.2.1") for _ in range(5)]
        await turns()
        others = [bench.ask(f"192.0.2.{n}") for n in range(10, 20)]
        await turns(20)

        assert codes(spent) == ["ok", "ok", "rate_limited", "rate_limited", "rate_limited"]
        assert spent[4].verdict.violated == ("narrow",)
        assert codes(others) == ["ok"] * 8 + ["rate_limited"] * 2

    run(scenario())


def test_it_waits_for_both_lanes_of_a_request_under_limits_of_two_shards() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10), limit(10, name="all", per="global"), shards=2)
        await bench.gate.start()
        address = next(
            address
            for address in (f"192.0.2.{n}" for n in range(50))
            if {counter.shard for counter, _ in bench.gate.policy.bind(bench.request(address)).charges}
            == {0, 1}
        )
        bench.hold()
        client = bench.ask(address)
        await turns()

        bench.lanes[0].release()
        await turns()
        early = len(client.verdicts)
        bench.lanes[1].release()
        await turns()

        assert early == 0
        assert client.code == "ok"
        assert [quota.remaining for quota in client.verdict.quotas] == [9, 9]

    run(scenario())


def test_it_grants_what_is_left_to_those_who_came_first() -> None:
    async def scenario() -> None:
        bench = Bench(limit(3))
        await bench.gate.start()

        clients = [bench.ask() for _ in range(5)]
        await turns()

        assert codes(clients) == ["ok", "ok", "ok", "rate_limited", "rate_limited"]
        assert len(bench.lane.asked) == 1
        assert clients[4].verdict.retry_after_s == 61, "the window and what is left of the slice"

    run(scenario())


def test_it_lets_a_small_request_pass_where_a_large_one_does_not_fit() -> None:
    async def scenario() -> None:
        bench = Bench(limit(5))
        await bench.gate.start()

        clients = [bench.ask(cost=cost) for cost in (3, 3, 1, 1, 1)]
        await turns()

        assert codes(clients) == ["ok", "rate_limited", "ok", "ok", "rate_limited"]

    run(scenario())


def test_it_refuses_from_memory_what_is_known_to_be_closed() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1))
        await bench.gate.start()
        bench.ask()
        await turns()

        refused = [bench.ask() for _ in range(100)]
        await turns()
        flood = [bench.ask() for _ in range(100)]

        assert set(codes(refused + flood)) == {"rate_limited"}
        assert {client.verdict.source for client in flood} == {Source.MEMORY}
        assert len(bench.lane.asked) <= 2

    run(scenario())


def test_it_closes_a_spent_counter_for_as_long_as_the_limit_blocks() -> None:
    async def scenario() -> None:
        bench = Bench(limit(2, window_ms=1_000, block_ms=30_000))
        await bench.gate.start()

        clients = []
        for _ in range(4):
            clients.append(bench.ask())
            await turns()
        await passes(29_000)
        still = bench.ask()
        await passes(1_000)
        again = bench.ask()
        await turns()

        assert codes(clients) == ["ok", "ok", "rate_limited", "rate_limited"]
        assert [client.verdict.retry_after_s for client in clients[2:]] == [30, 30]
        assert [client.verdict.source for client in clients[2:]] == [Source.STORE, Source.MEMORY]
        assert (still.code, again.code) == ("rate_limited", "ok")

    run(scenario())


def test_it_admits_again_when_it_said_that_it_would() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1, window_ms=1_000))
        await bench.gate.start()
        bench.ask()
        await turns()
        refused = bench.ask()
        retry_after_s = refused.verdict.retry_after_s
        assert retry_after_s is not None

        await passes(retry_after_s * 1000)
        again = bench.ask()
        await turns()

        assert (refused.code, again.code) == ("rate_limited", "ok")

    run(scenario())


def test_it_asks_again_for_grants_that_had_lapsed_when_they_came() -> None:
    async def scenario() -> None:
        # Slices of 20 ms and a store that takes 30 ms: each grant is over when it arrives, but for a lucky one.
        bench = Bench(limit(10, window_ms=1_000, slice_ms=20), deadline_ms=1_000)
        await bench.gate.start()
        bench.lane.latency_ms = 30

        client = bench.ask()
        await passes(999)
        waited = len(client.verdicts)
        asked = list(bench.lane.asked)
        await passes(40)

        assert waited == 0
        assert client.verdict.source is Source.OUTAGE
        assert len(asked) > 10
        assert sum(ask.give_back for batch in asked for _, ask in batch) >= len(asked) - 2, "all go back"

    run(scenario())


# --- what may change while requests wait ---------------------------------------


def test_it_answers_who_waits_when_the_policy_changes() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1))
        await bench.gate.start()
        bench.hold()
        waiting = [bench.ask(), bench.ask()]
        await turns()

        bench.gate.policy = bench.policy(limit(3, name="new"))
        later = bench.ask()
        bench.lane.release()
        await turns()
        bench.lane.release()
        await turns()

        assert codes(waiting) == ["ok", "rate_limited"]
        assert later.code == "ok"
        assert later.verdict.quotas[0].limit.name == "new"

    run(scenario())


def test_it_gives_back_what_the_old_policy_had_in_hand() -> None:
    async def scenario() -> None:
        leasing = limit(1_000, lease=True)
        bench = Bench(leasing)
        await bench.gate.start()
        for _ in range(40):
            bench.ask()
            await turns()
        used = 40

        bench.gate.policy = bench.policy(limit(1_000, name="new"))
        await passes(3_000)

        (key, ask) = bench.lane.asked[0][0]
        assert any(asked.want > asked.need for batch in bench.lane.asked for _, asked in batch), (
            "it did lease"
        )
        assert bench.store.take_one(key, ask._replace(want=0)).room == 1_000 - used

    run(scenario())


def test_it_raises_a_limit_at_once() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1))
        await bench.gate.start()
        bench.ask()
        await turns()
        refused = bench.ask()

        bench.gate.policy = bench.policy(limit(2))
        admitted = bench.ask()
        await turns()

        assert (refused.code, admitted.code) == ("rate_limited", "ok")

    run(scenario())


def test_it_refuses_who_waits_when_attack_mode_comes() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.hold()
        waiting = bench.ask()
        await turns()

        bench.gate.attack = True
        bench.lane.release()
        await turns()

        assert waiting.code == "attack_mode"
        assert bench.ask().code == "attack_mode"

    run(scenario())


def test_it_shadows_without_refusing() -> None:
    async def scenario() -> None:
        shadow = Limit("try", (Dimension("ip"),), 1, 60_000, 1_000, mode=Mode.SHADOW, lease=False)
        bench = Bench(limit(10), shadow)
        await bench.gate.start()

        clients = []
        for _ in range(3):
            clients.append(bench.ask())
            await turns()

        assert codes(clients) == ["ok"] * 3
        assert [client.verdict.shadow for client in clients] == [(), ("try",), ("try",)]

    run(scenario())


# --- stopping -------------------------------------------------------------------


def test_it_gives_back_what_is_in_hand_when_it_stops() -> None:
    async def scenario() -> None:
        bench = Bench(limit(1_000, lease=True))
        await bench.gate.start()
        for _ in range(40):
            bench.ask()
            await turns()

        await bench.gate.stop()

        (key, ask) = bench.lane.asked[0][0]
        assert bench.lane.asked[-1][-1][1].give_back > 0
        assert bench.store.take_one(key, ask._replace(want=0)).room == 1_000 - 40
        assert bench.lane.closed
        assert not bench.lane.cancelled

    run(scenario())


def test_it_waits_for_the_batch_under_way_before_it_stops() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10))
        await bench.gate.start()
        bench.lane.latency_ms = 10
        client = bench.ask()
        await turns()

        await bench.gate.stop()

        assert client.code == "ok"
        assert not bench.lane.cancelled

    run(scenario())


def test_it_answers_everybody_when_it_stops_while_the_store_is_silent() -> None:
    async def scenario() -> None:
        bench = Bench(limit(10), limit(5, name="strict", outage=Outage.CLOSED), deadline_ms=5_000)
        await bench.gate.start()
        bench.hold()
        clients = [bench.ask() for _ in range(3)]
        await turns()
        begun_ms = now_ms()

        await bench.gate.stop()
        await passes(6_000)

        assert codes(clients) == ["store_unavailable"] * 3
        assert now_ms() - begun_ms < 8_000
        assert bench.lane.closed

    run(scenario())


def test_it_stops_without_having_started_anything_to_give_back() -> None:
    async def scenario() -> None:
        bench = Bench(
            limit(10, per="global"), Limit("never", (Dimension("ip"),), 1, 1_000, 20, Match(paths=("/x",)))
        )
        await bench.gate.start()
        begun_ms = now_ms()

        await bench.gate.stop()

        assert now_ms() - begun_ms < DEADLINE_MS
        assert bench.lane.asked == []

    run(scenario())
