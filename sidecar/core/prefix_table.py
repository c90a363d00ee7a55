"""A million prefixes of one address family, looked up in about a microsecond.

A table answers two questions. *Does any prefix cover this number?* is asked for every new
address. *Is exactly this prefix here?* is asked by explain and by changes.

For the first, overlapping and adjacent prefixes melt into disjoint ranges, and only the edges
of these are kept, ascending: where a range begins, and the number after its end. Edge 0 is a
sentinel, the number 0, so that every number has a last edge at or below it:

    prefixes              10.0.0.0/8 ────────────────────┐
                              10.1.0.0/16 ─┐ melts        │      192.0.2.1/32
    edges      0: 0.0.0.0   1: 10.0.0.0             2: 11.0.0.0   3: 192.0.2.1   4: 192.0.2.2
               └ even: not  └ odd: covered          └ even        └ odd          └ even

So a look-up finds the last edge at or below the number, and its parity is the answer. Cells make
the search short: the numbers are cut into equal cells, about one for an edge, and each cell
knows the last edge at or below its own last number. That edge, or the one before it, is nearly always the
one; only then a bisection inside the cell follows. Clustered prefixes cost more steps, never a
wrong answer.

IPv4 has one row of cells for all numbers. IPv6 prefixes are clustered by nature, so there the upper
halves are grouped by their top 16 bits, and each group has cells only between its first and its last edge.
IPv6 edges are kept as two halves: search the upper ones, and among equal upper halves the lower
ones. So prefixes longer than /64 are exact too, and cost nothing when there are none.

For the second question, every prefix is kept as a record, its network's bytes and one byte for
its length; records sort bytewise in the order of (network, length). Every so manieth record is a mark: a
bisection of the marks tells the stretch in which a record would be, and there its bytes are looked for.

Memory, per million scattered prefixes: IPv4 5 MB of records, 8 MB of edges, 8 MB of cells; IPv6
17 MB of records, 32 MB of edges (16 MB without prefixes longer than /64), and at most 8 MB of cells; 1 MB of marks.

Building sorts runs of bounded length and merges them by splitters, and is a generator that
yields after a few milliseconds of work, so that an event loop can go on in between.

Not here: text (see `addresses`), and changes after building.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from itertools import islice
from struct import Struct, iter_unpack
from typing import Final

SLICE: Final = 2048
"""Records worked on between two yields: two to six milliseconds."""

BLOCK: Final = 1024
"""Records of a table that are taken from it at a time: two tables' together are a SLICE."""

MARK: Final = 64
"""Every so manieth record of a table is a mark."""

FEW: Final = 16
"""Edges whose cells cost as much as beginning a group does."""

GAP: Final = 256
"""Cells in a row with the same edge from which copying memory is quicker than counting."""

SAMPLE: Final = 64
"""Every so manieth record of a run is a candidate for a splitter."""

GROUPED_FROM: Final = 512
"""IPv6 edges from which it pays to group by the top bits: below, one group is enough."""

MOST_CELLS_LOG2: Final = 21
"""IPv4 cells at most, 8 MB of them: with twice as many, look-ups miss the processor's caches more often."""

_LOW_64: Final = (1 << 64) - 1
_numbers_v4: Callable[[bytes], Iterator[tuple[int, int]]] = Struct(">IB").iter_unpack
_unpacked_v6 = Struct(">QQB").iter_unpack

Group = tuple[int, int, int, int]
"""(shift, first cell, last cell, offset into `cells`): see `PrefixTable.covers`."""


