"""The gate's verdict about a request to the public plane: the question, and what becomes of the answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from sidecar.config import Credentials, UnixEndpoint
from sidecar.core.credentials import HeaderPair
from sidecar.core.model import Reason
from sidecar.document.notations import TcpEndpoint
from sidecar.public.judging import CheckPlane, Judging, Told, admitted, let_by, question_of, refusal_of
from sidecar.public.reading import Caller, Credential
from sidecar.public.refusals import Error, NotAuthenticated, Refusal
from tests.public.plane import Judge, credentials
from tests.servers import free_port

MINE = Credential("k_a", "s")


def caller(**headers: str) -> Caller:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Caller("203.0.113.9", "POST", "gate.example", "/oauth/token", given, "r-1")


def told(reason: Reason, key_id: str = "") -> Told:
    return Told(reason, reason.status, 7, key_id, {})


def test_it_asks_about_the_client_as_any_application_does() -> None:
    question = orjson.loads(question_of(caller(user_agent="curl", content_type="x/y"), MINE, credentials()))

    assert question == {
        "address": "203.0.113.9",
        "method": "POST",
        "host": "gate.example",
        "path": "/oauth/token",
        "headers": {"user-agent": "curl", "content-type": "x/y", "x-app-id": "k_a", "x-app-token": "s"},
    }


def test_it_asks_with_the_names_of_the_configuration() -> None:
    names = Credentials(mode="registry", headers=(), server=HeaderPair(b"x-id", b"x-secret"))

    question = orjson.loads(question_of(caller(), MINE, names))

    assert question["headers"] == {"x-id": "k_a", "x-secret": "s"}


def test_it_asks_about_no_other_credential() -> None:
    others = {
        "authorization": "Basic x",
        "proxy_authorization": "Basic x",
        "cookie": "a=b",
        "x_api_key": "k_b.s",
        "x_app_id": "k_b",
        "x_app_token": "s",
        "x_client_application_id": "k_b",
        "x_client_token": "s",
    }

    question = orjson.loads(question_of(caller(**others), None, credentials()))

    assert question["headers"] == {}


def test_it_refuses_headers_that_the_check_plane_does_not_take() -> None:
    judging = Judging(Judge(), credentials)

    with pytest.raises(Refusal) as refused:
        asyncio.run(judging.told(caller(x_long="x" * 70_000), MINE))

    assert refused.value.status == 431


@pytest.mark.parametrize("reason", [Reason.OK, Reason.EXEMPT])
def test_it_admits_whom_the_gate_has_proved(reason: Reason) -> None:
    assert admitted(told(reason, "k_a"), MINE) == "k_a"


@pytest.mark.parametrize(
    ("key_id", "credential"),
    [("", None), ("", MINE), ("k_a", None), ("k_b", MINE), ("", Credential("", ""))],
)
def test_it_admits_nobody_whom_the_gate_only_lets_in(key_id: str, credential: Credential | None) -> None:
    with pytest.raises(NotAuthenticated):
        admitted(told(Reason.OK, key_id), credential)


@pytest.mark.parametrize("reason", Reason)
def test_it_needs_no_credential_for_what_everybody_may_know_and_nothing_else_is_forgiven(
    reason: Reason,
) -> None:
    if reason.allowed or reason is Reason.CREDENTIAL_MISSING:
        let_by(told(reason))
    else:
        with pytest.raises(Refusal):
            let_by(told(reason))


UNAVAILABLE = Error.TEMPORARILY_UNAVAILABLE
WORDS = {
    Reason.CREDENTIAL_MISSING: (401, Error.INVALID_CLIENT),
    Reason.CREDENTIAL_INVALID: (401, Error.INVALID_CLIENT),
    Reason.CREDENTIAL_DISABLED: (400, Error.UNAUTHORIZED_CLIENT),
    Reason.CREDENTIAL_ADDRESS: (400, Error.UNAUTHORIZED_CLIENT),
    Reason.KIND: (400, Error.UNAUTHORIZED_CLIENT),
    Reason.MALFORMED: (400, Error.INVALID_REQUEST),
    Reason.CREDENTIAL_IN_QUERY: (400, Error.INVALID_REQUEST),
    Reason.RATE_LIMITED: (429, UNAVAILABLE),
    Reason.ATTACK_MODE: (503, UNAVAILABLE),
    Reason.STORE_UNAVAILABLE: (503, UNAVAILABLE),
}


@pytest.mark.parametrize("reason", [reason for reason in Reason if not reason.allowed])
def test_it_words_every_refusal_of_the_gate(reason: Reason) -> None:
    refusal = refusal_of(told(reason))

    assert (refusal.status, refusal.error) == WORDS.get(reason, (403, Error.ACCESS_DENIED))
    assert ("Retry-After" in refusal.headers) == (refusal.error is UNAVAILABLE)
    assert ("WWW-Authenticate" in refusal.headers) == (refusal.status == 401)


def test_it_does_not_tell_a_missing_credential_from_a_wrong_one() -> None:
    missing, wrong = (
        refusal_of(told(reason)) for reason in (Reason.CREDENTIAL_MISSING, Reason.CREDENTIAL_INVALID)
    )

    assert (missing.detail, missing.headers) == (wrong.detail, wrong.headers)


def test_it_answers_that_the_gate_is_away(directory: Path) -> None:
    async def scenario() -> None:
        for endpoint in (TcpEndpoint("0.0.0.0", free_port()), UnixEndpoint(directory / "check")):
            plane = CheckPlane(endpoint)
            with pytest.raises(Refusal) as refused:
                await plane.ask(b"{}", "")
            assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
            await plane.close()

    asyncio.run(scenario())
