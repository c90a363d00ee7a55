"""Principals: what a key becomes when it is proved, and what the application is told of it."""

from __future__ import annotations

import pytest

from sidecar.core.keys import Kind, read
from sidecar.core.principals import Principal, expanded, principal_of
from tests.doubles import registered

ROLES = {"clerk": ("orders.read", "orders.write"), "nobody": ()}


@pytest.mark.parametrize(
    ("scopes", "are"),
    [
        ([], set()),
        (["ping"], {"ping"}),
        (["role:clerk"], {"orders.read", "orders.write"}),
        (["ping", "role:clerk", "orders.read"], {"ping", "orders.read", "orders.write"}),
        (["role:nobody"], set()),
        (["role:gone"], set()),
        (["role:"], set()),
        (["Role:clerk"], {"Role:clerk"}),
        (["role:role:clerk"], set()),
    ],
)
def test_it_expands_roles(scopes: list[str], are: set[str]) -> None:
    assert expanded(scopes, ROLES) == are


def test_it_expands_no_role_within_a_role() -> None:
    assert expanded(["role:outer"], {"outer": ("role:clerk",), **ROLES}) == {"role:clerk"}


@pytest.mark.parametrize(
    ("asked", "has"),
    [
        (None, {"ping", "orders.read", "orders.write"}),
        ((), set()),
        (("orders.read",), {"orders.read"}),
        (("orders.read", "admin"), {"orders.read"}),
        (("role:clerk",), set()),
    ],
)
def test_it_gives_a_token_no_scope_that_its_key_has_not(asked: tuple[str, ...] | None, has: set[str]) -> None:
    entry = registered(scopes=["ping", "role:clerk"])

    principal = principal_of(read("k_a", 0, entry.payload), ROLES, asked=asked)

    assert principal.scopes == has


def test_it_takes_over_what_the_record_says() -> None:
    entry = registered(
        "shop",
        kind=Kind.CLIENT,
        tenant="acme",
        plan="gold",
        cidrs=["192.0.2.0/24"],
        origins=["example.com"],
        enabled=False,
    )

    principal = principal_of(read("shop", 0, entry.payload), {}, misplaced=True)

    assert (principal.id, principal.kind, principal.tenant, principal.plan) == (
        b"shop",
        "client",
        "acme",
        "gold",
    )
    assert not principal.enabled
    assert principal.misplaced
    assert principal.networks is not None
    assert principal.networks.contains("192.0.2.7")
    assert principal.origins is not None
    assert principal.origins.allows(b"https://example.com")


def test_it_restricts_nothing_that_the_record_leaves_open() -> None:
    principal = principal_of(read("k_a", 0, registered().payload), {})

    assert (principal.networks, principal.origins, principal.misplaced) == (None, None, False)


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("k_a", b"k_a"),
        ("idp:alice", b"idp:alice"),
        ("idp:alice@example.com", b"idp:alice%40example.com"),
        ("idp:a|b", b"idp:a%7Cb"),
        ("idp:größe", b"idp:gr%C3%B6%C3%9Fe"),
        ("idp:a b", b"idp:a%20b"),
    ],
)
def test_it_names_somebody_in_one_printable_word(name: str, known_as: bytes) -> None:
    assert Principal(name).id == known_as


def test_it_gives_two_long_names_two_ids() -> None:
    one, other = Principal("idp:" + "ä" * 200), Principal("idp:" + "ä" * 201)

    assert one.id != other.id
    assert len(one.id) < 64


def test_it_tells_the_application_in_three_lines_and_no_more() -> None:
    principal = Principal("idp:a\r\nX-Admin: 1", tenant="acme", plan="gold")

    assert principal.identity.split(b"\r\n") == [
        b"X-Portcullis-Key: idp:a%0D%0AX-Admin:%201",
        b"X-Portcullis-Tenant: acme",
        b"X-Portcullis-Plan: gold",
        b"",
    ]


def test_it_is_nobody_else_even_with_the_same_terms() -> None:
    assert Principal("k_a") != Principal("k_a")
