"""The record of a key: its fields, its secrets, what happens to it, and how it lies in the store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from hmac import compare_digest
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import keys
from sidecar.core.keys import FieldRefused, Key, KeyUnreadable, Kind, Secret, Terms

HASH_KEY = b"the fleet's hash key, 32 bytes .."
NOW_MS = 1_795_323_600_000
DAY_MS = 86_400_000
A, B, C = (letter * 64 for letter in "abc")


def key(kind: Kind = Kind.SERVER, /, **terms: object) -> Key:
    return keys.created("k_1", kind, said({"label": "billing", **terms}), A, NOW_MS)


def said(terms: Mapping[str, object]) -> Terms:
    """Terms as a table of cases has them."""
    return cast("Terms", dict(terms))


def reread(of: Key) -> Key:
    """The key as it comes back from the store."""
    return keys.read(of.id, of.changed_ms, json.dumps(keys.record(of)).encode())


# --- what an operator may say -----------------------------------------------------


def test_a_new_key_is_enabled_and_has_one_secret_for_as_long_as_it_lives() -> None:
    made = key(tenant="acme", plan="gold")

    assert made.enabled
    assert (made.created_ms, made.changed_ms, made.expires_ms) == (NOW_MS, NOW_MS, 0)
    assert made.secrets == (Secret(A, NOW_MS, 0),)


@pytest.mark.parametrize(
    ("field", "value", "is_now"),
    [
        ("label", "Zahlung – Ümläut 支払い", "Zahlung – Ümläut 支払い"),
        ("label", "x" * 200, "x" * 200),
        ("tenant", "acme-1_x", "acme-1_x"),
        ("tenant", "", ""),
        ("plan", "g" * 63, "g" * 63),
        ("scopes", ("orders.write", "a:b/c_d-e"), ("orders.write", "a:b/c_d-e")),
        ("scopes", ("b", "a", "b"), ("b", "a")),
        ("scopes", tuple(f"s{n}" for n in range(100)), tuple(f"s{n}" for n in range(100))),
        ("cidrs", ("192.0.2.1", "2001:DB8::/32"), ("192.0.2.1/32", "2001:db8::/32")),
        ("cidrs", ("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("10.0.0.0/8",)),
        ("expires_ms", NOW_MS + 1, NOW_MS + 1),
        ("expires_ms", keys.LAST_MS, keys.LAST_MS),
        ("enabled", False, False),
    ],
)
def test_it_accepts_in_canonical_form(field: str, value: object, is_now: object) -> None:
    assert getattr(key(**{field: value}), field) == is_now


@pytest.mark.parametrize(
    ("field", "value", "named", "remedy"),
    [
        ("label", "", 'label: ""', "1 to 200 printable"),
        ("label", "x" * 201, 'label: "xxx', "1 to 200 printable"),
        ("label", "a\nb", "label", "printable"),
        ("label", "a\x1b[31mb", "label", "printable"),
        ("label", "evil\u202etxt", "label", "printable"),
        ("label", "\ud800", "label", "printable"),
        ("label", " a", "label", "no blank first or last"),
        ("tenant", "Acme", 'tenant: "Acme"', "a lower-case letter"),
        ("tenant", "1a", "tenant", "a lower-case letter"),
        ("tenant", "a" * 64, "tenant", "up to 62"),
        ("tenant", "acme\n", "tenant", "a lower-case letter"),
        ("plan", "gold plan", 'plan: "gold plan"', "a lower-case letter"),
        ("scopes", ("ok", "orders write"), 'scopes[1]: "orders write"', "such as"),
        ("scopes", ("",), 'scopes[0]: ""', "1 to 64"),
        ("scopes", ("s" * 65,), "scopes[0]", "1 to 64"),
        ("scopes", ("ä",), "scopes[0]", "1 to 64"),
        ("scopes", tuple(f"s{n}" for n in range(101)), "scopes[100]", "at most 100"),
        ("cidrs", ("10.0.0.1/8",), 'cidrs[0]: "10.0.0.1/8"', "write 10.0.0.0/8"),
        ("cidrs", ("example.com",), 'cidrs[0]: "example.com"', "is not an IPv4"),
        ("cidrs", ("10.0.0.0/8",) * 101, "cidrs[100]", "at most 100"),
        ("origins", ("example.com",), 'origins: "example.com"', "only client keys"),
        ("expires_ms", NOW_MS, 'expires: "2026-11-22T05:00:00+00:00"', "a time to come"),
        ("expires_ms", 1, "expires", "disable it"),
        ("expires_ms", -1, "expires: -1", "before the year 10000"),
        ("expires_ms", keys.LAST_MS + 1, "expires", "before the year 10000"),
    ],
)
def test_it_refuses_naming_field_value_and_remedy(field: str, value: object, named: str, remedy: str) -> None:
    terms = said({"label": "x", field: value})
    with pytest.raises(FieldRefused) as made:
        keys.created("k_1", Kind.SERVER, terms, A, NOW_MS)
    with pytest.raises(FieldRefused) as changed:
        keys.updated(key(), terms, NOW_MS)
    text = str(made.value)

    assert text == str(changed.value)
    assert text.startswith(named)
    assert remedy in text
    assert text.isprintable()


def test_a_client_key_names_its_origins() -> None:
    assert key(Kind.CLIENT, origins=("https://App.Example.com:443", "*")).origins == (
        "https://app.example.com",
        "*",
    )
    for origins in ((), ("example.com/path",), ("example.com",) * 101):
        with pytest.raises(FieldRefused, match=r"^origins"):
            key(Kind.CLIENT, origins=origins)


@pytest.mark.parametrize("text", ["k_1", "Acme-Billing_2", "0", "x" * 64])
def test_an_operator_may_choose_an_id(text: str) -> None:
    assert keys.checked_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "a.b", "a b", "_a", "-a", "ä", "a\n", "x" * 65, "key:a", "a/b", "pcs_a", "apcs_b"]
)
def test_an_id_is_refused_that_could_be_taken_for_something_else(text: str) -> None:
    with pytest.raises(FieldRefused, match=r"^id: "):
        keys.checked_id(text)
    with pytest.raises(FieldRefused, match=r"^id: "):
        keys.created(text, Kind.SERVER, {"label": "x"}, A, NOW_MS)


@given(st.binary(min_size=32, max_size=32))
def test_a_secret_that_was_pasted_into_a_field_is_refused_and_not_repeated(random_bytes: bytes) -> None:
    secret = keys.secret_of(random_bytes)
    for terms in ({"label": f"its token is {secret}"}, {"scopes": (secret,)}, {"cidrs": (secret,)}):
        with pytest.raises(FieldRefused) as caught:
            keys.updated(key(), said(terms), NOW_MS)
        assert secret[4:] not in str(caught.value)
    with pytest.raises(FieldRefused) as caught:
        keys.checked_id(secret)
    assert secret[4:] not in str(caught.value)


# --- what happens to it -----------------------------------------------------------


def test_an_update_leaves_what_it_does_not_name() -> None:
    before = key(tenant="acme", plan="gold", scopes=("a",))

    after = keys.updated(before, {"plan": "basic", "expires_ms": NOW_MS + 10}, NOW_MS + 5)

    assert after == replace(before, plan="basic", expires_ms=NOW_MS + 10, changed_ms=NOW_MS + 5)


def test_it_expires_at_the_moment_and_not_before() -> None:
    expiring = key(expires_ms=NOW_MS + 10)

    assert [expiring.expired(NOW_MS + after_ms) for after_ms in (9, 10, 11)] == [False, True, True]
    assert not key().expired(keys.LAST_MS)


def test_what_has_expired_may_be_kept_expired_and_changed() -> None:
    expired = key(expires_ms=NOW_MS + 10)

    assert keys.updated(expired, {"label": "old"}, NOW_MS + 20).expires_ms == NOW_MS + 10
    assert keys.updated(expired, {"expires_ms": 0}, NOW_MS + 20).expires_ms == 0


def test_a_rotation_puts_the_new_secret_first_and_ends_the_one_before() -> None:
    first = key()

    second = keys.rotated(first, B, DAY_MS, NOW_MS + 5)
    third = keys.rotated(second, C, 2 * DAY_MS, NOW_MS + 10)

    assert second.secrets == (Secret(B, NOW_MS + 5, 0), Secret(A, NOW_MS, NOW_MS + 5 + DAY_MS))
    assert third.secrets == (Secret(C, NOW_MS + 10, 0), Secret(B, NOW_MS + 5, NOW_MS + 10 + 2 * DAY_MS))
    assert second == replace(first, secrets=second.secrets, changed_ms=NOW_MS + 5)


def test_a_rotation_without_grace_ends_every_other_secret_at_once() -> None:
    assert keys.rotated(keys.rotated(key(), B, DAY_MS, NOW_MS), C, 0, NOW_MS).secrets == (
        Secret(C, NOW_MS, 0),
    )


def test_a_secret_whose_grace_is_over_goes_with_the_next_change() -> None:
    rotated = keys.rotated(key(), B, DAY_MS, NOW_MS)
    assert len(keys.updated(rotated, {"plan": "x"}, NOW_MS + DAY_MS - 1).secrets) == 2
    assert len(keys.updated(rotated, {"plan": "x"}, NOW_MS + DAY_MS).secrets) == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=8))
def test_whatever_is_rotated_the_newest_secret_is_first_and_lives_longest(
    rotations: list[tuple[int, int]],
) -> None:
    now_ms, rotated = NOW_MS, key()
    for passed_ms, grace_ms in rotations:
        now_ms += passed_ms
        rotated = keys.rotated(rotated, B, grace_ms, now_ms)

        assert 1 <= len(rotated.secrets) <= 2
        assert rotated.secrets[0].until_ms == 0
        assert all(newer.created_ms >= older.created_ms for newer, older in pairwise(rotated.secrets))
        assert all(older.until_ms == now_ms + grace_ms for older in rotated.secrets[1:])
        assert reread(rotated) == rotated


# --- secrets ----------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_a_secret_is_one_word_that_scanners_recognise(random_bytes: bytes) -> None:
    secret = keys.secret_of(random_bytes)

    assert re.fullmatch(r"pcs_[A-Za-z0-9_-]{48}", secret)
    assert keys.holds_secret(secret)
    assert keys.holds_secret(f"pcs_pcs_ {{'token': '{secret}'}}")


@given(st.binary(min_size=32, max_size=32), st.data())
def test_a_secret_with_one_wrong_character_is_none(random_bytes: bytes, data: st.DataObject) -> None:
    secret = keys.secret_of(random_bytes)
    at = data.draw(st.integers(4, len(secret) - 1))
    other = data.draw(st.sampled_from(sorted({*"ABCxyz019_-"} - {secret[at]})))

    assert not keys.holds_secret(secret[:at] + other + secret[at + 1 :])
    assert not keys.holds_secret(secret[:-1])


@given(st.binary(min_size=10, max_size=10))
def test_a_made_id_is_one_that_could_be_chosen(random_bytes: bytes) -> None:
    made = keys.id_of(random_bytes)

    assert re.fullmatch(r"k_[a-z2-7]{16}", made)
    assert keys.checked_id(made) == made


def test_a_hash_is_keyed_and_no_other_hash_of_the_fleet() -> None:
    hashed = keys.hash_secret(b"pcs_x", HASH_KEY)

    assert re.fullmatch(r"[0-9a-f]{64}", hashed)
    assert hashed != keys.hash_secret(b"pcs_x", HASH_KEY[::-1])
    assert hashed != blake2b(b"pcs_x", digest_size=32, key=HASH_KEY).hexdigest()


def test_a_hash_key_may_be_as_short_and_as_long_as_the_environment_allows() -> None:
    assert [len(keys.hash_secret(b"x", b"k" * length)) for length in (16, 64)] == [64, 64]


SECRETS = [f"pcs_secret-{number}".encode() for number in range(4)]


def with_secrets(*untils_ms: int) -> Key:
    """A key whose secrets are the first of SECRETS, valid until then."""
    return replace(
        key(),
        secrets=tuple(
            Secret(keys.hash_secret(secret, HASH_KEY), NOW_MS, until_ms)
            for secret, until_ms in zip(SECRETS, untils_ms, strict=False)
        ),
    )


@pytest.mark.parametrize(
    ("untils_ms", "presented", "now_ms", "matches"),
    [
        ((0,), 0, NOW_MS, True),
        ((0,), 1, NOW_MS, False),
        ((0, NOW_MS + 10), 0, NOW_MS, True),
        ((0, NOW_MS + 10), 1, NOW_MS + 9, True),
        ((0, NOW_MS + 10), 1, NOW_MS + 10, False),
        ((0, NOW_MS + 10), 0, NOW_MS + 10, True),
        ((0, NOW_MS + 10), 2, NOW_MS, False),
    ],
)
def test_a_secret_matches_while_it_is_valid(
    untils_ms: tuple[int, ...], presented: int, now_ms: int, matches: bool
) -> None:
    until_ms = keys.proved_until_ms(with_secrets(*untils_ms), SECRETS[presented], HASH_KEY, now_ms)

    assert until_ms == (untils_ms[presented] if matches else None)


@given(st.binary(max_size=80))
def test_nothing_matches_the_key_that_nobody_has(presented: bytes) -> None:
    assert keys.proved_until_ms(None, presented, HASH_KEY, NOW_MS) is None
    assert keys.proved_until_ms(None, b"0" * 64, HASH_KEY, 0) is None


def test_nothing_matches_with_another_hash_key() -> None:
    assert keys.proved_until_ms(with_secrets(0), SECRETS[0], HASH_KEY[::-1], NOW_MS) is None


@pytest.mark.parametrize(
    "of",
    [None, with_secrets(0), with_secrets(0, NOW_MS + 1), with_secrets(0, 1)],
    ids=["unknown", "one secret", "two secrets", "one of two lapsed"],
)
@pytest.mark.parametrize("presented", [SECRETS[0], SECRETS[1], SECRETS[3], b"", b"x" * 80])
def test_every_answer_takes_the_same_work(
    of: Key | None, presented: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: list[object] = []

    def counted(known: str, hashed: str) -> bool:
        work.append((len(known), len(hashed)))
        return compare_digest(known, hashed)

    def hashes(secret: bytes, *, digest_size: int, key: bytes, person: bytes) -> blake2b:
        work.append("hash")
        return blake2b(secret, digest_size=digest_size, key=key, person=person)

    monkeypatch.setattr(keys, "compare_digest", counted)
    monkeypatch.setattr(keys, "blake2b", hashes)

    keys.proved_until_ms(of, presented, HASH_KEY, NOW_MS)

    assert work == ["hash", (64, 64), (64, 64)]


# --- the record -------------------------------------------------------------------

names = st.text("az09_-", max_size=62).map(lambda text: f"a{text}") | st.just("")
labels = st.text(min_size=1, max_size=200).filter(lambda text: text.isprintable() and text == text.strip())
times = st.integers(1, keys.LAST_MS)
hashes = st.binary(min_size=32, max_size=32).map(bytes.hex)


@st.composite
def all_keys(draw: st.DrawFn) -> Key:
    kind = draw(st.sampled_from(Kind))
    origins = ["example.com", ".example.com", "https://a.example:8443", "*"]
    few = st.lists(st.sampled_from(origins), unique=True, min_size=1)
    newest = Secret(draw(hashes), draw(times), 0)
    older = [Secret(draw(hashes), draw(times), draw(times))] if draw(st.booleans()) else []
    return Key(
        id="k" + draw(st.text("aZ09_-", max_size=63)),
        kind=kind,
        label=draw(labels),
        tenant=draw(names),
        plan=draw(names),
        scopes=tuple(draw(st.lists(st.text("aZ09._:/-", min_size=1, max_size=64), unique=True, max_size=3))),
        cidrs=tuple(draw(st.lists(st.sampled_from(["10.0.0.0/8", "2001:db8::/32"]), unique=True))),
        origins=tuple(draw(few)) if kind is Kind.CLIENT else (),
        enabled=draw(st.booleans()),
        expires_ms=draw(times | st.just(0)),
        created_ms=draw(times),
        changed_ms=draw(times),
        secrets=(newest, *older),
    )


@given(all_keys())
def test_what_is_written_is_read_again(written: Key) -> None:
    assert reread(written) == written


@given(st.binary(max_size=200))
def test_bytes_are_a_key_or_an_error_that_names_it(payload: bytes) -> None:
    with pytest.raises(KeyUnreadable, match=r"^the record of key \"k_1\" cannot be read: .*; delete it"):
        keys.read("k_1", NOW_MS, payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(all_keys(), st.data())
def test_a_record_with_one_member_of_another_kind_is_the_same_key_or_an_error(
    written: Key, data: st.DataObject
) -> None:
    members = keys.record(written)
    member = data.draw(st.sampled_from(sorted(members)))
    members[member] = data.draw(json_values)

    try:
        read = keys.read(written.id, NOW_MS, json.dumps(members).encode())
    except KeyUnreadable as error:
        assert error.id == written.id
        assert not any(secret.hash in str(error) for secret in written.secrets)
    else:
        assert keys.record(read)[member] == members[member] or member in {"scopes", "cidrs", "origins"}


def broken(change: Callable[[dict[str, object]], object]) -> bytes:
    members = keys.record(keys.rotated(key(), B, DAY_MS, NOW_MS))
    change(members)
    return json.dumps(members).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b"\xff",
        b'{"label":' * 100_000,
        broken(lambda members: members.pop("cidrs")),
        broken(lambda members: members.update(only_on_mondays=True)),
        broken(lambda members: members.update(enabled=1)),
        broken(lambda members: members.update(expires=True)),
        broken(lambda members: members.update(created=1.5)),
        broken(lambda members: members.update(kind="root")),
        broken(lambda members: members.update(kind="client")),
        broken(lambda members: members.update(scopes="orders.write")),
        broken(lambda members: members.update(scopes=[1])),
        broken(lambda members: members.update(scopes=["orders write"])),
        broken(lambda members: members.update(cidrs=["10.0.0.1/8"])),
        broken(lambda members: members.update(secrets=[])),
        broken(lambda members: members.update(secrets=[[A, 1, 0], [B, 1, 2], [C, 1, 2]])),
        broken(lambda members: members.update(secrets=[[A, 1, 2]])),
        broken(lambda members: members.update(secrets=[[A, 1, 0], [B, 1, 0]])),
        broken(lambda members: members.update(secrets=[[A.upper(), 1, 0]])),
        broken(lambda members: members.update(secrets=[[A, 1, 0, 0]])),
        broken(lambda members: members.update(secrets=[[A, 1, False]])),
        broken(lambda members: None).replace(b'"enabled": true', b'"enabled": false, "enabled": true'),
    ],
)
def test_a_damaged_record_is_never_a_key(payload: bytes) -> None:
    with pytest.raises(KeyUnreadable, match='"k_1"'):
        keys.read("k_1", NOW_MS, payload)


def test_the_record_that_was_not_damaged_is_a_key() -> None:
    assert len(keys.read("k_1", NOW_MS, broken(lambda members: None)).secrets) == 2


def test_a_record_holds_no_secret() -> None:
    secret = keys.secret_of(bytes(range(32)))
    made = keys.created(
        "k_1", Kind.SERVER, {"label": "x"}, keys.hash_secret(secret.encode(), HASH_KEY), NOW_MS
    )

    assert not keys.holds_secret(json.dumps(keys.record(made)))
    assert secret not in repr(made)
