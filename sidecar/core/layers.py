"""A list of prefixes that changes at run time, also a million at once: a few sets, the largest first.

A set of prefixes is quick to ask and slow to build, and a list that is imported comes in two hundred changes.
Were the whole built again for each, the cost would be the square of the length. So changes go where they cost
little, and the whole is put together now and then:

    few additions      into the overlay of the smallest set
    many additions     a new set, the smallest
    few removals       into the overlay of the set that has the prefix
    many removals      that set is built again without them
    a set smaller than RATIO times all smaller ones together: these, and it, become one

    sizes       695 000 | 300 000 | 5 000  +  5 000   ->   695 000 | 300 000 | 10 000
                695 000 | 300 000 | 50 000 + 5 000    ->   1 050 000

So there are about log3(length / FEW) sets at most, and each record is merged some five times while 200 equal
changes come, seven times while 1000 do. A look-up asks one set after the other; `merged_steps`, in quiet times,
makes one of them.

No prefix is in two sets: what is added is looked for first, so nothing is counted or told twice, and a removal
concerns one set.

All generators yield every few milliseconds. They change nothing that exists, and may be abandoned anywhere.

Not here: when time is quiet, and what being listed means.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from functools import reduce
from typing import Final

from sidecar.core.addresses import AddressSet, read_record, write_record
from sidecar.core.prefix_table import BLOCK, batches, merged_blocks

FEW: Final = 1_000
"""Changes that an overlay takes in all: to copy so many takes about a millisecond."""

RATIO: Final = 2
"""How many times as large as all smaller ones together a set is. With more there are fewer sets and more merging."""

STEP: Final = 256
"""Changes that are looked for in all sets between two yields."""


class LayeredSet:
    """A set of prefixes, immutable, which it takes little to change: see above.

    layers  the sets, none of them empty, the largest first
    """

    __slots__ = ("layers",)

    def __init__(self, layers: Iterable[AddressSet] = ()) -> None:
        """No prefix may be in two of the layers."""
        filled = [layer for layer in layers if len(layer)]
        self.layers: Final = tuple(sorted(filled, key=len, reverse=True))

    @classmethod
    def build_steps(cls, cidrs: Iterable[str]) -> Generator[None, None, LayeredSet]:
        """Build a set as `AddressSet.build_steps` does."""
        return cls([(yield from AddressSet.build_steps(cidrs))])

    def contains(self, address: str) -> bool:
        """Whether a prefix of the set covers this address. False for what is not an address ("unknown")."""
        for layer in self.layers:  # noqa: SIM110 - a generator for any() costs more than the look-up
            if layer.contains(address):
                return True
        return False

    def match(self, subject: str) -> str | None:
        """The most specific prefix that covers this address, or the whole of this network; or None.

        See `AddressSet.match`.
        """
        found = [cidr for layer in self.layers if (cidr := layer.match(subject)) is not None]
        return max(found, key=_length, default=None)

    def __len__(self) -> int:
        """Different prefixes, whether or not one lies inside another."""
        return sum(map(len, self.layers))

    def prefixes(self) -> Iterator[str]:
        """All prefixes as canonical text: IPv4 first, then by network and length."""
        for octets in (4, 16):
            streams = [layer.blocks(octets) for layer in reversed(self.layers)]
            for block in reduce(merged_blocks, streams) if streams else ():
                yield from map(write_record, block)

    @property
    def pending(self) -> int:
        """Changes in overlays."""
        return sum(layer.pending for layer in self.layers)

    def merged_steps(self) -> Generator[None, None, LayeredSet]:
        """The same prefixes in one set without an overlay; itself if it is that already."""
        if len(self.layers) <= 1 and not self.pending:
            return self
        return LayeredSet([(yield from AddressSet.union_steps(self.layers))])

    def changed_steps(self, changes: Mapping[str, bool]) -> Generator[None, None, LayeredSet]:
        """This set with each prefix of `changes` in it (True) or not in it (False).

        Raises ValueError as `parse_cidr` does.
        """
        wanted: dict[bytes, bool] = {}
        for number, (cidr, listed) in enumerate(changes.items(), start=1):
            wanted[read_record(cidr)] = listed
            if number % BLOCK == 0:
                yield
        more: list[bytes] = []
        less: list[list[bytes]] = [[] for _ in self.layers]
        for number, (record, listed) in enumerate(wanted.items(), start=1):
            for at, layer in enumerate(self.layers):
                if layer.holds(record):
                    if not listed:
                        less[at].append(record)
                    break
            else:
                if listed:
                    more.append(record)
            if number % STEP == 0:
                yield
        layers: list[AddressSet] = []
        for layer, gone in zip(self.layers, less, strict=True):
            layers.append((yield from _without_steps(layer, gone)))
        return (yield from LayeredSet(layers)._with_steps(more))

    def _with_steps(self, more: Collection[bytes]) -> Generator[None, None, LayeredSet]:
        """This set, and records that are not in it."""
        layers = list(self.layers)
        if more and len(more) + sum(layer.pending for layer in layers[-1:]) <= FEW:
            smallest = layers.pop() if layers else AddressSet()
            layers.append(smallest.patched(more))
        elif more:
            layers.append((yield from AddressSet.of_records_steps(batches(more))))
        return (yield from LayeredSet(layers)._balanced_steps())

    def _balanced_steps(self) -> Generator[None, None, LayeredSet]:
        """The same prefixes in sets each of which is RATIO times as large as all smaller ones together."""
        sizes = list(map(len, self.layers))
        for at, size in enumerate(sizes[:-1]):
            if size < RATIO * sum(sizes[at + 1 :]):
                merged = yield from AddressSet.union_steps(self.layers[at:])
                return LayeredSet([*self.layers[:at], merged])
        return self


def _without_steps(layer: AddressSet, gone: Collection[bytes]) -> Generator[None, None, AddressSet]:
    """A layer without some of its records."""
    if not gone:
        return layer
    if len(gone) + layer.pending <= FEW:
        return layer.patched(remove=gone)
    return (yield from AddressSet.union_steps([layer], set(gone)))


def _length(cidr: str) -> int:
    return int(cidr.rpartition("/")[2])
