"""Whatever is presented, a token is refused or it is a good one; nothing else ever happens."""

from __future__ import annotations

import json
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.core.compact import LONGEST_TOKEN, looks_like_token, open_token
from sidecar.core.jwks import KeySet
from sidecar.core.tokens import TokenRefused, Trust, Verified
from tests.issuers import (
    NOW_MS,
    Foreign,
    Signer,
    base64url,
    claims,
    ec_key,
    eddsa,
    encoded,
    es256,
    jwks,
    rs256,
    rsa_key,
)

SIGNERS: Final = (
    rs256(),
    es256(),
    eddsa(),
    Signer(rsa_key(), "PS256", "ps"),
    Signer(ec_key("x", "P-521"), "ES512", "521"),
)
ISSUER: Final = Foreign(algorithms=tuple(signer.algorithm for signer in SIGNERS))
TRUST: Final = Trust(None, (ISSUER,), {"idp": KeySet.parse(jwks(*SIGNERS), ISSUER.algorithms)})
GOOD: Final = {signer.algorithm: signer.token(claims(scope="a b")) for signer in SIGNERS}
PROVED: Final = Verified("idp", "alice", ("a", "b"), "", "", "", NOW_MS + 60_000)

ALGORITHM = st.sampled_from(sorted(GOOD))
SIGNER = st.sampled_from(SIGNERS)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


def verified(token: bytes) -> Verified | None:
    """What it proves, or None if it was refused as it should be: in our words, and with nothing of it."""
    try:
        return TRUST.verify(token, NOW_MS)
    except TokenRefused as refused:
        assert str(refused).isprintable()
        return None


@given(st.binary(max_size=300))
@example(b"")
@example(b"..")
@example(b"." * LONGEST_TOKEN)
def test_it_refuses_whatever_is_no_token(presented: bytes) -> None:
    assert verified(presented) is None


@given(st.lists(st.from_regex(r"[A-Za-z0-9_-]{0,40}", fullmatch=True), min_size=1, max_size=5))
def test_it_refuses_what_is_only_formed_like_one(parts: list[str]) -> None:
    presented = ".".join(parts).encode()

    assert verified(presented) is None
    assert looks_like_token(presented) == (len(parts) == 3 and all(parts[:2]))


@given(ALGORITHM, st.data())
def test_it_refuses_any_other_byte(algorithm: str, data: st.DataObject) -> None:
    """Bits of the last character that mean nothing among them."""
    token = GOOD[algorithm]
    at = data.draw(st.integers(0, len(token) - 1) | st.integers(len(token) - 3, len(token) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != token[at]))

    assert verified(token) == PROVED
    assert verified(token[:at] + bytes([byte]) + token[at + 1 :]) is None


@pytest.mark.parametrize("algorithm", sorted(GOOD))
def test_it_refuses_every_other_last_character(algorithm: str) -> None:
    token = GOOD[algorithm]
    others = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.\n ") - {token[-1]}

    assert [byte for byte in others if verified(token[:-1] + bytes([byte]))] == []


@given(ALGORITHM, st.data())
def test_it_refuses_a_token_cut_or_grown(algorithm: str, data: st.DataObject) -> None:
    token = GOOD[algorithm]
    begin = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(begin, len(token)))
    more = data.draw(
        st.binary(min_size=1, max_size=4) | st.sampled_from([b"=", b"==", b"\n", b".", b".AA", b"A"])
    )
    where = data.draw(st.integers(0, len(token)))

    assert (verified(token[:begin] + token[end:]) is None) == (begin < end)
    assert verified(token[:where] + more + token[where:]) is None


@given(ALGORITHM, ALGORITHM, st.permutations([0, 1, 2]))
def test_it_refuses_parts_of_several_tokens(one: str, other: str, order: list[int]) -> None:
    parts, others = GOOD[one].split(b"."), GOOD[other].split(b".")
    mixed = b".".join([parts[order[0]], parts[order[1]], others[order[2]]])

    assert (verified(mixed) == PROVED) == (one == other and order == [0, 1, 2])
    assert verified(b".".join([parts[0], parts[1], b""])) is None


@given(SIGNER, JSON, JSON)
def test_it_refuses_any_other_json(signer: Signer, header: object, payload: object) -> None:
    """Even if it is signed: what the header says leads to no key."""
    token = signer.signed_as(base64url(_dumped(header)), base64url(_dumped(payload)))

    assert verified(token) is None


