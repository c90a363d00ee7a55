"""Issuers of tokens for the tests: keys, sets of keys, good and bad tokens, and a server that publishes sets.

Tokens are put together here byte by byte and signed with `cryptography` alone, so that anything can be forged;
nothing of the code under test takes part.
"""

from __future__ import annotations

import json
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.servers import WITHIN_S

NOW_MS: Final = 1_700_000_000_000
NOW_S: Final = NOW_MS // 1000
AUDIENCE: Final = "api"
OURS: Final = "https://gate.example"
THEIRS: Final = "https://idp.example"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Json = Mapping[str, object]

_CURVES: Final = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}


# --- what a configuration says of issuers -------------------------------------


@dataclass(frozen=True)
class Names:
    subject: str = "sub"
    scopes: str = "scope"
    tenant: str = ""
    plan: str = ""


@dataclass(frozen=True)
class Url:
    url: str
    refresh_ms: int = 600_000


@dataclass(frozen=True)
class Foreign:
    """A foreign issuer as the configuration names it."""

    name: str = "idp"
    issuer: str = THEIRS
    audiences: tuple[str, ...] = (AUDIENCE,)
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    leeway_ms: int = 0
    claims: Names = Names()
    jwks: str | Url = ""


# --- keys ---------------------------------------------------------------------


