"""The shipped configurations show the gate which trace a request belongs to."""

from __future__ import annotations

import pytest

from tests.fronts.shipped import house
from tests.stores import StoreServer

DOCUMENT = "filters: [{name: closed, deny: true, match: {paths: [/closed]}}]"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize("kind", ["nginx", "envoy", "caddy"])
def test_a_refusal_s_line_names_the_trace(kind: str, valkey: StoreServer) -> None:
    with house(kind, DOCUMENT, store_url=valkey.url()) as shop:
        refused = shop.ask("/closed", headers={"Traceparent": f"00-{TRACE}-{SPAN}-01"})
        line = shop.logged(refused)

    assert (line["trace_id"], line["span_id"]) == (TRACE, SPAN)
