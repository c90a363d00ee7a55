"""Times and durations as the admin API writes them: RFC 3339 in UTC with milliseconds, and `90s 10m 1h 7d`.

Tells no time itself.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from msgspec import Meta

from sidecar.document.notations import DAY_MS, SECOND_MS, duration_ms

MOST_MS: Final = 3_660 * DAY_MS
"""The longest that an entry may stand, if not for ever: ten years."""

DurationText = Annotated[
    str,
    Meta(
        description="How long: a whole number with s, m, h or d.",
        examples=["1h"],
        extra_json_schema={"pattern": "^[0-9]{1,9}[smhd]$"},
    ),
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_read_duration = duration_ms(SECOND_MS, MOST_MS)


def moment(ms: int) -> str:
    """A time in milliseconds since 1970 as text.

    >>> moment(1_795_323_600_123)
    '2026-11-22T05:00:00.123Z'
    """
    at = _EPOCH + timedelta(milliseconds=ms)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def moment_or_none(ms: int) -> str | None:
    """A time as text; None for 0, which stands for never."""
    return moment(ms) if ms else None


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time. Raises ValueError with the remedy.

    >>> moment_ms("2026-11-22T06:00:00.123+01:00")
    1795323600123
    """
    remedy = 'expected a time such as "2026-11-22T05:00:00Z"'
    if not _MOMENT.fullmatch(text):
        raise ValueError(remedy)
    try:
        at = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(remedy) from None
    return (at - _EPOCH) // timedelta(milliseconds=1)


def span_ms(text: str) -> int:
    """Milliseconds of a duration from 1s to ten years. Raises ValueError with the remedy."""
    return _read_duration(text)


def later_ms(text: str, now_ms: int) -> int:
    """A time that is still to come, and not farther than ten years. Raises ValueError with the remedy."""
    at_ms = moment_ms(text)
    if at_ms <= now_ms:
        raise ValueError(f"expected a time to come; now it is {moment(now_ms)}")
    if at_ms > now_ms + MOST_MS:
        raise ValueError(f"expected a time before {moment(now_ms + MOST_MS)}: leave it out for ever")
    return at_ms
