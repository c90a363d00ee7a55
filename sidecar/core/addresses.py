"""Addresses and prefixes: how they are written, and which lists name them.

One address has one text: IPv4 as four decimal octets, IPv6 as RFC 5952 has it, and
IPv4-mapped IPv6 (`::ffff:a.b.c.d`) is IPv4, in prefixes too. What a platform's lenient parsers take
besides (leading zeros, `10.1`, zone ids) is refused, because two readers would read two addresses.

Parsing is `inet_pton`: a pure function, strict, and twenty times as fast as `ipaddress`, which the
tests use as the oracle.

Not here: who the client is (`forwarded`), reading lists from files, following changes to them, and deciding
what being listed means.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence, Set
from functools import reduce
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct
from typing import Final, NamedTuple, TypeVar

from sidecar.core.prefix_table import PrefixTable, Runs, batches, merged_blocks, patched_blocks, table_steps

T = TypeVar("T")

MAX_ERRORS: Final = 20
"""Bad lines of one list file that are reported; the rest is counted."""

# A plain int: handing an IntEnum member to inet_pton costs 70 ns more per call.
_V4: Final = int(AF_INET)
_V6: Final = int(AF_INET6)
_ZEROS: Final = bytes(10)
_MAPPED: Final = _ZEROS + b"\xff\xff"
_LENGTHS: Final = {str(length): length for length in range(129)}
_V4_LENGTHS: Final = {str(length): ((1 << 32 - length) - 1, bytes((length,))) for length in range(33)}
_from_bytes = int.from_bytes
_halves = Struct(">QQ").unpack


def canonical_address(text: str) -> str | None:
    """The one text of an address, or None when `text` is not exactly an address.

    >>> canonical_address("2001:DB8:0:0::1"), canonical_address("::ffff:192.0.2.1")
    ('2001:db8::1', '192.0.2.1')
    >>> canonical_address("010.0.0.1"), canonical_address("fe80::1%eth0"), canonical_address("10.0.0.1:80")
    (None, None, None)
    """
    try:
        if ":" not in text:
            inet_pton(_V4, text)  # Takes nothing but the canonical text.
            return text
        return _address_text(inet_pton(_V6, text))
    except (OSError, ValueError):
        return None


def subject_of(address: str, ipv6_prefix: int) -> str:
    """Whom a limit counts: an IPv4 address, or the network of `ipv6_prefix` bits of an IPv6 address.

    `address` is canonical; anything without a colon ("unknown") is its own subject.

    >>> subject_of("203.0.113.9", 64), subject_of("2001:db8:0:1:a::b", 64), subject_of("unknown", 64)
    ('203.0.113.9', '2001:db8:0:1::/64', 'unknown')
    """
    if ":" not in address:
        return address
    network = _masked(inet_pton(_V6, address), ipv6_prefix)
    return f"{_address_text(network)}/{ipv6_prefix}"


def parse_cidr(text: str) -> str:
    """The canonical text of a prefix; an address alone is a prefix of full length.

    Raises ValueError, with a message for the operator, for everything else; also when bits are set
    beyond the prefix.

    >>> parse_cidr("192.0.2.1"), parse_cidr("2001:DB8::/32"), parse_cidr("::ffff:10.0.0.0/104")
    ('192.0.2.1/32', '2001:db8::/32', '10.0.0.0/8')
    >>> parse_cidr("10.0.0.1/8")
    Traceback (most recent call last):
    ValueError: '10.0.0.1/8' has bits beyond its prefix: write 10.0.0.0/8 (network) or 10.0.0.1/32 (address)
    """
    return write_record(read_record(text))


def parse_cidrs(text: str, name: str) -> list[str]:
    """The canonical prefixes of a list file: one a line, `#` begins a comment, blank lines are nothing.

    Raises ValueError naming `name`, line and reason of every bad line (of the first MAX_ERRORS).
    """
    cidrs: list[str] = []
    errors: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        entry = line.partition("#")[0].strip()
        if entry:
            try:
                cidrs.append(parse_cidr(entry))
            except ValueError as error:
                errors.append(f"{name}:{number}: {error}")
    if len(errors) > MAX_ERRORS:
        errors[MAX_ERRORS:] = [f"{name}: and {len(errors) - MAX_ERRORS} more"]
    if errors:
        raise ValueError("\n".join(errors))
    return cidrs


class AddressSet:
    """A set of prefixes, immutable; `contains` takes about a microsecond with a million of them.

    It is two tables (see `prefix_table`) and a small overlay: prefixes added and removed since the
    tables were built. `with_changes` makes a new set that shares the tables; `union_steps` makes new tables.
    A list that changes all the time is made of several such sets: see `layers`.

    A prefix as a *record* is its network's bytes and one byte for its length: see `read_record`.

    Cost: an overlay adds some 0.3 µs, and 0.1 µs for each different prefix length in it. An address under
    a *removed* prefix costs a microsecond for each prefix length of its family, until there are new tables.
    """

    __slots__ = ("_added", "_cells", "_edges", "_empty", "_overlay", "_removed", "_shift", "_v4", "_v6")

    def __init__(self, cidrs: Iterable[str] = ()) -> None:
        """Raises ValueError as `parse_cidr` does. Blocks for about 5 s per million: see `build_steps`."""
        built = finish(AddressSet.build_steps(cidrs))
        self._become(built._v4, built._v6, built._added, built._removed)

    @classmethod
    def build_steps(cls, cidrs: Iterable[str]) -> Generator[None, None, AddressSet]:
        """Build a set in steps of a few milliseconds; the generator's return value is the set.

        Raises ValueError as `parse_cidr` does. `cidrs` is read once and need not be a list.
        """
        return (yield from cls.of_records_steps(batches(map(read_record, cidrs))))

    @classmethod
    def of_records_steps(cls, batches: Iterable[Collection[bytes]]) -> Generator[None, None, AddressSet]:
        """Build a set of records, in any order, of which at most SLICE come in a batch: as `build_steps`."""
        runs = {5: Runs(4), 17: Runs(16)}
        for batch in batches:
            for size, run in runs.items():
                run.add([record for record in batch if len(record) == size])
            yield
        v4 = yield from table_steps(4, runs[5].blocks())
        v6 = yield from table_steps(16, runs[17].blocks())
        return cls._of(v4, v6, frozenset(), frozenset())

    @classmethod
    def union_steps(
        cls, sets: Sequence[AddressSet], removed: Set[bytes] = frozenset()
    ) -> Generator[None, None, AddressSet]:
        """What any of these sets has, less the records `removed`, without an overlay: as `build_steps`.

        Nothing is turned into text and back: some 1.5 µs for each record.
        """
        v4 = yield from _union_steps(4, [(each._v4, each._added, each._removed) for each in sets], removed)
        v6 = yield from _union_steps(16, [(each._v6, each._added, each._removed) for each in sets], removed)
        return cls._of(v4, v6, frozenset(), frozenset())

    def contains(self, address: str) -> bool:
        """Whether a prefix of the set covers this address. False for what is not an address ("unknown")."""
        if self._empty:
            return False
        try:
            if ":" in address:
                high: int
                low: int
                high, low = _halves(inet_pton(_V6, address))
                if high or low >> 32 != 0xFFFF:
                    covered = self._v6.covers(high, low)
                    return covered if self._overlay is None else self._judge(high << 64 | low, 16, covered)
                number = low & 0xFFFF_FFFF
            else:
                number = _from_bytes(inet_pton(_V4, address))
        except (OSError, ValueError):
            return False
        # `PrefixTable.covers` for IPv4, written out without what only IPv6 needs: saves a third of the time.
        at = self._cells[number >> self._shift]
        edges = self._edges
        if edges[at] > number:
            at -= 1
            if edges[at] > number:
                cell = number >> self._shift
                at = bisect_right(edges, number, self._cells[cell - 1] if cell else 0, at) - 1
        if self._overlay is None:
            return at & 1 == 1
        return self._judge(number, 4, at & 1 == 1)

    def match(self, subject: str) -> str | None:
        """The most specific prefix that covers this address, or the whole of this network; or None.

        Canonical text, which the network has to be, too. Some 100 µs: for explain and for who is rare.
        """
        address, slash, length = subject.partition("/")
        longest = _LENGTHS.get(length, -1) if slash else 128
        if longest < 0 or not self.contains(address):  # which tells most at a hundredth of the cost
            return None
        packed = inet_pton(_V6 if ":" in address else _V4, address)
        record = self._most_specific(packed.removeprefix(_MAPPED), longest)
        return None if record is None else write_record(record)

    def with_changes(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> AddressSet:
        """This set less the prefixes `remove` and with the prefixes `add` (added last, if in both).

        Raises ValueError as `parse_cidr` does. Removing what is not there changes nothing: only exactly
        the prefix is removed, not what lies inside it. Costs some 20 µs per change, and 1 µs per change
        pending.
        """
        return self.patched(list(map(read_record, add)), list(map(read_record, remove)))

    def patched(self, add: Iterable[bytes] = (), remove: Iterable[bytes] = ()) -> AddressSet:
        """`with_changes` for records."""
        added, removed = set(self._added), set(self._removed)
        for record in remove:
            added.discard(record)
            if self._table(record).has(record):
                removed.add(record)
        for record in add:
            removed.discard(record)
            if not self._table(record).has(record):
                added.add(record)
        return self._of(self._v4, self._v6, frozenset(added), frozenset(removed))

    def holds(self, record: bytes) -> bool:
        """Whether exactly this prefix is in the set. One or two microseconds."""
        if record in self._added:
            return True
        table = self._v4 if len(record) == 5 else self._v6
        return table.has(record) and record not in self._removed

    @property
    def pending(self) -> int:
        """Changes in the overlay: worth a merge from about a thousand, or with removals at leisure."""
        return len(self._added) + len(self._removed)

    def __len__(self) -> int:
        """Different prefixes, whether or not one lies inside another."""
        return len(self._v4) + len(self._v6) + len(self._added) - len(self._removed)

    def prefixes(self) -> Iterator[str]:
        """All prefixes as canonical text: IPv4 first, then by network and length."""
        for octets in (4, 16):
            for block in self.blocks(octets):
                yield from map(write_record, block)

    def blocks(self, octets: int) -> Iterator[list[bytes]]:
        """All records of a family in order, in blocks, some of which may be empty."""
        table = self._v4 if octets == 4 else self._v6
        return patched_blocks(table, _of_family(self._added, octets), self._removed)

    @classmethod
    def _of(
        cls, v4: PrefixTable, v6: PrefixTable, added: frozenset[bytes], removed: frozenset[bytes]
    ) -> AddressSet:
        made = cls.__new__(cls)
        made._become(v4, v6, added, removed)
        return made

    def _become(
        self, v4: PrefixTable, v6: PrefixTable, added: frozenset[bytes], removed: frozenset[bytes]
    ) -> None:
        self._v4 = v4
        self._v6 = v6
        self._added = added
        self._removed = removed
        self._empty = not (len(v4) or len(v6) or added)
        self._edges = v4.edges
        self._cells = v4.cells
        self._shift = v4.groups[0][0]
        self._overlay = (
            _Overlay(
                {octets: _by_length(added, octets) for octets in (4, 16)},
                {octets: _by_length(removed, octets) for octets in (4, 16)},
            )
            if added or removed
            else None
        )

    def _judge(self, number: int, octets: int, covered: bool) -> bool:
        """Whether the prefixes cover `number`, given whether the tables alone do."""
        overlay = self._overlay
        assert overlay is not None
        for shift, networks in overlay.added[octets]:
            if number >> shift in networks:
                return True
        if covered:
            for shift, networks in overlay.removed[octets]:
                if number >> shift in networks:
                    return self._most_specific(number.to_bytes(octets)) is not None
        return covered

    def _most_specific(self, packed: bytes, longest: int = 128) -> bytes | None:
        table = self._v4 if len(packed) == 4 else self._v6
        lengths = {record[-1] for record in self._added if len(record) == len(packed) + 1}
        for length in sorted(lengths.union(table.lengths), reverse=True):
            if length > longest:
                continue
            record = _masked(packed, length) + bytes((length,))
            if record in self._added or (record not in self._removed and table.has(record)):
                return record
        return None

    def _table(self, record: bytes) -> PrefixTable:
        return self._v4 if len(record) == 5 else self._v6


class _Overlay(NamedTuple):
    """Changed prefixes by the octets of their family: (shift, networks >> shift) for each length."""

    added: dict[int, tuple[tuple[int, set[int]], ...]]
    removed: dict[int, tuple[tuple[int, set[int]], ...]]


def _union_steps(
    octets: int, parts: Iterable[tuple[PrefixTable, Set[bytes], Set[bytes]]], gone: Set[bytes]
) -> Generator[None, None, PrefixTable]:
    """One family's table of parts, each a table and what was added and removed since; without what is gone."""
    gone = _of_family(gone, octets)
    filled = [
        (table, _of_family(added, octets) - gone, _of_family(removed, octets) | gone)
        for table, added, removed in parts
        if len(table) or added
    ]
    if len(filled) == 1 and not filled[0][1] and not filled[0][2]:
        return filled[0][0]
    # The largest comes first, and is merged last: most records are looked at once.
    streams = [patched_blocks(*part) for part in reversed(filled)]
    return (yield from table_steps(octets, reduce(merged_blocks, streams) if streams else iter(())))


