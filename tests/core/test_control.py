"""The control state: epochs, and a book that says what a dictionary says, in small steps."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.addresses import AddressSet
from sidecar.core.control import (
    EMPTY,
    FOLLOWED,
    GLOBAL,
    LISTS,
    NO_EPOCH,
    Book,
    Control,
    Delta,
    Entry,
    Epoch,
    Step,
    next_step,
)
from sidecar.core.layers import LayeredSet

T = TypeVar("T")

ON = b'{"on":true,"actor":"ann"}'
OFF = b'{"on":false,"actor":"ann"}'
NOW_MS = 1_000_000


def finish(steps: Generator[None, None, T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            value: T = ended.value
            return value


def epoch(number: int, digit: str = "a") -> Epoch:
    return Epoch(number, digit * 16) if number else NO_EPOCH


def delta(
    number: int,
    table: str,
    put: Iterable[str] = (),
    delete: Iterable[str] = (),
    *,
    until_ms: int = 0,
    payload: bytes = b"{}",
) -> Delta:
    return Delta(
        epoch(number - 1), epoch(number), table, NOW_MS, until_ms, payload, tuple(put), tuple(delete)
    )


def applied(book: Book, *deltas: Delta, now_ms: int = NOW_MS) -> Control:
    return finish(book.apply_steps(deltas, now_ms))


def at_off(control: Control) -> Entry:
    entry = control.attack[GLOBAL]
    assert entry.members()["on"] is False
    return entry


# --- epochs and entries -----------------------------------------------------------


@given(st.integers(0, 2**53), st.binary(min_size=8, max_size=8))
def test_it_reads_the_epoch_that_it_writes(number: int, random_id: bytes) -> None:
    written = Epoch(number, random_id.hex())

    assert Epoch.parse(str(written)) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "57",
        "57-",
        "-00c0ffee00c0ffee",
        "x-00c0ffee00c0ffee",
        "57-00C0FFEE00C0FFEE",
        "57-00c0ffee00c0ffe",
        "57-00c0ffee00c0ffeee",
        "57 -00c0ffee00c0ffee",
        "+57-00c0ffee00c0ffee",
        "٥-00c0ffee00c0ffee",
        "5_7-" + "0" * 16,
    ],
)
def test_it_reads_nothing_else_as_an_epoch(text: str) -> None:
    with pytest.raises(ValueError, match="is no epoch"):
        Epoch.parse(text)


@given(st.integers(0, 2**53), st.integers(0, 2**53), st.binary())
def test_it_reads_the_entry_that_it_writes(at_ms: int, until_ms: int, payload: bytes) -> None:
    entry = Entry(at_ms, until_ms, payload)

    assert Entry.parse(entry.written()) == entry
    assert isinstance(entry.members(), dict)


@pytest.mark.parametrize("value", [b"", b"1", b"1 2", b"x 2 {}", b"1 x {}", b"  {}"])
def test_it_reads_nothing_else_as_an_entry(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"unpack|invalid literal"):
        Entry.parse(value)


@pytest.mark.parametrize(
    ("mine", "theirs", "known", "step"),
    [
        (NO_EPOCH, None, [], Step.CURRENT),
        (NO_EPOCH, epoch(1), [], Step.FOLLOW),
        (epoch(5), epoch(5), [], Step.CURRENT),
        (epoch(5), epoch(5), [epoch(4)], Step.CURRENT),
        (epoch(5), epoch(6), [], Step.FOLLOW),
        (epoch(5), epoch(5, "b"), [epoch(4)], Step.FOLLOW),
        (epoch(5), epoch(6, "b"), [epoch(4)], Step.FOLLOW),
        (epoch(5), epoch(4), [epoch(3), epoch(4)], Step.RESTORE),
        (epoch(5), epoch(3), [epoch(3), epoch(4)], Step.RESTORE),
        (epoch(5), epoch(4, "b"), [epoch(4)], Step.KEEP),
        (epoch(5), epoch(2), [epoch(3), epoch(4)], Step.KEEP),
        (epoch(5), epoch(4), [], Step.KEEP),
        (epoch(5), None, [epoch(4)], Step.KEEP),
        (epoch(2), None, [NO_EPOCH, epoch(1)], Step.RESTORE),
    ],
)
def test_it_knows_what_to_do_about_two_epochs(
    mine: Epoch, theirs: Epoch | None, known: list[Epoch], step: Step
) -> None:
    assert next_step(mine, theirs, known) is step


# --- what decisions read ------------------------------------------------------------


def test_it_says_nothing_before_the_first_change() -> None:
    assert EMPTY.epoch == NO_EPOCH
    assert EMPTY.attack_on is None
    assert EMPTY.attacked == frozenset()
    assert EMPTY.permits("per-ip", key="k", tenant="t", address="192.0.2.1") is None
    assert not any(len(addresses) for addresses in EMPTY.lists.values())


def test_it_names_who_is_under_attack_mode() -> None:
    book = Book()
    applied(book, delta(1, "attack", ["key:a", "tenant:t"], payload=ON))
    control = applied(
        book, delta(2, "attack", ["key:a"], payload=OFF), delta(3, "attack", ["key:b"], payload=b"[]")
    )

    assert control.attacked == {"tenant:t"}
    assert control.attack_on is None


@pytest.mark.parametrize(("payload", "on"), [(ON, True), (OFF, False), (b"{}", False), (b'{"on": 1}', False)])
def test_it_says_whether_attack_mode_is_on(payload: bytes, on: bool) -> None:
    control = applied(Book(), delta(1, "attack", [GLOBAL], payload=payload))

    assert control.attack_on is on
    assert control.attacked == frozenset()


def test_it_gives_other_permits_to_the_most_specific_subject() -> None:
    book = Book()
    for number, (subject, permits) in enumerate(
        [
            ("key:k", 1),
            ("tenant:t", 2),
            ("address:192.0.2.0/24", 3),
            ("address:192.0.2.9/32", 4),
            ("address:::/0", 5),
        ],
        1,
    ):
        applied(book, delta(number, "overrides", [f"per-ip {subject}"], payload=b'{"permits": %d}' % permits))
    control = applied(book, delta(6, "overrides", ["other key:k"], payload=b'{"permits": "many"}'))

    def permits_of(**subject: str) -> int | None:
        return control.permits("per-ip", **subject)

    assert permits_of(key="k", tenant="t", address="192.0.2.9") == 1
    assert permits_of(key="x", tenant="t", address="192.0.2.9") == 2
    assert permits_of(key="x", tenant="x", address="192.0.2.9") == 4
    assert permits_of(address="192.0.2.8") == 3
    assert permits_of(address="2001:db8::/64") == 5
    assert permits_of(address="198.51.100.1") is None
    assert permits_of(address="unknown") is None
    assert permits_of() is None
    assert control.permits("other", key="k", address="192.0.2.9") is None


# --- the oracle ---------------------------------------------------------------------


class Dictionary:
    """What the tables say, in the dumbest way: everything that was ever put, looked through each time."""

    def __init__(self) -> None:
        self.epoch = NO_EPOCH
        self.put: dict[tuple[str, str], Entry] = {}

    def apply(self, change: Delta) -> None:
        self.epoch = change.epoch
        for field in change.delete:
            self.put.pop((change.table, field), None)
        for field in change.put:
            self.put[change.table, field] = Entry(change.at_ms, change.until_ms, change.payload)

    def standing(self, table: str, now_ms: int) -> dict[str, Entry]:
        return {
            field: entry for (of, field), entry in self.put.items() if of == table and entry.stands(now_ms)
        }

    def agrees(self, control: Control, now_ms: int) -> None:
        assert control.epoch == self.epoch
        for name in LISTS:
            assert set(control.lists[name].prefixes()) == set(self.standing(name, now_ms)), name
        assert control.overrides == self.standing("overrides", now_ms)
        attack = self.standing("attack", now_ms)
        said = self.put.get(("attack", GLOBAL))
        subjects = {field: entry for field, entry in attack.items() if field != GLOBAL}
        assert {field: entry for field, entry in control.attack.items() if field != GLOBAL} == subjects
        if said is None:
            assert control.attack_on is None
        else:
            assert control.attack_on is (said.stands(now_ms) and b'"on":true' in said.payload)
            assert control.attack[GLOBAL] == said or not said.stands(now_ms)


CIDRS = ("192.0.2.0/24", "192.0.2.9/32", "198.51.100.0/24", "2001:db8::/32", "2001:db8::7/128")
SUBJECTS = {"attack": (GLOBAL, "key:a", "tenant:t"), "overrides": ("l key:a", "l address:192.0.2.0/24")}
IGNORED = {"keys": ("k_1",), "resets": ("l key:a",)}


@st.composite
def drawn_deltas(draw: st.DrawFn) -> tuple[str, list[str], list[str], int, bytes]:
    table = draw(st.sampled_from([*FOLLOWED, *IGNORED]))
    fields = st.lists(st.sampled_from((SUBJECTS | IGNORED).get(table, CIDRS)), unique=True)
    lasts_ms = draw(st.sampled_from([0, 0, -5, 1, 10, 10, 20]))
    return table, draw(fields), draw(fields), lasts_ms, draw(st.sampled_from([ON, OFF, b'{"permits":7}']))


histories = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.lists(drawn_deltas(), min_size=1, max_size=4)),
        st.tuples(st.just("passes"), st.integers(0, 12)),
        st.tuples(st.just("expire"), st.none()),
        st.tuples(st.just("tidy"), st.none()),
        st.tuples(st.just("replace"), st.none()),
    ),
    max_size=30,
)


def replaced(book: Book, truth: Dictionary, now_ms: int) -> Book:
    """A new book of what the tables hold, as a snapshot reads them."""
    fresh = Book(book.control)
    for name in LISTS:
        for field, entry in truth.standing(name, now_ms).items():
            fresh.remember(name, field, entry.until_ms)
    lists = {name: LayeredSet([AddressSet(truth.standing(name, now_ms))]) for name in LISTS}
    tables = {
        table: {field: entry for (of, field), entry in truth.put.items() if of == table}
        for table in ("attack", "overrides")
    }
    finish(fresh.replace_steps(truth.epoch, lists, tables, now_ms))
    return fresh


@settings(max_examples=100)
@given(happens=histories)
def test_it_says_what_a_dictionary_says(happens: list[tuple[str, object]]) -> None:
    book, truth = Book(), Dictionary()
    now_ms, number = NOW_MS, 0
    for event, what in happens:
        match event, what:
            case "apply", list(changes):
                deltas = []
                for table, put, gone, lasts_ms, payload in changes:
                    number += 1
                    until_ms = now_ms + lasts_ms if lasts_ms else 0
                    deltas.append(delta(number, table, put, gone, until_ms=until_ms, payload=payload))
                    truth.apply(deltas[-1])
                finish(book.apply_steps(deltas, now_ms))
            case "passes", int(ms):
                now_ms += ms
            case "tidy", _:
                finish(book.tidy_steps())
            case "replace", _:
                book = replaced(book, truth, now_ms)
        if event == "expire" or (book.next_due_ms or NOW_MS * 2) > now_ms:
            control = finish(book.expire_steps(now_ms))
            assert control is book.control
            truth.agrees(control, now_ms)
            assert (book.next_due_ms or NOW_MS * 2) > now_ms
        if event == "expire":
            assert finish(book.expire_steps(now_ms)) is book.control, "nothing is left to expire"


# --- expiry -------------------------------------------------------------------------


def test_it_lets_go_at_the_time_and_not_before() -> None:
    book = Book()
    before = applied(book, delta(1, "deny", CIDRS[:2], until_ms=NOW_MS + 10))

    assert book.next_due_ms == NOW_MS + 10
    assert finish(book.expire_steps(NOW_MS + 9)) is before
    after = finish(book.expire_steps(NOW_MS + 10))
    assert len(after.deny) == 0
    assert dict(book.expiring("deny")) == {}
    assert len(before.deny) == 2


def test_it_goes_by_the_last_word_about_an_entry() -> None:
    book = Book()
    ten = NOW_MS + 10
    applied(book, delta(1, "deny", CIDRS[:4], until_ms=ten))
    applied(book, delta(2, "deny", [CIDRS[0]], until_ms=NOW_MS + 30), delta(3, "deny", [CIDRS[1]]))
    applied(book, delta(4, "deny", delete=[CIDRS[2]]), delta(5, "deny", [CIDRS[2]], until_ms=NOW_MS + 20))

    def left(now_ms: int) -> set[str]:
        return set(finish(book.expire_steps(now_ms)).deny.prefixes())

    assert left(ten) == {CIDRS[0], CIDRS[1], CIDRS[2]}
    assert left(NOW_MS + 20) == {CIDRS[0], CIDRS[1]}
    assert left(NOW_MS + 30) == {CIDRS[1]}
    assert dict(book.expiring("deny")) == {}


def test_it_reads_the_end_of_attack_mode_as_off() -> None:
    book = Book()
    control = applied(book, delta(1, "attack", [GLOBAL, "key:a"], until_ms=NOW_MS + 10, payload=ON))
    assert control.attack_on is True

    control = finish(book.expire_steps(NOW_MS + 10))

    assert control.attack_on is False
    assert control.attacked == frozenset()
    assert at_off(control).at_ms == NOW_MS + 10
    assert applied(Book(), delta(1, "attack", [GLOBAL], until_ms=NOW_MS - 1, payload=ON)).attack_on is False


def test_it_unlearns_attack_mode_only_from_somebody() -> None:
    book = Book()
    applied(book, delta(1, "attack", [GLOBAL], until_ms=NOW_MS + 10, payload=ON))
    fresh = Book(book.control)
    control = finish(fresh.replace_steps(epoch(9), {}, {}, NOW_MS))

    assert control.attack_on is True
    assert finish(fresh.expire_steps(NOW_MS + 10)).attack_on is False
    for at_ms, on in (
        (NOW_MS - 1, True),
        (NOW_MS + 1, False),
    ):  # said before what this process knows, or later
        table = {GLOBAL: Entry(at_ms, 0, OFF)}
        later = finish(Book(control).replace_steps(epoch(9), {}, {"attack": table}, NOW_MS))
        assert later.attack_on is on


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_object_has_no_members(payload: bytes) -> None:
    assert Entry(1, 0, payload).members() == {}
