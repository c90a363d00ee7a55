"""Tokens are believed for what they prove, and every known trick with their headers is refused.

The attacks are those of RFC 8725 (JSON Web Token Best Current Practices) and of the libraries' histories.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from sidecar.core.jwks import KeySet
from sidecar.core.tokens import SigningKey, TokenRefused, Trust, Verified, issue
from tests.issuers import (
    AUDIENCE,
    NOW_MS,
    NOW_S,
    OURS,
    THEIRS,
    Foreign,
    Signer,
    base64url,
    claims,
    ec_key,
    ed25519_key,
    eddsa,
    encoded,
    es256,
    jwks,
    own_claims,
    pem_of,
    public_pem_of,
    rs256,
    rsa_key,
)

EVERY_ALGORITHM = [
    *(Signer(rsa_key(), name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    Signer(ec_key(), "ES256"),
    Signer(ec_key("one", "P-384"), "ES384"),
    Signer(ec_key("one", "P-521"), "ES512"),
    eddsa(),
    Signer(ed25519_key(), "Ed25519"),
]
OURS_SIGNED_WITH = [SigningKey.from_pem(pem_of(ed25519_key())), SigningKey.from_pem(pem_of(ec_key()))]


@dataclass(frozen=True)
class Own:
    issuer: str
    audience: str
    keys: tuple[SigningKey, ...]


def own(*keys: SigningKey) -> Trust:
    return Trust(Own(OURS, AUDIENCE, keys), (), {})


def foreign(*keys: Signer, issuer: Foreign | None = None) -> Trust:
    """Trust in one foreign issuer with these keys."""
    issuer = issuer or Foreign()
    return Trust(None, (issuer,), {issuer.name: KeySet.parse(jwks(*keys), issuer.algorithms)})


def issued(key: SigningKey) -> bytes:
    return issue(
        key,
        issuer=OURS,
        audience=AUDIENCE,
        key_id="k_a",
        scopes=("orders.read", "orders.write"),
        token_id="t1",
        now_ms=NOW_MS,
        ttl_ms=60_000,
    ).encode()


def refusal(trust: Trust, token: bytes, now_ms: int = NOW_MS) -> str:
    with pytest.raises(TokenRefused) as refused:
        trust.verify(token, now_ms)
    return str(refused.value)


# --- issued here --------------------------------------------------------------


@pytest.mark.parametrize("key", OURS_SIGNED_WITH, ids=lambda key: key.algorithm)
def test_it_believes_what_it_issued(key: SigningKey) -> None:
    verified = own(key).verify(issued(key), NOW_MS)

    scopes = ("orders.read", "orders.write")
    assert verified == Verified("", "k_a", scopes, "", "", "t1", NOW_MS + 60_000 + 5_000, NOW_MS)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 calls it Ed25519; few know that yet
@pytest.mark.parametrize("key", OURS_SIGNED_WITH, ids=lambda key: key.algorithm)
def test_others_believe_what_it_issued(key: SigningKey) -> None:
    known = (OKPKey if key.algorithm == "EdDSA" else ECKey).import_key(dict(key.public_jwk))

    read = joserfc_jwt.decode(issued(key).decode(), known, algorithms=[key.algorithm])

    assert read.header == {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"}
    assert read.claims == {
        "iss": OURS,
        "sub": "k_a",
        "client_id": "k_a",
        "aud": AUDIENCE,
        "scope": "orders.read orders.write",
        "iat": NOW_S,
        "exp": NOW_S + 60,
        "jti": "t1",
    }
    assert known.thumbprint() == key.kid


@pytest.mark.parametrize("key", OURS_SIGNED_WITH, ids=lambda key: key.algorithm)
def test_it_is_refused_from_the_millisecond_on_that_it_names(key: SigningKey) -> None:
    until_ms = own(key).verify(issued(key), NOW_MS).expires_ms

    assert own(key).verify(issued(key), until_ms - 1).subject == "k_a"
    assert refusal(own(key), issued(key), until_ms) == "it has expired"


def test_it_believes_the_keys_before_and_not_the_ones_that_went() -> None:
    before, now = OURS_SIGNED_WITH

    assert own(now, before).verify(issued(before), NOW_MS).subject == "k_a"
    assert refusal(own(now), issued(before)) == "its algorithm is not one of its issuer's"
    other = SigningKey.from_pem(pem_of(ed25519_key("other")))
    assert refusal(own(other), issued(before)).startswith("its issuer has no such key")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "", None, "at+jwt;v=1", "id+jwt", 7, ["at+jwt"]])
def test_a_token_of_ours_says_that_it_is_one(typ: object) -> None:
    key = OURS_SIGNED_WITH[0]
    signer = Signer(ed25519_key(), "EdDSA", key.kid)

    assert refusal(own(key), signer.token(own_claims(), typ=typ)) == "its typ is not that of an access token"


@pytest.mark.parametrize("typ", ["AT+JWT", "application/at+jwt", "Application/AT+JWT"])
def test_a_type_is_read_in_any_case(typ: str) -> None:
    key = OURS_SIGNED_WITH[0]

    token = Signer(ed25519_key(), "EdDSA", key.kid).token(own_claims(), typ=typ)
    assert own(key).verify(token, NOW_MS).subject == "k_a"


# --- of foreign issuers -------------------------------------------------------


@pytest.mark.parametrize("signer", EVERY_ALGORITHM, ids=lambda signer: signer.algorithm)
def test_it_believes_a_foreign_issuer_by_each_algorithm(signer: Signer) -> None:
    trust = foreign(signer, issuer=Foreign(algorithms=(signer.algorithm,)))

    verified = trust.verify(signer.token(claims()), NOW_MS)

    assert verified == Verified("idp", "alice", (), "", "", "", NOW_MS + 60_000)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # RFC 9864 calls it Ed25519; few know that yet
@pytest.mark.parametrize(
    ("signer", "known"), [(rs256(), RSAKey), (es256(), ECKey), (eddsa(), OKPKey)], ids=["RSA", "EC", "OKP"]
)
def test_it_believes_what_others_issue(signer: Signer, known: type[RSAKey | ECKey | OKPKey]) -> None:
    header = {"alg": signer.algorithm, "kid": signer.kid}
    key = known.import_key(pem_of(signer.private))

    token = joserfc_jwt.encode(header, claims(), key, algorithms=[signer.algorithm])

    assert foreign(signer).verify(token.encode(), NOW_MS).subject == "alice"


@pytest.mark.parametrize("typ", [None, "JWT", "at+jwt", "application/at+jwt"])
def test_a_foreign_type_may_be_missing(typ: str | None) -> None:
    assert foreign(rs256()).verify(rs256().token(claims(), typ=typ), NOW_MS).subject == "alice"


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWT ", 7])
def test_a_token_for_another_purpose_is_none(typ: object) -> None:
    token = rs256().token(claims(), typ=typ)

    assert refusal(foreign(rs256()), token) == "its typ is not that of an access token"


def test_it_judges_a_token_by_its_own_issuer_alone() -> None:
    a = Foreign(name="a", issuer="https://a.example", algorithms=("ES256",))
    b = Foreign(name="b", issuer="https://b.example", algorithms=("ES256",))
    of_a, of_b = es256("a"), es256("b")  # under one kid
    sets = {issuer.name: KeySet.parse(jwks(key), ("ES256",)) for issuer, key in ((a, of_a), (b, of_b))}
    trust = Trust(None, (a, b), sets)

    assert trust.verify(of_a.token(claims(iss="https://a.example")), NOW_MS).issuer == "a"
    assert trust.verify(of_b.token(claims(iss="https://b.example")), NOW_MS).issuer == "b"
    assert refusal(trust, of_b.token(claims(iss="https://a.example"))) == "its signature is wrong"


def test_a_foreign_key_does_not_sign_in_our_name() -> None:
    ours, theirs = OURS_SIGNED_WITH[0], Signer(ed25519_key("theirs"), "EdDSA", OURS_SIGNED_WITH[0].kid)
    trust = Trust(Own(OURS, AUDIENCE, (ours,)), (Foreign(),), {"idp": KeySet.parse(jwks(theirs), ("EdDSA",))})

    assert refusal(trust, theirs.token(own_claims(), typ="at+jwt")) == "its signature is wrong"
    assert trust.verify(theirs.token(claims()), NOW_MS).issuer == "idp"


@pytest.mark.parametrize("iss", [None, "https://idp.example/", "HTTPS://IDP.EXAMPLE", "", 7, [THEIRS], {}])
def test_it_believes_nobody_else(iss: object) -> None:
    token = rs256().token(claims(iss=iss))

    assert refusal(foreign(rs256()), token) == "it is of no issuer that is trusted here"


def test_without_anybody_to_trust_it_believes_nothing() -> None:
    assert refusal(Trust(None, (), {}), rs256().token(claims())) == "it is of no issuer that is trusted here"


# --- the algorithm ------------------------------------------------------------


@pytest.mark.parametrize("signer", [rs256(), es256(), eddsa()], ids=lambda signer: signer.algorithm)
@pytest.mark.parametrize(
    "secret",
    [
        lambda signer: public_pem_of(signer.private),
        lambda signer: public_pem_of(signer.private).rstrip(),
        lambda signer: json.dumps(signer.jwk()).encode(),
        lambda signer: b"",
    ],
    ids=["PEM", "PEM without its last newline", "JWK", "nothing"],
)
def test_a_public_key_is_nobodys_shared_secret(signer: Signer, secret: Callable[[Signer], bytes]) -> None:
    signed = encoded({"alg": "HS256", "typ": "JWT", "kid": signer.kid}) + b"." + encoded(claims())
    forged = signed + b"." + base64url(hmac.digest(secret(signer), signed, sha256))

    assert refusal(foreign(signer), forged) == "its algorithm is not one of its issuer's"


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "none ", "", "rs256", "HS256", 0, None, ["RS256"]]
)
@pytest.mark.parametrize("last", [b"", b".", b".AA"])
def test_an_unsigned_token_is_none(alg: object, last: bytes) -> None:
    token = encoded({"alg": alg, "kid": "rsa"}) + b"." + encoded(claims()) + last

    assert refusal(foreign(rs256()), token)


def test_it_takes_an_algorithm_only_where_the_configuration_names_it() -> None:
    signer = rs256()
    trust = foreign(signer, issuer=Foreign(algorithms=("RS256",)))

    other = Signer(signer.private, "PS256", signer.kid)
    assert refusal(trust, other.token(claims())) == "its algorithm is not one of its issuer's"


def test_it_takes_an_algorithm_only_where_the_key_names_it() -> None:
    """RS256 is among the issuer's algorithms, and this key's signature would be right."""
    issuer = Foreign(algorithms=("RS256", "PS256"))
    trust = foreign(Signer(rsa_key(), "PS256", "rsa"), issuer=issuer)

    assert refusal(trust, rs256().token(claims())).startswith("its issuer has no such key")


def test_a_signature_in_der_is_none() -> None:
    signed = es256().token(claims()).rpartition(b".")[0]
    der = ec_key().sign(signed, ec.ECDSA(hashes.SHA256()))

    assert refusal(foreign(es256()), signed + b"." + base64url(der)) == "its signature is wrong"


@pytest.mark.parametrize("signer", EVERY_ALGORITHM, ids=lambda signer: signer.algorithm)
@pytest.mark.parametrize(
    "forge", [lambda _: b"\0", lambda s: bytes(len(s)), lambda s: s[:-1], lambda s: s + b"\0"]
)
def test_a_signature_that_is_none_is_refused(signer: Signer, forge: Callable[[bytes], bytes]) -> None:
    """Zeroes among them: the "psychic" signature of ECDSA."""
    signed = signer.token(claims()).rpartition(b".")[0]
    trust = foreign(signer, issuer=Foreign(algorithms=(signer.algorithm,)))

    forged = signed + b"." + base64url(forge(signer.sign(signed)))
    assert refusal(trust, forged) == "its signature is wrong"


# --- which key ----------------------------------------------------------------


def test_it_takes_the_key_that_the_token_names() -> None:
    trust = foreign(es256("a", "a"), es256("b", "b"))

    assert trust.verify(es256("b", "b").token(claims()), NOW_MS).subject == "alice"
    assert refusal(trust, es256("b", "a").token(claims())) == "its signature is wrong"


def test_a_token_without_kid_means_the_only_key() -> None:
    alone = foreign(es256("a", "a"), rs256())
    several = foreign(es256("a", "a"), es256("b", "b"))
    token = es256("a", None).token(claims())

    assert alone.verify(token, NOW_MS).subject == "alice"
    assert refusal(several, token) == "its issuer has no such key, or more than one"


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "' OR '1'='1",
        "x' UNION SELECT 'k",
        "| id",
        "https://evil.example/jwks",
        "{{7*7}}",
        "__proto__",
        "k" * 5_000,
        "ec\0",
        " ec",
        "EC",
        "",
        "\ud800",
    ],
)
def test_a_kid_is_only_looked_up(kid: str) -> None:
    signer = es256()

    assert refusal(foreign(signer), signer.token(claims(), kid=kid)).startswith("its issuer has no such key")


@pytest.mark.parametrize("kid", [b"null", b"7", b"[]", b'["ec"]', b'{"ec": 1}', b"true"])
def test_a_kid_is_a_text(kid: bytes) -> None:
    header = base64url(b'{"alg": "ES256", "kid": %b}' % kid)
    token = es256().signed_as(header, encoded(claims()))

    assert refusal(foreign(es256()), token) == "its kid is not a text"


def test_it_says_whose_keys_may_have_changed() -> None:
    def doubted(trust: Trust, token: bytes) -> str:
        with pytest.raises(TokenRefused) as refused:
            trust.verify(token, NOW_MS)
        return refused.value.unknown_key_of

    known, unnamed = foreign(es256()), foreign(es256("one", None))
    assert doubted(known, es256("one", "next").token(claims())) == "idp"
    assert doubted(unnamed, es256("next", None).token(claims())) == "idp"
    assert doubted(Trust(None, (Foreign(),), {}), es256().token(claims())) == "idp"
    assert doubted(known, es256("next").token(claims())) == ""
    assert doubted(known, es256().token(claims(exp=1))) == ""
    assert doubted(own(OURS_SIGNED_WITH[0]), eddsa("one", "next").token(own_claims(), typ="at+jwt")) == ""


def test_it_goes_on_with_other_keys() -> None:
    before, after = es256("before", "a"), es256("after", "b")
    trust = foreign(before)

    rotated = trust.with_keys("idp", KeySet.parse(jwks(after), ("ES256",)))

    assert rotated.verify(after.token(claims()), NOW_MS).subject == "alice"
    assert refusal(rotated, before.token(claims())).startswith("its issuer has no such key")
    assert trust.verify(before.token(claims()), NOW_MS).subject == "alice"
    with pytest.raises(KeyError):
        trust.with_keys("nobody", KeySet.parse(jwks(after), ("ES256",)))


def test_one_issuers_other_keys_leave_the_rest_as_it_is() -> None:
    ours, other = OURS_SIGNED_WITH[0], Foreign(name="other", issuer="https://other.example")
    theirs = {name: KeySet.parse(jwks(es256()), ("ES256",)) for name in ("idp", "other")}
    trust = Trust(Own(OURS, AUDIENCE, (ours,)), (Foreign(), other), theirs)

    rotated = trust.with_keys("idp", KeySet.parse(jwks(es256("after")), ("ES256",)))

    assert rotated.verify(es256().token(claims(iss=other.issuer)), NOW_MS).issuer == "other"
    assert rotated.verify(issued(ours), NOW_MS).subject == "k_a"


# --- what else a header may say -----------------------------------------------


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": True}, {"b64": False}, {"crit": 0}]
)
def test_it_claims_to_understand_no_extension(header: dict[str, object]) -> None:
    token = es256().token(claims(), **header)

    assert refusal(foreign(es256()), token) == "its header demands an extension"


def test_a_token_does_not_bring_its_own_key() -> None:
    """One that brings it is verified with the issuer's, as any other."""
    evil = es256("evil")
    brought = {
        "jwk": evil.jwk(),
        "jku": "https://evil.example/jwks",
        "x5u": "https://evil.example/x",
        "x5c": ["AA=="],
    }

    assert refusal(foreign(es256()), evil.token(claims(), **brought)) == "its signature is wrong"
    assert foreign(es256()).verify(es256().token(claims(), **brought), NOW_MS).subject == "alice"
