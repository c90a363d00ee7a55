"""Tokens of keys, over a real store: who gets which, what they are worth later, and how they are taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from sidecar.core.keys import Kind
from sidecar.public.tokens import TABLE
from tests.issuers import AUDIENCE, OURS, eddsa, own_claims
from tests.public.plane import (
    EC,
    ED,
    INTROSPECT,
    KEYS,
    REVOKE,
    TOKEN,
    TTL_MS,
    PublicPlane,
    everything_in,
    public_plane,
)
from tests.stores import StoreServer

# The library would rather have the algorithm called Ed25519 (RFC 9864); verifiers know EdDSA.
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")

Scenario = Callable[[PublicPlane], Awaitable[None]]


def run(valkey: StoreServer, scenario: Scenario) -> None:
    async def whole() -> None:
        async with public_plane(valkey) as plane:
            await plane.key("k_a", "orders.read", "role:clerk")
            await plane.key("k_b", "orders.read")
            await scenario(plane)

    asyncio.run(whole())


async def claims_of(plane: PublicPlane, token: str) -> dict[str, object]:
    """What a library of others reads in a token, with the keys that are published."""
    document = (await plane.client.ask("GET", KEYS, headers={})).json
    published = KeySet.import_key_set(document)  # type: ignore[arg-type]  # as it was published
    decoded = jwt.decode(token, published, algorithms=["EdDSA", "Ed25519", "ES256"])
    assert decoded.header["typ"] == "at+jwt"
    return decoded.claims


# --- issuing ------------------------------------------------------------------


def test_it_issues_a_token_that_others_can_verify(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        answer = await plane.post(TOKEN, {"grant_type": "client_credentials"}, as_="k_a")
        claims = await claims_of(plane, str(answer.json.pop("access_token")))

        assert answer.json == {
            "token_type": "Bearer",
            "expires_in": TTL_MS // 1000,
            "scope": "orders.read orders.write",
        }
        assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
        iat, jti = claims["iat"], claims["jti"]
        assert isinstance(iat, int)
        assert claims == {
            "iss": OURS,
            "sub": "k_a",
            "client_id": "k_a",
            "aud": AUDIENCE,
            "scope": "orders.read orders.write",
            "iat": iat,
            "exp": iat + TTL_MS // 1000,
            "jti": jti,
        }
        assert len(str(jti)) == 32

    run(valkey, scenario)


@pytest.mark.parametrize(
    ("asked", "scope"),
    [
        ("orders.write", "orders.write"),
        ("orders.write orders.read", "orders.write orders.read"),
        ("orders.read orders.read", "orders.read"),
    ],
)
def test_it_narrows_a_token(valkey: StoreServer, asked: str, scope: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        token = await plane.token("k_a", scope=asked)

        assert (await claims_of(plane, token))["scope"] == scope

    run(valkey, scenario)


@pytest.mark.parametrize(
    "asked", ["orders.delete", "orders.read orders.delete", "role:clerk", " ", "a  b", "é"]
)
def test_it_widens_no_token(valkey: StoreServer, asked: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        form = {"grant_type": "client_credentials", "scope": asked}
        answer = await plane.post(TOKEN, form, as_="k_a")

        assert (answer.status, answer.json["error"]) == (400, "invalid_scope")

    run(valkey, scenario)


def test_it_issues_a_token_without_scopes_for_a_key_without(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        await plane.key("k_none")
        answer = await plane.post(TOKEN, {"grant_type": "client_credentials"}, as_="k_none")

        assert "scope" not in answer.json
        token = str(answer.json["access_token"])
        assert (await plane.introspected("k_none", token))["active"] is True

    run(valkey, scenario)


def test_it_issues_no_token_that_the_gate_would_not_take(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        many = tuple(f"s{number}" for number in range(101))
        long = tuple(f"{number:02}".ljust(64, "x") for number in range(100))
        plane.define(many=many, long=long)
        for role in ("many", "long"):
            await plane.key(f"k_{role}", f"role:{role}")
            answer = await plane.post(TOKEN, {"grant_type": "client_credentials"}, as_=f"k_{role}")
            assert (answer.status, answer.json["error"]) == (400, "invalid_scope")

        await plane.token("k_many", scope="s1 s100")

    run(valkey, scenario)


@pytest.mark.parametrize("grant", ["password", "authorization_code", "refresh_token", "Client_Credentials"])
def test_it_knows_one_grant(valkey: StoreServer, grant: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        answer = await plane.post(TOKEN, {"grant_type": grant}, as_="k_a")

        assert (answer.status, answer.json["error"]) == (400, "unsupported_grant_type")

    run(valkey, scenario)


def test_it_issues_none_that_outlives_its_key(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        ends_ms = plane.now_ms() + 60_000
        await plane.key("k_short", expires_ms=ends_ms)
        token = await plane.token("k_short")

        exp = (await claims_of(plane, token))["exp"]
        assert isinstance(exp, int)
        assert ends_ms - 1000 < exp * 1000 <= ends_ms

    run(valkey, scenario)


def test_it_issues_none_for_a_key_that_ended_since_it_was_proved(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        form = {"grant_type": "client_credentials"}
        await plane.key("k_page", kind=Kind.CLIENT)
        await plane.key("k_short", expires_ms=plane.now_ms() + 60_000)
        await plane.registry.update("k_a", {"enabled": False}, actor="test")
        await plane.registry.delete("k_b", actor="test")
        plane.ahead_ms = 60_000

        for key_id in ("k_page", "k_short", "k_a", "k_b"):
            answer = await plane.post(TOKEN, form, as_=key_id)
            assert (answer.status, answer.json["error"]) == (401, "invalid_client")

    run(valkey, scenario)


def test_it_signs_with_the_first_key_and_believes_all(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        before = await plane.token("k_a")
        plane.sign_with(EC, ED)
        after = await plane.token("k_a")

        for token in (before, after):
            await claims_of(plane, token)
            assert (await plane.introspected("k_a", token))["active"] is True
        plane.sign_with(EC)
        assert (await plane.introspected("k_a", before))["active"] is False
        assert (await plane.introspected("k_a", after))["active"] is True

    run(valkey, scenario)


# --- looking into -------------------------------------------------------------


def test_it_tells_a_key_of_its_own_token(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        token = await plane.token("k_a", scope="orders.write")
        told = await plane.introspected("k_a", token)

        claims = await claims_of(plane, token)
        assert told == {"active": True, "token_type": "Bearer", **claims}

    run(valkey, scenario)


def test_it_tells_what_a_token_is_worth_now(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        token = await plane.token("k_a")
        await plane.registry.update("k_a", {"scopes": ("orders.read", "more")}, actor="test")

        assert (await plane.introspected("k_a", token))["scope"] == "orders.read"

    run(valkey, scenario)


def test_it_tells_of_the_tokens_of_others_to_whom_may_know(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        await plane.key("k_eye", "token.introspect")
        plane.define(eye=("token.introspect",))
        await plane.key("k_role", "role:eye")
        token = await plane.token("k_a")

        assert await plane.introspected("k_b", token) == {"active": False}
        assert (await plane.introspected("k_eye", token))["sub"] == "k_a"
        assert (await plane.introspected("k_role", token))["sub"] == "k_a"

    run(valkey, scenario)


def test_it_tells_nothing_of_what_is_no_token_now(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        await plane.key("k_eye", "token.introspect")
        now_s = plane.now_ms() // 1000
        times = {"iat": now_s, "exp": now_s + 60}
        token, disabled, deleted = [await plane.token(key_id) for key_id in ("k_eye", "k_a", "k_b")]
        await plane.registry.update("k_a", {"enabled": False}, actor="test")
        await plane.registry.delete("k_b", actor="test")
        forged = eddsa("another").token(own_claims(sub="k_eye", client_id="k_eye", **times), typ="at+jwt")
        foreign = eddsa("another").token(own_claims(iss="https://idp.example", **times))
        strange = ["x", "x.y.z", "é", "\x00", token[:-2], token + "A", forged.decode(), foreign.decode()]

        for each in (disabled, deleted, *strange, plane.judge.secrets["k_eye"]):
            assert await plane.introspected("k_eye", each) == {"active": False}

    run(valkey, scenario)


def test_it_tells_nothing_of_an_expired_token(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        token = await plane.token("k_a")
        plane.ahead_ms = TTL_MS - 5_000
        assert (await plane.introspected("k_a", token))["active"] is True
        plane.ahead_ms = TTL_MS

        assert await plane.introspected("k_a", token) == {"active": False}

    run(valkey, scenario)


def test_it_tells_nothing_of_a_token_that_is_older_than_its_key(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        await plane.key("k_eye", "token.introspect")
        await plane.key("k_again", "orders.read")
        token = await plane.token("k_again")
        await plane.registry.delete("k_again", actor="test")
        plane.ahead_ms = 2_000
        await plane.key("k_again", "orders.read")

        for key_id in ("k_again", "k_eye"):
            assert await plane.introspected(key_id, token) == {"active": False}
            assert (await plane.introspected(key_id, await plane.token("k_again")))["active"] is True

    run(valkey, scenario)


def test_it_tells_of_a_token_after_its_keys_secret_was_rotated(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        token = await plane.token("k_a")
        rotated = await plane.registry.rotate("k_a", grace_ms=0, actor="test")
        plane.judge.secrets["k_a"] = rotated.secret

        assert (await plane.introspected("k_a", token))["active"] is True

    run(valkey, scenario)


# --- taking back --------------------------------------------------------------


async def revoked(plane: PublicPlane, key_id: str, token: str) -> tuple[int, str]:
    answer = await plane.post(REVOKE, {"token": token, "token_type_hint": "access_token"}, as_=key_id)
    return answer.status, answer.text


def test_it_takes_a_token_back_once_and_for_all(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        token, other = await plane.token("k_a"), await plane.token("k_a")
        jti = str((await claims_of(plane, token))["jti"])

        assert await revoked(plane, "k_a", token) == (200, "")
        epoch = await plane.changes.epoch()
        told = await plane.audit.read(None, 100)
        assert await revoked(plane, "k_a", token) == (200, "")

        assert await plane.changes.epoch() == epoch
        # A change that was refused would be told there, too.
        assert await plane.audit.read(None, 100) == told
        assert await plane.introspected("k_a", token) == {"active": False}
        assert (await plane.introspected("k_a", other))["active"] is True
        entry = await plane.changes.entry(TABLE, jti)
        assert entry is not None
        assert entry.members() == {"key": "k_a"}
        exp = (await claims_of(plane, token))["exp"]
        assert isinstance(exp, int)
        assert exp * 1000 < entry.until_ms <= exp * 1000 + 5_000

    run(valkey, scenario)


def test_it_takes_back_the_tokens_of_others_for_whom_may(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        await plane.key("k_hand", "token.revoke")
        token = await plane.token("k_a")
        status, text = await revoked(plane, "k_b", token)
        assert (status, "unauthorized_client" in text) == (400, True)
        assert (await plane.introspected("k_a", token))["active"] is True

        assert await revoked(plane, "k_hand", token) == (200, "")

        assert await plane.introspected("k_a", token) == {"active": False}
        (entry,) = await plane.audit.read(None, 1)
        assert (entry.actor, entry.action, entry.detail["key"]) == ("key k_hand", "token.revoke", "k_a")

    run(valkey, scenario)


def test_it_takes_back_no_more_tokens_of_a_key_than_replicas_should_remember(
    valkey: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.public.tokens.MOST_TAKEN_BACK", 2)

    async def scenario(plane: PublicPlane) -> None:
        first = await plane.token("k_a")
        plane.ahead_ms = 60_000
        second, third, others = [await plane.token(key_id) for key_id in ("k_a", "k_a", "k_b")]
        for key_id, token in (("k_a", second), ("k_a", first), ("k_a", first), ("k_b", others)):
            assert await revoked(plane, key_id, token) == (200, "")

        answer = await plane.post(REVOKE, {"token": third}, as_="k_a")

        assert (answer.status, answer.json["error"]) == (429, "temporarily_unavailable")
        until_first_ends_s = (TTL_MS - plane.ahead_ms) // 1000
        assert until_first_ends_s - 30 < int(answer.headers["Retry-After"]) <= until_first_ends_s + 5
        assert (await plane.introspected("k_a", third))["active"] is True
        plane.ahead_ms = 60_000 + 1000 * int(answer.headers["Retry-After"])
        assert await revoked(plane, "k_a", third) == (200, "")
        assert await plane.introspected("k_a", third) == {"active": False}

    run(valkey, scenario)


@pytest.mark.parametrize("token", ["x", "x.y.z", "é\x00", "pcs_" + "A" * 48])
def test_it_has_nothing_to_take_back_of_what_is_no_token(valkey: StoreServer, token: str) -> None:
    async def scenario(plane: PublicPlane) -> None:
        epoch = await plane.changes.epoch()

        assert await revoked(plane, "k_a", token) == (200, "")
        assert await plane.changes.epoch() == epoch

    run(valkey, scenario)


def test_it_leaves_no_token_and_no_secret_in_the_store(valkey: StoreServer) -> None:
    async def scenario(plane: PublicPlane) -> None:
        token = await plane.token("k_a")
        await plane.post(INTROSPECT, {"token": token}, as_="k_a")
        await revoked(plane, "k_a", token)

        dump = everything_in(valkey)
        assert b"token.revoke" in dump
        for secret in (*plane.judge.secrets.values(), token, token.rpartition(".")[2]):
            assert secret.encode() not in dump

    run(valkey, scenario)


def test_it_says_so_when_the_store_is_away(start_valkey: Callable[..., StoreServer]) -> None:
    server = start_valkey()

    async def scenario(plane: PublicPlane) -> None:
        server.server.kill()
        answer = await plane.post(TOKEN, {"grant_type": "client_credentials"}, as_="k_a")

        assert (answer.status, answer.json["error"]) == (503, "temporarily_unavailable")
        assert answer.headers["Retry-After"] == "1"

    run(server, scenario)
