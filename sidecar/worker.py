"""A worker: one replica in a process of its own, told what to do by its parent.

`python -m sidecar.worker CONTROL CELLS LISTENER...`, all numbers of inherited descriptors. Signals
from outside are not for it: a terminal or a supervisor that signals the whole group ends the
gate through the parent, which tells the workers. It never outlives its parent.

What it decides is `replica`'s; it opens no socket and reads no configuration.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import uvloop

from sidecar.assembly import refusals_per_s_of
from sidecar.channel import Begin, Channel, Find, Found, Prepare, Refused, Stop, Word, framed
from sidecar.decision_log import DecisionLog, LineWriter, capture_logging
from sidecar.metrics import Metrics, shared_cells
from sidecar.replica import Prepared, Replica

PUBLISH_S: Final = 0.2
"""How old the counts that a scrape sees may be, and what a killed worker loses."""
PR_SET_PDEATHSIG: Final = 1
FROM_OUTSIDE: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> int:
    """Run until told to stop, or until the parent is gone."""
    for number in FROM_OUTSIDE:
        signal.signal(number, signal.SIG_IGN)
    # The parent held them back for as long as they would have killed us.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_OUTSIDE)
    # If the parent is gone already, the control channel says so.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    control, cells, *listeners = [int(word) for word in sys.argv[1:]]
    return uvloop.run(
        _work(
            socket.socket(fileno=control), shared_cells(cells), [socket.socket(fileno=fd) for fd in listeners]
        )
    )


async def _work(control: socket.socket, cells: memoryview, listeners: Sequence[socket.socket]) -> int:
    channel = await Channel.over(control)
    begin = await channel.receive()
    if not isinstance(begin, Begin):
        return 1
    lines = LineWriter(sys.stderr.fileno(), wall_s=time.time)
    rate = refusals_per_s_of(begin.config)
    log = DecisionLog(lines.put, refusals_per_s=rate, wall_s=time.time)
    capture_logging(log, mono_s=time.monotonic)
    metrics = Metrics(begin.layout, cells)
    replica = Replica(
        begin.config,
        store_url=begin.store_url,
        hash_key=begin.hash_key,
        replica_id=begin.replica_id,
        keeps=False,
        metrics=metrics,
        log=log,
    )
    await replica.start(listeners)
    _show(replica, metrics)
    publishing = asyncio.create_task(_publish(replica, metrics))
    channel.send(framed(Word.READY))
    try:
        return await _follow(channel, replica)
    finally:
        publishing.cancel()
        _show(replica, metrics)
        log.sweep()
        lines.close(1.0)


async def _publish(replica: Replica, metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(PUBLISH_S)
        _show(replica, metrics)


def _show(replica: Replica, metrics: Metrics) -> None:
    """Let the parent see what is counted."""
    replica.keep_books()
    metrics.publish()


async def _follow(channel: Channel, replica: Replica) -> int:
    """Do what the parent says; the exit status, when it says stop or is gone."""
    prepared: Prepared | None = None
    while (message := await channel.receive()) is not None:
        match message:
            case Prepare(config, layout):
                try:
                    prepared = await replica.prepare(config, layout)
                except (ValueError, MemoryError) as exc:
                    channel.send(framed(Refused(str(exc) or type(exc).__name__)))
                else:
                    channel.send(framed(Word.PREPARED))
            case Word.COMMIT:
                assert prepared is not None, "told to commit what was not prepared"
                replica.switch(prepared)
                prepared = None
                channel.send(framed(Word.COMMITTED))
            case Word.ABORT:
                prepared = None
            case Find(request_id):
                channel.send(framed(Found(replica.decisions(request_id))))
            case Stop(grace_s):
                await replica.stop(grace_s)
                return 0
            case _:
                raise AssertionError(f"{message} is not for a worker")
    os._exit(1)  # the parent is gone: whoever comes next takes the port at once


if __name__ == "__main__":
    sys.exit(main())
