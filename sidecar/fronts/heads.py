"""Heads that come again and again, byte for byte: what they were read as last time.

A proxy sends the same bytes for the same client's next request more often than not (a page's pictures, a poller, a
flood). Then the parser, the front and the address need not run again. An entry is made only from bytes that the
parser took as exactly one complete request, on a connection that was between requests; the same bytes at
such a moment are the same request.

Not kept: heads that carry a secret, by the headers' names, or a query, which may hold one (DESIGN §1.7); bodies; heads
that were malformed or long.

Bounded: two generations of `room` heads or `room_bytes` bytes each; when the young one is full, the old one is
forgotten. When few heads come again, looking costs more than it saves: then the table rests for a while, and
tries again.

It knows nothing of connections or verdicts: only what was asked is remembered, never what was answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sidecar.core.credentials import may_hold_secret
from sidecar.core.model import Request
from sidecar.fronts import Front, Head

LONGEST: Final = 2048
"""Bytes of the longest head kept."""

_MAY_CARRY_QUERY: Final = (b"x-original-uri", b"x-original-url", b"x-forwarded-uri", b"referer")
_JUDGED_NAMES: Final = 1024

_TRIAL: Final = 256
"""Misses after which the table looks at itself."""
_REST: Final = 8192
"""Heads that pass unseen while it rests: the trials are 3 % of them."""
_MISSES_PER_HIT: Final = 6
"""A miss costs about a sixth of what a hit saves."""

Known = tuple[Front, Request]


class HeadTable:
    """Exact bytes -> what they were read as. `room` 0 remembers nothing."""

    __slots__ = (
        "_bytes",
        "_credential_headers",
        "_harmless",
        "_hits",
        "_misses",
        "_old",
        "_rest",
        "_room",
        "_room_bytes",
        "_young",
    )

    def __init__(
        self, *, credential_headers: Iterable[bytes], room: int = 4096, room_bytes: int = 4 * 2**20
    ) -> None:
        self._credential_headers = frozenset(credential_headers)
        self._room = room
        self._room_bytes = room_bytes
        self._young: dict[bytes, Known] = {}
        self._old: dict[bytes, Known] = {}
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self._rest = 0
        self._harmless: set[bytes] = set()

    def find(self, data: bytes) -> Known | None:
        """What these bytes were read as, or None."""
        if self._rest:
            self._rest -= 1
            return None
        known = self._young.get(data)
        if known is None:
            known = self._old.get(data)
            if known is None:
                self._misses += 1
                if self._misses >= _TRIAL:
                    self._look_back()
                return None
            self._put(data, known)
        self._hits += 1
        return known

    def offer(self, data: bytes, head: Head, front: Front, request: Request) -> None:
        """Remember `data`, which the parser took as exactly this one complete request, if it may be kept."""
        if (
            self._rest
            or not self._room
            or len(data) > LONGEST
            or not head.keep_alive
            or head.body
            or request.malformed is not None
            or request.key is not None
            or request.query
            or not self._is_harmless(head)
        ):
            return
        self._put(data, (front, request))

    def _put(self, data: bytes, known: Known) -> None:
        if len(self._young) >= self._room or self._bytes >= self._room_bytes:
            self._old = self._young
            self._young = {}
            self._bytes = 0
        self._young[data] = known
        self._bytes += len(data)

    def _look_back(self) -> None:
        if self._hits * _MISSES_PER_HIT < self._misses:
            self._rest = _REST
        self._hits = 0
        self._misses = 0

    def _is_harmless(self, head: Head) -> bool:
        if b"?" in head.target:
            return False
        headers = head.headers
        for name in _MAY_CARRY_QUERY:
            if b"?" in headers.get(name, b""):
                return False
        return headers.keys() <= self._harmless or all(self._judge_name(name) for name in headers)

    def _judge_name(self, name: bytes) -> bool:
        """Whether a header of this name holds no secret. Names that were found harmless are remembered."""
        if name in self._harmless:
            return True
        if name in self._credential_headers or may_hold_secret(name):
            return False
        if len(self._harmless) < _JUDGED_NAMES:
            self._harmless.add(name)
        return True