class PrefixTable:
    """The prefixes of one family, immutable. Made by `table_steps`.

    octets     4 or 16
    records    every prefix once, in order: `octets` bytes of network and one of length
    lengths    the prefix lengths that occur, longest first
    edges      ascending, the sentinel first; for IPv6 the upper halves
    low_edges  the lower halves for IPv6; empty if they are all 0, and for IPv4
    top        n >> top is the group of n (for IPv4 always 0)
    cells      for each cell the index of the last edge at or below its last number
    """

    __slots__ = ("_marks", "cells", "edges", "groups", "lengths", "low_edges", "octets", "records", "top")

    def __init__(
        self,
        *,
        octets: int,
        records: bytearray,
        marks: list[bytes],
        lengths: tuple[int, ...],
        edges: array[int],
        low_edges: array[int],
        top: int,
        groups: list[Group],
        cells: array[int],
    ) -> None:
        self.octets: Final = octets
        self.records: Final = records
        self._marks: Final = marks
        self.lengths: Final = lengths
        self.edges: Final = edges
        self.low_edges: Final = low_edges
        self.top: Final = top
        self.groups: Final = groups
        self.cells: Final = cells

    def __len__(self) -> int:
        return len(self.records) // (self.octets + 1)

    def covers(self, high: int, low: int = 0) -> bool:
        """Whether any prefix covers this address.

        `high` is an IPv4 address's 32 bits, or the upper 64 of an IPv6 address whose lower ones are `low`.
        """
        shift, first, last, offset = self.groups[high >> self.top]
        cell = high >> shift
        if cell < first:
            cell = first
        elif cell > last:
            cell = last
        edges = self.edges
        at = self.cells[cell + offset]
        if edges[at] > high:
            at -= 1
            if edges[at] > high:
                # The first cell of a row has no cell before it whose last edge bounds the search.
                begin = self.cells[cell + offset - 1] if cell + offset else 0
                at = bisect_right(edges, high, begin, at) - 1
        if self.low_edges and edges[at] == high and self.low_edges[at] > low:
            begin = bisect_left(edges, high, 0, at + 1)
            at = bisect_right(self.low_edges, low, begin, at + 1) - 1
        return at & 1 == 1

    def has(self, record: bytes) -> bool:
        """Whether exactly this prefix is in the table. About a microsecond."""
        mark = bisect_right(self._marks, record) - 1
        if mark < 0:
            return False
        size = self.octets + 1
        begin, end = mark * MARK * size, (mark + 1) * MARK * size
        at = self.records.find(record, begin, end)
        while at >= 0 and (at - begin) % size:  # the end of one record and the beginning of the next
            at = self.records.find(record, at + 1, end)
        return at >= 0

    def blocks(self) -> Iterator[list[bytes]]:
        """All records in order, in lists of at most BLOCK."""
        size = self.octets + 1
        for start in range(0, len(self.records), BLOCK * size):
            yield _cut(self.records[start : start + BLOCK * size], size)


def table_steps(octets: int, blocks: Iterator[list[bytes]]) -> Generator[None, None, PrefixTable]:
    """Build a table from ascending blocks of ascending, distinct records; yields every few milliseconds."""
    width = octets * 8
    spans = [1 << (width - length) for length in range(width + 1)]
    records = bytearray()
    marks: list[bytes] = []
    lengths: set[int] = set()
    first_mark = 0  # where in the next block the first mark is
    edges = array("I" if octets == 4 else "Q", (0,))
    low_edges = array("Q", () if octets == 4 else (0,))
    begin = end = -1  # the range that may still grow: [begin, end)
    for block in blocks:
        joined = b"".join(block)
        numbers = _numbers_v4(joined) if octets == 4 else _numbers_v6(joined)
        closed: list[int] = []
        for first, length in numbers:
            after = first + spans[length]
            if first > end:
                if end >= 0:
                    closed += begin, end
                begin, end = first, after
            elif after > end:
                end = after
        _append(closed, edges, low_edges, octets)
        marks += block[first_mark::MARK]
        first_mark = (first_mark - len(block)) % MARK
        records += joined
        lengths.update(joined[octets :: octets + 1])
        yield
    if end >= 0:
        # A range that reaches the last address has no edge after it.
        _append([begin] if end == 1 << width else [begin, end], edges, low_edges, octets)
    if lengths and max(lengths) <= 64:
        low_edges = array("Q")
    top, groups, cells = yield from _index_steps(edges, min(width, 64))
    return PrefixTable(
        octets=octets,
        records=records,
        marks=marks,
        lengths=tuple(sorted(lengths, reverse=True)),
        edges=edges,
        low_edges=low_edges,
        top=top,
        groups=groups,
        cells=cells,
    )


