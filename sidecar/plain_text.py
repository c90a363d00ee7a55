"""Text that is fit to be read by others: cut, harmless for terminals, without what is recognized as a secret.

What a secret is that nothing gives away (a word in a path), only the operator knows: see `log.hide`.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.keys import without_secrets

HIDDEN: Final = "***"

_URL_CREDENTIAL: Final = re.compile(r"://\S{1,300}@")
_TOKEN: Final = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*")
"""A JWT: `eyJ` is how `{"` begins in base64."""

_REPLACED: Final = dict.fromkeys(
    (
        *range(0x7F, 0xA0),  # DEL and C1: a terminal may take U+009B for an escape sequence
        *(0x2028, 0x2029),  # line separators for readers that split like JavaScript
        *range(0x202A, 0x202F),  # bidirectional overrides
        *range(0x2066, 0x206A),
        *range(0xD800, 0xE000),  # lone surrogates have no UTF-8
    ),
    0xFFFD,
)


def cut(text: str, most: int) -> str:
    """At most `most` characters, without those that JSON does not escape and a reader may stumble over.

    >>> cut("abcdef", 4)
    'abc…'
    """
    shown = text if len(text) <= most else text[: most - 1] + "…"
    return shown if shown.isascii() and "\x7f" not in shown else shown.translate(_REPLACED)


def without_credentials(text: str) -> str:
    """The text with keys' secrets and tokens hidden, for what a client sent; to be done before a cut.

    >>> without_credentials("/reset/pcs_AbCdEf/eyJhbGciOiJub25lIn0.e30.x")
    '/reset/pcs_***/***'
    """
    if "pcs_" in text:
        text = without_secrets(text)
    return _TOKEN.sub(HIDDEN, text) if "eyJ" in text else text


def without_passwords(text: str) -> str:
    """The text with user and password of every URL hidden; to be done before a cut could part them from their "@".

    >>> without_passwords("redis://app:pw@redis:6379: refused")
    'redis://***@redis:6379: refused'
    """
    return _URL_CREDENTIAL.sub("://***@", text)
