"""Who is asking, and is this request acceptable: the tables, through nginx, Envoy and Caddy, line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.certificates import Certificates
from tests.control.operators import done
from tests.credentials.cases import TABLES, Case, bearer, client, key, pair
from tests.credentials.sites import FAILURES, Site, sites
from tests.fronts.shipped import START, fresh_address, problem
from tests.servers import Answer, Headers

ALLOWED_PAGE = "https://www.example.com"


@pytest.fixture(scope="module")
def all_sites(certificates: Certificates) -> Iterator[dict[str, Site]]:
    with sites(certificates) as built:
        yield built


@pytest.fixture(params=START)
def site(request: pytest.FixtureRequest, all_sites: dict[str, Site]) -> Site:
    return all_sites[request.param]


def outcome(answer: Answer) -> tuple[int, str]:
    """The status, and the reason of a refusal of the gate's."""
    refused = answer.status != 200 and answer.headers["Content-Type"] == "application/problem+json"
    return answer.status, problem(answer)["code"] if refused else ""


def asked(site: Site, case: Case) -> Answer:
    secrets = {**site.known.secrets, **site.known.tokens}
    target = re.sub(r"\{([a-z-]+)\}", lambda found: secrets[found[1]], case.target)
    return site.ask(
        target, method=case.method, headers=case.headers, body=case.body, address=case.address, tls=case.tls
    )


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{name}: {case}") for name, table in TABLES.items() for case in table]
)
def test_it_answers_as_the_table_says(site: Site, case: Case) -> None:
    status, code = case.outcome_at(site.kind)

    answer = asked(site, case)

    assert outcome(answer) == (site.status(status), code)
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    if status == 405:
        assert answer.headers["Allow"]
    if status == 503:
        assert answer.headers["Retry-After"] == "60"


# --- what refusals tell -------------------------------------------------------

VARYING = {"x-request-id", "date"}
WRONG: dict[str, Headers] = {
    "an unknown id": key("nosuch", "wrong"),
    "a wrong secret": key("shop", "wrong"),
    "another's secret": pair("shop", "reader"),
    "a disabled key's id": key("off", "wrong"),
    "expired": key("over"),
    "deleted": key("gone"),
    "no secret": {"X-Api-Key": "shop"},
    "half a pair": {"X-App-Token": "{shop}"},
    "a bad token": bearer("{token-forged}"),
    "a client's key, wrong": client("page", secret="wrong"),
}


def test_it_tells_all_who_show_something_wrong_the_same(site: Site) -> None:
    answers = [site.ask("/mine", headers=headers) for headers in WRONG.values()]

    told = {
        (
            answer.status,
            tuple((name, value) for name, value in answer.headers.items() if name.lower() not in VARYING),
            answer.body.replace(answer.headers["X-Request-Id"].encode(), b"ID"),
        )
        for answer in answers
    }
    assert len(told) == 1, told
    for word in (b"shop", b"nosuch", b"off", b"secret", b"expired"):
        assert not [answer for answer in answers if word in answer.body]


READABLE: dict[str, tuple[str, Headers, str, str, str]] = {
    # says: (target, headers, origin, the reason, the origin that may read it)
    "an allowed page without a key": ("/shop/embedded", {}, ALLOWED_PAGE, "credential_missing", ALLOWED_PAGE),
    "an allowed page, a wrong key": (
        "/shop/embedded", client("anybody", secret="wrong"), ALLOWED_PAGE, "credential_invalid", ALLOWED_PAGE),
    "an allowed page, no such key": (
        "/shop/embedded", client("nosuch", secret="wrong"), ALLOWED_PAGE, "credential_invalid", ALLOWED_PAGE),
    "an allowed page, a disabled key": (
        "/shop/embedded", client("app-off"), ALLOWED_PAGE, "credential_disabled", ALLOWED_PAGE),
    "an allowed page, two keys": (
        "/shop/embedded", {**client("anybody"), **key("shop")}, ALLOWED_PAGE, "malformed", ""),
    "another page": ("/shop/embedded", client("anybody"), "https://evil.io", "origin", ""),
    "no page": ("/shop/embedded", client("anybody"), "null", "origin", ""),
    "a page of the key's": ("/shop/cart", client("page"), "https://shop.example", "scope", "https://shop.example"),
    "a page that is not the key's": ("/shop/cart", client("page"), "https://evil.io", "origin", ""),
    "a page where no filter knows origins, a wrong key": (
        "/shop/1", client("page", secret="wrong"), "https://shop.example", "credential_invalid", ""),
    "a path that is not opened": ("/mine", client("anybody"), ALLOWED_PAGE, "kind", ""),
}  # fmt: skip


