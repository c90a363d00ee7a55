"""Who the client is, according to the proxies that a request came through.

It reads `X-Forwarded-For`; which headers a front believes, and whose, is the fronts' business.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.addresses import AddressSet, canonical_address

MAX_HOPS: Final = 64
"""Trusted entries of X-Forwarded-For that the walk passes at most; a longer chain names nobody."""

_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+)(?::[0-9]{1,5})?", re.ASCII)


def client_address(forwarded: bytes, trusted: AddressSet) -> str | None:
    """The client's canonical address according to X-Forwarded-For, or None when it names none.

    Each proxy appends its peer's address, so the rightmost entry is what the proxy next to the gate
    saw, and each entry is as credible as the one to its right is trusted. The walk goes from the
    right past trusted addresses; the first other address is the client. Entries may carry ports and
    brackets. If all entries are trusted the client is one of one's own: the leftmost.

    Garbage stops the walk: what is left of it is not credible, and what is right of it is a trusted
    proxy, not the client. The answer is then None, not the proxy's address, which may be on a list
    of exempt ones. The same goes for a chain of more than MAX_HOPS trusted entries.

    >>> trusted = AddressSet(["10.0.0.0/8"])
    >>> client_address(b"198.51.100.9, 203.0.113.7:4711, 10.0.0.2, [::ffff:10.0.0.1]:80", trusted)
    '203.0.113.7'
    >>> client_address(b"10.0.0.5, 10.0.0.1", trusted)
    '10.0.0.5'
    >>> client_address(b"203.0.113.7, unknown, 10.0.0.1", trusted) is None
    True
    """
    end = len(forwarded)
    for _ in range(MAX_HOPS):
        comma = forwarded.rfind(b",", 0, end)
        address = _entry_address(forwarded[comma + 1 : end].decode("latin-1").strip(" \t"))
        if address is None or comma < 0 or not trusted.contains(address):
            return address
        end = comma
    return None


def _entry_address(entry: str) -> str | None:
    """The address of one X-Forwarded-For entry: bare, `a.b.c.d:port`, `[v6]` or `[v6]:port`."""
    address = canonical_address(entry)
    if address is None and (parts := _PORT.fullmatch(entry)):
        inner = parts[1]
        if inner[0] != "[":
            return canonical_address(inner)
        if ":" in inner:
            return canonical_address(inner[1:-1])
    return address
