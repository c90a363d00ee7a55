"""What tests of addresses draw from, and the oracles they ask: `ipaddress`, slow and right.

Prefixes are drawn so that they lie inside, beside and on top of each other. IPv4-mapped prefixes are left out:
they are IPv4 ones in disguise, and have tests of their own.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Iterator
from typing import Protocol

from hypothesis import strategies as st

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAPPED = 0xFFFF << 32

numbers_v4 = st.one_of(
    st.sampled_from([0, 1, 2**32 - 1, 2**32 - 2, 2**31, 10 << 24]),
    st.builds(lambda high, low: 10 << 24 | high << 16 | low, st.integers(0, 3), st.integers(0, 7)),
    st.integers(0, 2**32 - 1),
)
numbers_v6 = st.one_of(
    st.sampled_from([0, 1, 2**128 - 1, 2**64, 2**64 - 1, MAPPED - 1, MAPPED + 2**32]),
    st.builds(lambda high, low: 0x20010DB8 << 96 | high << 62 | low, st.integers(0, 15), st.integers(0, 7)),
    st.integers(0, 2**128 - 1),
)
lengths_v4 = st.one_of(st.integers(0, 32), st.sampled_from([0, 1, 8, 24, 29, 30, 31, 32]))
lengths_v6 = st.one_of(st.integers(0, 128), st.sampled_from([0, 1, 62, 63, 64, 65, 66, 125, 126, 127, 128]))


def network_v4(number: int, length: int) -> str:
    return str(ipaddress.IPv4Network((number >> 32 - length << 32 - length, length)))


def network_v6(number: int, length: int) -> str:
    return str(ipaddress.IPv6Network((number >> 128 - length << 128 - length, length)))


cidrs = st.one_of(
    st.builds(network_v4, numbers_v4, lengths_v4), st.builds(network_v6, numbers_v6, lengths_v6)
).filter(lambda cidr: not is_mapped(ipaddress.ip_network(cidr)))
addresses = st.one_of(
    st.builds(ipaddress.IPv4Address, numbers_v4), st.builds(ipaddress.IPv6Address, numbers_v6)
)


def is_mapped(network: Network) -> bool:
    """Whether the prefix is an IPv4 one in disguise: the canonical text is another."""
    return (
        network.version == 6
        and network.prefixlen >= 96
        and int(network.network_address) >> 32 == MAPPED >> 32
    )


def plain(address: Address) -> Address:
    return (address.version == 6 and address.ipv4_mapped) or address


def slow_match(listed: Iterable[str], address: Address) -> str | None:
    networks = [ipaddress.ip_network(cidr) for cidr in listed]
    covering = [network for network in networks if plain(address) in network]
    return str(max(covering, key=lambda network: network.prefixlen)) if covering else None


class Prefixes(Protocol):
    """A set of prefixes."""

    def contains(self, address: str) -> bool: ...

    def match(self, subject: str) -> str | None: ...

    def prefixes(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...


def agrees(subject: Prefixes, listed: set[str], asked: Iterable[Address]) -> None:
    """Ask about `asked`, and about the first and last address of every prefix and their neighbours."""
    probes = set(map(str, asked))
    for network in map(ipaddress.ip_network, listed):
        for number in (int(network.network_address), int(network.broadcast_address)):
            for near_by in (number - 1, number, number + 1):
                if 0 <= near_by < 1 << network.max_prefixlen:
                    kind = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
                    probes.add(str(kind(near_by)))
    for text in probes:
        expected = slow_match(listed, ipaddress.ip_address(text))
        assert subject.match(text) == expected, text
        assert subject.contains(text) == (expected is not None), text
    assert set(subject.prefixes()) == listed
    assert len(subject) == len(listed)


class Oracle:
    """Sets too large for `slow_match`: a dictionary of prefixes, tried from the longest."""

    def __init__(self, listed: Iterable[str]) -> None:
        self._networks = {
            (network.version, int(network.network_address), network.prefixlen): str(network)
            for network in map(ipaddress.ip_network, listed)
        }

    def in_order(self) -> list[str]:
        return [self._networks[key] for key in sorted(self._networks)]

    def match(self, text: str) -> str | None:
        address = plain(ipaddress.ip_address(text))
        width = address.max_prefixlen
        for length in range(width, -1, -1):
            key = (address.version, int(address) >> width - length << width - length, length)
            if key in self._networks:
                return self._networks[key]
        return None


def many(chance: random.Random, count: int) -> Iterator[str]:
    """Prefixes in clusters and scattered, long and short, some twice."""
    dense = chance.getrandbits(32) >> 12 << 12
    for _ in range(count):
        shape = chance.randrange(10)
        if shape < 3:
            yield network_v4(chance.getrandbits(32), chance.choice((8, 16, 24, 28, 32, 32, 32)))
        elif shape < 5:
            yield network_v4(dense | chance.getrandbits(12), chance.choice((29, 31, 32, 32)))
        elif shape < 7:
            yield network_v6(
                0x20010DB8 << 96 | chance.getrandbits(96), chance.choice((40, 48, 56, 64, 64, 128))
            )
        elif shape < 8:
            yield network_v6(0x20010DB8 << 96 | chance.getrandbits(6) << 60, chance.choice((64, 66, 68, 128)))
        elif shape < 9:
            yield network_v6(0x20010DB8 << 96 | chance.getrandbits(12), chance.choice((120, 127, 128)))
        else:
            yield network_v6(0x2 << 124 | chance.getrandbits(124), chance.choice((20, 32, 48, 64)))


def near(chance: random.Random, listed: Iterable[str]) -> Iterator[str]:
    """Addresses in, at the edges of and just beside each prefix."""
    for network in map(ipaddress.ip_network, listed):
        kind = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
        first, last = int(network.network_address), int(network.broadcast_address)
        for number in (first - 1, first, chance.randint(first, last), last, last + 1):
            if 0 <= number < 1 << network.max_prefixlen:
                yield str(kind(number))
