"""TLS for the planes that are served here: Mozilla's intermediate profile, and the clients' certificates where an
authority for them is named.

The profile (Server Side TLS, guideline 5.8, "intermediate") is TLS 1.2 and 1.3, six ECDHE cipher suites and three
of DHE for 1.2, and the client's order of preference. The three are left out, as the proposal for 6.0 leaves them
out: they need parameters of their own, and no client that speaks 1.2 needs them. Its curves cannot be set from
here; OpenSSL's own choice begins with them.

A context that serves is never changed: who renews a certificate makes another context, whole, and serves with
that. So no file that changes while it is read can leave a plane with half a pair.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from sidecar.config import AdminTls, PublicTls

# Those of TLS 1.3 cannot be chosen here; OpenSSL's own are the profile's three.
CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)

Files = AdminTls | PublicTls


class TlsUnusable(Exception):
    """A file cannot be used; the text names the key, the file and the reason."""


def tls_context(files: Files, key: str) -> ssl.SSLContext:
    """What a plane is served with; `key` is the section that names the files. Raises TlsUnusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_ciphers(":".join(CIPHERS))
    # Python sets it. All of these are good; the client knows which it has hardware for.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, files, key)
    client_ca = files.client_ca if isinstance(files, AdminTls) else None
    if client_ca is not None:
        _check(f"{key}.client_ca", client_ca)
        try:
            context.load_verify_locations(cafile=client_ca)
        except ssl.SSLError:
            raise TlsUnusable(f"{key}.client_ca: {client_ca}: holds no certificate in PEM form") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_pair(context: ssl.SSLContext, files: Files, key: str) -> None:
    _check(f"{key}.cert", files.cert)
    _check(f"{key}.key", files.key)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as exc:
        raise TlsUnusable(_about_pair(files, key, exc)) from None


def _check(key: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise TlsUnusable(f"{key}: {path}: cannot be read: {exc.strerror}") from exc


def _about_pair(files: Files, key: str, error: Exception) -> str:
    """OpenSSL reads both files in one call; this finds out which of them it means."""
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"{key}.key: {files.key}: is not the private key of the certificate in {files.cert}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=files.cert)
    except ssl.SSLError:
        return f"{key}.cert: {files.cert}: holds no certificate in PEM form"
    if isinstance(error, _Passphrase):
        return f"{key}.key: {files.key}: has a passphrase, which nobody could type: take it off"
    return f"{key}.key: {files.key}: holds no private key in PEM form"


class _Passphrase(ValueError):
    pass


def _no_passphrase() -> str:
    """Asked for when the key has one; without this OpenSSL would ask the terminal."""
    raise _Passphrase
