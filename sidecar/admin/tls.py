"""TLS for the admin plane: 1.2 and later, and a client's certificate where an authority for it is named.

The files are read once, at the start.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from sidecar.config import AdminTls


class TlsUnusable(Exception):
    """A file of `listen.admin_tls` cannot be used; the text names the key, the file and the reason."""


def tls_context(files: AdminTls) -> ssl.SSLContext:
    """What `start` serves with. Raises TlsUnusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _check("cert", files.cert)
    _check("key", files.key)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
    except (ssl.SSLError, ValueError) as exc:
        raise TlsUnusable(_about_pair(files, exc)) from None
    if files.client_ca is not None:
        _check("client_ca", files.client_ca)
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except ssl.SSLError:
            raise TlsUnusable(
                f"listen.admin_tls.client_ca: {files.client_ca}: holds no certificate in PEM form"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check(key: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise TlsUnusable(f"listen.admin_tls.{key}: {path}: cannot be read: {exc.strerror}") from exc


def _about_pair(files: AdminTls, error: Exception) -> str:
    """OpenSSL reads both files in one call; this finds out which of them it means."""
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"listen.admin_tls.key: {files.key}: is not the private key of the certificate in {files.cert}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=files.cert)
    except ssl.SSLError:
        return f"listen.admin_tls.cert: {files.cert}: holds no certificate in PEM form"
    if isinstance(error, _Passphrase):
        return f"listen.admin_tls.key: {files.key}: has a passphrase, which nobody could type: take it off"
    return f"listen.admin_tls.key: {files.key}: holds no private key in PEM form"


class _Passphrase(ValueError):
    pass


def _no_passphrase() -> str:
    """Asked for when the key has one; without this OpenSSL would ask the terminal."""
    raise _Passphrase
