"""Which keys are valid, and for how long: each way to present one, each way to end."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from hmac import compare_digest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import keys, proofs
from sidecar.core.control import Entry
from sidecar.core.keys import Kind
from sidecar.core.principals import Principal
from sidecar.core.proofs import INVALID, UNKNOWABLE
from sidecar.core.tokens import Trust
from tests.core.proving import THEIRS, TRUST, Own, foreign, knowing, made, token, told, who
from tests.doubles import HASH_KEY, presented, registered, secret
from tests.issuers import NOW_MS

# --- what is presented ------------------------------------------------------------


@pytest.mark.parametrize("way", ["s", "k", "b"])
def test_it_proves_a_server_key_presented_in_its_ways(way: str) -> None:
    found = who(knowing(registered()), presented(way=way))

    assert isinstance(found, Principal)
    assert (found.id, found.kind, found.misplaced) == (b"k_a", "server", False)


@pytest.mark.parametrize(
    ("kind", "way", "misplaced"),
    [
        (Kind.SERVER, "s", False),
        (Kind.SERVER, "k", False),
        (Kind.SERVER, "b", False),
        (Kind.SERVER, "c", True),
        (Kind.CLIENT, "c", False),
        (Kind.CLIENT, "s", True),
        (Kind.CLIENT, "k", True),
        (Kind.CLIENT, "b", True),
    ],
)
def test_it_knows_a_credential_in_the_place_of_the_other_kind(kind: Kind, way: str, misplaced: bool) -> None:
    it = knowing(registered(kind=kind))

    found = who(it, presented(way=way))

    assert isinstance(found, Principal)
    assert found.misplaced is misplaced
    assert it.known(presented(way=way), NOW_MS) is found


GOOD = secret().encode()


@pytest.mark.parametrize(
    "credential",
    [
        b"",
        b"k",
        b"s",
        b"b",
        b"kk_a",
        b"kk_a.",
        b"k." + GOOD,
        b"sk_a\0",
        b"s\0" + GOOD,
        b"sk_a." + GOOD,
        b"kk_a\0" + GOOD,
        b"xk_a." + GOOD,
        b"k k_a." + GOOD,
        b"kk_a. " + GOOD,
        b"kk_a." + GOOD + b" ",
        b"kk_a." + GOOD + b"\n",
        b"kk_a.." + GOOD,
        b"kK_A." + GOOD[:-1],
        b"kk_a." + GOOD[:-1],
        b"kk_a." + GOOD[:-1] + b"A",
        b"kk_a." + GOOD.upper(),
        b"kk_a." + secret(1).encode(),
        b"kk_b." + GOOD,
        b"kk_\xff." + GOOD,
        b"k" + b"k" * 65 + b"." + GOOD,
        b"k" + GOOD,
        b"k" + GOOD + b"." + GOOD,
        b"b" + GOOD,
        b"ba.b.c",
        b"bk_a." + GOOD + b".x",
        b"k" + token()[1:],
        b"s" + token()[1:],
    ],
    ids=lambda credential: repr(credential[:24]),
)
def test_it_believes_nothing_else(credential: bytes) -> None:
    it = knowing(registered())
    told(it, "k_b", None)

    assert who(it, credential) is INVALID
    assert it.known(credential, NOW_MS) is None


@given(st.binary(max_size=90))
def test_it_never_fails_and_never_believes_noise(noise: bytes) -> None:
    assert not isinstance(who(knowing(registered()), noise), Principal)


@pytest.mark.parametrize("way", ["s", "c", "k", "b"])
def test_it_asks_for_a_record_only_for_what_is_written_like_a_secret(way: str) -> None:
    it = made()

    assert who(it, presented("k_new", way=way)) == "k_new"
    assert who(it, presented("k_new", way=way)[:-1]) is INVALID
    assert who(it, presented("../etc", way=way)) is INVALID


def test_it_cannot_know_without_the_fleets_hash_key() -> None:
    it = knowing(registered(), hash_key=None)

    assert who(it, presented()) is UNKNOWABLE
    assert who(it, presented("k_new")) is UNKNOWABLE
    assert who(it, b"kk_a.hunter2") is INVALID
    assert isinstance(who(it, token()), Principal), "a token needs no hash"


# --- the same work ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "number"),
    [
        (registered(), 0),
        (registered(), 1),
        (None, 0),
        (registered(secrets=[(1, 0), (0, NOW_MS - 1)]), 0),
        (registered(secrets=[(1, 0), (0, NOW_MS + 1)]), 0),
        (registered(enabled=False), 1),
        (registered(expires_ms=NOW_MS), 0),
        (registered(kind=Kind.CLIENT), 1),
        (Entry(0, 0, b"no record"), 0),
    ],
)
def test_it_does_the_same_work_for_an_unknown_id_and_a_wrong_secret(
    entry: Entry | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = made()
    told(it, "k_a", entry)
    work: list[object] = []

    def counted(known: str, hashed: str) -> bool:
        work.append((len(known), len(hashed)))
        return compare_digest(known, hashed)

    def hashes(secret: bytes, *, digest_size: int, key: bytes, person: bytes) -> blake2b:
        work.append("hash")
        return blake2b(secret, digest_size=digest_size, key=key, person=person)

    monkeypatch.setattr(keys, "compare_digest", counted)
    monkeypatch.setattr(keys, "blake2b", hashes)
    it.prove(presented(number=number), NOW_MS)

    assert work == ["hash", (64, 64), (64, 64)]


# --- how a key ends -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "number", "last_ms"),
    [
        (registered(), 0, None),
        (registered(expires_ms=NOW_MS + 500), 0, NOW_MS + 499),
        (registered(secrets=[(1, 0), (0, NOW_MS + 500)]), 1, None),
        (registered(secrets=[(1, 0), (0, NOW_MS + 500)]), 0, NOW_MS + 499),
        (registered(secrets=[(1, 0), (0, NOW_MS + 500)], expires_ms=NOW_MS + 300), 0, NOW_MS + 299),
        (registered(secrets=[(1, 0), (0, NOW_MS + 300)], expires_ms=NOW_MS + 500), 0, NOW_MS + 299),
    ],
)
@pytest.mark.parametrize("remembered", [True, False])
def test_it_ends_a_key_and_a_grace_in_time(
    entry: Entry, number: int, last_ms: int | None, remembered: bool
) -> None:
    it, credential = knowing(entry), presented(number=number)
    if remembered:
        assert isinstance(who(it, credential), Principal)

    at = (NOW_MS + 10_000_000,) if last_ms is None else (last_ms, last_ms + 1)
    found = [isinstance(who(it, credential, now_ms), Principal) for now_ms in at]

    assert found == ([True] if last_ms is None else [True, False])


CHANGES: Mapping[str, tuple[Entry | None, bool]] = {
    "deleted": (None, False),
    "rotated without grace": (registered(secrets=[(1, 0)]), False),
    "unreadable": (Entry(1, 0, b'{"kind": "server"}'), False),
    "expired": (registered(expires_ms=NOW_MS - 1), False),
    "the same again": (registered(), True),
    "rotated": (registered(secrets=[(1, 0), (0, NOW_MS + 1)]), True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_it_judges_a_changed_key_anew_at_the_next_request(change: str) -> None:
    it = knowing(registered())
    before = who(it, presented())
    entry, valid = CHANGES[change]

    it.follow({"k_a": entry})

    assert it.known(presented(), NOW_MS) is None
    after = it.prove(presented(), NOW_MS)
    assert isinstance(after, Principal) is valid
    assert after is not before


@pytest.mark.parametrize("credential", [presented(), token("k_a", "a")], ids=["key", "token"])
def test_it_hands_out_nobody_on_the_terms_of_before(credential: bytes) -> None:
    it = knowing(registered(scopes=["a"], plan="gold"))
    before = who(it, credential)

    it.follow({"k_a": registered(enabled=False, cidrs=["10.0.0.0/8"])})
    after = who(it, credential)

    assert isinstance(before, Principal)
    assert isinstance(after, Principal)
    assert (before.enabled, before.plan, before.scopes) == (True, "gold", frozenset("a"))
    assert (after.enabled, after.plan, after.scopes) == (False, "", frozenset())
    assert after.networks is not None


def test_it_forgets_all_when_nobody_knows_what_changed() -> None:
    it = knowing(registered())
    told(it, "k_b", None)
    who(it, presented())

    it.follow(None)

    assert (who(it, presented()), who(it, presented("k_b")), len(it)) == ("k_a", "k_b", 0)


def test_it_keeps_nothing_of_keys_that_nobody_asked_for() -> None:
    it = made()

    it.follow({f"k_{number}": registered(f"k_{number}") for number in range(100)})

    assert len(it) == 0
    assert who(it, presented("k_1")) == "k_1"


# --- changes while a record is read ---------------------------------------------------


@pytest.mark.parametrize("news", [{"k_a": None}, {"k_a": registered(secrets=[(1, 0)])}, None])
def test_it_does_not_take_a_record_that_was_changed_while_it_was_read(
    news: Mapping[str, Entry | None] | None,
) -> None:
    it = made()
    it.ask(["k_a"])

    it.follow(news)
    it.answer({"k_a": registered()})

    assert who(it, presented()) == "k_a", "it has to be asked for again"


def test_it_takes_a_record_when_another_was_changed_meanwhile() -> None:
    it = made()
    it.ask(["k_a"])

    it.follow({"k_b": None})
    it.answer({"k_a": registered()})

    assert isinstance(who(it, presented()), Principal)


def test_it_finds_a_key_that_was_made_after_somebody_asked_for_it() -> None:
    it = made()
    told(it, "k_a", None)
    assert who(it, presented()) is INVALID

    it.follow({"k_a": registered()})

    assert isinstance(who(it, presented()), Principal)


def test_it_asks_again_after_a_while_for_what_was_not_there() -> None:
    it = made()
    told(it, "k_a", None)  # of a store that had lost its data, say, and has it again
    assert who(it, presented()) is INVALID

    assert who(it, presented(), NOW_MS + 1_000) is INVALID
    assert who(it, presented(), NOW_MS + 600_000) == "k_a"


def test_it_takes_no_answer_that_nobody_asked_for() -> None:
    it = made()

    it.answer({"k_a": registered()})

    assert who(it, presented()) == "k_a"


def test_it_remembers_no_reads_that_were_never_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()

    for number in range(1_000):
        it.ask([f"k_{number}"])  # and the store failed

    held = [value for value in vars(it).values() if isinstance(value, set | dict)]
    assert all(len(value) <= 500 for value in held)


# --- another configuration ------------------------------------------------------------------


def test_it_proves_all_again_under_another_configuration() -> None:
    it = knowing(registered(scopes=["role:clerk"]))
    before, theirs = who(it, presented()), foreign()
    assert isinstance(before, Principal)
    assert isinstance(who(it, theirs), Principal)
    assert who(it, foreign(exp=1)) is INVALID

    it.heed(roles={"clerk": ("ping",)}, trust=Trust(Own(), (), {}), hash_key=HASH_KEY)
    after = who(it, presented())

    assert isinstance(after, Principal)
    assert before.scopes == {"orders.read"}
    assert after.scopes == {"ping"}
    assert who(it, theirs) is INVALID


def test_it_believes_a_token_as_soon_as_its_issuers_keys_are_known() -> None:
    it = made(trust=Trust(Own(), (THEIRS,), {}))
    assert who(it, foreign()) is INVALID

    it.heed(roles={}, trust=TRUST, hash_key=HASH_KEY)

    assert isinstance(who(it, foreign()), Principal)


def test_it_accepts_no_secret_by_the_hash_key_of_before() -> None:
    it = knowing(registered())
    assert isinstance(who(it, presented()), Principal)

    it.heed(roles={}, trust=TRUST, hash_key=b"x" * 32)
    after = who(it, presented())
    it.heed(roles={}, trust=TRUST, hash_key=None)

    assert (after, who(it, presented())) == (INVALID, UNKNOWABLE)


# --- bounds -----------------------------------------------------------------------------------


def test_it_pushes_no_key_out_for_who_guesses_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "MOST_ABSENT", 16)
    it = knowing(registered())

    for number in range(200):
        told(it, f"guess{number}", None)
        assert who(it, presented(f"guess{number}")) is INVALID

    assert isinstance(it.known(presented(), NOW_MS) or it.prove(presented(), NOW_MS), Principal)


def test_it_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("MOST_KEYS", "MOST_ABSENT", "MOST_PROOFS"):
        monkeypatch.setattr(proofs, table, 8)
    it = made()

    for number in range(100):
        told(it, f"k_{number}", registered(f"k_{number}"))
        told(it, f"g_{number}", None)
        assert isinstance(who(it, presented(f"k_{number}")), Principal)
        who(it, foreign(exp=number))

    assert len(it) <= 8
    tables = [value for value in vars(it).values() if hasattr(value, "drop")]
    assert len(tables) == 4
    assert all(len(table) <= 8 for table in tables)


def test_it_remembers_credentials_by_a_digest_only() -> None:
    it = knowing(registered())
    who(it, presented())
    who(it, foreign())

    assert secret() not in repr([vars(it), *[list(t) for t in vars(it).values() if hasattr(t, "drop")]])
    assert made(digest_key=b"e" * 32)._digest(b"x") != it._digest(b"x")
