"""Steady traffic behind a test's back: some connections that ask again and again, and remember what they were told.

For measured bursts see `load`; this one goes on until the test has done what it wants to do meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from itertools import cycle
from typing import NamedTuple

from tests.gates import Gate
from tests.servers import WITHIN_S

PAUSE_S = 0.002
"""Between two requests of one connection: the machine is shared."""


class Told(NamedTuple):
    """One request: when it was sent and answered (monotonic seconds), its path and the status."""

    sent_s: float
    answered_s: float
    path: str
    status: int

    def allows(self, path: str) -> bool:
        return self.status == 200 and self.path == path


class Traffic:
    """What has been asked so far; grows while the traffic runs."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.broken: list[str] = []
        """Connections that ended without an answer. A gate never does that to a client."""

    def between(self, since_s: float, until_s: float = float("inf")) -> list[Told]:
        """What was both sent and answered in that time."""
        return [told for told in tuple(self.told) if since_s <= told.sent_s and told.answered_s <= until_s]


@contextmanager
def traffic(
    *gates: Gate, paths: Sequence[str], address: str = "203.0.113.9", connections: int = 4
) -> Iterator[Traffic]:
    """Ask all gates for the paths in turn while the block runs, as a client at `address`.

    Raises AssertionError when a connection ended without an answer.
    """
    asked = Traffic()
    over = threading.Event()

    def keep_asking(gate: Gate, offset: int) -> None:
        connection = HTTPConnection("127.0.0.1", gate.check_port, timeout=WITHIN_S)
        try:
            for path in cycle([*paths[offset:], *paths[:offset]]):
                headers = {"X-Forwarded-For": address, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": path}
                sent_s = time.monotonic()
                connection.request("GET", "/auth/forward", headers=headers)
                response = connection.getresponse()
                response.read()
                asked.told.append(Told(sent_s, time.monotonic(), path, response.status))
                if over.wait(PAUSE_S):
                    return
        except (OSError, HTTPException) as exc:
            asked.broken.append(repr(exc))
        finally:
            connection.close()

    threads = [
        threading.Thread(target=keep_asking, args=(gate, n % len(paths)))
        for gate in gates
        for n in range(connections)
    ]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not asked.broken
