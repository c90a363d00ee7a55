"""What a client says about itself changes neither who is counted nor what is decided: nginx, Envoy, Caddy, for real.

Each test runs through each proxy with its shipped file. Who is counted is seen in two ways: by whose permits go, and
by the address in the gate's decision log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.fronts.shipped import START, House, fresh_address, house, problem

DENIED = "127.0.0.66"

POLICY = f"""
log: {{refusals_per_s: 1000}}
addresses: {{deny: {{cidrs: ["{DENIED}"]}}}}
limits:
  - {{name: per-ip, per: [ip], permits: 2, window: 31d}}
  - {{name: priced, per: [ip], permits: 100, window: 31d, cost: {{header: X-Cost, max: 50}}}}
filters:
  - {{name: internal, match: {{paths: ["/internal/*"]}}, deny: true}}
  - {{name: hidden, match: {{hosts: ["hidden.example"]}}, deny: true}}
  - {{name: reports, match: {{paths: ["/reports/*"]}}, methods: [GET]}}
  - {{name: small, match: {{methods: [POST], paths: ["/small/*"]}}, max_body: 10}}
  - {{name: secret, match: {{paths: ["/secret/*"]}}, tls_min: "1.2"}}
"""

# Every way that we know of to say where a request comes from.
ADDRESS_HEADERS = (
    "X-Forwarded-For",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Original-Forwarded-For",
    "X-Envoy-External-Address",
    "X-ProxyUser-Ip",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "True-Client-IP",
    "X_Forwarded_For",
    "X_Real_IP",
    "x_real-ip",
    "Remote-Addr",
    "Via",
)


@pytest.fixture(scope="module", params=START)
def shop(request: pytest.FixtureRequest) -> Iterator[House]:
    with house(request.param, POLICY) as built:
        yield built


def claims(address: str) -> list[tuple[str, str]]:
    """All of them at once, in one line and in several, with all that goes around an address."""
    lines = [(name, address) for name in ADDRESS_HEADERS]
    lines += [("X-Forwarded-For", f"{address}, 10.0.0.1"), ("X-Real-IP", address)]
    lines += [("Forwarded", f'for="{address}";host=hidden.example;proto=https')]
    return lines


# --- who is counted -----------------------------------------------------------


def test_it_counts_the_peer_whoever_it_claims_to_be(shop: House) -> None:
    with shop.client() as client:
        statuses = [client.ask(headers=claims(fresh_address())).status for _ in range(3)]
        last = client.ask(headers=claims(fresh_address()))

    assert statuses == [200, 200, 429]
    assert shop.logged(last)["address"] == client.address


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
@pytest.mark.parametrize("value", ["{}", "for={}", "{}, {}", "{}:80", "[::ffff:{}]", "unknown", ""])
def test_it_counts_the_peer_whatever_one_header_says(shop: House, name: str, value: str) -> None:
    with shop.client() as client:
        headers = [{name: value.replace("{}", fresh_address())} for _ in range(3)]
        assert [client.ask(headers=each).status for each in headers] == [200, 200, 429]


def test_it_charges_nobody_for_somebody_else(shop: House) -> None:
    victim = fresh_address()

    with shop.client() as client:
        for _ in range(4):
            client.ask(headers=claims(victim))

    answer = shop.ask(address=victim)
    assert answer.status == 200
    assert answer.headers["RateLimit"].startswith('"per-ip";r=1;')


def test_it_denies_an_address_whoever_it_claims_to_be(shop: House) -> None:
    answer = shop.ask(headers=claims(fresh_address()), address=DENIED)

    assert answer.status == 403
    assert shop.logged(answer)["address"] == DENIED


def test_it_denies_nobody_for_claiming_to_be_a_denied_address(shop: House) -> None:
    assert shop.ask(headers=claims(DENIED)).status == 200


def test_it_believes_no_cost_of_a_client(shop: House) -> None:
    headers = [("X-Cost", "50"), ("X-Cost", "40"), ("X_Cost", "50"), ("x-cost", "-1")]

    answer = shop.ask(headers=headers)

    assert re.search(r'"priced";r=99;', answer.headers["RateLimit"])


# --- what is decided ----------------------------------------------------------

OPEN_PATH = (
    ("X-Original-URI", "/"),
    ("X-Original-URL", "http://open.example/"),
    ("X-Original-URL", "/"),
    ("X-Rewrite-URL", "/"),
    ("X-Forwarded-Uri", "/"),
    ("X-Forwarded-Path", "/"),
    ("X-Envoy-Original-Path", "/"),
    ("X_Original_URI", "/"),
)


@pytest.mark.parametrize("header", OPEN_PATH, ids=str)
def test_it_judges_the_path_that_was_asked(shop: House, header: tuple[str, str]) -> None:
    refused = shop.ask("/internal/keys", headers=[header])
    assert refused.status == 403
    assert shop.logged(refused)["path"] == "/internal/keys"

    closed = (header[0], header[1].removesuffix("/") + "/internal/keys")
    assert shop.ask("/open", headers=[closed, closed]).status == 200


@pytest.mark.parametrize(
    "name", ["X-Original-Method", "X-Forwarded-Method", "X-HTTP-Method-Override", "X_Original_Method"]
)
def test_it_judges_the_method_that_was_used(shop: House, name: str) -> None:
    assert shop.ask("/reports/1", method="DELETE", headers={name: "GET"}).status == 405
    assert shop.ask("/reports/1", headers=[(name, "DELETE"), (name, "DELETE")]).status == 200


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "X-Original-Host", "X-Host", "X_Forwarded_Host"])
def test_it_judges_the_host_that_was_asked(shop: House, name: str) -> None:
    refused = shop.ask(headers={"Host": "hidden.example", name: "open.example"})
    assert problem(refused)["code"] == "host"

    assert shop.ask(headers={"Host": "open.example", name: "hidden.example"}).status == 200


def test_it_judges_the_host_of_an_absolute_target(shop: House) -> None:
    refused = shop.ask("http://hidden.example/", headers={"Host": "open.example"})

    assert refused.status in {400, 403}


def test_it_judges_the_length_that_is_sent(shop: House) -> None:
    headers = [("X-Original-Length", "1"), ("X_Original_Length", "1"), ("Content-Type", "text/plain")]

    refused = shop.ask("/small/1", method="POST", body=b"x" * 11, headers=headers)
    allowed = shop.ask("/small/1", method="POST", body=b"x" * 10, headers=[("X-Original-Length", "99")])

    assert (refused.status, allowed.status) == (413, 200)


def test_it_judges_the_tls_that_there_is(shop: House) -> None:
    headers = {"X-Original-TLS": "TLSv1.3", "X-Forwarded-Proto": "https", "X_Original_TLS": "TLSv1.3"}

    assert problem(shop.ask("/secret/1", headers=headers))["code"] == "tls_version"


def test_it_takes_no_verdict_from_a_client(shop: House) -> None:
    headers = {
        "X-Portcullis-Status": "429",
        "X-Portcullis-Reason": "ok",
        "X-Envoy-Auth-Failure-Mode-Allowed": "true",
        "RateLimit": "x",
    }

    assert shop.ask(headers=headers).status == 200
    assert shop.ask("/internal/keys", headers=headers).status == 403


# --- what is handed on --------------------------------------------------------


@pytest.mark.parametrize("name", ["X-Portcullis-Key", "X-Portcullis-Tenant", "X-Portcullis-Plan"])
def test_it_tells_the_application_no_name_that_a_client_gave_itself(shop: House, name: str) -> None:
    shop.application.forget()

    shop.ask(headers=[(name, "admin"), (name.upper(), "root"), (name.replace("-", "_"), "admin")])

    (seen,) = shop.application.seen()
    assert [value for key, value in seen.headers if key == name.lower()] in ([], [""])
    assert not [key for key, _ in seen.headers if "_" in key]


ODD_IDS = (
    '"},{"a":"b',
    "a b",
    "<script>",
    "x" * 129,
    "é",
    "%0d%0aSet-Cookie: a=b",
    "../../etc",
    "$http_host",
)


@pytest.mark.parametrize("odd", ODD_IDS, ids=range(len(ODD_IDS)))
def test_it_hands_on_no_odd_request_id(shop: House, odd: str) -> None:
    answers = [shop.ask(target, headers={"X-Request-Id": odd}) for target in ("/", "/internal/keys")]

    assert [answer.status for answer in answers] == [200, 403]
    for answer in answers:
        (given,) = answer.headers.get_all("X-Request-Id") or []
        assert given != odd
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", given)
    assert problem(answers[1])["code"] == "path"


def test_it_sees_the_key_that_the_application_sees(shop: House) -> None:
    shop.ask(headers={"X-Api-Key": "one"})
    alone = shop.application.seen()[-1].header("x-portcullis-key")
    shop.application.forget()

    answer = shop.ask(headers=[("X-Api-Key", "one"), ("X-Api-Key", "two")])

    if answer.status == 200:  # Envoy has left one of them
        (seen,) = shop.application.seen()
        assert (seen.header("x-api-key"), seen.header("x-portcullis-key")) == ("one", alone)
    else:
        assert problem(answer)["code"] == "malformed"
        assert shop.application.count() == 0
