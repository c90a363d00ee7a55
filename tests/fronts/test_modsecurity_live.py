"""ModSecurity and the gate in one nginx, with the shipped files: bodies for the one, limits and lists for the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.fronts.shipped import RULES, SHIPPED, House, house, problem
from tests.proxies import replaced
from tests.servers import short_directory

MODULE: Final = Path("/usr/lib/nginx/modules/ngx_http_modsecurity_module.so")
CORE_RULES: Final = Path("/usr/share/modsecurity-crs/rules")

FORM: Final = {
    "Content-Type": "application/x-www-form-urlencoded",
    "User-Agent": "Mozilla/5.0",
    "Accept": "*/*",
}
JSON: Final = {**FORM, "Content-Type": "application/json"}

REFUSES: Final = {"SecRuleEngine DetectionOnly": "SecRuleEngine On"}
"""The one line by which an operator lets it refuse."""


@contextmanager
def inspected(directory: Path, also: dict[str, str]) -> Iterator[House]:
    """nginx with the gate and ModSecurity, as `location.conf` tells an operator to do it."""
    for needed, package in ((MODULE, "libnginx-mod-http-modsecurity"), (CORE_RULES, "modsecurity-crs")):
        assert needed.exists(), f"`make test` installs it, or: apt-get install {package}"
    rules, location = directory / "modsecurity.conf", directory / "location.conf"
    logs = {"/var/log/nginx/modsec_audit.log": str(directory / "audit.log")}
    rules.write_text(replaced(SHIPPED / "modsecurity" / "modsecurity.conf", logs | also))
    place = {"/etc/nginx/portcullis/modsecurity.conf": str(rules)}
    location.write_text(replaced(SHIPPED / "modsecurity" / "location.conf", place))
    lines = {
        "worker_processes auto;": f"load_module {MODULE};\nworker_processes 1;",
        "location / {": f"location / {{ include {location};",
    }
    with house("nginx", RULES, also=lines) as built:
        yield built


@pytest.fixture(scope="module")
def strict() -> Iterator[House]:
    with short_directory() as directory, inspected(directory, REFUSES) as built:
        yield built


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"name=1%27+UNION+SELECT+name%2Cpassword+FROM+users--+-", FORM),
        (b"comment=%3Cscript%3Ealert%28document.cookie%29%3C%2Fscript%3E", FORM),
        (b'{"file": "../../../../etc/passwd"}', JSON),
    ],
    ids=["sql", "script", "file in json"],
)
def test_it_refuses_a_hostile_body(strict: House, body: bytes, headers: dict[str, str]) -> None:
    strict.application.forget()

    answer = strict.ask("/comments", method="POST", body=body, headers=headers)

    assert answer.status == 403
    assert problem(answer)["code"] == "forbidden"
    assert strict.application.count() == 0


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"name=Conan+O%27Brien&comment=Please+select+a+union+from+the+list", FORM),
        (b'{"name": "Jean d\'Ormesson", "price": ">= 10"}', JSON),
    ],
    ids=["form", "json"],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_it_lets_an_ordinary_body_through(
    strict: House, method: str, body: bytes, headers: dict[str, str]
) -> None:
    strict.application.forget()

    answer = strict.ask("/comments", method=method, body=body, headers=headers)

    assert answer.status == 200
    assert strict.application.count() == 1


def test_it_refuses_a_body_that_is_not_what_it_says(strict: House) -> None:
    assert strict.ask("/comments", method="POST", body=b'{"a": ', headers=JSON).status == 400


def test_the_gate_still_limits(strict: House) -> None:
    with strict.client() as client:
        answers = [client.ask("/comments", method="POST", body=b"a=b", headers=FORM) for _ in range(4)]

    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert problem(answers[3])["code"] == "rate_limited"
    assert re.fullmatch(r'"per-ip";r=0;t=\d+', answers[3].headers["RateLimit"])


def test_the_gate_still_refuses(strict: House) -> None:
    assert problem(strict.ask("/internal/keys", headers=FORM))["code"] == "path"
    assert problem(strict.ask("/", address="127.0.0.66", headers=FORM))["code"] == "address_denied"


def test_it_only_reports_as_shipped_and_logs_no_credential_and_no_body() -> None:
    with short_directory() as directory, inspected(directory, {}) as shop:
        body = b"name=1%27+UNION+SELECT+name%2Cpassword+FROM+users--+-&word=unmentioned"
        secret = {**FORM, "X-Api-Key": "a-very-secret-key"}

        answer = shop.ask("/comments", method="POST", body=body, headers=secret)

        assert (answer.status, answer.body) == (200, body)
        logged = (directory / "audit.log").read_text()
        assert "UNION SELECT" in logged
        assert "a-very-secret-key" not in logged
        assert "unmentioned" not in logged