@pytest.mark.parametrize(("target", "headers", "origin", "code", "reader"), READABLE.values(), ids=READABLE)
def test_it_lets_pages_of_allowed_origins_alone_read_a_refusal(
    site: Site, target: str, headers: dict[str, str], origin: str, code: str, reader: str
) -> None:
    answer = site.ask(target, headers={**headers, "Origin": origin})

    assert problem(answer)["code"] == code
    assert answer.headers.get_all("Access-Control-Allow-Origin") == ([reader] if reader else None)
    assert (answer.headers["Vary"] == "Origin") is bool(reader)
    assert "Access-Control-Allow-Credentials" not in answer.headers


# --- what the application is told ---------------------------------------------

FORGED = {"X-Portcullis-Key": "admin", "X-Portcullis-Tenant": "root", "X-Portcullis-Plan": "free"}
WHO: dict[str, tuple[str, dict[str, str], tuple[str, str, str]]] = {
    "a server key": ("/mine", key("shop"), ("shop", "acme", "gold")),
    "a key without tenant and plan": ("/mine", pair("plain"), ("plain", "", "")),
    "a client key": ("/shop/1", client("anybody"), ("anybody", "", "")),
    "a token": ("/mine", bearer("{token}"), ("idp:alice", "acme", "gold")),
    "nobody": ("/login", {}, ("", "", "")),
}


@pytest.mark.parametrize(("target", "headers", "who"), WHO.values(), ids=WHO)
def test_it_tells_the_application_who_asks_whoever_they_say_they_are(
    site: Site, target: str, headers: dict[str, str], who: tuple[str, str, str]
) -> None:
    site.application.forget()

    assert site.ask(target, headers=headers | FORGED).status == 200

    (seen,) = site.application.seen()
    assert tuple(seen.header(f"x-portcullis-{name}") or "" for name in ("key", "tenant", "plan")) == who
    assert seen.header("x-app-token") in {None, ""}
    assert seen.header("x-client-token") in {None, ""}


def test_it_keeps_from_the_application_whatever_it_refuses(site: Site) -> None:
    site.application.forget()

    for case in (*TABLES["server"], *TABLES["query"]):
        if case.outcome_at(site.kind)[0] != 200:
            asked(site, case)

    assert site.application.count() == 0


# --- limits -------------------------------------------------------------------


def statuses(site: Site, times: int, target: str, headers: Headers, address: str | None = None) -> list[int]:
    return [site.ask(target, headers=headers, address=address).status for _ in range(times)]


def forget(site: Site, limit: str, **subject: str) -> None:
    done(site.gate, "POST", "/v1/reset", {"limit": limit, **subject})


def test_it_lets_so_many_credentials_of_an_address_fail_and_tries_no_more(site: Site) -> None:
    address = fresh_address()
    failed = [site.ask("/mine", headers=key("shop", "wrong"), address=address) for _ in range(FAILURES)]
    refused = [
        site.ask("/mine", headers=headers, address=address)
        for headers in (key("shop", "wrong"), key("nosuch", "wrong"), key("plain"), bearer("{token-over}"))
    ]
    anonymous = site.ask("/login", address=address)
    elsewhere = site.ask("/mine", headers=key("shop"))

    assert [outcome(answer) for answer in failed] == [(401, "credential_invalid")] * FAILURES
    assert [outcome(answer) for answer in refused] == [(429, "rate_limited")] * 4
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    assert (anonymous.status, elsewhere.status) == (200, 200)


