"""Load on every process of some gates with one key, each answer put down to the process that gave it.

    connection --client's port--> /proc/net/tcp --inode--> /proc/<pid>/fd

Connections are opened until every worker has one. They ask in turns with each way to present the key, as fast as a
shared machine may be asked.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple

from tests.control.operators import workers_of
from tests.gates import Gate
from tests.load import Said
from tests.servers import eventually

EVERY_S: Final = 0.01
AT_FIRST: Final = 8
"""Connections to each gate; more follow while a worker has none."""
ENOUGH: Final = 12
"""Answers of each process, after something, that show what it does now."""

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Process(NamedTuple):
    """A worker, by the number of its gate and its pid."""

    gate: int
    pid: int


class Pressure:
    """What each process said so far; a `Said.target` is the name of the way that was asked."""

    def __init__(self) -> None:
        self.said: dict[Process, list[Said]] = {}
        self.broken: list[str] = []
        self.connected = 0

    def since(self, when_s: float, names: Collection[str]) -> dict[Process, list[Said]]:
        """What each process was asked in these ways after that, and has answered."""
        return {
            process: [one for one in tuple(said) if one.start_s >= when_s and one.target in names]
            for process, said in self.said.items()
        }

    def statuses(self, since_s: float, names: Collection[str]) -> set[int]:
        """What all processes said since then, when each has said enough."""
        eventually(
            lambda: all(len(said) >= ENOUGH for said in self.since(since_s, names).values()), "all answer"
        )
        return {one.status for said in self.since(since_s, names).values() for one in said}

    def turned(
        self, since_s: float, names: Collection[str], status: int
    ) -> dict[Process, tuple[float, float]]:
        """Of each process since then: when the last that got this status was sent (NaN: none did), and when the
        first that got another one was."""
        found = {}
        for process, said in self.since(since_s, names).items():
            last = max((one.start_s for one in said if one.status == status), default=float("nan"))
            first = min((one.start_s for one in said if one.status != status), default=float("nan"))
            found[process] = (last, first)
        return found


@contextmanager
def pressure(gates: Sequence[Gate], asks: Mapping[str, bytes]) -> Iterator[Pressure]:
    """Ask while the block runs. Raises AssertionError when a connection ended without an answer."""
    pressed = Pressure()
    workers = [workers_of(gate) or [gate.server.pid] for gate in gates]
    pressed.said = {Process(at, pid): [] for at, pids in enumerate(workers) for pid in pids}
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    callers = []

    def connect(at: int) -> None:
        asking = _keep_asking(gates[at].check_port, at, workers[at], asks, pressed, over)
        callers.append(asyncio.run_coroutine_threadsafe(asking, loop))

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        for at in range(len(gates)):
            for _ in range(AT_FIRST):
                connect(at)
        while True:
            eventually(lambda: pressed.connected == len(callers), "each connection was answered")
            missing = {process.gate for process, said in pressed.said.items() if not said}
            if not missing:
                break
            for at in missing:
                connect(at)
        yield pressed
    finally:
        loop.call_soon_threadsafe(over.set)
        for caller in callers:
            caller.result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert not pressed.broken, pressed.broken


async def _keep_asking(
    port: int,
    gate: int,
    pids: Sequence[int],
    asks: Mapping[str, bytes],
    pressed: Pressure,
    over: asyncio.Event,
) -> None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        own: int = writer.get_extra_info("sockname")[1]
        said: list[Said] | None = None
        for name, request in cycle(asks.items()):
            start_s = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            if said is None:  # accepted, now that it was answered
                said = pressed.said[Process(gate, owner(pids, port, own))]
                pressed.connected += 1
            said.append(Said(name, int(head[9:12]), start_s, time.monotonic()))
            try:
                async with asyncio.timeout(EVERY_S):
                    await over.wait()
            except TimeoutError:
                continue
            break
        writer.close()
        await writer.wait_closed()
    except (OSError, EOFError) as exc:
        pressed.broken.append(repr(exc))


def owner(pids: Sequence[int], port: int, client_port: int) -> int:
    """Which of these processes holds the connection that came in at `port` from `client_port`, both on loopback."""
    ends = (f":{port:04X}", f":{client_port:04X}")
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = [row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1])]
    for pid in pids:
        if any(_link(path) == f"socket:[{inode}]" for path in Path(f"/proc/{pid}/fd").iterdir()):
            return pid
    raise AssertionError(f"no process of {pids} holds the connection from {client_port}")


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile
        return ""
