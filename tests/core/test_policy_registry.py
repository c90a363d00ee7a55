"""A policy with a registry: the order of refusals, and who may read one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.addresses import AddressSet
from sidecar.core.bound import UNPROVED, Bound, Who
from sidecar.core.control import Control, Entry
from sidecar.core.decide import judge_alone
from sidecar.core.model import (
    Detecting,
    Filter,
    Match,
    Mode,
    Outage,
    Place,
    Reason,
    Severity,
    Suspicion,
)
from sidecar.core.principals import Principal
from sidecar.core.query_names import CredentialNames
from sidecar.core.window import Grant
from tests.core.proving import client_key
from tests.doubles import limit, policy, request

ORIGIN: Final = b"https://app.example.com"
EVIL: Final = b"https://evil.example"
ON: Final = Entry(1, 0, b'{"on": true}')
EVERYBODY: Final = ("anonymous", "client", "server")
NAMES: Final = CredentialNames(("api_key",))


def code(bound: Bound) -> str:
    return bound.refusal.reason.code if bound.refusal else ""


# --- the order of refusals --------------------------------------------------------

WRONGS: Final = (
    "malformed", "address_denied", "address_not_allowed", "path", "method", "content_type", "body_size",
    "tls_version", "credential_in_query", "pattern", "credential_missing", "credential_disabled",
    "credential_address", "attack_mode", "kind", "origin", "scope",
)  # fmt: skip
"""What can be wrong with one request, in the order of the decision."""
PRINCIPALS: Final = frozenset(WRONGS[-6:])


def all_wrong(wrongs: frozenset[str], mode: Mode) -> Bound:
    """The answer to a request with these wrongs; `mode` is that of the filters that say so."""
    probe = Suspicion("own/probe", "probe", (Place.PATH,), Severity.CRITICAL)
    says: Mapping[str, Filter] = {
        "address_not_allowed": Filter("address_not_allowed", require_allow=True),
        "path": Filter("path", deny=True),
        "method": Filter("method", methods=("GET",)),
        "content_type": Filter("content_type", content_types=("application/json",)),
        "body_size": Filter("body_size", max_body=10),
        "tls_version": Filter("tls_version", tls_min="1.2"),
        "pattern": Filter("pattern", detecting=Detecting((probe,), 5)),
        "scope": Filter("scope", scopes=("admin",)),
    }
    rules = policy(
        filters=[
            Filter(
                name,
                mode=mode,
                require_allow=says[name].require_allow,
                deny=says[name].deny,
                methods=says[name].methods,
                content_types=says[name].content_types,
                max_body=says[name].max_body,
                tls_min=says[name].tls_min,
                scopes=says[name].scopes,
                detecting=says[name].detecting,
            )
            for name in sorted(wrongs & says.keys(), reverse=True)
        ]
        + ([] if "kind" in wrongs else [Filter("open", kinds=("client", "server"))]),
        deny=["203.0.113.9"] if "address_denied" in wrongs else [],
        registry=True,
        query_names=NAMES,
        control=Control(attack={"key:web": ON} if "attack_mode" in wrongs else {}),
    )
    asker = request(
        method="POST",
        path="/probe",
        query=b"api_key=1" if "credential_in_query" in wrongs else b"",
        headers={b"origin": EVIL if "origin" in wrongs else ORIGIN},
        content_length=11,
        malformed="two hosts" if "malformed" in wrongs else None,
    )
    who = client_key(
        origins=("app.example.com",),
        enabled="credential_disabled" not in wrongs,
        networks=AddressSet(["10.0.0.0/8"]) if "credential_address" in wrongs else None,
        scopes=() if "scope" in wrongs else ("admin",),
    )
    return rules.bind(asker, None if "credential_missing" in wrongs else who)


@given(wrongs=st.frozensets(st.sampled_from(WRONGS)))
def test_it_gives_the_first_reason_in_the_order_of_the_decision(wrongs: frozenset[str]) -> None:
    if "credential_missing" in wrongs:
        wrongs -= PRINCIPALS - {"kind"}

    refused = code(all_wrong(wrongs, Mode.ENFORCE))

    assert refused == next((name for name in WRONGS if name in wrongs), "")


@given(wrongs=st.frozensets(st.sampled_from(["path", "method", "tls_version", "pattern", "scope"])))
def test_it_reports_what_shadow_filters_say_and_refuses_nothing(wrongs: frozenset[str]) -> None:
    bound = all_wrong(wrongs, Mode.SHADOW)

    assert code(bound) == ""
    assert set(bound.shadow) == wrongs


def test_it_says_nothing_of_a_credential_that_is_not_proved() -> None:
    rules = policy(
        filters=[Filter("open", kinds=("server",)), Filter("s", scopes=("admin",))],
        registry=True,
        control=Control(attack={"key:web": ON}),
    )

    bound = rules.bind(request(headers={b"origin": EVIL}), UNPROVED)

    assert (bound.refusal, bound.trial, bound.key_id) == (None, True, b"")


def test_it_refuses_by_attack_mode_of_a_key_or_tenant_unless_the_address_passes() -> None:
    attacked = Control(attack={"key:k_a": ON, "tenant:acme": ON})
    rules = policy(registry=True, control=attacked, passes=["192.0.2.1"])

    found = [
        code(rules.bind(request(address), who))
        for who in (Principal("k_a"), Principal("k_b", tenant="acme"), Principal("k_c", tenant="other"))
        for address in ("203.0.113.9", "192.0.2.1")
    ]

    assert found == ["attack_mode", "", "attack_mode", "", "", ""]


def test_it_takes_no_foreign_subject_for_a_key_or_tenant_under_attack() -> None:
    rules = policy(registry=True, control=Control(attack={"key:alice": ON}))

    assert code(rules.bind(request(), Principal("idp:alice"))) == ""


@pytest.mark.parametrize(
    ("filters", "who", "refused"),
    [
        ([], Principal("k"), "not_opened"),
        ([], None, "credential_missing"),
        ([Filter("any")], Principal("k"), ""),
        ([Filter("any", mode=Mode.SHADOW)], Principal("k"), "not_opened"),
        ([Filter("gold", match=Match(plans=("gold",)))], Principal("k"), "not_opened"),
        ([Filter("gold", match=Match(plans=("gold",)))], Principal("k", plan="gold"), ""),
        ([Filter("open", kinds=("anonymous",))], None, ""),
        ([Filter("s", scopes=("a",))], Principal("k"), "scope"),
    ],
)
def test_it_refuses_by_default_what_no_filter_opens(
    filters: list[Filter], who: Principal | None, refused: str
) -> None:
    rules = policy(filters=filters, registry=True, default_allow=False)

    assert code(rules.bind(request(), who)) == refused


def test_it_applies_filters_for_some_principals_to_those_alone() -> None:
    trial_plan = Filter("trial", match=Match(plans=("trial",)), methods=("GET",))
    rules = policy(filters=[trial_plan], registry=True)

    found = [
        code(rules.bind(request(method="POST"), who))
        for who in (Principal("k", plan="trial"), Principal("k"), Principal("k", plan="gold"))
    ]

    assert found == ["method", "", ""]


@pytest.mark.parametrize(
    ("query", "mode", "refused", "shadow"),
    [
        (b"", Mode.ENFORCE, "", ()),
        (b"page=2", Mode.ENFORCE, "", ()),
        (b"API%5Fkey=1", Mode.ENFORCE, "credential_in_query", ()),
        (b"API%5Fkey=1", Mode.SHADOW, "", ("credentials.query",)),
    ],
)
@pytest.mark.parametrize("registry", [True, False])
def test_it_refuses_credentials_in_the_query(
    query: bytes, mode: Mode, refused: str, shadow: tuple[str, ...], registry: bool
) -> None:
    rules = policy(registry=registry, query_names=NAMES, query_mode=mode)

    bound = rules.bind(request(query=query), Principal("k") if registry else None)

    assert (code(bound), bound.shadow) == (refused, shadow)


# --- who may read a refusal -------------------------------------------------------


def shop(*origins: str, kinds: tuple[str, ...] = ("client",), mode: Mode = Mode.ENFORCE) -> Filter:
    return Filter("shop", kinds=kinds, origins=origins, mode=mode)


@pytest.mark.parametrize(
    ("filters", "who", "origin", "readable"),
    [
        ([shop(".example.com")], None, ORIGIN, True),
        ([shop(".example.com")], None, EVIL, False),
        ([shop(".example.com")], None, b"null", False),
        ([shop(".example.com")], None, None, False),
        ([shop(".example.com")], None, b"https://app.example.com\r\nX: 1", False),
        ([shop("*")], None, ORIGIN, True),
        ([shop("*")], None, b"null", False),
        ([shop("*")], None, b"*", False),
        ([shop()], None, ORIGIN, False),
        ([shop(".example.com")], UNPROVED, ORIGIN, True),
        ([shop()], UNPROVED, ORIGIN, False),
        ([shop()], client_key(origins=("app.example.com",)), ORIGIN, True),
        ([shop()], client_key(origins=("app.example.com",)), EVIL, False),
        ([shop(".example.com")], client_key(origins=("other.example",)), ORIGIN, False),
        ([shop(".example.com")], client_key(origins=("*",)), ORIGIN, True),
        ([shop(".example.com", kinds=("server",))], None, ORIGIN, False),
        ([shop(".example.com", kinds=("anonymous",))], None, ORIGIN, False),
        ([shop(".example.com"), Filter("other", kinds=("server",))], None, ORIGIN, False),
        ([shop(".example.com"), Filter("other", origins=("b.example",))], None, ORIGIN, False),
        ([], None, ORIGIN, False),
    ],
)
def test_it_names_the_origin_that_may_read_a_refusal(
    filters: list[Filter], who: Who, origin: bytes | None, readable: bool
) -> None:
    rules = policy(filters=[*filters, Filter("no", deny=True)], registry=True)

    refusal = rules.bind(request(headers={} if origin is None else {b"origin": origin}), who).refusal

    assert refusal is not None
    assert refusal.allow_origin == (origin if readable else b"")


@pytest.mark.parametrize(
    ("filters", "readable"),
    [
        ([shop(".example.com"), Filter("watch", origins=("b.example",), mode=Mode.SHADOW)], True),
        ([shop(), Filter("watch", origins=(".example.com",), mode=Mode.SHADOW)], False),
        ([shop(".example.com", mode=Mode.SHADOW)], False),
    ],
)
def test_it_asks_no_shadow_filter_who_may_read_a_refusal(filters: list[Filter], readable: bool) -> None:
    refusal = (
        policy(filters=[*filters, Filter("no", deny=True)], registry=True)
        .bind(request(headers={b"origin": ORIGIN}))
        .refusal
    )

    assert refusal is not None
    assert refusal.allow_origin == (ORIGIN if readable else b"")


def test_it_tells_nobody_of_an_origin_on_an_allow_in_an_outage() -> None:
    rules = policy([limit(outage=Outage.LOCAL)], [shop(".example.com")], registry=True)
    bound = rules.bind(request(headers={b"origin": ORIGIN}), client_key())

    verdict = judge_alone(bound, 0.0, lambda *_: Grant(1, 1, 0, 1, 0, 0, 1))

    assert (verdict.reason, verdict.allow_origin) == (Reason.OK, b"")
