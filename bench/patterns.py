"""What the patterns of the starter cost, for each request: all sets, looking into User-Agent and Referer.

The usual requests are measured as `micro` does, the least of many timings; the gate meets such texts again and again.
The worst is what a client does on purpose: MAX_TEXT bytes which nobody has sent before, each time others, so that
the automata have to be built for them. Of these the median of many is shown, in microseconds of CPU.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final

from bench.micro import least_ns
from bench.rounds import Effort
from bench.rows import Findings, Goal, Row
from sidecar.core.detection import MAX_TEXT, Detector
from sidecar.core.model import Detecting
from sidecar.core.starter_patterns import STARTER

CALLS: Final = 1_000
_HEADERS: Final[Mapping[bytes, bytes]] = {
    b"user-agent": b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    b"referer": b"https://shop.example/catalogue/shoes?page=2&sort=price&utm_source=newsletter",
}
_LONG: Final = (
    b"q=children%27s+books+%26+parents%27+guides&filter=price%3E%3D10&utm_source=newsletter&utm_medium=email"
    b"&utm_campaign=summer+sale+50%25&cursor=eyJpZCI6MTIzLCJkaXIiOiJuZXh0In0%3D&to=https%3A%2F%2Fshop.example%2F"
)
_USUAL: Final[Mapping[str, tuple[bytes, Mapping[bytes, bytes], Goal | None]]] = {
    "no query, no header": (b"", {}, Goal(2.0, most=True)),
    "short query, no header": (b"page=2&sort=asc", {}, None),
    "no query, two headers": (b"", _HEADERS, None),
    "long query, two headers": (_LONG, _HEADERS, None),
}

# What SQL, HTML and shells have in common: every piece may begin something.
_PIECES: Final = (
    *(" or ", " and ", "union ", "select ", "from ", "(", "'", '"', "<", "<a ", "${", "/*", "*/", "--", "#"),
    *(
        "0",
        "1",
        "=",
        "like ",
        "script",
        " on",
        ":",
        "..",
        "/",
        "etc/",
        ";",
        "|",
        "`",
        "$(",
        "cat ",
        "echo ",
        "@",
    ),
)


def measure(effort: Effort) -> Findings:
    detector = Detector(
        Detecting(tuple(each for known in STARTER.values() for each in known), 5, tuple(_HEADERS))
    )
    rows = []
    for name, (query, headers, goal) in _USUAL.items():
        cost_us = _usual_us(detector, query, headers, 0.1 if effort.quick else 1.0)
        rows.append(Row(f"patterns: {name}", cost_us, unit="µs", goal=goal))
    times = 20 if effort.quick else 200
    for name, make in _WORST.items():
        taken_us = _unmet_us(detector, make, times)
        note = f"at most {max(taken_us):.0f} µs"
        rows.append(
            Row(
                f"patterns: {MAX_TEXT >> 10} KiB of {name}", statistics.median(taken_us), unit="µs", note=note
            )
        )
    return Findings(rows)


def _usual_us(detector: Detector, query: bytes, headers: Mapping[bytes, bytes], for_s: float) -> float:
    score = detector.score

    def scoring(_: None) -> None:
        for _call in range(CALLS):
            score("/orders/18734", query, headers)

    return least_ns(lambda: None, scoring, CALLS, for_s) / 1_000


def _unmet_us(detector: Detector, make: Callable[[random.Random], bytes], times: int) -> list[float]:
    chance = random.Random(7)
    taken_us = []
    for _ in range(times):
        query = make(chance)[:MAX_TEXT]
        begun_ns = time.process_time_ns()
        detector.score("/orders/18734", query, {})
        taken_us.append((time.process_time_ns() - begun_ns) / 1_000)
    return taken_us


def _bytes(chance: random.Random) -> bytes:
    return chance.randbytes(MAX_TEXT).replace(b"%", b"!")


def _printable(chance: random.Random) -> bytes:
    return bytes(chance.choices([code for code in range(33, 127) if code != ord("%")], k=MAX_TEXT))


def _pieces(chance: random.Random) -> bytes:
    return "".join(chance.choices(_PIECES, k=MAX_TEXT)).encode()


def _encoded_twice(chance: random.Random) -> bytes:
    return "".join(f"%25{code:02x}" for code in chance.choices(range(33, 127), k=MAX_TEXT // 5)).encode()


_WORST: Final[Mapping[str, Callable[[random.Random], bytes]]] = {
    "random bytes": _bytes,
    "random characters": _printable,
    "pieces of attacks": _pieces,
    "characters encoded twice": _encoded_twice,
}
