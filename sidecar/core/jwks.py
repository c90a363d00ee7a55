"""Sets of public keys (RFC 7517) that verify the tokens of one issuer.

A key is prepared once, when the set is read, for each algorithm that it may be used with; verifying is
then the signature's arithmetic alone. Which algorithm that is, the key decides together with the
configuration, and a token only says which of these it means: a public key is never anybody's shared secret.

    the issuer's algorithms  ∩  those of the key's type and curve  ∩  the key's own `alg`, if it has one

A key that cannot be used is left out, as RFC 7517 demands, so that an issuer may publish keys for
other purposes; a set in which nothing can be used is an error.

Sets are not fetched here, and what a token claims is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from sidecar.core.compact import decode_base64url, read_json

MOST_KEYS: Final = 100
LEAST_RSA_BITS: Final = 2048
MOST_RSA_BITS: Final = 8192
"""A signature of a longer key takes milliseconds to verify, for whoever sends one."""
LONGEST_EXPONENT: Final = 4
"""Bytes; 65537 takes three. A longer one would make every verification slow."""


class _Form(NamedTuple):
    """The keys that an algorithm takes."""

    kty: str
    crv: str = ""


# RFC 7518 §3.1, RFC 8037 §3.1; RFC 9864 calls EdDSA by its curve. Nothing else is ever verified with: no
# shared secrets, no `none`.
_RSA: Final = _Form("RSA")
_FORMS: Final = {
    "RS256": _RSA,
    "RS384": _RSA,
    "RS512": _RSA,
    "PS256": _RSA,
    "PS384": _RSA,
    "PS512": _RSA,
    "ES256": _Form("EC", "P-256"),
    "ES384": _Form("EC", "P-384"),
    "ES512": _Form("EC", "P-521"),
    "EdDSA": _Form("OKP", "Ed25519"),
    "Ed25519": _Form("OKP", "Ed25519"),
}
ALGORITHMS: Final = frozenset(_FORMS)
"""What an issuer may be configured with."""

# What makes up the public half, and nothing of the private one.
_PUBLIC: Final = {"RSA": ("n", "e"), "EC": ("x", "y"), "OKP": ("x",)}
_LIBRARY: Final = get_default_algorithms()
_ALGORITHM: Final = {name: _LIBRARY["EdDSA" if name == "Ed25519" else name] for name in _FORMS}


class VerifyingKey(NamedTuple):
    """One public key, prepared for one algorithm."""

    algorithm: Algorithm
    key: object

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        return self.algorithm.verify(signed, self.key, signature)


class KeySet:
    """The keys of one issuer, by what tokens call them."""

    __slots__ = ("_by_kid", "_lone")

    def __init__(self, keys: Iterable[tuple[str | None, str, VerifyingKey]]) -> None:
        """Each with its `kid` and the algorithm that it is prepared for. Raises ValueError."""
        self._by_kid: dict[tuple[str, str], VerifyingKey] = {}
        lone: dict[str, VerifyingKey | None] = {}
        for kid, algorithm, key in keys:
            lone[algorithm] = None if algorithm in lone else key
            if kid is None:
                continue
            if (kid, algorithm) in self._by_kid:
                raise ValueError(f"two keys for {algorithm} have the same kid")
            self._by_kid[kid, algorithm] = key
        self._lone = {algorithm: key for algorithm, key in lone.items() if key is not None}

    @classmethod
    def parse(cls, text: str, algorithms: Sequence[str]) -> Self:
        """The set in a JWKS document, for an issuer with these algorithms. Raises ValueError with the reason."""
        if not algorithms or not ALGORITHMS.issuperset(algorithms):
            raise ValueError(f"expected algorithms among {', '.join(_FORMS)}")
        document = read_json(text)
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_KEYS:
            raise ValueError(f'expected an object whose "keys" lists 1 to {MOST_KEYS} keys')
        usable: list[tuple[str | None, str, VerifyingKey]] = []
        left_out: list[str] = []
        for number, jwk in enumerate(listed, 1):
            try:
                usable += _prepared(jwk, algorithms)
            except _KeyUnusable as exc:
                left_out.append(f"key {number}: {exc}")
        if not usable:
            more = f", and {len(left_out) - 3} more" if len(left_out) > 3 else ""
            raise ValueError(f"none of its keys can be used: {'; '.join(left_out[:3])}{more}")
        return cls(usable)

    def find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """The key that a token means; one that names none means the only one there is for its algorithm."""
        return self._lone.get(algorithm) if kid is None else self._by_kid.get((kid, algorithm))


class _KeyUnusable(Exception):
    """Says why, in words that do not repeat the key."""


def _prepared(jwk: object, algorithms: Sequence[str]) -> list[tuple[str | None, str, VerifyingKey]]:
    """A key for each of the algorithms that it may be used with, at least one. Raises _KeyUnusable."""
    if not isinstance(jwk, dict):
        raise _KeyUnusable("is not an object")
    kid = jwk.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _KeyUnusable("its kid is not a text")
    if jwk.get("use", "sig") != "sig":
        raise _KeyUnusable('its use is not "sig"')
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _KeyUnusable('its key_ops do not name "verify"')
    if "d" in jwk:
        raise _KeyUnusable("its private half stands beside it, so anybody may sign with it")
    form = (jwk.get("kty"), jwk.get("crv", ""))
    named = jwk.get("alg")
    fitting = [name for name in algorithms if _FORMS[name] == form and (named is None or named == name)]
    if not fitting:
        raise _KeyUnusable(f"its type or alg does not fit {', '.join(algorithms)}")
    key = _public_key(jwk, fitting[0])
    return [(kid, name, VerifyingKey(_ALGORITHM[name], key)) for name in dict.fromkeys(fitting)]


def _public_key(jwk: Mapping[str, object], algorithm: str) -> object:
    form = _FORMS[algorithm]
    bare: dict[str, object] = {"kty": form.kty, "crv": form.crv}
    for member in _PUBLIC[form.kty]:
        value = jwk.get(member)
        if not isinstance(value, str) or decode_base64url(value.encode("utf-8", "replace")) is None:
            raise _KeyUnusable(f"its {member} is not base64url")
        bare[member] = value
    if form is _RSA and len(decode_base64url(str(bare["e"]).encode()) or b"") > LONGEST_EXPONENT:
        raise _KeyUnusable("its exponent is longer than 32 bits")
    try:
        key: object = _ALGORITHM[algorithm].from_jwk(bare)
    except (PyJWTError, UnsupportedAlgorithm, ValueError):
        raise _KeyUnusable("its numbers are not those of a key") from None
    if isinstance(key, RSAPublicKey) and not LEAST_RSA_BITS <= key.key_size <= MOST_RSA_BITS:
        raise _KeyUnusable(f"it has not {LEAST_RSA_BITS} to {MOST_RSA_BITS} bits")
    return key


def checked_url(text: str) -> str:
    """The address of a set that may be fetched: nobody on the way can put keys into it. Raises ValueError.

    >>> checked_url("https://idp.example/jwks"), checked_url("http://127.0.0.1:8000/jwks")
    ('https://idp.example/jwks', 'http://127.0.0.1:8000/jwks')
    """
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("expected a URL in printable ASCII, without blanks")
    parts = urlsplit(text)
    host = parts.hostname
    if not host or parts.scheme not in {"https", "http"} or parts.port == 0:
        raise ValueError("expected a URL such as https://idp.example/jwks")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("expected a URL without a user, and without a fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(
            "expected https://, as anybody on the way could put in keys; http:// is for loopback only"
        )
    return text


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
