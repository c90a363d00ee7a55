"""Lists in layers: they say what a set of prefixes says, and a change costs little of what is there."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import layers as layers_module
from sidecar.core.addresses import AddressSet, read_record
from sidecar.core.layers import FEW, RATIO, STEP, LayeredSet
from sidecar.core.prefix_table import SAMPLE, SLICE, PrefixTable
from tests.networks import Address, Oracle, addresses, agrees, cidrs, many, near


def finish(steps: Generator[None, None, LayeredSet]) -> LayeredSet:
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            value: LayeredSet = ended.value
            return value


def changed(subject: LayeredSet, put: Iterable[str] = (), gone: Iterable[str] = ()) -> LayeredSet:
    return finish(subject.changed_steps(dict.fromkeys(put, True) | dict.fromkeys(gone, False)))


def numbered(begin: int, end: int) -> list[str]:
    return [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}/32" for number in range(begin, end)]


class Worked:
    """Counts the records that are read, looked for, or taken out of a table; the most between two yields."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.since = self.most = self.yields = self.merged = 0
        blocks, holds = PrefixTable.blocks, AddressSet.holds

        def counted_blocks(table: PrefixTable) -> Iterator[list[bytes]]:
            for block in blocks(table):
                self.since += len(block)
                self.merged += len(block)
                yield block

        def counted_holds(subject: AddressSet, record: bytes) -> bool:
            self.since += 1
            return holds(subject, record)

        def counted_read(cidr: str) -> bytes:
            self.since += 1
            return read_record(cidr)

        patched.setattr(PrefixTable, "blocks", counted_blocks)
        patched.setattr(AddressSet, "holds", counted_holds)
        patched.setattr(layers_module, "read_record", counted_read)

    def run(self, steps: Generator[None, None, LayeredSet]) -> LayeredSet:
        def counted() -> Generator[None, None, LayeredSet]:
            while True:
                try:
                    yield next(steps)
                except StopIteration as ended:
                    value: LayeredSet = ended.value
                    return value
                finally:
                    self.yields += 1
                    self.most, self.since = max(self.most, self.since), 0

        self.since = 0
        return finish(counted())


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> Worked:
    return Worked(monkeypatch)


# --- what it says -------------------------------------------------------------------


@given(
    st.lists(st.dictionaries(cidrs, st.booleans(), max_size=8), max_size=8),
    st.lists(addresses, max_size=6),
    st.integers(0, 4),
    st.integers(0, 3),
    st.data(),
)
def test_it_follows_changes_as_a_set_does(
    changes: list[dict[str, bool]], asked: list[Address], few: int, ratio: int, data: st.DataObject
) -> None:
    oracle, subject = set[str](), LayeredSet()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layers_module, "FEW", few)
        patched.setattr(layers_module, "RATIO", ratio)
        for drawn in changes:
            known = dict.fromkeys(
                data.draw(st.sets(st.sampled_from(sorted(oracle)))) if oracle else (), False
            )
            change = known | drawn
            before, former = subject, set(oracle)

            subject = finish(subject.changed_steps(change))
            for cidr, listed in change.items():
                (oracle.add if listed else oracle.discard)(cidr)

            agrees(subject, oracle, asked)
            agrees(before, former, asked)
            assert list(subject.prefixes()) == Oracle(oracle).in_order()
        merged = finish(subject.merged_steps())

        assert len(merged.layers) <= 1
        assert merged.pending == 0
        assert finish(merged.merged_steps()) is merged
        agrees(merged, oracle, asked)


