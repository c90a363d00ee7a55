"""Claims are judged by the clock that is given, each by its own rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.claims import OWN_LEEWAY_MS, Verified, foreign_claims, own_claims
from sidecar.core.compact import TokenRefused
from sidecar.core.keys import Kind, created, secret_of
from tests import issuers
from tests.issuers import AUDIENCE, NOW_MS, NOW_S, Names

MAPPED = Names(tenant="org", plan="https://idp.example/plan")
NO_TIMES: Final[list[object]] = [True, False, "1", None, [], {}, -1, -0.5, 10**12, 1e300]
NO_TEXTS: Final[list[object]] = [
    None,
    "",
    7,
    True,
    ["alice"],
    {},
    "a" * 257,
    "a\nb",
    "\x00",
    "\ud800",
    "a\u202eb",
]


def ours(claims: Mapping[str, object], now_ms: int = NOW_MS) -> Verified:
    return own_claims(claims, AUDIENCE, now_ms)


def theirs(
    claims: Mapping[str, object], now_ms: int = NOW_MS, *, leeway_ms: int = 0, names: Names = MAPPED
) -> Verified:
    return foreign_claims(claims, "idp", (AUDIENCE, "also"), leeway_ms, names, now_ms)


Judge = Callable[[Mapping[str, object], int], Verified]
Good = Callable[..., dict[str, object]]


def refusal(judge: Judge, claims: Mapping[str, object], now_ms: int = NOW_MS) -> str:
    with pytest.raises(TokenRefused) as refused:
        judge(claims, now_ms)
    return str(refused.value)


EITHER = pytest.mark.parametrize(
    ("judge", "good"), [(ours, issuers.own_claims), (theirs, issuers.claims)], ids=["ours", "theirs"]
)


# --- for whom -----------------------------------------------------------------


@EITHER
@pytest.mark.parametrize("aud", [AUDIENCE, [AUDIENCE], ["other", AUDIENCE]])
def test_it_is_for_us(judge: Judge, good: Good, aud: object) -> None:
    assert judge(good(aud=aud), NOW_MS).expires_ms > NOW_MS


def test_it_may_be_for_any_of_ours() -> None:
    assert theirs(issuers.claims(aud=["also"])).subject == "alice"


@EITHER
@pytest.mark.parametrize(
    "aud", [None, "", "API", "api ", "ap", [], ["other"], [["api"]], ["api", 7], 7, {"api": 1}]
)
def test_it_is_for_others(judge: Judge, good: Good, aud: object) -> None:
    assert "its audience" in refusal(judge, good(aud=aud)) or "another audience" in refusal(
        judge, good(aud=aud)
    )


# --- when ---------------------------------------------------------------------


@EITHER
def test_it_says_when_it_ends(judge: Judge, good: Good) -> None:
    assert refusal(judge, good(exp=None)) == "it does not say when it expires"


@pytest.mark.parametrize("leeway_ms", [0, 30_000])
@pytest.mark.parametrize("exp", [NOW_S, NOW_S + 0.25, float(NOW_S)])
def test_it_ends_to_the_millisecond(leeway_ms: int, exp: float) -> None:
    claims = issuers.claims(exp=exp)
    end_ms = int(exp * 1000) + leeway_ms

    assert theirs(claims, end_ms - 1, leeway_ms=leeway_ms).expires_ms == end_ms
    with pytest.raises(TokenRefused, match="it has expired"):
        theirs(claims, end_ms, leeway_ms=leeway_ms)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
@pytest.mark.parametrize("leeway_ms", [0, 30_000])
def test_it_begins_to_the_millisecond(claim: str, leeway_ms: int) -> None:
    claims = issuers.claims(**{claim: NOW_S + 30.5})
    begin_ms = NOW_MS + 30_500 - leeway_ms

    assert theirs(claims, begin_ms, leeway_ms=leeway_ms).subject == "alice"
    with pytest.raises(TokenRefused, match="it is not valid yet"):
        theirs(claims, begin_ms - 1, leeway_ms=leeway_ms)


def test_our_own_clocks_are_close_together() -> None:
    assert ours(issuers.own_claims(iat=NOW_S), NOW_MS - OWN_LEEWAY_MS).subject == "k_a"
    assert refusal(ours, issuers.own_claims(iat=NOW_S), NOW_MS - OWN_LEEWAY_MS - 1) == "it is not valid yet"
    assert refusal(ours, issuers.own_claims(exp=NOW_S), NOW_MS + OWN_LEEWAY_MS) == "it has expired"


@EITHER
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", NO_TIMES, ids=repr)
def test_a_time_is_a_number(judge: Judge, good: Good, claim: str, value: object) -> None:
    claims = {**good(), claim: value}

    assert refusal(judge, claims) == "one of its times is not a number of seconds since 1970"


# --- issued here --------------------------------------------------------------


@pytest.mark.parametrize("subject", [*NO_TEXTS, "k.a", "-k", "k a", "a" * 65, secret_of(bytes(32))])
def test_our_subject_is_the_id_of_a_key(subject: object) -> None:
    assert "its subject" in refusal(ours, {**issuers.own_claims(), "sub": subject, "client_id": subject})


@pytest.mark.parametrize("client", [None, "k_b", "K_A", 7, ["k_a"]])
def test_our_subject_is_the_client(client: object) -> None:
    claims = issuers.own_claims(client_id=client)

    assert refusal(ours, claims) == "its subject is not the id of the key that it was issued for"


@pytest.mark.parametrize("claim", ["sub", "aud", "client_id", "iat", "exp", "jti"])
def test_ours_are_whole(claim: str) -> None:
    assert refusal(ours, issuers.own_claims(**{claim: None}))


@pytest.mark.parametrize("token_id", NO_TEXTS)
def test_ours_have_an_id(token_id: object) -> None:
    assert "its id" in refusal(ours, {**issuers.own_claims(), "jti": token_id})


@pytest.mark.parametrize("scope", [["orders.read"], 7, None, {}])
def test_our_scopes_are_a_text(scope: object) -> None:
    assert refusal(ours, {**issuers.own_claims(), "scope": scope}) == "its scopes are not a text"


def test_ours_name_neither_tenant_nor_plan() -> None:
    """These are the key's, as its record has them now."""
    verified = ours(issuers.own_claims(tenant="acme", plan="gold", scope=""))

    assert verified == Verified("", "k_a", (), "", "", "t1", NOW_MS + 60_000 + OWN_LEEWAY_MS, NOW_MS)


