"""Work that must not end: what nobody expected is logged, and the work begins again.

A task that ended unseen would leave a replica deaf to changes, or without a sign of life, for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

AGAIN_S: Final = 1.0

_log = logging.getLogger("portcullis.tasks")


async def persistently(name: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` until it returns or this is cancelled."""
    while True:
        try:
            await work()
        except Exception:
            _log.exception("%s failed; it begins again", name)
            await asyncio.sleep(AGAIN_S)
        else:
            return
