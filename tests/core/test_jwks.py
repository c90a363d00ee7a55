"""A set of keys holds what may verify, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.jwks import ALGORITHMS, KeySet, checked_url
from tests.issuers import Signer, base64url, ec_key, ed25519_key, eddsa, es256, jwks, rs256, rsa_key

RS, ES, ED = rs256(), es256(), eddsa()
USUAL = ("RS256", "ES256", "EdDSA")


def holds(document: str, kid: str | None, algorithm: str, algorithms: tuple[str, ...] = USUAL) -> bool:
    return KeySet.parse(document, algorithms).find(kid, algorithm) is not None


def refusal(document: str, algorithms: tuple[str, ...] = USUAL) -> str:
    with pytest.raises(ValueError, match=r".+") as refused:
        KeySet.parse(document, algorithms)
    return str(refused.value)


def test_it_finds_each_key_by_its_name() -> None:
    keys = KeySet.parse(jwks(RS, ES, ED), USUAL)

    for signer in (RS, ES, ED):
        found = keys.find(signer.kid, signer.algorithm)
        assert found is not None
        assert found.verifies(b"signed", signer.sign(b"signed"))
        assert not found.verifies(b"other", signer.sign(b"signed"))
    assert keys.find("nobody", "RS256") is None
    assert keys.find("rsa", "ES256") is None


def test_it_takes_a_key_for_every_algorithm_that_it_does_not_exclude() -> None:
    document = jwks(RS.jwk(alg=None))

    assert holds(document, "rsa", "RS256", ("RS256", "PS512"))
    assert holds(document, "rsa", "PS512", ("RS256", "PS512"))
    assert not holds(jwks(RS), "rsa", "PS512", ("RS256", "PS512"))
    assert not holds(document, "rsa", "RS384", ("RS256", "PS512"))


def test_a_key_without_a_name_is_meant_by_tokens_without_one() -> None:
    document = jwks(ES.jwk(kid=None), RS)

    assert holds(document, None, "ES256")
    assert not holds(document, "", "ES256")
    assert not holds(document, "ec", "ES256")


def test_nothing_is_meant_where_there_are_several() -> None:
    keys = jwks(ES, es256("two", "two").jwk(), es256("three", None).jwk(), RS)

    assert not holds(keys, None, "ES256")
    assert holds(keys, None, "RS256")


def test_two_keys_of_one_name_are_an_error() -> None:
    assert refusal(jwks(ES, es256("two", "ec"))) == "two keys for ES256 have the same kid"
    assert holds(jwks(ES, Signer(rsa_key(), "RS256", "ec")), "ec", "RS256")


WEAK = Signer(rsa_key("weak", 1024), "RS256", "weak")
UNUSABLE = {
    "for encryption": ES.jwk(use="enc"),
    "use is no text": ES.jwk(use=["sig"]),
    "not for verifying": ES.jwk(key_ops=["sign"]),
    "operations are no list": ES.jwk(key_ops="verify"),
    "alg of others": ES.jwk(alg="ES384"),
    "alg of secrets": RS.jwk(alg="HS256"),
    "alg none": RS.jwk(alg="none"),
    "alg of another type": RS.jwk(alg="ES256"),
    "a shared secret": {"kty": "oct", "kid": "k", "k": "c2VjcmV0"},
    "a shared secret for RS256": {"kty": "oct", "kid": "k", "alg": "RS256", "k": "c2VjcmV0"},
    "no type": ES.jwk(kty=None),
    "type in small letters": ES.jwk(kty="ec"),
    "type is no text": ES.jwk(kty=["EC"]),
    "no curve": ES.jwk(crv=None),
    "curve that is not ours": Signer(ec_key("one", "secp256k1"), "ES256").jwk(),
    "curve that is not the algorithm's": Signer(ec_key("one", "P-384"), "ES256").jwk(),
    "curve of key exchange": ED.jwk(crv="X25519"),
    "Ed448": ED.jwk(crv="Ed448"),
    "not on the curve": ES.jwk(x="A" * 43),
    "too short": ES.jwk(x="AAAA"),
    "Ed25519 too short": ED.jwk(x="AAAA"),
    "no number": ES.jwk(y=None),
    "number is no text": RS.jwk(n=7),
    "number is padded": RS.jwk(e="AQAB=="),
    "number is no base64url": ES.jwk(y="+" * 43),
    "number is no ASCII": ES.jwk(y="\ud800" * 43),
    "kid is no text": ES.jwk(kid=7),
    "short RSA key": WEAK.jwk(),
    "long RSA key": RS.jwk(n=base64url(b"\xff" * 2048).decode()),
    "exponent 1": RS.jwk(e="AQ"),
    "exponent even": RS.jwk(e="Ag"),
    "exponent long": RS.jwk(e=base64url(b"\x01" * 8).decode()),
    "private half": ES.jwk(d="AAAA"),
    "crv of RSA": RS.jwk(crv="P-256"),
}


@pytest.mark.parametrize("unusable", UNUSABLE.values(), ids=UNUSABLE)
def test_it_leaves_out_what_cannot_be_used(unusable: dict[str, object]) -> None:
    assert refusal(json.dumps({"keys": [unusable]})).startswith("none of its keys can be used: key 1: ")
    good = es256("good", "good")
    assert holds(jwks(unusable, good), "good", "ES256")
    assert holds(jwks(unusable, good), None, "ES256")


@pytest.mark.parametrize("other", [None, 7, "key", [], [{}]])
def test_it_leaves_out_what_is_no_key(other: object) -> None:
    assert refusal(json.dumps({"keys": [other]})).endswith("key 1: is not an object")


def test_it_says_of_the_first_keys_why() -> None:
    said = refusal(jwks(*[ES.jwk(use="enc")] * 5))

    why = "; ".join(f'key {number}: its use is not "sig"' for number in (1, 2, 3))
    assert said == f"none of its keys can be used: {why}, and 2 more"


@pytest.mark.parametrize(
    "document",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"keys": {}}',
        '{"keys": []}',
        '{"keys": null}',
        json.dumps(ES.jwk()),
        json.dumps({"keys": [ES.jwk()] * 101}),
        jwks(ES).replace('"keys"', '"keys": [], "keys"'),
        jwks(ES).replace('"kid"', '"kid": "x", "kid"'),
        jwks(ES)[:-1],
        "\ufeff" + jwks(ES),
        jwks(ES)[:-1] + ', "x": NaN}',
        jwks(ES)[:-1] + ', "x": ' + "9" * 5_000 + "}",
        jwks(ES)[:-1] + ', "x": ' + "[" * 20 + "]" * 20 + "}",
        "[" * 100_000,
        '{"keys":' * 100_000,
    ],
)
def test_it_reads_one_document_one_way(document: str) -> None:
    assert refusal(document)


def test_it_overlooks_members_that_it_does_not_know() -> None:
    document = jwks(ES.jwk(x5c=["AA=="], x5t="x", **{"x-more": {"a": [1.5, None]}}))

    assert holds(document, "ec", "ES256")


@pytest.mark.parametrize(
    "algorithms", [(), ("none",), ("HS256",), ("RS256", "HS256"), ("rs256",), ("ES256K",)]
)
def test_only_public_keys_verify(algorithms: tuple[str, ...]) -> None:
    assert refusal(jwks(RS), algorithms).startswith("expected algorithms among RS256, ")
    assert not any(name.startswith(("HS", "none")) for name in ALGORITHMS)


@given(
    st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_it_reads_anything_or_refuses_it(document: str) -> None:
    assert refusal(document)


JSON = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.lists(st.text(max_size=3), max_size=2)
)


@given(st.sampled_from([RS, ES, ED]), st.data())
def test_any_member_may_be_anything(signer: Signer, data: st.DataObject) -> None:
    jwk = signer.jwk()
    member = data.draw(st.sampled_from([*jwk, "key_ops", "d"]))
    document = json.dumps({"keys": [{**jwk, member: data.draw(JSON)}]})

    try:
        keys = KeySet.parse(document, USUAL)
    except ValueError:
        return
    found = keys.find(None, signer.algorithm)
    assert found is not None
    assert found.verifies(b"x", signer.sign(b"x")) or member in {"n", "e", "x", "y"}


def test_a_key_of_another_size_is_no_smaller() -> None:
    assert holds(jwks(Signer(rsa_key("large", 3072), "RS256")), "k1", "RS256")
    assert holds(jwks(Signer(ed25519_key(), "Ed25519")), "k1", "Ed25519", ("Ed25519",))


# --- where sets may be fetched from -------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://idp.example/jwks",
        "https://idp.example:8443/jwks?tenant=a",
        "https://[2001:db8::1]/",
        "http://127.0.0.1:8000/jwks",
        "http://127.9.9.9/jwks",
        "http://[::1]:8000/",
        "http://localhost:8000/jwks",
    ],
)
def test_it_fetches_what_nobody_can_change_on_the_way(url: str) -> None:
    assert checked_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jwks.json",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://idp.example/",
        "http://idp.example/jwks",
        "http://10.0.0.1/jwks",
        "http://169.254.169.254/latest",
        "http://localhost.example/jwks",
        "http://127.0.0.1.example/jwks",
        "http://2130706433/jwks",
        "http://[::ffff:10.0.0.1]/",
        "https://",
        "https:///jwks",
        "https://user:secret@idp.example/jwks",
        "http://localhost@idp.example/jwks",
        "https://idp.example/jwks#here",
        "https://idp.example:0/",
        "https://idp.example:99999/",
        "https://idp.example:x/",
        "https://[::1/",
        "https://idp.example/a b",
        "https://idp.example/\n",
        "https://idp.example\\@evil.example/",
        "https://idp.éxample/",
    ],
)
def test_it_fetches_from_nowhere_else(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        checked_url(url)
