"""Work in steps: what takes long yields every few milliseconds, and the event loop goes on in between."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TypeVar, cast

T = TypeVar("T")


async def in_steps(steps: Generator[None, None, T]) -> T:
    """Run steps to their end; between any two of them the loop answers requests."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return cast("T", ended.value)
        await asyncio.sleep(0)