def _of_family(records: Iterable[bytes], octets: int) -> set[bytes]:
    return {record for record in records if len(record) == octets + 1}


def networks_around(subject: str) -> Iterator[str]:
    """All prefixes that cover this address, or the whole of this network, the most specific first.

    Canonical text, which `subject` has to be, too; nothing for what is neither ("unknown").

    >>> list(networks_around("128.0.0.0/2"))
    ['128.0.0.0/2', '128.0.0.0/1', '0.0.0.0/0']
    """
    try:
        record = read_record(subject)
    except ValueError:
        return
    for length in range(record[-1], -1, -1):
        yield write_record(_masked(record[:-1], length) + bytes((length,)))


def finish(steps: Generator[None, None, T]) -> T:
    """Run steps to their end, where blocking does no harm."""
    result: list[T] = []

    def drain() -> Generator[None, None, None]:
        result.append((yield from steps))

    for _ in drain():
        pass
    return result[0]


def _by_length(records: Iterable[bytes], octets: int) -> tuple[tuple[int, set[int]], ...]:
    networks: dict[int, set[int]] = {}
    for record in records:
        if len(record) == octets + 1:
            shift = octets * 8 - record[octets]
            networks.setdefault(shift, set()).add(_from_bytes(record[:octets]) >> shift)
    return tuple(networks.items())


