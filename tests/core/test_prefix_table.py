"""Prefix tables: large sets, badly clustered ones, and how they are built."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import AddressSet, finish
from sidecar.core.prefix_table import SAMPLE, SLICE, PrefixTable, Runs, table_steps
from tests.networks import Oracle, many, near, network_v4, numbers_v4


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_the_oracle_about_thousands(seed: int) -> None:
    chance = random.Random(seed)
    listed = list(many(chance, 7000))
    oracle = Oracle(listed)
    subject = AddressSet(iter(listed))

    assert list(subject.prefixes()) == oracle.in_order()
    for address in near(chance, chance.sample(listed, 1500)):
        assert subject.contains(address) == (oracle.match(address) is not None), address
    for address in near(chance, chance.sample(listed, 100)):
        assert subject.match(address) == oracle.match(address)


@pytest.mark.parametrize("seed", range(2))
def test_it_agrees_with_the_oracle_about_changes_to_thousands(seed: int) -> None:
    chance = random.Random(seed)
    listed = list(many(chance, 5000))
    added, removed = list(many(chance, 200)), chance.sample(listed, 300)
    oracle = Oracle((set(listed) - set(removed)) | set(added))

    changed = AddressSet(listed).with_changes(added, removed)
    merged = finish(AddressSet.union_steps([changed]))

    assert list(changed.prefixes()) == list(merged.prefixes()) == oracle.in_order()
    for address in near(chance, chance.sample(listed, 300) + added + removed):
        expected = oracle.match(address) is not None
        assert changed.contains(address) == merged.contains(address) == expected, address


def test_it_builds_in_many_steps_and_refuses_midway() -> None:
    steps = list(AddressSet.build_steps(f"10.{n >> 8}.{n & 255}.0/24" for n in range(20_000)))
    assert len(steps) > 20

    bad = (f"10.{n >> 8}.{n & 255}.0/24" for n in range(70_000))
    with pytest.raises(ValueError, match=r"10\.256\.0\.0/24"):
        finish(AddressSet.build_steps(bad))


def test_it_melts_prefixes_that_overlap_or_touch() -> None:
    table = built(["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "192.0.2.1/32", "255.255.255.255/32"])

    edges = [str(ipaddress.IPv4Address(edge)) for edge in table.edges]
    assert edges == ["0.0.0.0", "10.0.0.0", "11.0.0.0", "192.0.2.1", "192.0.2.2", "255.255.255.255"]
    assert len(table) == 5
    assert table.lengths == (32, 16, 9)


@given(st.lists(st.builds(network_v4, numbers_v4, st.integers(0, 32))), st.lists(numbers_v4))
def test_it_covers_what_the_oracle_covers(listed: list[str], asked: list[int]) -> None:
    table, oracle = built(listed), Oracle(listed)

    for number in asked:
        assert table.covers(number) == (oracle.match(str(ipaddress.IPv4Address(number))) is not None)
    assert all(table.has(record(cidr)) for cidr in listed)
    assert table.has(record("8.0.0.0/6")) == ("8.0.0.0/6" in listed)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled", "one in many", "all the same"])
def test_it_sorts_runs_into_bounded_blocks_without_duplicates(order: str) -> None:
    records = [number.to_bytes(4) + b"\x20" for number in range(40_000)]
    if order == "descending":
        records.reverse()
    elif order == "shuffled":
        random.Random(1).shuffle(records)
    elif order == "one in many":
        records = [record for start in range(20) for record in records[start::20]]
    elif order == "all the same":
        records = records[:2000] * 20
    runs = Runs(4)
    starts = range(0, len(records), SLICE)
    for start in starts:
        runs.add(records[start : start + SLICE])

    blocks = list(runs.blocks())

    assert [record for block in blocks for record in block] == sorted(set(records))
    assert max(map(len, blocks)) <= SLICE + 2 * SAMPLE * len(starts)


def record(cidr: str) -> bytes:
    network = ipaddress.ip_network(cidr)
    return network.network_address.packed + bytes([network.prefixlen])


def built(listed: list[str]) -> PrefixTable:
    tables: list[PrefixTable] = []

    def build() -> Iterator[None]:
        tables.append((yield from table_steps(4, iter([sorted({record(cidr) for cidr in listed})]))))

    list(build())
    return tables[0]
