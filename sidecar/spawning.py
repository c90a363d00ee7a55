"""A worker's process: how its parent starts it.

What it is told then, and what becomes of it, is `workers`'s.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

HELD_BACK: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def spawn(memory: int, listeners: Sequence[socket.socket]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a worker's process, which counts in `memory`; it and our end of its control channel. Raises OSError."""
    ours, theirs = socket.socketpair()
    inherited = [theirs.fileno(), memory, *(listener.fileno() for listener in listeners)]
    # The modules that this process uses, from wherever it took them, and nothing from the working
    # directory. No secrets: what a worker may know it is told.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PORTCULLIS_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        with theirs, _signals_held_back():
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "sidecar.worker", *map(str, inherited)],
                pass_fds=inherited,
                env=env,
                stdin=subprocess.DEVNULL,
            )
    except OSError:
        ours.close()
        raise
    return process, ours


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A child that starts here is deaf to signals for the group until it says that it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
