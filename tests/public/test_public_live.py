"""Tokens end to end: a real gate, TLS, an OAuth client library, and the check plane that takes the tokens."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import pytest
from authlib.integrations.base_client import OAuthError
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.certificates import Certificates
from tests.issuers import AUDIENCE
from tests.public.live import CLIENT, ApiKey, Public, StartGate, public_gate
from tests.public.plane import everything_in
from tests.servers import WITHIN_S, eventually
from tests.stores import StoreServer

# The library would rather have the algorithm called Ed25519 (RFC 9864); verifiers know EdDSA.
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")

Start = Callable[..., Public]


@pytest.fixture
def start(running: ExitStack, start_gate: StartGate, certificates: Certificates) -> Start:
    def start(more: str = "", *, workers: int = 1, store_url: str | None = None) -> Public:
        gate = public_gate(start_gate, certificates, more, workers=workers, store_url=store_url)
        return running.enter_context(gate)

    return start


def everywhere(public: Public, token: str, status: int) -> bool:
    """Whether every worker answers so: each connection may meet another one."""
    return all(public.use(token) == status for _ in range(20))


# --- with a client library ----------------------------------------------------


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_it_serves_a_client_library(start: Start, method: str) -> None:
    public = start()
    key = public.key("orders.read", "orders.write")
    told = public.get("/.well-known/oauth-authorization-server").json()
    assert method in told["token_endpoint_auth_methods_supported"]

    with public.client(key, method=method, scope="orders.read") as session:
        token = session.fetch_token(told["token_endpoint"])
        assert (token["token_type"], token["expires_in"], token["scope"]) == ("Bearer", 900, "orders.read")
        assert public.use(token["access_token"]) == 200

        about = session.introspect_token(told["introspection_endpoint"], token=token["access_token"]).json()
        assert (about["active"], about["scope"], about["client_id"]) == (True, "orders.read", key.id)

        taken = session.revoke_token(told["revocation_endpoint"], token=token["access_token"])
        assert taken.status_code == 200
    assert not public.active(key, token["access_token"])
    eventually(lambda: public.use(token["access_token"]) == 401, "the token is refused")


def test_it_publishes_what_others_verify_its_tokens_with(start: Start) -> None:
    public = start()
    key = public.key("orders.read")
    published = public.get("/.well-known/jwks.json")

    decoded = jwt.decode(public.token(key), KeySet.import_key_set(published.json()), algorithms=["EdDSA"])

    claims = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": public.url}, aud={"essential": True, "value": AUDIENCE}
    )
    claims.validate(decoded.claims)
    assert decoded.claims["sub"] == key.id
    assert "max-age" in published.headers["Cache-Control"]
    assert "d" not in published.json()["keys"][0]


def test_it_lets_a_token_do_what_its_key_may_and_no_more(start: Start) -> None:
    public = start()
    reader = public.key("orders.read", "other", cidrs=["127.0.0.1/32", f"{CLIENT}/32"])
    token, narrow = public.token(reader), public.token(reader, scope="other")

    assert public.use(token) == 200
    assert public.use(narrow) == 403
    assert public.use(token, address="198.51.100.7") == 403
    with pytest.raises(OAuthError, match="invalid_scope"):
        public.token(reader, scope="orders.write")


def test_it_gives_no_token_to_who_may_have_none(start: Start) -> None:
    public = start()
    elsewhere = public.key(cidrs=["198.51.100.0/24"])
    disabled = public.key()
    public.admin("PATCH", f"/v1/keys/{disabled.id}", {"enabled": False})
    page = public.key(kind="client")
    nobody = ApiKey("k_nobody", page.secret)

    for key, error in (
        (elsewhere, "unauthorized_client"),
        (page, "unauthorized_client"),
        (nobody, "invalid_client"),
        (ApiKey(elsewhere.id, disabled.secret), "invalid_client"),
    ):
        with pytest.raises(OAuthError, match=error):
            public.token(key)
    eventually(
        lambda: public.post("/oauth/token", disabled, grant_type="client_credentials").status_code == 400,
        "the key is disabled",
    )
    wrong = ApiKey(disabled.id, page.secret)
    assert public.post("/oauth/token", wrong, grant_type="client_credentials").status_code == 401


# --- judged like everything else ----------------------------------------------


def test_it_limits_wrong_secrets(start: Start) -> None:
    limits = "limits: [{name: guessing, per: [ip], permits: 3, window: 1h, counts: credential_failures}]\n"
    public = start(limits)
    key, wrong = public.key(), public.key().secret
    guess = ApiKey(key.id, wrong)

    answers = [public.post("/oauth/token", guess, grant_type="client_credentials") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert "q=3" in answers[-1].headers["RateLimit-Policy"]
    # One budget for all paths, and nothing is verified any more, not even what is right.
    assert public.post("/oauth/introspect", key, token="x").status_code == 429
    assert public.get("/.well-known/jwks.json").status_code == 200


def test_it_counts_requests_for_tokens_as_the_keys(start: Start) -> None:
    public = start("limits: [{name: per-key, per: [key], permits: 3, window: 1h}]\n")
    key = public.key("orders.read")
    token = public.token(key)

    assert [public.use(token) for _ in range(3)] == [200, 200, 429]
    answer = public.post("/oauth/token", key, grant_type="client_credentials")
    assert (answer.status_code, answer.json()["error"]) == (429, "temporarily_unavailable")


def test_it_heeds_attack_mode_and_lists(start: Start) -> None:
    public = start()
    key = public.key()
    public.admin("POST", "/v1/addresses/deny", {"add": ["127.0.0.1/32"]})
    eventually(
        lambda: public.post("/oauth/token", key, grant_type="client_credentials").status_code == 403, "denied"
    )
    assert public.post("/oauth/token", None, x="y").json()["error"] == "access_denied"
    denied = [public.get(path) for path in ("/.well-known/jwks.json", "/nothing")]
    assert [(answer.status_code, answer.json()["error"]) for answer in denied] == [(403, "access_denied")] * 2
    public.admin("PUT", "/v1/attack", {"on": True})
    eventually(
        lambda: public.post("/oauth/token", key, grant_type="client_credentials").status_code == 503, "on"
    )
    assert public.get("/.well-known/jwks.json").status_code == 503


def test_it_heeds_filters_and_limits_where_no_key_is_needed(start: Start) -> None:
    public = start(
        '  - {name: no-metadata, match: {paths: ["/.well-known/oauth-authorization-server"]}, methods: [POST]}\n'
        '  - {name: nothing, match: {paths: ["/nothing"]}, kinds: [anonymous]}\n'
        "limits: [{name: per-ip, per: [ip], permits: 1, window: 1h}]\n"
    )

    assert public.get("/.well-known/oauth-authorization-server").status_code == 403
    # Limits count who needs no key where a filter says so, and nowhere else.
    assert [public.get("/.well-known/jwks.json").status_code for _ in range(3)] == [200, 200, 200]
    assert [public.get("/nothing").status_code for _ in range(2)] == [404, 429]


# --- what ends a token, and what does not -------------------------------------


def test_every_worker_refuses_a_token_that_was_taken_back(start: Start) -> None:
    public = start(workers=2)
    key = public.key("orders.read")
    token, other = public.token(key), public.token(key)
    assert everywhere(public, token, 200)

    assert public.post("/oauth/revoke", key, token=token).status_code == 200
    assert public.post("/oauth/revoke", key, token=token).status_code == 200

    eventually(lambda: everywhere(public, token, 401), "every worker refuses it")
    assert everywhere(public, other, 200)


def test_a_disabled_key_ends_its_tokens_and_a_new_secret_does_not(start: Start) -> None:
    public = start(workers=2)
    key = public.key("orders.read")
    token = public.token(key)

    rotated = public.admin("POST", f"/v1/keys/{key.id}/rotate", {"grace": "0s"})
    renewed = ApiKey(key.id, rotated["secret"])
    eventually(
        lambda: public.post("/oauth/token", key, grant_type="client_credentials").status_code == 401,
        "the secret of before is refused",
    )
    assert everywhere(public, token, 200)
    assert public.active(renewed, token)

    public.admin("PATCH", f"/v1/keys/{key.id}", {"enabled": False})
    eventually(lambda: everywhere(public, token, 403), "every worker refuses it")


def test_it_signs_with_another_key_without_a_break(start: Start) -> None:
    public = start()
    key = public.key("orders.read")
    before = public.token(key)

    def published(algorithms: list[str]) -> bool:
        keys = public.get("/.well-known/jwks.json").json()["keys"]
        return [key["alg"] for key in keys] == algorithms

    for now, then, algorithms in (
        ("[ed.pem]", "[ed.pem, ec.pem]", ["EdDSA", "ES256"]),
        ("[ed.pem, ec.pem]", "[ec.pem, ed.pem]", ["ES256", "EdDSA"]),
    ):
        public.rewrite(now, then)
        public.gate.server.signal(signal.SIGHUP)
        eventually(partial(published, algorithms), f"{then} are published")
        assert public.use(before) == 200

    after = public.token(key)
    assert public.use(after) == 200
    assert public.active(key, before)
    assert public.active(key, after)

    public.rewrite("[ec.pem, ed.pem]", "[ec.pem]")
    public.gate.server.signal(signal.SIGHUP)
    eventually(lambda: public.use(before) == 401, "the key of before is not trusted any more")
    assert public.use(after) == 200


# --- TLS ----------------------------------------------------------------------


def spoken(public: Public, version: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> str | None:
    context = ssl.create_default_context(cafile=public.ca)
    context.set_ciphers(ciphers)
    context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", public.port), timeout=WITHIN_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        return secured.version()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_it_speaks_the_profile_and_shows_a_renewed_certificate(
    start: Start, certificates: Certificates
) -> None:
    public = start()
    assert spoken(public, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert spoken(public, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    for version, ciphers in (
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-SHA384"),
    ):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            spoken(public, version, ciphers)

    shutil.copy(certificates.client_cert, public.tls / "tls.crt")
    shutil.copy(certificates.client_key, public.tls / "tls.key")
    public.gate.server.signal(signal.SIGHUP)
    renewed = ssl.PEM_cert_to_DER_cert(certificates.client_cert.read_text())
    eventually(
        lambda: ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", public.port))) == renewed,
        "the renewed certificate is shown",
    )


# --- secrets ------------------------------------------------------------------


def test_it_leaves_no_secret_behind(start: Start, valkey: StoreServer) -> None:
    public = start(store_url=valkey.url())
    key = public.key("orders.read")
    wrong = public.key().secret
    token = public.token(key)
    public.use(token)
    public.active(key, token)
    public.post("/oauth/token", ApiKey(key.id, wrong), grant_type="client_credentials")
    public.post(f"/oauth/token?client_id={key.id}&client_secret={key.secret}")
    public.post("/oauth/introspect", key, token=token, client_secret=key.secret)
    public.post("/oauth/revoke", key, token=token)
    public.use(token)

    places = {
        "log": public.gate.server.log.read_bytes(),
        "store": everything_in(valkey),
        "audit": public.gate.admin("/v1/audit?limit=1000").body,
        "metrics": public.gate.admin("/metrics").body,
    }
    assert b"token.revoke" in places["audit"]
    assert b"credential_invalid" in places["log"]
    for place, text in places.items():
        for secret in (key.secret, wrong, token, token.rpartition(".")[2]):
            assert secret.encode() not in text, place