@given(SIGNER, st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "zip", "cty"]), JSON)
def test_a_member_of_the_header_may_be_anything(signer: Signer, member: str, value: object) -> None:
    whole = {"alg": signer.algorithm, "kid": signer.kid, "typ": "JWT", member: value}
    token = signer.signed_as(base64url(_dumped(whole)), encoded(claims()))

    proved = verified(token)
    assert proved is None or proved.subject == "alice"
    if member in {"crit", "b64"} or (
        member in {"alg", "kid"} and value not in [signer.algorithm, signer.kid]
    ):
        assert proved is None


@given(SIGNER, st.sampled_from(["iss", "aud", "exp", "nbf", "iat", "scope", "jti", "sub"]), JSON)
def test_a_claim_may_be_anything(signer: Signer, claim: str, value: object) -> None:
    opening = encoded({"alg": signer.algorithm, "kid": signer.kid})
    token = signer.signed_as(opening, base64url(_dumped({**claims(), claim: value})))

    proved = verified(token)
    assert proved is None or (proved.issuer == "idp" and proved.expires_ms > NOW_MS)


# --- JSON that two readers could read differently -----------------------------


def forged(payload: bytes, header: bytes = b'{"alg": "ES256", "kid": "ec"}') -> bytes:
    return es256().signed_as(base64url(header), base64url(payload))


PLAIN: Final = json.dumps(claims()).encode()


@pytest.mark.parametrize(
    "payload",
    [
        PLAIN[:-1] + b', "sub": "root"}',
        PLAIN[:-1] + b', "s\\u0075b": "root"}',
        PLAIN[:-1] + b', "x": {"a": 1, "a": 2}}',
        PLAIN[:-1] + b', "x": [{"a": 1, "a": 1}]}',
        PLAIN[:-1] + b', "x": NaN}',
        PLAIN[:-1] + b', "x": -Infinity}',
        PLAIN[:-1] + b', "x": 1e999}',
        PLAIN[:-1] + b', "x": ' + b"9" * 33 + b"}",
        PLAIN[:-1] + b', "x": 0.' + b"1" * 40 + b"}",
        PLAIN[:-1] + b', "x": ' + b"[" * 16 + b"]" * 16 + b"}",
        PLAIN[:-1] + b', "x": ' + b'{"a":' * 16 + b"1" + b"}" * 16 + b"}",
        PLAIN[:-1] + b', "x": ' + b"[" * 5_000 + b"}",
        PLAIN[:-1] + b', "x": "\xff"}',
        PLAIN[:-1] + b', "x": "\n"}',
        PLAIN[:-1] + b",}",
        PLAIN + b"{}",
        PLAIN + b"\0",
        b"\xef\xbb\xbf" + PLAIN,
        PLAIN.decode().encode("utf-16"),
        PLAIN.decode().encode("utf-32"),
        b"[" + PLAIN + b"]",
        b"[" * 6_000,
        b'{"a":' * 1_000,
        b"",
        b"null",
    ],
)
def test_it_reads_a_payload_one_way(payload: bytes) -> None:
    assert verified(forged(PLAIN)) is not None
    assert verified(forged(payload)) is None


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg": "none", "alg": "ES256", "kid": "ec"}',
        b'{"alg": "ES256", "kid": "ec", "kid": "ec"}',
        b'{"alg": "ES256", "kid": "ec"',
        b'["alg"]',
        b'"alg"',
        b"[" * 5_000,
        b"{}",
    ],
)
def test_it_reads_a_header_one_way(header: bytes) -> None:
    assert verified(forged(PLAIN, header)) is None


def test_what_is_nested_sixteen_deep_is_read() -> None:
    for inner in (
        b"[" * 15 + b"]" * 15,
        b'{"a":' * 15 + b"1" + b"}" * 15,
        b'"' + b"[{" * 50 + b'"',
        b"[[],[],[],[],[],[],[],[],[],[],[],[],[],[],[],[]]",
    ):
        assert verified(forged(PLAIN[:-1] + b', "x": ' + inner + b"}")) is not None


def test_it_reads_up_to_8_kib() -> None:
    def of_length(claim: int) -> bytes:
        return eddsa().token(claims(x="x" * claim))

    longest = max(range(5_800, 6_100), key=lambda claim: (len(of_length(claim)) <= LONGEST_TOKEN, claim))
    assert len(of_length(longest)) in range(LONGEST_TOKEN - 3, LONGEST_TOKEN + 1)
    assert verified(of_length(longest)) is not None
    with pytest.raises(TokenRefused, match="longer than 8 KiB"):
        open_token(of_length(longest + 3))


def test_a_size_is_judged_before_anything_else() -> None:
    with pytest.raises(TokenRefused, match="longer than 8 KiB"):
        open_token(b"\xff" * 10_000_000)


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()
