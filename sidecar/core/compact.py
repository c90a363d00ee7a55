"""A JWT in its compact form, taken apart: three parts of base64url, the first two JSON objects.

Whatever two readers could read differently is refused before anything is believed (RFC 8725): a member
that stands there twice, padding and stray bits in the base64url, other encodings than UTF-8, numbers that
are none. The size of a token and how deep it nests are bounded: the worst text costs about as much as
verifying one EdDSA signature.

Whether anything in the token is true is not decided here.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from math import isfinite
from typing import Final, NamedTuple

LONGEST_TOKEN: Final = 8 * 1024
DEEPEST: Final = 16
MOST_BRACKETS: Final = 1_024
"""Objects and lists of one document: a set of a hundred keys has some two hundred."""
LONGEST_NUMBER: Final = 32
"""Characters: more than any date has."""

_PART: Final = rb"([A-Za-z0-9_-]+)"
_COMPACT: Final = re.compile(rb"(%b\.%b)\.%b" % (_PART, _PART, _PART))
_LIKE_COMPACT: Final = re.compile(rb"%b\.%b\.([A-Za-z0-9_-]*)" % (_PART, _PART))


class TokenRefused(Exception):
    """A token is not believed. The text is static, for operators: nothing of the token stands in it.

    unknown_key_of  the name of the foreign issuer whose keys do not hold the one that the token names:
                    it may have a new one; else ""
    """

    def __init__(self, why: str, *, unknown_key_of: str = "") -> None:
        super().__init__(why)
        self.unknown_key_of = unknown_key_of


class Opened(NamedTuple):
    """A token taken apart, not believed yet. `signed` is what the signature is made over."""

    header: dict[str, object]
    claims: dict[str, object]
    signed: bytes
    signature: bytes


def looks_like_token(text: bytes) -> bool:
    """Whether this is a token, good or bad, rather than `<id>.<secret>`.

    >>> looks_like_token(b"eyJh.eyJp.c2ln"), looks_like_token(b"eyJh.eyJp."), looks_like_token(b"k_a.pcs_b")
    (True, True, False)
    """
    return _LIKE_COMPACT.fullmatch(text) is not None


def open_token(token: bytes) -> Opened:
    """The parts of a token. Raises TokenRefused."""
    if len(token) > LONGEST_TOKEN:
        raise TokenRefused("it is longer than 8 KiB")
    parts = _COMPACT.fullmatch(token)
    if parts is None:
        raise TokenRefused("it is not three parts of base64url")
    signed, header, claims, signature = parts.groups()
    return Opened(_members(header, "header"), _members(claims, "payload"), signed, _decoded(signature))


def _members(part: bytes, what: str) -> dict[str, object]:
    try:
        members = read_json(_decoded(part).decode())
    except ValueError:
        raise TokenRefused(f"its {what} is not JSON with each member once") from None
    if not isinstance(members, dict):
        raise TokenRefused(f"its {what} is not a JSON object")
    return members


def _decoded(part: bytes) -> bytes:
    decoded = decode_base64url(part)
    if decoded is None:
        raise TokenRefused("one of its parts is not base64url")
    return decoded


def decode_base64url(text: bytes) -> bytes | None:
    """The bytes of base64url without padding; None if these bytes are not written exactly so.

    The last character may carry bits that mean nothing: two texts of one signature, of which we take one.

    >>> decode_base64url(b"_w"), decode_base64url(b"_x"), decode_base64url(b"_w=="), decode_base64url(b"_")
    (b'\\xff', None, None, None)
    """
    try:
        decoded = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        return None
    return decoded if urlsafe_b64encode(decoded).rstrip(b"=") == text else None


# --- JSON that has one meaning ------------------------------------------------


def read_json(text: str) -> object:
    """JSON with each member once, finite numbers, and nested no deeper than DEEPEST. Raises ValueError.

    >>> read_json('{"exp": 1.5, "aud": ["a"]}')
    {'exp': 1.5, 'aud': ['a']}
    """
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError("it holds too much")
    try:
        value: object = _JSON.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Fewer brackets than levels is the usual case, and needs no walk.
    if text.count("[") + text.count("{") > DEEPEST and not _is_flat(value):
        raise ValueError("it is nested too deeply")
    return value


def _is_flat(value: object) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inner: list[object] = []
        for outer in level:
            if isinstance(outer, dict):
                inner.extend(outer.values())
            elif isinstance(outer, list):
                inner.extend(outer)
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return True
    return False


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _integer(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError("a number is too long")
    return int(text)


def _number(text: str) -> float:
    number = float(text) if len(text) <= LONGEST_NUMBER else float("inf")
    if not isfinite(number):
        raise ValueError("a number is too long")
    return number


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_JSON: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_number, parse_constant=_no_number
)