def read_record(cidr: str) -> bytes:
    """A prefix as a record, its network's bytes and one for its length: 5 for IPv4, 17 for IPv6. Raises ValueError.

    >>> read_record("10.0.0.0/8").hex(), write_record(bytes.fromhex("0a00000008"))
    ('0a00000008', '10.0.0.0/8')
    """
    address, slash, length_text = cidr.partition("/")
    try:
        # A good IPv4 prefix, as most of a million are: half the time of the way below.
        packed = inet_pton(_V4, address)
        host_bits, length_octet = _V4_LENGTHS[length_text]
        if not _from_bytes(packed) & host_bits:
            return packed + length_octet
    except (OSError, ValueError, KeyError):
        pass
    try:
        packed = inet_pton(_V6 if ":" in address else _V4, address)
    except (OSError, ValueError):
        raise ValueError(
            f"{cidr!r} is not an IPv4 or IPv6 address or prefix"
            " (names, ports, zone ids, shorthand and leading zeros are refused)"
        ) from None
    bits = len(packed) * 8
    length = _LENGTHS.get(length_text, 129) if slash else bits
    if length > bits:
        raise ValueError(f"{cidr!r}: the prefix length must be a whole number from 0 to {bits}")
    if bits == 128 and packed.startswith(_MAPPED):
        if length < 96:
            raise ValueError(f"{cidr!r}: an IPv4-mapped prefix is at least /96")
        packed, length, bits = packed[12:], length - 96, 32
    if _from_bytes(packed) & ((1 << (bits - length)) - 1):
        network = write_record(_masked(packed, length) + bytes((length,)))
        host = write_record(packed + bytes((bits,)))
        raise ValueError(
            f"{cidr!r} has bits beyond its prefix: write {network} (network) or {host} (address)"
        )
    return packed + bytes((length,))


def write_record(record: bytes) -> str:
    """The canonical text of a record."""
    return f"{_address_text(record[:-1])}/{record[-1]}"


def _address_text(packed: bytes) -> str:
    """RFC 5952 text; of an IPv4-mapped address the IPv4 text."""
    if len(packed) == 4:
        return inet_ntop(_V4, packed)
    text = inet_ntop(_V6, packed)
    if packed[:10] == _ZEROS:
        if packed.startswith(_MAPPED):
            return inet_ntop(_V4, packed[12:])
        if "." in text:
            # Some C libraries write ::1.2.3.4 for the long obsolete IPv4-compatible addresses.
            # All replicas must write the same.
            return f"::{_from_bytes(packed[12:14]):x}:{_from_bytes(packed[14:]):x}"
    return text


def _masked(packed: bytes, length: int) -> bytes:
    spare = len(packed) * 8 - length
    return (_from_bytes(packed) >> spare << spare).to_bytes(len(packed))