@pytest.mark.parametrize("seed", range(2))
def test_it_agrees_with_the_oracle_about_thousands(seed: int) -> None:
    chance = random.Random(seed)
    truth, subject = set[str](), LayeredSet()
    for count in (9_000, 3_000, 2_000, 500, 2_500, 20):
        put = list(many(chance, count))
        gone = chance.sample(sorted(truth - set(put)), min(len(truth) // 5, count // 2))
        subject = changed(subject, put, gone)
        truth = truth - set(gone) | set(put)
    oracle = Oracle(truth)

    assert len(subject.layers) > 1
    assert list(subject.prefixes()) == oracle.in_order()
    assert len(subject) == len(truth)
    for address in near(chance, chance.sample(sorted(truth), 300)):
        assert subject.contains(address) == (oracle.match(address) is not None), address
    for address in near(chance, chance.sample(sorted(truth), 30)):
        assert subject.match(address) == oracle.match(address)


def test_it_finds_the_most_specific_prefix_in_whatever_layer() -> None:
    inner, outer = "192.0.2.0/28", "192.0.0.0/16"
    for first, second in ((inner, outer), (outer, inner)):
        subject = changed(LayeredSet(), [*numbered(0, 3 * FEW), first])
        subject = changed(subject, [*numbered(FEW * 4, FEW * 5 + 1), second])

        assert len(subject.layers) == 2
        assert subject.match("192.0.2.1") == inner
        assert subject.match("192.0.2.99") == outer
        assert subject.match("192.0.2.0/24") == outer


def test_it_takes_one_prefix_in_two_spellings_as_one() -> None:
    change = {"10.0.0.1": True, "::ffff:10.0.0.1": True, "10.0.0.2": True, "10.0.0.2/32": False}

    assert list(finish(LayeredSet().changed_steps(change)).prefixes()) == ["10.0.0.1/32"]


def test_it_is_empty_without_prefixes() -> None:
    subject = changed(changed(LayeredSet(), numbered(0, 3)), gone=numbered(0, 3))

    assert subject.layers == LayeredSet([AddressSet()]).layers == ()
    assert len(subject) == 0
    assert not subject.contains("10.0.0.0")
    assert subject.match("10.0.0.0") is None
    assert list(subject.prefixes()) == []


@pytest.mark.parametrize("more", [0, 2 * FEW])
@pytest.mark.parametrize("listed", [True, False])
def test_it_refuses_a_bad_prefix_among_changes(more: int, listed: bool) -> None:
    change = dict.fromkeys(numbered(0, more), True) | {"10.0.0.1/8": listed}

    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        finish(LayeredSet().changed_steps(change))


# --- what it costs ------------------------------------------------------------------


def test_it_takes_one_more_without_touching_what_is_there(worked: Worked) -> None:
    subject = changed(LayeredSet(), numbered(0, 20_000))

    for number in range(20_000, 20_000 + FEW):
        subject = worked.run(subject.changed_steps({numbered(number, number + 1)[0]: True}))

    assert worked.merged == 0
    assert worked.most <= 2
    assert len(subject.layers) == 1
    assert subject.pending == FEW


def test_it_takes_what_is_there_already_for_nothing(worked: Worked) -> None:
    subject = changed(LayeredSet(), numbered(0, 20_000))

    again = worked.run(subject.changed_steps(dict.fromkeys(numbered(0, 20_000), True)))

    assert again.layers == subject.layers
    assert worked.merged == 0


def test_it_merges_each_record_a_few_times(worked: Worked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "FEW", 100)
    subject = LayeredSet()

    for begin in range(0, 50_000, 500):
        subject = changed(subject, numbered(begin, begin + 500))
        sizes = list(map(len, subject.layers))
        assert all(size >= RATIO * sum(sizes[at + 1 :]) for at, size in enumerate(sizes[:-1]))
        assert len(sizes) <= 5

    assert len(subject) == 50_000
    assert worked.merged <= 6 * 50_000


def test_it_rebuilds_only_the_layer_that_many_leave(worked: Worked) -> None:
    subject = changed(changed(LayeredSet(), numbered(0, 30_000)), numbered(30_000, 40_000))
    assert len(subject.layers) == 2

    few = worked.run(subject.changed_steps(dict.fromkeys(numbered(0, FEW), False)))
    assert worked.merged == 0
    many_less = worked.run(subject.changed_steps(dict.fromkeys(numbered(31_000, 33_000), False)))

    assert worked.merged == 10_000
    assert few.pending == FEW
    assert many_less.pending == 0
    assert many_less.layers[0] is subject.layers[0]
    assert (len(few), len(many_less)) == (39_000, 38_000)


@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_it_works_in_steps(worked: Worked, order: str) -> None:
    put, more = numbered(0, 60_000), numbered(60_000, 110_000)
    if order == "shuffled":
        random.Random(1).shuffle(put)
    subject = worked.run(LayeredSet().changed_steps(dict.fromkeys(put, True)))
    change = dict.fromkeys(put[:10_000], False) | dict.fromkeys(more, True)

    subject = worked.run(subject.changed_steps(change))
    subject = worked.run(subject.changed_steps(dict.fromkeys(numbered(200_000, 200_010), True)))
    subject = worked.run(subject.merged_steps())

    assert len(subject) == 100_010
    assert worked.most <= max(SLICE, 3 * STEP, 2 * SAMPLE)
    assert worked.yields > 300_000 / SLICE


def test_it_may_be_abandoned_anywhere() -> None:
    subject = changed(changed(LayeredSet(), numbered(0, 5_000)), numbered(5_000, 7_000))
    told = list(subject.prefixes())
    change = dict.fromkeys(numbered(0, 1_500), False) | dict.fromkeys(numbered(20_000, 22_000), True)
    whole = [len(list(subject.changed_steps(change))), len(list(subject.merged_steps()))]

    for steps_taken in range(max(whole)):
        for steps in (subject.changed_steps(change), subject.merged_steps()):
            for _ in zip(range(steps_taken), steps, strict=False):
                pass
            steps.close()

    assert list(subject.prefixes()) == told
    assert len(finish(subject.changed_steps(change))) == 7_500