def batches(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Records in lists of SLICE, the last one shorter; none is read before a list needs it."""
    rest = iter(records)
    while batch := list(islice(rest, SLICE)):
        yield batch


class Runs:
    """Unordered records of one family on their way into a table: sorted runs of at most SLICE records.

    Takes the records' own bytes and little more; duplicates may be added.
    """

    def __init__(self, octets: int) -> None:
        self._size = octets + 1
        self._runs: list[bytes] = []

    def add(self, records: Collection[bytes]) -> None:
        """Add at most SLICE records, in any order."""
        if records:
            self._runs.append(b"".join(sorted(set(records))))

    def blocks(self) -> Iterator[list[bytes]]:
        """All records once, ascending, in lists of mostly one SLICE; empty lists where work goes on.

        A sample of every run, sorted, is cut into equal parts; the records at the cuts split all
        runs in the same places, and what lies between two splitters is one block. Regular sampling
        bounds a block by SLICE + 2 * SAMPLE * len(runs), whatever the records are.
        """
        size = self._size
        samples: list[bytes] = []
        for number, run in enumerate(self._runs):
            # Staggered: alike runs sampled at the same places would leave gaps as wide as the bound.
            start = number % SAMPLE * size
            samples += [run[at : at + size] for at in range(start, len(run), SAMPLE * size)]
            if number % SAMPLE == 0:
                yield []
        samples.sort()
        splitters = sorted(set(samples[SLICE // SAMPLE :: SLICE // SAMPLE]))
        starts = [0] * len(self._runs)
        for splitter in splitters:
            block: list[bytes] = []
            for number, run in enumerate(self._runs):
                start = starts[number]
                starts[number] = end = _lower_bound(run, splitter, start, size)
                block += _cut(run[start:end], size)
            yield _sorted_once(block)
        block = []
        for start, run in zip(starts, self._runs, strict=True):
            block += _cut(run[start:], size)
        yield _sorted_once(block)


def patched_blocks(
    table: PrefixTable, added: Collection[bytes], removed: Collection[bytes]
) -> Iterator[list[bytes]]:
    """The records of `table`, less `removed`, with `added`: ascending, in blocks."""
    rest = sorted(added)
    at = 0
    for block in table.blocks():
        until = bisect_right(rest, block[-1], at)
        if removed:
            block = [record for record in block if record not in removed]
        if until > at:
            block = sorted({*block, *rest[at:until]})
            at = until
        yield block
    yield rest[at:]


def merged_blocks(one: Iterator[list[bytes]], other: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """The records of both, each ascending and in blocks, likewise; those that are in both come once.

    What lies up to the nearer one of the two blocks' ends is complete, whatever comes next:

        one     a  c  e | ...
        other     b   d  g  k | ...        together: a b c d e, and then g k with the next block of `one`
    """
    mine: list[bytes] | None = []
    others: list[bytes] | None = []
    while True:
        mine = mine or next(one, None)
        others = others or next(other, None)
        if mine is None and others is None:
            return
        if mine is None or others is None:
            yield mine or others or []
            mine, others = (None, []) if mine is None else ([], None)
        elif not mine or not others:
            yield []  # nothing was left of a block, which took its time
        else:
            until = min(mine[-1], others[-1])
            at, there = bisect_right(mine, until), bisect_right(others, until)
            yield _sorted_once(mine[:at] + others[:there])
            mine, others = mine[at:], others[there:]


def _cut(joined: bytes | bytearray, size: int) -> list[bytes]:
    return [record for (record,) in iter_unpack(f"{size}s", joined)]


def _numbers_v6(joined: bytes) -> Iterator[tuple[int, int]]:
    """Network and length of each record, as numbers."""
    return ((high << 64 | low, length) for high, low, length in _unpacked_v6(joined))


def _sorted_once(records: list[bytes]) -> list[bytes]:
    """Sorted and without duplicates; quick because the list consists of sorted stretches."""
    records.sort()
    return [record for record, before in zip(records, [b"", *records], strict=False) if record != before]


def _lower_bound(run: bytes, record: bytes, start: int, size: int) -> int:
    """Byte offset of the first record of `run` from `start` on that is not less than `record`."""
    low, high = start // size, len(run) // size
    while low < high:
        middle = (low + high) // 2
        if run[middle * size : (middle + 1) * size] < record:
            low = middle + 1
        else:
            high = middle
    return low * size


def _append(numbers: list[int], edges: array[int], low_edges: array[int], octets: int) -> None:
    if octets == 4:
        edges.extend(numbers)
    else:
        edges.extend(number >> 64 for number in numbers)
        low_edges.extend(number & _LOW_64 for number in numbers)


def _index_steps(edges: array[int], width: int) -> Generator[None, None, tuple[int, list[Group], array[int]]]:
    """Group the numbers of `width` bits by their top bits and cut each group into cells."""
    cells = array("I")
    if width == 32:
        cells_log2 = min(len(edges).bit_length(), MOST_CELLS_LOG2)
        shift = width - cells_log2
        yield from _cell_steps(edges, 0, len(edges), shift, 0, (1 << cells_log2) - 1, cells)
        return width, [(shift, 0, (1 << cells_log2) - 1, 0)], cells
    top = width - 16 if len(edges) >= GROUPED_FROM else width
    groups: list[Group] = []
    begin = worked = 0
    while begin < len(edges):
        group = edges[begin] >> top
        if group > len(groups):
            groups += [_empty_group(width, begin, cells)] * (group - len(groups))
        end = bisect_left(edges, (group + 1) << top, begin)
        low, high = edges[begin], edges[end - 1]
        shift = ((high - low) // (end - begin)).bit_length()
        first, last = low >> shift, high >> shift
        cells.append(begin)  # where the search of the row's first cell begins
        groups.append((shift, first, last, len(cells) - first))
        yield from _cell_steps(edges, begin, end, shift, first, last, cells)
        worked += end - begin + FEW
        if worked > SLICE:
            worked = 0
            yield
        begin = end
    if len(groups) < 1 << (width - top):
        groups += [_empty_group(width, begin, cells)] * ((1 << (width - top)) - len(groups))
    return top, groups, cells


def _cell_steps(
    edges: array[int], begin: int, end: int, shift: int, first: int, last: int, cells: array[int]
) -> Generator[None, None, None]:
    """Append a row: for each cell from `first` to `last` its last edge, one of edges[begin:end]."""
    cell = first
    row: list[int] = []
    for start in range(begin, end, SLICE):
        for before, edge in enumerate(edges[start : min(start + SLICE, end)], start - 1):
            edge_cell = edge >> shift
            if edge_cell > cell:
                if edge_cell - cell < GAP:
                    row += [before] * (edge_cell - cell)
                else:
                    cells.extend(row)
                    row.clear()
                    cells.extend(array("I", (before,)) * (edge_cell - cell))
                cell = edge_cell
                if len(row) > 2 * SLICE:
                    cells.extend(row)
                    row.clear()
                    yield
        if end - start > SLICE:
            yield
    cells.extend(row)
    cells.extend(array("I", (end - 1,)) * (last + 1 - cell))


def _empty_group(width: int, begin: int, cells: array[int]) -> Group:
    """A group without edges: one cell, whose last edge is the one before the group."""
    cells.append(begin - 1)
    return (width, 0, 0, len(cells) - 1)
