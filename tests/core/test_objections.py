"""What is said against requests that differ in their address alone: remembered, and never another's."""

from __future__ import annotations

import pytest

from sidecar.core.bound import UNPROVED, Bound, Who
from sidecar.core.keys import Kind
from sidecar.core.model import Filter, Match
from sidecar.core.origins import Origins
from sidecar.core.policy import Policy
from sidecar.core.principals import Principal
from tests.doubles import policy, request

ORIGIN = b"https://a.example"
FILTERS = (
    Filter("orders", Match(paths=("/orders/*",)), scopes=("orders.write",)),
    Filter("shop", Match(paths=("/shop/*",)), kinds=("client",), origins=("a.example",)),
    Filter("inside", Match(paths=("/inside/*",)), require_allow=True),
    Filter("of-clients", Match(kinds=("client",)), methods=("GET",)),
)
WHO: tuple[Who, ...] = (
    None,
    UNPROVED,
    Principal("reader", scopes=["orders.read"]),
    Principal("writer", scopes=["orders.write"]),
    Principal("web", kind=Kind.CLIENT, origins=Origins(["a.example"])),
)


def made() -> Policy:
    return policy(filters=FILTERS, allow=["192.0.2.0/28"], registry=True)


def told(bound: Bound) -> tuple[object, ...]:
    refusal = bound.refusal
    return (refusal and (refusal.reason, refusal.rule), bound.allow_origin, bound.trial, bound.key_id)


@pytest.mark.parametrize("path", ["/orders/1", "/shop/1", "/inside/1", "/"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", [None, ORIGIN, b"https://b.example"])
def test_it_says_of_a_new_address_what_it_says_first(path: str, method: str, origin: bytes | None) -> None:
    lived = made()

    for address in ("192.0.2.1", "198.51.100.1", "192.0.2.2", "198.51.100.2"):
        for who in WHO:
            headers = {} if origin is None else {b"origin": origin}
            asked = [request(address, method=method, path=path, headers=headers) for _ in range(2)]

            assert told(lived.bind(asked[0], who)) == told(made().bind(asked[1], who))