def test_it_charges_no_failure_to_who_shows_a_good_credential(site: Site) -> None:
    address = fresh_address()
    good = statuses(site, 3 * FAILURES, "/mine", key("shop"), address)
    missing = statuses(site, 2 * FAILURES, "/mine", {}, address)
    disabled = statuses(site, 2 * FAILURES, "/mine", key("off"), address)

    assert (set(good), set(missing), set(disabled)) == ({200}, {401}, {403})
    assert site.ask("/mine", headers=key("reader"), address=address).status == 200


@pytest.mark.parametrize(("key_id", "permits"), [("plain", 2), ("golden", 4), ("barred", 0)])
def test_it_counts_each_key_by_its_plan(site: Site, key_id: str, permits: int) -> None:
    forget(site, "per-key", key=key_id)

    told = statuses(site, permits + 1, "/metered", key(key_id))

    assert told == [200] * permits + [429]
    assert statuses(site, 1, "/metered", pair(key_id)) == [429], "however it is presented"


def test_it_counts_the_keys_of_a_tenant_together(site: Site) -> None:
    forget(site, "per-tenant", tenant="acme")

    told = [
        site.ask("/shared", headers=headers).status
        for headers in (key("one-of-acme"), key("two-of-acme"), bearer("{token}"), key("shop"))
    ]

    assert told == [200, 200, 200, 429]
    assert statuses(site, 1, "/shared", key("plain")) == [200], "who has no tenant"


def test_it_counts_pages_by_their_address(site: Site) -> None:
    address = fresh_address()

    told = statuses(site, 3, "/shop/metered", client("anybody"), address)

    assert told == [200, 200, 429]
    assert site.ask("/shop/metered", headers=key("shop"), address=address).status == 200
    assert statuses(site, 1, "/shop/metered", client("anybody")) == [200]


@pytest.mark.parametrize(
    ("limit", "target", "subject", "permits"),
    [("per-key", "/metered", {"key": "reader"}, 2), ("per-tenant", "/shared", {"tenant": "acme"}, 3)],
    ids=["key", "tenant"],
)
def test_it_takes_other_permits_for_one_and_begins_anew(
    site: Site, limit: str, target: str, subject: dict[str, str], permits: int
) -> None:
    asks = key(subject.get("key", "two-of-acme"))
    forget(site, limit, **subject)
    usual = statuses(site, permits + 1, target, asks)
    done(site.gate, "PUT", "/v1/overrides", {"limit": limit, "permits": permits + 2, **subject})
    more = statuses(site, 3, target, asks)
    done(site.gate, "POST", "/v1/overrides/unset", {"limit": limit, **subject})
    again = statuses(site, 1, target, asks)
    forget(site, limit, **subject)
    anew = statuses(site, 1, target, asks)

    assert usual == [200] * permits + [429]
    assert more == [200, 200, 429]
    assert (again, anew) == ([429], [200])


# --- shadow -------------------------------------------------------------------


def test_it_reports_what_shadow_rules_would_refuse(site: Site) -> None:
    before = {
        rule: site.gate.metric("portcullis_shadow_total", rule=rule)
        for rule in ("watching", "watching-scopes")
    }
    script = "/watched?q=%3Cscript%3Ealert(1)%3C/script%3E"

    passed = site.ask(script, headers=key("plain"))
    refused = site.ask(script, headers=key("struck"))
    direct = site.gate.forward(fresh_address(), script, headers=site.known.put_into(key("plain")))

    after = {rule: site.gate.metric("portcullis_shadow_total", rule=rule) for rule in before}
    assert (passed.status, problem(refused)["code"]) == (200, "attack_mode")
    assert site.logged(refused)["shadow"] == ["watching"]
    assert direct.headers["X-Portcullis-Shadow"] == "watching, watching-scopes"
    assert (after["watching"] - before["watching"], after["watching-scopes"] - before["watching-scopes"]) == (
        3,
        2,
    )
    assert not [name for name in (*passed.headers, *refused.headers) if name.lower() == "x-portcullis-shadow"]