@cache
def rsa_key(name: str = "one", bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key of this name: made once a session, as that takes long."""
    del name
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str = "one", curve: str = "P-256") -> ec.EllipticCurvePrivateKey:
    del name
    return ec.generate_private_key(_CURVES[curve])


@cache
def ed25519_key(name: str = "one") -> ed25519.Ed25519PrivateKey:
    del name
    return ed25519.Ed25519PrivateKey.generate()


def pem_of(key: PrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def public_pem_of(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Signer:
    """A key as an issuer uses it: with one algorithm, under one name."""

    private: PrivateKey
    algorithm: str
    kid: str | None = "k1"

    def jwk(self, **members: object) -> dict[str, object]:
        """The public key as a set lists it; `members` are set, or with None left out."""
        named: dict[str, object] = {"kid": self.kid, "alg": self.algorithm, "use": "sig"}
        jwk = {**_public_members(self.private), **named, **members}
        return {name: value for name, value in jwk.items() if value is not None}

    def sign(self, signed: bytes) -> bytes:
        return signature(self.private, self.algorithm, signed)

    def token(self, claims: Json | bytes, **header: object) -> bytes:
        """A token signed with the key; a member of the header that is None is left out."""
        whole = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid, **header}
        opening = encoded({name: value for name, value in whole.items() if value is not None})
        return self.signed_as(opening, encoded(claims))

    def signed_as(self, header: bytes, payload: bytes) -> bytes:
        """Over two parts that are base64url already, or are meant not to be."""
        signed = header + b"." + payload
        return signed + b"." + base64url(self.sign(signed))


def rs256(name: str = "one", kid: str | None = "rsa") -> Signer:
    return Signer(rsa_key(name), "RS256", kid)


def es256(name: str = "one", kid: str | None = "ec") -> Signer:
    return Signer(ec_key(name), "ES256", kid)


def eddsa(name: str = "one", kid: str | None = "ed") -> Signer:
    return Signer(ed25519_key(name), "EdDSA", kid)


def jwks(*keys: Signer | Json) -> str:
    """A set of keys as an issuer publishes it."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, Signer) else dict(key) for key in keys]})


def signature(private: PrivateKey, algorithm: str, signed: bytes) -> bytes:
    """As RFC 7518 and RFC 8037 write it, by the algorithm's name."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(signed)
    digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        size = (private.curve.key_size + 7) // 8
        pair = decode_dss_signature(private.sign(signed, ec.ECDSA(digest)))
        return b"".join(number.to_bytes(size) for number in pair)
    if algorithm.startswith("PS"):
        return private.sign(signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return private.sign(signed, padding.PKCS1v15(), digest)


def base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def encoded(part: Json | bytes) -> bytes:
    """A part of a token; bytes are taken as the JSON that they are meant to be."""
    return base64url(part if isinstance(part, bytes) else json.dumps(part).encode())


def _public_members(private: PrivateKey) -> dict[str, object]:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": _text(private.public_key().public_bytes_raw())}
    if isinstance(private, ec.EllipticCurvePrivateKey):
        point, size = private.public_key().public_numbers(), (private.curve.key_size + 7) // 8
        curve = next(name for name, curve in _CURVES.items() if curve.name == private.curve.name)
        return {
            "kty": "EC",
            "crv": curve,
            "x": _text(point.x.to_bytes(size)),
            "y": _text(point.y.to_bytes(size)),
        }
    numbers = private.public_key().public_numbers()
    return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}


def _number(number: int) -> str:
    return _text(number.to_bytes((number.bit_length() + 7) // 8))


def _text(data: bytes) -> str:
    return base64url(data).decode()


# --- claims -------------------------------------------------------------------


def claims(**members: object) -> dict[str, object]:
    """What a good token of the foreign issuer claims; `members` are set, or with None left out."""
    whole = {"iss": THEIRS, "sub": "alice", "aud": AUDIENCE, "exp": NOW_S + 60, **members}
    return {name: value for name, value in whole.items() if value is not None}


def own_claims(**members: object) -> dict[str, object]:
    """What a good token issued here claims."""
    ours = {"iss": OURS, "sub": "k_a", "client_id": "k_a", "iat": NOW_S, "jti": "t1", "scope": "orders.read"}
    return claims(**{**ours, **members})


# --- a server that publishes keys ---------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the server answers with from now on; `endless` never comes to the end of its body."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    endless: bool = False


class KeyServer:
    """Publishes a set of keys on loopback, or misbehaves as it is told to."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answer = Answer()
        self.asked: list[str] = []
        """The path of each request, in their order."""
        self._held = threading.Event()
        self._held.set()
        self._changed = threading.Condition()
        self._tls = tls
        self._server = self._listen(0)

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}/jwks"

    def publish(self, *keys: Signer | Json) -> None:
        self.answer = Answer(jwks(*keys).encode())

    def hold(self) -> None:
        """Whoever asks waits, until `release`."""
        self._held.clear()

    def release(self) -> None:
        self._held.set()

    def wait_for(self, requests: int) -> None:
        """Until so many requests came in all."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= requests, WITHIN_S), self.asked

    def stop(self) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def start(self) -> None:
        """Again, where it was."""
        self._server = self._listen(self._server.server_address[1])

    def _listen(self, port: int) -> ThreadingHTTPServer:
        server = _Server(("127.0.0.1", port), self._handler())
        if self._tls is not None:
            server.socket = self._tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.serve(self)

            def log_message(self, format: str, *args: object) -> None:
                """What was asked is in `asked`."""

        return Handler

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        answer = self.answer
        with self._changed:
            self.asked.append(handler.path)
            self._changed.notify_all()
        self._held.wait(WITHIN_S)
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        if not answer.endless:
            handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        try:
            handler.wfile.write(answer.body)
            while answer.endless:
                handler.wfile.write(b" " * 4096)
        except OSError:  # who asked has heard enough
            handler.close_connection = True


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Who asks may go away at any time: that is what some tests are about."""


@contextmanager
def key_server(*keys: Signer | Json, tls: ssl.SSLContext | None = None) -> Iterator[KeyServer]:
    """One that publishes these keys."""
    server = KeyServer(tls)
    server.publish(*keys)
    try:
        yield server
    finally:
        server.stop()


def at(server: KeyServer, refresh_ms: int = 600_000, *, issuer: Foreign | None = None) -> Foreign:
    """The issuer whose keys the server publishes."""
    return replace(issuer or Foreign(), jwks=Url(server.url, refresh_ms))
