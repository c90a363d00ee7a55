"""The W3C trace context of a request: which trace it belongs to, and which span asked.

    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
                 version  trace id (32)            span id (16)     flags; 01: sampled

Source: W3C Trace Context, 3.2 and 4.3. Hexadecimal digits are lower-case, an id of zeros is none, and a later
version is read as far as this one goes. What is not well formed is ignored, as if it were not there: it says nothing
about the request. Two lines of the header arrive joined, and are not well formed.

It reads no `tracestate`, and hands nothing on: the proxy does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

TRACEPARENT: Final = b"traceparent"

_FORM: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?")
_MOST: Final = 512
"""Bytes; a later version may append to the 55 of this one."""
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_SAMPLED: Final = 0x01


class TraceParent(NamedTuple):
    """The span that asked: ids in hexadecimal, and whether it is recorded where it came from."""

    trace_id: str
    span_id: str
    sampled: bool


def trace_parent(headers: Mapping[bytes, bytes]) -> TraceParent | None:
    """What the request's `traceparent` says, or None when there is no good one.

    >>> trace_parent({b"traceparent": b"00-" + b"a1" * 16 + b"-" + b"b2" * 8 + b"-01"})
    TraceParent(trace_id='a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1', span_id='b2b2b2b2b2b2b2b2', sampled=True)
    """
    value = headers.get(TRACEPARENT)
    if value is None or len(value) > _MOST:
        return None
    found = _FORM.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == b"00" and more):
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED))
