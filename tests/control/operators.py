"""Operators at work on running gates: by the command line, by the admin API, and what the store knows of a fleet.

Everything goes the way that it goes in production; nothing here writes into the store. What must come of it is the
tests' business.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from tests import gates
from tests.gates import ROOT, TOKEN, Gate
from tests.servers import eventually
from tests.stores import StoreServer

WAIT_S: Final = 30.0
"""How long a change waits for all replicas; a busy machine is slow."""
FLEET: Final = "pc:{control}:fleet"


# --- the command line -----------------------------------------------------------------


class Ran(NamedTuple):
    """A command that has ended; `answered_s` is when it began to print its answer (monotonic)."""

    status: int
    out: str
    err: str
    answered_s: float


def command(gate: Gate, *words: str, token: str = TOKEN, stdin: str = "", within_s: float = 60.0) -> Ran:
    """`portcullis WORD...` about this gate, as a process of its own; it is killed when it takes longer."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PORTCULLIS_")}
    env |= {
        "PYTHONPATH": str(ROOT),
        "PORTCULLIS_ADMIN_URL": f"http://127.0.0.1:{gate.admin_port}",
        "PORTCULLIS_ADMIN_TOKEN": token,
    }
    with subprocess.Popen(
        (sys.executable, "-m", "sidecar", *words),
        env=env,
        cwd=gate.document.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        end = threading.Timer(within_s, process.kill)
        end.start()
        process.stdin.write(stdin)
        process.stdin.close()
        first = process.stdout.readline()
        answered_s = time.monotonic()
        out, err = first + process.stdout.read(), process.stderr.read()
        end.cancel()
    return Ran(process.returncode, out, err, answered_s)


# --- the admin API --------------------------------------------------------------------


class Refused(AssertionError):
    """The admin plane did not do what was asked."""


def ask(
    gate: Gate, method: str, target: str, document: object = None, *, token: str = TOKEN
) -> tuple[int, dict[str, Any]]:
    """One question to `/v1/...`: status and document."""
    body = None if document is None else json.dumps(document).encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    answer = gate.admin(target, method=method, token=token, headers=headers, body=body)
    return answer.status, json.loads(answer.body)


def done(
    gate: Gate, method: str, target: str, document: object = None, *, wait: bool = True
) -> dict[str, Any]:
    """What a change was answered; with `wait` every replica has it then. Raises Refused."""
    status, answer = ask(gate, method, f"{target}?wait={WAIT_S:g}" if wait else target, document)
    if status not in {200, 201} or (wait and not answer["confirmed"]["everywhere"]):
        raise Refused(f"{method} {target}: {status} {answer}")
    return answer


def switch(gate: Gate, on: bool, *, wait: bool = True, **members: object) -> dict[str, Any]:
    """Attack mode on or off."""
    return done(gate, "PUT", "/v1/attack", {"on": on, **members}, wait=wait)


def relist(gate: Gate, name: str, *, wait: bool = True, **members: object) -> dict[str, Any]:
    """Add to and remove from an address list; `for_` is the member `for`."""
    document = {member.rstrip("_"): value for member, value in members.items()}
    return done(gate, "POST", f"/v1/addresses/{name}", document, wait=wait)


# --- the fleet ------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """Gates on one store, and how many processes of theirs decide."""

    gates: Sequence[Gate]
    store: StoreServer
    replicas: int


@contextmanager
def fleet(store: StoreServer, document: str, workers: Sequence[int], *, at_once: int = 3) -> Iterator[Fleet]:
    """A gate for each number of workers, all with one document; some start (and stop) at a time."""
    stacks = [ExitStack() for _ in workers]

    def start(stack: ExitStack, processes: int) -> Gate:
        return stack.enter_context(gates.gate(document, store_url=store.url(), workers=processes))

    with ThreadPoolExecutor(at_once) as pool:
        starts = [pool.submit(start, stack, number) for stack, number in zip(stacks, workers, strict=True)]
        wait(starts)
        try:
            built = Fleet([each.result() for each in starts], store, sum(workers))
            eventually(lambda: len(epochs(store)) == built.replicas, "all say that they are there")
            yield built
        finally:
            ends = [pool.submit(stack.close) for stack in stacks]
            wait(ends)
    for each in ends:
        each.result()


def epochs(store: StoreServer) -> dict[str, str]:
    """The epoch that each replica says it has."""
    with store.client() as client:
        told = cast("dict[bytes, bytes]", client.hgetall(FLEET))
    return {name.decode(): json.loads(says)["epoch"] for name, says in told.items()}


Change = Callable[[int], tuple[str, str, dict[str, object]]]
"""The change of a number: method, resource and document."""


def switching(number: int) -> tuple[str, str, dict[str, object]]:
    """Attack mode on and off in turns."""
    return "PUT", "/v1/attack", {"on": number % 2 == 0}


class Propagation:
    """Makes changes over one connection, and sees when every replica says that it has them.

    The store is asked without pause: what is measured is the fleet's time, and that of one question.
    """

    def __init__(self, gate: Gate, store: StoreServer, replicas: int) -> None:
        self._gate = gate
        self._store = store
        self._replicas = replicas

    def seconds(self, changes: int, change: Change = switching) -> list[float]:
        """For each change, from just before it is sent until all have said so.

        Raises AssertionError when one does not arrive within WAIT_S.
        """
        taken_s: list[float] = []
        connection = HTTPConnection("127.0.0.1", self._gate.admin_port, timeout=WAIT_S)
        try:
            with self._store.client() as client, ThreadPoolExecutor(1) as pool:
                for number in range(changes):
                    before = self._number(client)
                    begun_s = time.perf_counter()
                    sent = pool.submit(self._send, connection, *change(number))
                    while self._number(client) <= before:
                        assert time.perf_counter() < begun_s + WAIT_S, f"change {number} did not arrive"
                    taken_s.append(time.perf_counter() - begun_s)
                    sent.result()
        finally:
            connection.close()
        return taken_s

    def _number(self, client: Any) -> int:
        """The number of the oldest epoch that somebody has; -1 while somebody says nothing."""
        says = client.hvals(FLEET)
        if len(says) < self._replicas:
            return -1
        return min(int(json.loads(each)["epoch"].partition("-")[0]) for each in says)

    def _send(
        self, connection: HTTPConnection, method: str, target: str, document: dict[str, object]
    ) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request(method, target, json.dumps(document), headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """
    >>> percentile_ms([0.003, 0.001, 0.002], 0.5)
    2.0
    """
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


# --- workers --------------------------------------------------------------------------


def workers_of(gate: Gate) -> list[int]:
    """The pids of the gate's workers that live."""
    children = Path(f"/proc/{gate.server.pid}/task/{gate.server.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"sidecar.worker" in command_line(int(pid))]


def command_line(pid: int) -> bytes:
    """What `ps` shows of a process; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def has_client(pid: int, port: int) -> bool:
    """Whether this process holds a connection that came in at this port."""
    local = f":{port:04X}"
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(local) and row[3] == "01"}
    held = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    return any(name.startswith("socket:[") and name[8:-1] in inodes for name in held)
