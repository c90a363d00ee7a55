"""Work that fails unexpectedly begins again, and is seen."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sidecar import supervision
from sidecar.supervision import persistently


def test_it_begins_again_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervision, "AGAIN_S", 0.0)
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        asyncio.run(persistently("counting", work))

    assert begun == [0, 1, 2]
    assert [record.message for record in caplog.records] == ["counting failed; it begins again"] * 2


def test_it_ends_when_it_is_told_to() -> None:
    async def scenario() -> bool:
        task = asyncio.create_task(persistently("waiting", asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return task.cancelled()

    assert asyncio.run(scenario())
