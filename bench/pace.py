"""A client with a constant rate: `python -m bench.pace`, started by `latency`.

Request k is due at begin + k / rate, whether or not earlier ones were answered, and its time counts from then: a
server that stalls cannot slow the questions down and look good. A request that finds every connection busy waits
for one, and that is counted too.

Plain sockets and select(): uvloop's timers and epoll count in milliseconds, which is what is to be measured; select()
counts in microseconds. The client's own slowness is in every number, which is why the floor is measured with it.

It sends no body, expects none in the answer, and reconnects never.
"""

from __future__ import annotations

import ctypes
import gc
import json
import select
import socket
import sys
from time import perf_counter_ns, sleep
from typing import Final, NamedTuple, TypedDict

PR_SET_TIMERSLACK: Final = 29
LEAD_NS: Final = 5_000_000
LOST_AFTER_S: Final = 2.0


class Order(TypedDict):
    """What the client reads, as JSON, from its standard input. `head` may hold `{n}` and `{ip}`."""

    port: int
    head: str
    subjects: int
    rate: float
    seconds: float
    connections: int


class Paced(NamedTuple):
    """What it says, as a JSON object. Milliseconds; `late` is how far sending was behind, at the 99th percentile."""

    sent: int
    wrong: int
    p50: float
    p99: float
    p999: float
    longest: float
    late: float


def pace(order: Order) -> Paced:
    """Ask for `seconds`. Raises OSError when a connection ends."""
    heads = _heads(order)
    sockets = [socket.create_connection(("127.0.0.1", order["port"])) for _ in range(order["connections"])]
    by_fd = {each.fileno(): each for each in sockets}
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    fds, idle = list(by_fd), list(by_fd)
    due_ns = dict.fromkeys(fds, 0)
    total, step_ns = len(heads), 1e9 / order["rate"]
    taken_ns: list[int] = []
    late_ns: list[int] = []
    wrong = at = 0
    wait = select.select
    begin_ns = perf_counter_ns() + LEAD_NS
    next_ns = begin_ns
    while len(taken_ns) < total:
        now_ns = perf_counter_ns()
        while at < total and idle and next_ns <= now_ns:
            fd = idle.pop()
            by_fd[fd].send(heads[at])
            due_ns[fd] = next_ns
            late_ns.append(now_ns - next_ns)
            at += 1
            next_ns = begin_ns + int(at * step_ns)
            now_ns = perf_counter_ns()
        timeout_s = max(0.0, (next_ns - now_ns) / 1e9) if at < total and idle else LOST_AFTER_S
        ready, _, _ = wait(fds, (), (), timeout_s)
        if not ready and timeout_s == LOST_AFTER_S:
            raise TimeoutError(f"{at - len(taken_ns)} requests were not answered within {LOST_AFTER_S:g} s")
        for fd in ready:
            answer = by_fd[fd].recv(65536)
            taken_ns.append(perf_counter_ns() - due_ns[fd])
            idle.append(fd)
            if answer[9:10] != b"2" or answer[-4:] != b"\r\n\r\n":
                wrong += 1
                if not answer:
                    raise ConnectionError("the server closed a connection")
    for each in sockets:
        each.close()
    taken_ns.sort()
    late_ns.sort()
    p50, p99, p999, longest = (_percentile_ms(taken_ns, share) for share in (0.5, 0.99, 0.999, 1.0))
    return Paced(total, wrong, p50, p99, p999, longest, _percentile_ms(late_ns, 0.99))


def _heads(order: Order) -> list[bytes]:
    """Every request, made beforehand: while the clock runs there is no time for it."""
    head, subjects = order["head"], order["subjects"]
    begin = perf_counter_ns()
    # A full-period walk over the addresses: as scattered as random ones, and cheaper.
    return [
        head.replace("{n}", str(begin + k)).replace("{ip}", _address(k * 48_271 % subjects)).encode()
        for k in range(int(order["rate"] * order["seconds"]))
    ]


def _address(subject: int) -> str:
    return f"10.{subject >> 16}.{subject >> 8 & 255}.{subject & 255}"


def _percentile_ms(sorted_ns: list[int], share: float) -> float:
    return round(sorted_ns[min(len(sorted_ns) - 1, int(share * len(sorted_ns)))] / 1e6, 4)


def main() -> None:
    order: Order = json.load(sys.stdin)
    # The kernel may wake a sleeper 50 µs late to save power; here that would be measured.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    sleep(0.05)
    gc.disable()
    print(json.dumps(pace(order)._asdict()))


if __name__ == "__main__":
    main()
