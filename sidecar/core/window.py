"""The sliced sliding window: how many permits a counter may still grant, in plain Python.

A window W is cut into slices. The state of a counter is a count per slice, for the
current slice and the `span` before it (`span` slices cover W). A permit is granted only
while the sum over these `span + 1` slices stays within the limit.

        oldest kept                            current
    ---|k-S|-- ... --|k-2|k-1| k |---> time
       |<------ S slices --->|^^^|
                 W               a permit granted now is counted in k

Bound. Any interval of length W touches at most S + 1 consecutive slices. Take the last
permit granted among those used in that interval: when it was granted, the sum over its
slice and the S before it was within the limit, and these cover the interval up to it.
So no interval of length W ever holds more than the limit, wherever it starts.

Cost. A permit returns up to one slice late, so steady traffic exactly at the limit gets
about S / (S + 1) of it.

This module is the reference: `lua/take.lua` does the same in the store, and a test feeds
both the same history. It knows nothing of keys, batches or clocks; `now_ms` is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

NEVER = -1
"""In `Grant.retry_ms` and `Grant.next_ms`: waiting does not help."""


class Ask(NamedTuple):
    """What is asked of one counter. Counts are permits, times are milliseconds."""

    permits: int
    window_ms: int
    slice_ms: int
    want: int
    """Grant at most this many; 0 only looks."""
    need: int
    """Grant at least this many, or nothing."""
    give_back: int = 0
    give_back_slice: int = 0
    """The slice in which the permits to give back were granted."""
    give_back_made: int = 0
    """`Grant.made` of the grant that is given back."""
    block_ms: int = 0


class Grant(NamedTuple):
    """What a counter answered."""

    granted: int
    room: int
    """Permits that could be granted still, now; 0 while blocked."""
    slice_id: int
    slice_left_ms: int
    """How long the granted permits may be spent."""
    retry_ms: int
    """Time until `need` permits could be granted if nothing is given back: 0 now, -1 never."""
    next_ms: int
    """Time until `room` grows: 0 when nothing is used, -1 never."""
    made: int
    """Names this state of the counter: a state lost and made anew has another."""


@dataclass(slots=True)
class Counts:
    """The state of one counter: `pairs` of [slice id, permits], oldest first, none of them zero."""

    made: int
    total: int = 0
    blocked_until_ms: int = 0
    pairs: list[list[int]] = field(default_factory=list)


def slice_for(window_ms: int, slices: int) -> int:
    """Length of a slice in milliseconds: the window cut into `slices`, but at least 20 ms.

    >>> slice_for(60_000, 60), slice_for(1_000, 60)
    (1000, 20)
    """
    return max(20, -(-window_ms // slices))


def take(counts: Counts | None, now_ms: int, ask: Ask, *, made: int) -> tuple[Counts | None, Grant]:
    """Give back, then grant: the one verb. Returns the new state (None: nothing to keep) and the answer.

    `made` names the state if it has to be made. `counts` is changed in place.
    """
    now_slice = now_ms // ask.slice_ms
    span = -(-ask.window_ms // ask.slice_ms)
    if counts is None:
        counts = Counts(made)
    now_slice = _settle(counts, now_ms, now_slice, span, ask)
    if counts.total == 0 and counts.blocked_until_ms == 0:
        counts.made = made
    if ask.give_back and ask.give_back_made == counts.made:
        _give_back(counts, ask.give_back_slice, ask.give_back)

    room = ask.permits - counts.total
    blocked = counts.blocked_until_ms > now_ms
    granted = 0
    if not blocked and ask.want and room >= ask.need:
        granted = min(ask.want, room)
        if counts.pairs and counts.pairs[-1][0] == now_slice:
            counts.pairs[-1][1] += granted
        else:
            counts.pairs.append([now_slice, granted])
        counts.total += granted
        room -= granted
    if ask.block_ms and granted < ask.want and not blocked:
        counts.blocked_until_ms = now_ms + ask.block_ms
        blocked = True

    room_left = 0 if blocked else max(0, room)
    retry_ms = _wait_ms(counts, now_ms, span, ask, ask.need)
    next_ms = _wait_ms(counts, now_ms, span, ask, max(0, room) + 1) if counts.total else 0
    if ask.permits == 0:
        next_ms = NEVER
    if blocked:
        block_left_ms = counts.blocked_until_ms - now_ms
        retry_ms = max(retry_ms, block_left_ms) if retry_ms != NEVER else NEVER
        next_ms = max(next_ms, block_left_ms) if next_ms != NEVER else NEVER
    slice_left_ms = (now_slice + 1) * ask.slice_ms - max(now_ms, now_slice * ask.slice_ms)
    grant = Grant(granted, room_left, now_slice, slice_left_ms, retry_ms, next_ms, counts.made)
    return (counts if counts.total or blocked else None), grant


def expiry_ms(counts: Counts, now_ms: int, ask: Ask) -> int:
    """How long a written state must be kept: window and one slice, and what is left of a block."""
    return ask.window_ms + ask.slice_ms + max(0, counts.blocked_until_ms - now_ms)


def _settle(counts: Counts, now_ms: int, now_slice: int, span: int, ask: Ask) -> int:
    """Bring the state to this moment; returns the slice that counts as the current one.

    Time never runs backwards for a counter: an earlier slice counts as the newest stored one.
    A stored slice more than a window ahead means that the clock had jumped: the whole count
    moves into the current slice, over-strict for one window at most.
    """
    if counts.pairs and counts.pairs[-1][0] > now_slice:
        newest = counts.pairs[-1][0]
        if (newest - now_slice) * ask.slice_ms > ask.window_ms:
            counts.pairs = [[now_slice, counts.total]]
        else:
            now_slice = newest
    while counts.pairs and counts.pairs[0][0] + span < now_slice:
        counts.total -= counts.pairs.pop(0)[1]
    counts.blocked_until_ms = min(counts.blocked_until_ms, now_ms + ask.block_ms)
    if counts.blocked_until_ms <= now_ms:
        counts.blocked_until_ms = 0
    return now_slice


def _give_back(counts: Counts, slice_id: int, permits: int) -> None:
    for index in range(len(counts.pairs) - 1, -1, -1):
        pair = counts.pairs[index]
        if pair[0] == slice_id:
            returned = min(permits, pair[1])
            pair[1] -= returned
            counts.total -= returned
            if pair[1] == 0:
                del counts.pairs[index]
            return
        if pair[0] < slice_id:
            return


def _wait_ms(counts: Counts, now_ms: int, span: int, ask: Ask, room: int) -> int:
    """Milliseconds until there is room for `room` permits if nothing is given back, or NEVER."""
    if room > ask.permits or ask.permits == 0:
        return NEVER
    free = ask.permits - counts.total
    if free >= room:
        return 0
    for slice_id, permits in counts.pairs:
        free += permits
        if free >= room:
            return (slice_id + span + 1) * ask.slice_ms - now_ms
    raise AssertionError("the counts do not add up to the total")
