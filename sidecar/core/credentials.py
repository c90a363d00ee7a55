"""Credentials as they are presented, and headers that may hold one.

With a registry a front hands on what was presented as one text of bytes, whose first byte says how:

    s<id> NUL <secret>    two headers of a server key
    c<id> NUL <secret>    two headers of a client key
    k<id>.<secret>        one header
    b<...>                Authorization: Bearer, `<id>.<secret>` or a token

No header's value holds a NUL. Whether a credential is valid is not decided here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SERVER_PAIR: Final = b"s"
CLIENT_PAIR: Final = b"c"
WHOLE: Final = b"k"
BEARER: Final = b"b"
WAYS: Final = frozenset({SERVER_PAIR, CLIENT_PAIR, WHOLE, BEARER})

may_hold_secret: Final = re.compile(
    rb"auth(?!ority)|cookie|token|secret|key|session|sid|passw|pwd|signature|credential|assertion|jwt|csrf|xsrf|cert"
).search
"""Whether a lower-case header name looks like a credential's; errs on the side of yes."""


class HeaderPair(NamedTuple):
    """The two headers (lower-case names) that carry a key's id and its secret."""

    id: bytes
    secret: bytes
