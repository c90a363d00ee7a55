"""Steady requests at every process of some gates, each told apart, until the test has done what it does meanwhile.

One thread asks them all at a pace that leaves the machine to the gates; `tests.traffic` asks as fast as it can.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Final

from tests.control.operators import has_client, workers_of
from tests.gates import Gate
from tests.load import Said, forwarded
from tests.servers import eventually

EVERY_S: Final = 0.01
CONNECTIONS: Final = 2
ENOUGH: Final = 10
"""Answers of each gate, after something, that show what it does now."""
WITHIN_S: Final = 30.0

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Steady:
    """What was said so far, by gate."""

    def __init__(self, gates: Sequence[Gate]) -> None:
        self.broken: list[str] = []
        self._said: Mapping[Gate, list[Said]] = {gate: [] for gate in gates}

    def add(self, gate: Gate, said: Said) -> None:
        self._said[gate].append(said)

    def since(self, when_s: float) -> list[list[Said]]:
        """What each gate was asked after that, and has answered."""
        return [[said for said in tuple(each) if said.start_s >= when_s] for each in self._said.values()]

    def statuses(self, since_s: float, *names: str) -> set[int]:
        """What all gates said since then, about these or about all, when each has said enough."""

        def said() -> list[list[Said]]:
            return [[one for one in each if not names or one.target in names] for each in self.since(since_s)]

        eventually(lambda: all(len(each) >= ENOUGH for each in said()), "all answer", within_s=WITHIN_S)
        return {one.status for each in said() for one in each}

    def last_s(self, status: int) -> float:
        """When the last request was sent that somebody answered so."""
        return max(said.start_s for each in self.since(0) for said in each if said.status == status)


@contextmanager
def steady(gates: Sequence[Gate], asks: Mapping[str, tuple[str, str]]) -> Iterator[Steady]:
    """Ask while the block runs, on connections that reach every process of every gate.

    `asks` are name -> (path, address). Raises AssertionError when a connection ended without an answer.
    """
    requests = [(name, forwarded(path, address)) for name, (path, address) in asks.items()]
    asked = Steady(gates)
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    def run() -> None:
        loop.run_forever()
        loop.close()

    def connect(gate: Gate, count: int) -> None:
        callers.extend(
            asyncio.run_coroutine_threadsafe(_keep_asking(gate, requests, asked, over), loop)
            for _ in range(count)
        )

    callers: list[object] = []
    thread = threading.Thread(target=run)
    thread.start()
    try:
        for gate in gates:
            connect(gate, CONNECTIONS)
            while not all(has_client(pid, gate.check_port) for pid in workers_of(gate)):
                connect(gate, 1)
                asked.statuses(time.monotonic())
        asked.statuses(0)
        yield asked
    finally:
        loop.call_soon_threadsafe(over.set)
        ends = asyncio.run_coroutine_threadsafe(_all_ended(), loop)
        ends.result(WITHIN_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert not asked.broken, asked.broken


async def _all_ended() -> None:
    """Wait for all tasks of this loop but this one."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others)


async def _keep_asking(
    gate: Gate, requests: Sequence[tuple[str, bytes]], asked: Steady, over: asyncio.Event
) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.check_port)
        for name, request in cycle(requests):
            start_s = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            asked.add(gate, Said(name, int(head[9:12]), start_s, time.monotonic()))
            try:
                async with asyncio.timeout(EVERY_S):
                    await over.wait()
            except TimeoutError:
                continue
            break
        writer.close()
        await writer.wait_closed()
    except (OSError, EOFError) as exc:
        asked.broken.append(repr(exc))
