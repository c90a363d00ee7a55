"""Tokens as proofs: what they inherit from their key, how they end, and what a foreign one may be."""

from __future__ import annotations

import pytest

from sidecar.core import proofs
from sidecar.core.control import Entry
from sidecar.core.keys import Kind
from sidecar.core.principals import Principal
from sidecar.core.proofs import INVALID
from tests.core.proving import foreign, knowing, made, token, who
from tests.doubles import registered
from tests.issuers import NOW_MS, claims, eddsa

# --- tokens issued here -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("has", "asked", "scopes"),
    [
        (["a", "b"], ["a"], {"a"}),
        (["a"], ["a", "b"], {"a"}),
        (["a"], [], set()),
        (["role:clerk", "a"], ["orders.read"], {"orders.read"}),
        (["role:clerk"], ["role:clerk"], set()),
    ],
)
def test_it_gives_a_token_what_both_it_and_its_key_have(
    has: list[str], asked: list[str], scopes: set[str]
) -> None:
    it = knowing(registered(scopes=has, plan="gold", tenant="acme", cidrs=["192.0.2.0/24"]))

    found = who(it, token("k_a", *asked))

    assert isinstance(found, Principal)
    assert found.scopes == scopes
    assert (found.id, found.plan, found.tenant) == (b"k_a", "gold", "acme")
    assert found.networks is not None


def test_it_asks_for_the_key_of_a_token() -> None:
    assert who(made(), token()) == "k_a"


@pytest.mark.parametrize(
    ("change", "valid", "enabled"),
    [
        (None, False, False),
        (registered(enabled=False), True, False),
        (registered(expires_ms=NOW_MS), False, False),
        (registered(secrets=[(7, 0)]), True, True),
        (registered(plan="gold"), True, True),
    ],
)
def test_it_ends_tokens_with_their_key_and_not_with_its_secret(
    change: Entry | None, valid: bool, enabled: bool
) -> None:
    it = knowing(registered())
    assert isinstance(who(it, token()), Principal)

    it.follow({"k_a": change})
    found = who(it, token())

    assert isinstance(found, Principal) is valid
    if isinstance(found, Principal):
        assert found.enabled is enabled


def test_it_does_not_revive_the_tokens_of_a_deleted_key_with_a_new_one_of_its_name() -> None:
    it = knowing(registered(created_ms=NOW_MS - 60_000))
    assert isinstance(who(it, token()), Principal)

    it.follow({"k_a": None})
    it.follow({"k_a": registered(created_ms=NOW_MS + 5_000, scopes=["admin"])})

    assert who(it, token(), NOW_MS + 6_000) is INVALID


def test_it_ends_a_token_in_time() -> None:
    it = knowing(registered())
    short = token(ttl_ms=60_000)

    found = [isinstance(who(it, short, NOW_MS + ms), Principal) for ms in (0, 64_999, 65_000)]

    assert found == [True, True, False], "and five seconds of leeway"


@pytest.mark.parametrize("remembered", [True, False])
def test_it_refuses_a_token_that_was_taken_back(remembered: bool) -> None:
    it, bad = knowing(registered()), token(token_id="bad")
    if remembered:
        assert isinstance(who(it, bad), Principal)

    it.revoked = {"bad"}

    assert who(it, bad) is INVALID
    assert isinstance(who(it, token(token_id="good")), Principal)


def test_it_knows_a_token_of_a_client_key_as_misplaced() -> None:
    found = who(knowing(registered(kind=Kind.CLIENT)), token())

    assert isinstance(found, Principal)
    assert found.misplaced


# --- foreign tokens -----------------------------------------------------------------------


def test_it_makes_a_principal_of_a_foreign_token() -> None:
    found = who(made(), foreign(scope="a b", org="acme", plan="gold"))

    assert isinstance(found, Principal)
    assert (found.id, found.kind, found.tenant, found.plan) == (b"idp:alice", "server", "acme", "gold")
    assert found.scopes == {"a", "b"}


def test_it_takes_no_foreign_subject_for_a_key() -> None:
    it = knowing(registered("alice", scopes=["admin"]), key_id="alice")

    found = who(it, foreign(sub="alice"))

    assert isinstance(found, Principal)
    assert (found.id, found.scopes) == (b"idp:alice", frozenset())


def test_it_remembers_a_foreign_token_until_it_expires() -> None:
    it, theirs = made(), foreign()
    first = who(it, theirs)

    assert it.known(theirs, NOW_MS + 59_999) is first
    assert it.known(theirs, NOW_MS + 60_000) is None
    assert it.prove(theirs, NOW_MS + 60_000) is INVALID


def test_it_does_not_look_at_a_refused_token_again_for_a_while() -> None:
    it, early = made(), foreign(nbf=NOW_MS // 1000 + 1)
    assert who(it, early) is INVALID

    assert who(it, early, NOW_MS + proofs.REFUSED_MS - 1) is INVALID
    assert isinstance(who(it, early, NOW_MS + proofs.REFUSED_MS), Principal)


def test_it_tells_whose_keys_may_be_new() -> None:
    asked: list[str] = []
    it = made(unknown_key=asked.append)

    who(it, b"b" + eddsa(kid="new").token(claims()))
    who(it, foreign(exp=1))

    assert asked == ["idp"]
