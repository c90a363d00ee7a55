"""The bound for real: four processes, one store, one hot subject, and an oracle over every recorded answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from tests.gates import Gate
from tests.load import Said, certainly_busiest, forwarded, possibly_before, press
from tests.stores import StoreServer

LIMITS: Final = {"/second": (60, 1.0), "/two": (150, 2.0), "/leased": (400, 2.0)}
"""Path -> permits and window in seconds."""

# What an outage admits is another bound (and another test): here it would admit nothing.
DOCUMENT: Final = """
store: {outage: closed, deadline_ms: 5000}
limits:
  - {name: second, per: [ip], permits: 60, window: 1s, match: {paths: [/second]}}
  - {name: two, per: [ip], permits: 150, window: 2s, lease: never, match: {paths: [/two]}}
  - {name: leased, per: [global], permits: 400, window: 2s, match: {paths: [/leased]}}
"""
LASTING_S: Final = 6.0
SLICES: Final = 60
PER_S: Final = 1_500
"""A third of it goes to each path: eight, seven and two and a half times the limit."""


@pytest.fixture
def said(valkey: StoreServer, start_gate: Callable[..., Gate]) -> list[Said]:
    """Every answer of four gates in some seconds well above the limits."""
    gates = [start_gate(DOCUMENT, store_url=valkey.url()) for _ in range(4)]
    requests = [(path, forwarded(path, "203.0.113.9")) for path in LIMITS]
    ports = [gate.check_port for gate in gates]
    return asyncio.run(press(ports, requests, connections=4, per_s=PER_S, lasting_s=LASTING_S))


def test_it_admits_at_most_the_limit_in_any_interval_and_most_of_it(
    said: list[Said], valkey: StoreServer
) -> None:
    assert {one.status for one in said} == {200, 429}
    for path, (permits, window_s) in LIMITS.items():
        admitted = [one for one in said if one.target == path and one.status == 200]
        refused = [one for one in said if one.target == path and one.status == 429]
        kept_s = window_s + window_s / SLICES  # a permit returns up to one slice late
        used = min(possibly_before(admitted, one, kept_s) for one in refused)

        assert len(refused) > permits / 2, f"{path}: the load was no load"
        assert certainly_busiest(admitted, window_s) <= permits, path
        assert certainly_busiest(admitted, window_s) >= 0.5 * permits, f"{path}: the oracle saw too little"
        assert used >= 0.8 * permits, f"{path}: the limit was not used"

    with valkey.client() as client:
        kept = {key: client.pttl(key) for key in client.scan_iter("pc:{0}:*")}
    assert all(ttl_ms == -2 or 0 < ttl_ms <= 2_000 + 34 for ttl_ms in kept.values()), kept
