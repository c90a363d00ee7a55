"""Anything at all, in any pieces: no exception, no hang, no 200 that the gate did not call for.

And the table of known heads changes nothing: the connection that parses everything is the oracle of the one
that remembers.
"""

from __future__ import annotations

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.fronts import UNKNOWN_ADDRESS
from sidecar.fronts.wire import WireLimits
from tests.fronts.doubles import (
    LIMITED,
    Gate,
    Plane,
    Wire,
    ask_api,
    ask_envoy,
    ask_forward,
    ask_nginx,
    statuses,
)

DENIED = "192.0.2.9"
SLOW = "192.0.2.1"

ADDRESSES = ("203.0.113.9", "203.0.113.10", DENIED, SLOW, "junk")

QUESTIONS = tuple(
    question
    for address in ADDRESSES
    for question in (
        ask_nginx(address),
        ask_nginx(address, uri="/a/../../b"),
        ask_nginx(address, more=["X-Api-Key: k", "Cookie: a=b"]),
        ask_nginx(address, more=["Connection: Upgrade", "Upgrade: websocket"]),
        ask_forward(address, more=["Expect: 100-continue"]),
        ask_forward(address, uri="/x?token=1"),
        ask_envoy(address, method="POST", more=["Content-Length: 0"]),
        ask_envoy(address, target="/%2f"),
        ask_api({"address": address}),
        ask_api({"address": address, "surprise": 1}),
        ask_forward(address, more=["Transfer-Encoding: chunked"]) + b"1\r\na\r\n0\r\nA: b\r\n\r\n",
    )
)
LAST = (
    ask_forward(more=["Connection: close"]),
    ask_nginx().replace(b"HTTP/1.1", b"HTTP/1.0"),
    b"FROB /auth/envoy/ HTTP/1.1\r\nHost: a\r\n\r\n",
)

_TOKENS = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"\xff", b"0\r\n\r\n", b"HTTP/1.1", b"HTTP/1.0", b"GET ",
    b"Host: gate\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: x\r\n", b"Expect: 100-continue\r\n", b"X-Real-IP: 192.0.2.9\r\n",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid question with a few cuts, doublings, insertions and changed bytes."""
    data = draw(st.sampled_from(QUESTIONS + LAST))
    for _ in range(draw(st.integers(0, 4))):
        if not data:
            break
        start = draw(st.integers(0, len(data) - 1))
        end = draw(st.integers(start, min(len(data), start + 40)))
        middle = draw(
            st.one_of(
                st.just(b""), st.just(data[start:end] * 2), st.sampled_from(_TOKENS), st.binary(max_size=4)
            )
        )
        data = data[:start] + middle + data[end:]
    return data


STREAMS = st.lists(
    st.one_of(st.sampled_from(QUESTIONS), mutated(), st.binary(max_size=60)), min_size=1, max_size=8
).map(b"".join)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def finish(plane: Plane) -> None:
    """Answer all that waits, until nothing more comes of it."""
    while plane.gate.waiting or plane.loop.ready:
        plane.gate.answer_all()
        plane.loop.run()


@settings(max_examples=400)
@given(STREAMS, st.lists(st.integers(0, 100_000), max_size=10), st.booleans())
def test_it_survives_anything_in_any_pieces(data: bytes, cuts: list[int], patient: bool) -> None:
    gate = Gate(verdicts={DENIED: LIMITED}, slow={SLOW})
    plane = Plane(gate=gate, limits=WireLimits(max_waiting=3))
    wire = plane.connect()

    for piece in pieces_of(data, cuts):
        plane.send(wire, piece)
        if patient:
            finish(plane)
    finish(plane)
    plane.sweep(after_s=11)
    plane.sweep(after_s=76)
    plane.sweep(after_s=3)

    # The api front answers 200 with every verdict; what it could not read has no address.
    assert wire.closed
    assert not plane.plane.connections
    told = statuses(wire.sent)
    called_for = [
        verdict.allowed if front != 3 else request.address != UNKNOWN_ADDRESS
        for front, request, verdict, _, _ in plane.observed
    ]
    assert told.count(200) == sum(called_for)
    assert set(told) <= {100, 200, 400, 401, 403, 404, 405, 408, 413, 414, 429, 431}


def transcript(plane: Plane, wire: Wire) -> tuple[bytes, list[tuple[object, ...]]]:
    """Everything a client and the gate saw, with the gate's own request ids made alike."""
    plain = re.sub(rb"[0-9a-f]{12}-[0-9a-f]+", b"ID", wire.sent)
    plain = re.sub(rb"Content-Length: \d+", b"", plain)
    asked: list[tuple[object, ...]] = [
        (asked.address, asked.method, asked.host, asked.path, asked.key, dict(asked.headers), asked.malformed)
        for asked in plane.gate.asked
    ]
    return plain, asked


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(QUESTIONS[:16]), min_size=1, max_size=20),
    st.lists(st.integers(0, 100_000), max_size=6),
    st.booleans(),
    mutated(),
)
def test_it_answers_the_same_with_and_without_memory(
    questions: list[bytes], cuts: list[int], whole: bool, tail: bytes
) -> None:
    arriving = [*questions, tail] if whole else pieces_of(b"".join([*questions, tail]), cuts)
    seen = []
    for remember in (True, False):
        plane = Plane(gate=Gate(verdicts={DENIED: LIMITED}), remember=remember)
        before = plane.connect()
        for question in questions:
            plane.send(before, question)
        wire = plane.connect()
        for piece in arriving:
            plane.send(wire, piece)
        seen.append((transcript(plane, before), transcript(plane, wire), wire.over))

    assert seen[0] == seen[1]
