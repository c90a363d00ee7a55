"""Records read in batches: once each, for all who wait, and what a failure or a change meanwhile does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sidecar import records
from sidecar.core.ledger import FOREVER
from sidecar.core.principals import Principal
from sidecar.core.proofs import INVALID, Proofs
from sidecar.core.tokens import Trust
from sidecar.records import Records
from tests.doubles import HASH_KEY, presented, registered
from tests.lanes import ScriptedRecords, now_ms, run, turns


class Waiting:
    """A request that waits."""

    answered = False


class Reader:
    """Records over a scripted store, and what they told."""

    def __init__(self) -> None:
        self.store = ScriptedRecords()
        self.proofs = Proofs(digest_key=b"d" * 32, hash_key=HASH_KEY, roles={}, trust=Trust(None, (), {}))
        self.told: list[list[Waiting]] = []
        self.failures: list[str] = []
        self.records = Records[Waiting](
            store=self.store,
            proofs=self.proofs,
            clock_ms=now_ms,
            answered=self._answered,
            failed=lambda kind, message: self.failures.append(f"{kind}: {message}"),
        )
        self.task = asyncio.create_task(self.records.run())

    def _answered(self, waiting: Iterable[Waiting]) -> None:
        self.told.append(list(waiting))

    def want(self, *key_ids: str) -> list[Waiting]:
        waiting = [Waiting() for _ in key_ids]
        for key_id, each in zip(key_ids, waiting, strict=True):
            self.records.want(key_id, each)
        return waiting


def test_it_reads_each_record_once_and_tells_all_who_waited() -> None:
    async def scenario() -> None:
        reader = Reader()
        reader.store.table["k_a"] = registered("k_a")

        waiting = reader.want("k_a", "k_b", "k_a")
        await turns()

        assert reader.store.asked == [["k_a", "k_b"]]
        assert [set(told) for told in reader.told] == [set(waiting)]
        assert isinstance(reader.proofs.prove(presented("k_a"), 0), Principal)
        assert reader.proofs.prove(presented("k_b"), 0) is INVALID

    run(scenario())


def test_it_makes_the_next_batch_of_what_is_wanted_meanwhile() -> None:
    async def scenario() -> None:
        reader = Reader()
        reader.store.held = True
        reader.want("k_a")
        await turns()
        reader.want("k_b", "k_c")
        await turns()
        assert reader.store.asked == [["k_a"]]
        assert reader.records.sent_ms == now_ms()

        reader.store.held = False
        await turns(10)

        assert reader.store.asked == [["k_a"], ["k_b", "k_c"]]
        assert reader.records.sent_ms == FOREVER

    run(scenario())


def test_it_asks_for_no_more_than_a_batch_holds_at_once() -> None:
    async def scenario() -> None:
        reader = Reader()

        waiting = reader.want(*[f"k_{number}" for number in range(2 * records.MOST + 1)])
        await turns(20)

        assert [len(batch) for batch in reader.store.asked] == [records.MOST, records.MOST, 1]
        assert sum(map(len, reader.told)) == len(waiting)

    run(scenario())


def test_it_asks_nothing_for_those_who_were_answered() -> None:
    async def scenario() -> None:
        reader = Reader()

        gone, _, _ = reader.want("k_a", "k_b", "k_c")
        gone.answered = True
        await turns()

        assert reader.store.asked == [["k_b", "k_c"]]

    run(scenario())


def test_it_says_that_a_read_failed_and_goes_on() -> None:
    async def scenario() -> None:
        reader = Reader()
        reader.store.silent = True
        failing = reader.want("k_a")
        await turns()

        reader.store.silent = False
        reader.want("k_a")
        await turns()

        assert reader.failures == ["connection: nobody there"]
        assert reader.told[0] == failing
        assert reader.proofs.prove(presented("k_a"), 0) is INVALID, "it was read, and is not there"

    run(scenario())


def test_it_learns_nothing_of_a_read_that_failed() -> None:
    async def scenario() -> None:
        reader = Reader()
        reader.store.table["k_a"] = registered("k_a")
        reader.store.silent = True

        reader.want("k_a")
        await turns()

        assert reader.proofs.prove(presented("k_a"), 0) == "k_a"

    run(scenario())


def test_it_does_not_take_what_was_changed_while_it_was_read() -> None:
    async def scenario() -> None:
        reader = Reader()
        reader.store.table["k_a"] = registered("k_a")
        reader.store.held = True
        waiting = reader.want("k_a")
        await turns()

        reader.proofs.follow({"k_a": None})
        reader.store.held = False
        await turns()

        assert reader.told == [waiting], "they are judged again, and find that it is still missing"
        assert reader.proofs.prove(presented("k_a"), 0) == "k_a"

    run(scenario())
