"""Signed tokens (JWT): issued here, and verified, our own as those of foreign issuers.

A token is verified in this order, each step cheaper than the next or needed by it:

    taken apart       `compact`    size, form, JSON of one meaning
    issuer            by the `iss` that it claims; from here on this issuer's rules alone hold
    header            `typ`, `crit`, and `alg` among the issuer's algorithms
    key               by `kid` among the issuer's keys; its type and its own `alg` fit, see `jwks`
    signature
    claims            `claims`     audience, times, subject, scopes

Where a token says to find its key (`jku`, `x5u`, `jwk`, `x5c`) is never looked at.

Whether the key that a token was issued for still lives, and whether a token was revoked, is not known here.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from typing import Final, NamedTuple, Protocol, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from jwt.api_jws import PyJWS

from sidecar.core.claims import ClaimNames, Verified, foreign_claims, own_claims
from sidecar.core.compact import Opened, TokenRefused, looks_like_token, open_token
from sidecar.core.jwks import ALGORITHMS, KeySet

__all__ = ["KeySet", "SigningKey", "TokenRefused", "Trust", "Verified", "issue", "looks_like_token"]

MAKE_A_KEY: Final = "make one with: openssl genpkey -algorithm ed25519 -out sign.pem"

_OWN_TYPES: Final = frozenset({"at+jwt"})
_FOREIGN_TYPES: Final = frozenset({"", "jwt", "at+jwt"})
_SIGNER: Final = PyJWS(algorithms=["EdDSA", "ES256"])

_PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey


# --- what is believed ---------------------------------------------------------


class OwnTokens(Protocol):
    """What tokens issued here say; the first key signs, and all are trusted."""

    @property
    def issuer(self) -> str: ...
    @property
    def audience(self) -> str: ...
    @property
    def keys(self) -> Sequence[SigningKey]: ...


class ForeignIssuer(Protocol):
    """Whose tokens are believed besides; `name` is ours for it, `issuer` its own."""

    @property
    def name(self) -> str: ...
    @property
    def issuer(self) -> str: ...
    @property
    def audiences(self) -> Sequence[str]: ...
    @property
    def algorithms(self) -> Sequence[str]: ...
    @property
    def leeway_ms(self) -> int: ...
    @property
    def claims(self) -> ClaimNames: ...


class _Believed(NamedTuple):
    """One issuer: how its tokens are verified. `keys` None: they are not known yet."""

    name: str
    types: frozenset[str]
    algorithms: frozenset[str]
    keys: KeySet | None
    judge: Callable[[Mapping[str, object], int], Verified]


class Trust:
    """All that is believed, immutable.

    own      the tokens issued here, None when there are none
    issuers  foreign ones, each with another `name` and another `issuer`, and none with ours
    keys     theirs, by name; who is missing is believed when its keys are known, see `with_keys`
    """

    __slots__ = ("_believed", "_issuers", "_keys", "_own")

    def __init__(
        self, own: OwnTokens | None, issuers: Iterable[ForeignIssuer], keys: Mapping[str, KeySet]
    ) -> None:
        self._own = own
        self._issuers = tuple(issuers)
        self._keys = dict(keys)
        believed = {issuer.issuer: _foreign(issuer, self._keys.get(issuer.name)) for issuer in self._issuers}
        if own is not None:
            believed[own.issuer] = _own(own)
        assert len(believed) == len(self._issuers) + (own is not None), "two issuers have one name"
        self._believed = believed

    def verify(self, token: bytes, now_ms: int) -> Verified:
        """What the token proves at this time. Raises TokenRefused, and nothing else."""
        opened = open_token(token)
        issuer = opened.claims.get("iss")
        believed = self._believed.get(issuer) if isinstance(issuer, str) else None
        if believed is None:
            raise TokenRefused("it is of no issuer that is trusted here")
        _check_signature(opened, believed)
        return believed.judge(opened.claims, now_ms)

    def with_keys(self, name: str, keys: KeySet) -> Trust:
        """The same with other keys of one foreign issuer. Raises KeyError for one that is not among them."""
        if all(issuer.name != name for issuer in self._issuers):
            raise KeyError(name)
        return Trust(self._own, self._issuers, {**self._keys, name: keys})


def _own(own: OwnTokens) -> _Believed:
    keys = {key.kid: key for key in own.keys}.values()
    algorithms = sorted({key.algorithm for key in keys})
    published = json.dumps({"keys": [dict(key.public_jwk) for key in keys]})
    return _Believed(
        name="",
        types=_OWN_TYPES,
        algorithms=frozenset(algorithms),
        keys=KeySet.parse(published, algorithms),
        judge=partial(_judge_own, own.audience),
    )


def _foreign(issuer: ForeignIssuer, keys: KeySet | None) -> _Believed:
    assert ALGORITHMS.issuperset(issuer.algorithms), "only public keys verify"
    return _Believed(
        name=issuer.name,
        types=_FOREIGN_TYPES,
        algorithms=frozenset(issuer.algorithms),
        keys=keys,
        judge=partial(_judge_foreign, issuer),
    )


def _judge_own(audience: str, claims: Mapping[str, object], now_ms: int) -> Verified:
    return own_claims(claims, audience, now_ms)


def _judge_foreign(issuer: ForeignIssuer, claims: Mapping[str, object], now_ms: int) -> Verified:
    return foreign_claims(claims, issuer.name, issuer.audiences, issuer.leeway_ms, issuer.claims, now_ms)


def _check_signature(opened: Opened, believed: _Believed) -> None:
    header = opened.header
    # RFC 7515 §4.1.11: what must be understood is not. `b64` changes what is signed (RFC 7797).
    if "crit" in header or "b64" in header:
        raise TokenRefused("its header demands an extension")
    kind = header.get("typ", "")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in believed.types:
        raise TokenRefused("its typ is not that of an access token")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in believed.algorithms:
        raise TokenRefused("its algorithm is not one of its issuer's")
    if believed.keys is None:
        raise TokenRefused("the keys of its issuer are not known yet", unknown_key_of=believed.name)
    kid = header.get("kid")
    if not isinstance(kid, str) and "kid" in header:
        raise TokenRefused("its kid is not a text")
    key = believed.keys.find(kid if isinstance(kid, str) else None, algorithm)
    if key is None:
        raise TokenRefused("its issuer has no such key, or more than one", unknown_key_of=believed.name)
    if not key.verifies(opened.signed, opened.signature):
        # An issuer that does not name its keys cannot say that it has a new one, either.
        raise TokenRefused("its signature is wrong", unknown_key_of="" if kid else believed.name)


# --- issuing ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key that signs tokens issued here.

    kid          its thumbprint (RFC 7638): the same for everybody who has the key
    algorithm    "EdDSA" (Ed25519) or "ES256" (P-256)
    public_jwk   the public half, as it is published in a set of keys
    private_pem  PKCS#8
    """

    kid: str
    algorithm: str
    public_jwk: Mapping[str, str] = field(hash=False)
    private_pem: bytes = field(repr=False)

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """The key in a PEM file: Ed25519 or P-256, PKCS#8 or SEC1, no passphrase. Raises ValueError with the remedy.

        The text holds nothing of the file.
        """
        private = _load(pem)
        if isinstance(private, Ed25519PrivateKey):
            algorithm, members = "EdDSA", OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
        else:
            algorithm, members = "ES256", ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        kid = _thumbprint(members)
        return cls(
            kid=kid,
            algorithm=algorithm,
            public_jwk={**members, "kid": kid, "alg": algorithm, "use": "sig"},
            private_pem=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def issue(
    key: SigningKey,
    *,
    issuer: str,
    audience: str,
    key_id: str,
    scopes: Iterable[str],
    token_id: str,
    now_ms: int,
    ttl_ms: int,
) -> str:
    """A token for the key with this id (RFC 9068), for less than `ttl_ms`: its times are whole seconds.

    Two signatures of ES256 differ even if nothing else does: the library draws its nonces.
    """
    claims = {
        "iss": issuer,
        "sub": key_id,
        "aud": audience,
        "client_id": key_id,
        "scope": " ".join(scopes),
        "iat": now_ms // 1000,
        "exp": (now_ms + ttl_ms) // 1000,
        "jti": token_id,
    }
    return _SIGNER.encode(
        json.dumps(claims, separators=(",", ":")).encode(),
        _loaded(key.private_pem),
        algorithm=key.algorithm,
        headers={"typ": "at+jwt", "kid": key.kid},
    )


@lru_cache(maxsize=16)  # reading one takes as long as several signatures
def _loaded(private_pem: bytes) -> _PrivateKey:
    return _load(private_pem)


def _load(pem: bytes) -> _PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ValueError(
            "has a passphrase, which nobody could type: take it off with: openssl pkey -in locked.pem -out sign.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"holds no private key in PEM form; {MAKE_A_KEY}") from None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    raise ValueError(f"is neither an Ed25519 nor a P-256 key; {MAKE_A_KEY}")


def _thumbprint(members: Mapping[str, str]) -> str:
    """RFC 7638 §3: the hash of the members that make up the key, in the order of their names."""
    canonical = json.dumps(dict(sorted(members.items())), separators=(",", ":"))
    return urlsafe_b64encode(sha256(canonical.encode()).digest()).rstrip(b"=").decode()
