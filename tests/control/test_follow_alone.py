"""The follower on its own: what expires while the store is silent, and what it keeps when that has lost its data.

In virtual time, with the doubles of `test_follow`.
"""

from __future__ import annotations

import asyncio

from sidecar.control.follow import PERIOD_S
from sidecar.core.control import GLOBAL, MERGE_FROM, Control
from tests.control.fleet_double import running
from tests.control.test_follow import EPOCHS, SILENT, STORE_MS, Subject
from tests.lanes import now_ms, passes, run, turns

NETWORK = "192.0.2.0/24"
OTHER = "198.51.100.0/24"
ON = b'{"on":true}'


async def silent_subject() -> Subject:
    """It has heard of its store's clock, which is silent since."""
    subject = Subject()
    await subject.hear()
    subject.store.says = SILENT
    return subject


def denied(control: Control) -> set[str]:
    return set(control.deny.prefixes())


# --- expiry without the store -------------------------------------------------------------


def test_it_tells_the_time_by_the_store_as_soon_as_that_has_told_it() -> None:
    async def scenario() -> None:
        subject = Subject()
        assert subject.follower.store_ms() == 5_000
        await passes(250)
        assert subject.follower.store_ms() == 5_250
        await subject.hear()
        assert abs(subject.follower.store_ms() - STORE_MS - 250) <= 1
        await passes(60_000)
        assert abs(subject.follower.store_ms() - STORE_MS - 60_250) <= 1

    run(scenario())


def test_it_lets_go_on_time_while_the_store_is_silent() -> None:
    async def scenario() -> None:
        subject = await silent_subject()
        await subject.knows("deny", [NETWORK], until_ms=STORE_MS + 1_500)
        await subject.knows("deny", [OTHER], until_ms=STORE_MS + 1_700)
        with running(subject.follower):
            await passes(1_495)
            assert denied(subject.follower.book.control) == {NETWORK, OTHER}
            await passes(15)
            assert denied(subject.listener.news[-1].control) == {OTHER}
            await passes(200)
            assert denied(subject.listener.news[-1].control) == set()
            await passes(5_000)

        assert [(news.resets, news.keys) for news in subject.listener.news] == [((), {})] * 2
        assert {news.control.epoch for news in subject.listener.news} == {EPOCHS[2]}

    run(scenario())


def test_it_reads_the_end_of_attack_mode_as_off() -> None:
    async def scenario() -> None:
        subject = await silent_subject()
        await subject.knows("attack", [GLOBAL], until_ms=STORE_MS + 1_500, payload=ON)
        assert subject.follower.book.control.attack_on is True
        with running(subject.follower):
            await passes(1_510)

        assert [news.control.attack_on for news in subject.listener.news] == [False]

    run(scenario())


def test_it_lets_go_at_the_time_that_was_said_last() -> None:
    async def scenario() -> None:
        subject = await silent_subject()
        for until_ms in (1_000, 3_000):
            await subject.knows("deny", [NETWORK, OTHER], until_ms=STORE_MS + until_ms)
        await subject.knows("deny", [OTHER])
        with running(subject.follower):
            await passes(2_990)
            assert denied(subject.follower.book.control) == {NETWORK, OTHER}
            await passes(20)
            assert denied(subject.listener.news[-1].control) == {OTHER}
            await passes(10_000)

        assert len(subject.listener.news) == 1

    run(scenario())


def test_it_beats_no_more_often_for_what_expires() -> None:
    async def scenario() -> None:
        subject = Subject()
        await subject.hear()
        for number in range(9):
            await subject.knows("deny", [f"192.0.2.{number}/32"], until_ms=STORE_MS + 100 * (number + 1))
        with running(subject.follower):
            await passes(PERIOD_S * 1000 - 50)

        assert len(subject.listener.news) == 9
        assert len(subject.store.beats) == 2, "the first, and the one when it began to listen"

    run(scenario())


def test_it_makes_lists_quicker_at_leisure() -> None:
    async def scenario() -> None:
        subject = await silent_subject()
        for number in range(MERGE_FROM // 200):
            await subject.knows("deny", [f"10.{number}.{part}.0/24" for part in range(200)])
        assert subject.follower.book.control.deny.pending == MERGE_FROM
        with running(subject.follower):
            await passes(4_000)

        assert [news.control.deny.pending for news in subject.listener.news] == [0]
        assert len(subject.listener.news[0].control.deny) == MERGE_FROM

    run(scenario())


# --- a store that has lost its data -------------------------------------------------------


def test_it_keeps_what_it_has_and_says_so_once_until_it_is_over() -> None:
    async def scenario() -> None:
        subject = Subject()
        for _ in range(5):
            await subject.knows("attack", [GLOBAL], payload=ON)
        await subject.hear()
        for lost in (b"", str(EPOCHS[3]).encode()):
            subject.store.epoch = lost
            await subject.hear()
            await subject.hear()
        assert subject.follower.book.control.attack_on is True
        assert subject.follower.epoch == EPOCHS[5]
        subject.store.epoch = str(EPOCHS[5]).encode()
        await subject.hear()
        await subject.hear()

        mine = f"this replica's at {EPOCHS[5]}"
        assert subject.listener.stales == [
            f"the store's control state is empty, {mine}",
            f"the store's control state is at epoch {EPOCHS[3]}, {mine}",
            "",
        ]
        assert subject.listener.news == [], "nothing was read as off"
        assert subject.errors == []

    run(scenario())


def test_it_does_not_call_an_empty_store_stale_before_the_first_change() -> None:
    async def scenario() -> None:
        subject = Subject()
        await subject.hear()

        assert subject.listener.stales == []
        assert subject.listener.news == []

    run(scenario())


# --- who waits ----------------------------------------------------------------------------


def test_it_lets_wait_until_an_epoch_is_in_force() -> None:
    async def scenario() -> None:
        subject = Subject()
        await subject.knows("deny", [NETWORK], until_ms=STORE_MS + 500)
        await subject.follower.reached(EPOCHS[1])
        await subject.hear()
        waiting = asyncio.create_task(subject.follower.reached(EPOCHS[2]))
        with running(subject.follower):
            begun_ms = now_ms()
            await passes(900)
            assert subject.listener.news, "it adopted something else meanwhile"
            assert not waiting.done()
            assert subject.store.beats_ms[1] < begun_ms + 5, "who waits hints"
            await subject.knows("deny", [NETWORK], until_ms=STORE_MS + 1_000)
            await passes(600)
            await turns()
            assert waiting.done()

    run(scenario())