# --- of foreign issuers -------------------------------------------------------


@pytest.mark.parametrize("subject", NO_TEXTS)
def test_a_foreign_subject_is_a_printable_text(subject: object) -> None:
    assert "its subject" in refusal(theirs, {**issuers.claims(), "sub": subject})


def test_a_foreign_subject_may_be_any_claim() -> None:
    names = Names(subject="email")

    assert (
        theirs(issuers.claims(sub=None, email="alice@example.com"), names=names).subject
        == "alice@example.com"
    )
    with pytest.raises(TokenRefused, match="its subject"):
        theirs(issuers.claims(), names=names)


def test_tenant_and_plan_are_read_where_they_are_mapped() -> None:
    claims = issuers.claims(org="acme", **{"https://idp.example/plan": "gold"})

    assert theirs(claims)[3:5] == ("acme", "gold")
    assert theirs(claims, names=Names())[3:5] == ("", "")
    assert theirs(issuers.claims())[3:5] == ("", "")


@pytest.mark.parametrize("value", [None, "", "Acme", "1a", "a.b", "a" * 64, 7, ["acme"], "acme\n"])
@pytest.mark.parametrize("claim", ["org", "https://idp.example/plan"])
def test_a_tenant_that_is_no_name_is_not_nobody(claim: str, value: object) -> None:
    assert "is not a lower-case letter" in refusal(theirs, {**issuers.claims(), claim: value})


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("", ()),
        ("orders.read", ("orders.read",)),
        (" a  b a ", ("a", "b")),
        (["a", "b", "a"], ("a", "b")),
        ([], ()),
        ('openid "x" a,b ü a' + "a" * 64, ("openid",)),
        (["orders read", "orders.read", ""], ("orders.read",)),
        (secret_of(bytes(32)), ()),
    ],
)
def test_scopes_are_a_text_or_a_list(scope: object, scopes: tuple[str, ...]) -> None:
    assert theirs(issuers.claims(scope=scope)).scopes == scopes


@pytest.mark.parametrize("scope", [None, 7, True, {"a": 1}, ["a", 7], ["a", None], [["a"]]])
def test_scopes_are_nothing_else(scope: object) -> None:
    assert "its scopes" in refusal(theirs, {**issuers.claims(), "scope": scope})


def test_scopes_stand_in_any_claim_or_in_none() -> None:
    claims = issuers.claims(scp=["a"], scope="b")

    assert theirs(claims, names=Names(scopes="scp")).scopes == ("a",)
    assert theirs(claims, names=Names(scopes="")).scopes == ()


def test_scopes_are_at_most_a_hundred() -> None:
    hundred = [f"s{number}" for number in range(100)]

    assert theirs(issuers.claims(scope=hundred * 2)).scopes == tuple(hundred)
    assert refusal(theirs, issuers.claims(scope=[*hundred, "more"])) == "it has more than 100 scopes"


@pytest.mark.parametrize("token_id", NO_TEXTS)
def test_a_foreign_id_is_a_text_or_missing(token_id: object) -> None:
    assert theirs(issuers.claims(jti="j")).token_id == "j"
    assert theirs(issuers.claims()).token_id == ""
    assert "its id" in refusal(theirs, {**issuers.claims(), "jti": token_id})


@given(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9._:/-]{1,66}", fullmatch=True))
def test_a_scope_is_what_a_key_may_have(text: str) -> None:
    """The rule stands in `keys`, too; here is what holds them together. So for tenants, below."""
    try:
        known = created("k", Kind.SERVER, {"label": "x", "scopes": (text,)}, "0" * 64, NOW_MS).scopes
    except ValueError:
        known = ()

    assert theirs(issuers.claims(scope=[text])).scopes == known


@given(st.text(min_size=1, max_size=70) | st.from_regex(r"[a-z][a-z0-9_-]{0,64}\n?", fullmatch=True))
def test_a_tenant_is_what_a_key_may_have(text: str) -> None:
    try:
        created("k", Kind.SERVER, {"label": "x", "tenant": text}, "0" * 64, NOW_MS)
    except ValueError:
        assert refusal(theirs, issuers.claims(org=text))
    else:
        assert theirs(issuers.claims(org=text)).tenant == text
