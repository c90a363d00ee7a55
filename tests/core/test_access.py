"""Who may use what is opened: kinds, origins, scopes and addresses, one case a line.

In the tables a row ends with what refuses; "" lets pass. What is looked at is a policy's whole answer.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import Final

import pytest

from sidecar.core.access import announced_by, concerns, opened_to
from sidecar.core.addresses import AddressSet
from sidecar.core.keys import Kind
from sidecar.core.model import Filter, Match, Mode, Reason, Request
from sidecar.core.origins import Origins
from sidecar.core.principals import Principal
from tests.doubles import policy, request

KINDS: Final = ("anonymous", "client", "server")
SETS: Final = [set_ for size in range(4) for set_ in combinations(KINDS, size)]
"""Every `kinds` that a filter may have; the empty one demands nothing."""

ORIGIN: Final = b"https://app.example.com"
EVIL: Final = b"https://evil.example"


def principal(
    kind: str = "server",
    *scopes: str,
    plan: str = "",
    tenant: str = "",
    cidrs: tuple[str, ...] = (),
    origins: tuple[str, ...] = ("*",),
    enabled: bool = True,
    misplaced: bool = False,
) -> Principal | None:
    if kind == "anonymous":
        return None
    return Principal(
        "k_a",
        kind=Kind(kind),
        scopes=scopes,
        plan=plan,
        tenant=tenant,
        networks=AddressSet(cidrs) if cidrs else None,
        origins=Origins(origins) if kind == "client" else None,
        enabled=enabled,
        misplaced=misplaced,
    )


def opening(*kinds: str, name: str = "f", mode: Mode = Mode.ENFORCE, origins: tuple[str, ...] = ()) -> Filter:
    return Filter(name, mode=mode, kinds=kinds, origins=origins)


def said(
    who: Principal | None,
    *filters: Filter,
    asker: Request | None = None,
    default_allow: bool = True,
    tenants: dict[str, list[str]] | None = None,
) -> str:
    """The code of the refusal, "" for none."""
    rules = policy(filters=filters, registry=True, default_allow=default_allow, tenants=tenants or {})
    refusal = rules.bind(asker or request(), who).refusal
    return refusal.reason.code if refusal else ""


def from_page(origin: bytes | None = ORIGIN, **others: object) -> Request:
    return request(headers={} if origin is None else {b"origin": origin}, **others)  # type: ignore[arg-type]  # of it


def preflight(method: str = "POST", origin: bytes = ORIGIN, **others: object) -> Request:
    headers = {b"origin": origin, b"access-control-request-method": method.encode()}
    return request(method="OPTIONS", headers=headers, **others)  # type: ignore[arg-type]  # of it


# --- kinds --------------------------------------------------------------------


@pytest.mark.parametrize("default_allow", [True, False])
@pytest.mark.parametrize("modes", list(product(Mode, repeat=2)), ids=str)
def test_it_lets_pass_whom_every_enforced_filter_names(modes: tuple[Mode, Mode], default_allow: bool) -> None:
    for (one, other), kind in product(product(SETS, repeat=2), KINDS):
        filters = [
            opening(*one, name="one", mode=modes[0]),
            opening(*other, name="other", mode=modes[1]),
        ]

        refused = said(principal(kind), *filters, default_allow=default_allow)

        enforced = [
            kinds for kinds, mode in zip((one, other), modes, strict=True) if mode is Mode.ENFORCE and kinds
        ]
        passes = all(kind in kinds for kinds in enforced) if enforced else kind == "server"
        expected = "" if passes else "credential_missing" if kind == "anonymous" else "kind"
        if passes and not default_allow and Mode.ENFORCE not in modes:
            expected = "not_opened"
        assert refused == expected, (one, other, kind)


@pytest.mark.parametrize(
    ("kind", "filters", "refused"),
    [
        ("server", [], ""),
        ("client", [], "kind"),
        ("anonymous", [], "credential_missing"),
        ("server", [opening("client")], "kind"),
        ("client", [opening("client")], ""),
        ("client", [opening("client", mode=Mode.SHADOW)], "kind"),
        ("anonymous", [opening("anonymous", mode=Mode.SHADOW)], "credential_missing"),
        ("anonymous", [opening("anonymous", "client")], ""),
        ("server", [opening("anonymous")], "kind"),
        ("client", [opening("client"), opening("server", name="g")], "kind"),
        ("server", [opening("client"), opening("server", name="g")], "kind"),
        ("anonymous", [opening("anonymous"), opening("anonymous", "server", name="g")], ""),
    ],
)
def test_it_needs_a_server_key_unless_a_filter_opens(kind: str, filters: list[Filter], refused: str) -> None:
    assert said(principal(kind), *filters) == refused


def test_it_opens_nothing_beside_the_path_that_a_filter_matches() -> None:
    login = Filter("login", match=Match(paths=("/login",)), kinds=("anonymous", "client", "server"))

    assert said(None, login, asker=request(path="/login")) == ""
    assert said(None, login, asker=request(path="/login/x")) == "credential_missing"
    assert said(None, login, asker=request(path="/")) == "credential_missing"


@pytest.mark.parametrize(
    ("filters", "opened"),
    [
        ([], {"server"}),
        ([opening()], {"server"}),
        ([opening("client", mode=Mode.SHADOW)], {"server"}),
        ([opening("client")], {"client"}),
        ([opening("client", "server"), opening("client", name="g")], {"client"}),
        ([opening("client"), opening("anonymous", name="g")], set()),
    ],
)
def test_it_opens_to_those_whom_all_filters_name(filters: list[Filter], opened: set[str]) -> None:
    assert opened_to(filters) == opened


@pytest.mark.parametrize("kind", ["client", "server"])
def test_it_refuses_a_credential_in_the_place_of_the_other_kind(kind: str) -> None:
    everybody = opening(*KINDS)

    assert said(principal(kind), everybody) == ""
    assert said(principal(kind, misplaced=True), everybody) == "kind"


# --- scopes -------------------------------------------------------------------


def demanding(*scopes: str, name: str = "s", mode: Mode = Mode.ENFORCE) -> Filter:
    return Filter(name, mode=mode, scopes=scopes)


@pytest.mark.parametrize(
    ("has", "filters", "refused"),
    [
        ((), [], ""),
        ((), [demanding("a")], "scope"),
        (("a",), [demanding("a")], ""),
        (("a",), [demanding("a", "b")], "scope"),
        (("a", "b", "c"), [demanding("a", "b")], ""),
        (("a",), [demanding("a"), demanding("b", name="t")], "scope"),
        (("a", "b"), [demanding("a"), demanding("b", name="t")], ""),
        (("A",), [demanding("a")], "scope"),
        (("a.b",), [demanding("a")], "scope"),
        ((), [demanding("a", mode=Mode.SHADOW)], ""),
        (("*",), [demanding("a")], "scope"),
    ],
)
def test_it_demands_every_scope(has: tuple[str, ...], filters: list[Filter], refused: str) -> None:
    assert said(principal("server", *has), *filters) == refused


def test_it_demands_a_credential_where_scopes_are_demanded_of_anybody() -> None:
    assert said(None, opening("anonymous"), demanding("a")) == "credential_missing"
    assert said(None, opening("anonymous"), demanding("a", mode=Mode.SHADOW)) == ""


# --- addresses and state of a key -----------------------------------------------


@pytest.mark.parametrize(
    ("cidrs", "tenants", "address", "refused"),
    [
        ((), {}, "192.0.2.1", ""),
        ((), {}, "unknown", ""),
        (("192.0.2.0/24",), {}, "192.0.2.1", ""),
        (("192.0.2.0/24",), {}, "192.0.3.1", "credential_address"),
        (("192.0.2.0/24",), {}, "2001:db8::1", "credential_address"),
        (("192.0.2.0/24",), {}, "unknown", "credential_address"),
        (("0.0.0.0/0", "::/0"), {}, "unknown", "credential_address"),
        (("2001:db8::/32",), {}, "2001:db8:1::1", ""),
        (("2001:db8::7/128",), {}, "2001:db8::8", "credential_address"),
        (("192.0.2.0/24", "198.51.100.7/32"), {}, "198.51.100.7", ""),
        ((), {"acme": ["192.0.2.0/24"]}, "192.0.2.1", ""),
        ((), {"acme": ["192.0.2.0/24"]}, "192.0.3.1", "credential_address"),
        ((), {"acme": ["192.0.2.0/24"]}, "unknown", "credential_address"),
        ((), {"other": ["192.0.2.0/24"]}, "192.0.3.1", ""),
        (("192.0.2.0/25",), {"acme": ["192.0.2.0/24"]}, "192.0.2.1", ""),
        (("192.0.2.0/25",), {"acme": ["192.0.2.0/24"]}, "192.0.2.200", "credential_address"),
        (("192.0.0.0/16",), {"acme": ["192.0.2.0/24"]}, "192.0.3.1", "credential_address"),
    ],
)
def test_it_lets_a_key_work_from_its_own_and_its_tenants_addresses(
    cidrs: tuple[str, ...], tenants: dict[str, list[str]], address: str, refused: str
) -> None:
    who = principal(tenant="acme", cidrs=cidrs)

    assert said(who, asker=request(address), tenants=tenants) == refused


def test_it_refuses_a_disabled_key_before_it_says_anything_else_of_it() -> None:
    who = principal("client", enabled=False, misplaced=True, cidrs=("10.0.0.0/8",), origins=("a.example",))

    assert said(who) == "credential_disabled"


# --- origins --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "of_key", "of_filter", "origin", "refused"),
    [
        ("client", ("*",), (), None, ""),
        ("client", ("*",), (), b"null", ""),
        ("client", (".example.com",), (), ORIGIN, ""),
        ("client", (".example.com",), (), None, "origin"),
        ("client", (".example.com",), (), b"null", "origin"),
        ("client", (".example.com",), (), b"", "origin"),
        ("client", (".example.com",), (), EVIL, "origin"),
        ("client", (".example.com",), (), b"https://app.example.com.evil.example", "origin"),
        ("client", (".example.com",), (), b"https://evilexample.com", "origin"),
        ("client", (".example.com",), (), b"https://APP.example.com", "origin"),
        ("client", (".example.com",), (), b"https://app.example.com.", "origin"),
        ("client", (".example.com",), (), b"https://app.example.com/", "origin"),
        ("client", (".example.com",), (), b"https://app.example.com, https://evil.example", "origin"),
        ("client", ("*",), (".example.com",), ORIGIN, ""),
        ("client", ("*",), (".example.com",), EVIL, "origin"),
        ("client", ("*",), (".example.com",), None, "origin"),
        ("client", (".example.com",), ("other.example",), ORIGIN, "origin"),
        ("client", ("app.example.com",), (".example.com",), b"https://www.example.com", "origin"),
        ("server", (), (".example.com",), EVIL, ""),
        ("server", (), (".example.com",), None, ""),
        ("anonymous", (), (".example.com",), EVIL, ""),
    ],
)
def test_it_lets_client_keys_work_from_origins_that_key_and_filters_allow(
    kind: str, of_key: tuple[str, ...], of_filter: tuple[str, ...], origin: bytes | None, refused: str
) -> None:
    opened = opening(*KINDS, origins=of_filter)

    assert said(principal(kind, origins=of_key), opened, asker=from_page(origin)) == refused


# --- preflights -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("asker", "announced"),
    [
        (preflight("POST"), "POST"),
        (preflight("PURGE"), "PURGE"),
        (preflight(""), None),
        (request(method="OPTIONS"), None),
        (request(method="OPTIONS", headers={b"origin": ORIGIN}), None),
        (request(method="OPTIONS", headers={b"access-control-request-method": b"POST"}), None),
        (request(method="options", headers=dict(preflight().headers)), None),
        (request(method="GET", headers=dict(preflight().headers)), None),
        (preflight(key=b"kk_a.x"), None),
        (preflight(key=b""), None),
    ],
)
def test_it_knows_a_preflight(asker: Request, announced: str | None) -> None:
    assert announced_by(asker) == announced


@pytest.mark.parametrize(
    ("filters", "asker", "refused"),
    [
        ([], preflight(), "credential_missing"),
        ([opening("server")], preflight(), "credential_missing"),
        ([opening("client")], preflight(), ""),
        ([opening("client")], request(method="OPTIONS"), "credential_missing"),
        ([opening("client")], preflight(""), "credential_missing"),
        ([opening("client")], request(headers=dict(preflight().headers)), "credential_missing"),
        ([opening("client", mode=Mode.SHADOW)], preflight(), "credential_missing"),
        ([opening("client"), opening("server", name="g")], preflight(), "credential_missing"),
        ([opening("anonymous")], preflight(), ""),
        ([opening("client", origins=(".example.com",))], preflight(), ""),
        ([opening("client", origins=(".example.com",))], preflight(origin=EVIL), "origin"),
        ([opening("client", origins=(".example.com",))], preflight(origin=b"null"), "origin"),
        ([opening("anonymous", origins=(".example.com",))], preflight(origin=EVIL), "origin"),
        ([opening("client", origins=(".example.com",), mode=Mode.SHADOW), opening("client", name="g")],
         preflight(origin=EVIL), ""),
        ([opening("client"), demanding("orders.write")], preflight(), ""),
        ([opening("client"), Filter("m", methods=("POST",))], preflight("POST"), ""),
        ([opening("client"), Filter("m", methods=("POST",))], preflight("DELETE"), "method"),
        ([opening("client"), Filter("m", methods=("POST",))], request(method="OPTIONS"), "method"),
        ([opening("client"), Filter("d", deny=True)], preflight(), "path"),
    ],
)  # fmt: skip
def test_it_judges_a_preflight_without_a_key(filters: list[Filter], asker: Request, refused: str) -> None:
    assert said(None, *filters, asker=asker) == refused


@pytest.mark.parametrize(
    ("announced", "refused"), [("POST", ""), ("PUT", ""), ("DELETE", "credential_missing")]
)
def test_it_judges_a_preflight_by_the_filters_of_the_method_that_it_announces(
    announced: str, refused: str
) -> None:
    web = Filter("web", match=Match(methods=("POST", "PUT"), paths=("/shop/*",)), kinds=("client",))

    assert said(principal("client"), web, asker=request(method="POST", path="/shop/1")) == ""
    assert said(None, web, asker=preflight(announced, path="/shop/1")) == refused


def test_it_judges_a_preflight_by_the_filters_of_its_own_method_too() -> None:
    web = Filter("web", match=Match(methods=("POST",)), kinds=("client",))
    no_options = Filter("no-options", match=Match(methods=("OPTIONS",)), deny=True)

    assert said(None, web, no_options, asker=preflight("POST")) == "path"


def test_it_demands_a_key_with_a_preflight_that_shows_one() -> None:
    rules = policy(filters=[opening("client")], registry=True)

    bound = rules.bind(preflight(key=b"kk_a.x"), principal("server"))

    assert bound.refusal is not None
    assert bound.refusal.reason is Reason.KIND


# --- who a rule concerns ----------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "who", "concerned"),
    [
        (Match(), None, True),
        (Match(kinds=("anonymous",)), None, True),
        (Match(kinds=("anonymous",)), principal(), False),
        (Match(kinds=("client", "anonymous")), principal("client"), True),
        (Match(kinds=("server",)), principal("client"), False),
        (Match(plans=("gold",)), None, False),
        (Match(plans=("gold",)), principal(plan="gold"), True),
        (Match(plans=("gold",)), principal(), False),
        (Match(scopes=("a", "b")), None, False),
        (Match(scopes=("a", "b")), principal("server", "b"), True),
        (Match(scopes=("a", "b")), principal("server", "c"), False),
        (Match(kinds=("server",), plans=("gold",)), principal(), False),
        (Match(kinds=("server",), plans=("gold",), scopes=("a",)), principal("server", "a", plan="gold"), True),
    ],
)  # fmt: skip
def test_it_knows_whom_a_rule_concerns(match: Match, who: Principal | None, concerned: bool) -> None:
    assert concerns(match, who) is concerned


@pytest.mark.parametrize("announced", ["P" * 33, "PO ST", "PÖST", "POST, GET", ""])
def test_it_takes_no_text_of_any_length_for_a_method(announced: str) -> None:
    """It is remembered by what it announces."""
    assert announced_by(preflight(announced)) is None
