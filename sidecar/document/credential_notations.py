"""How single values about credentials are written: headers, scopes, issuers, claims, algorithms.

As in `notations`: a value comes back as the gate works with it, or ValueError says what should stand
there, without repeating what does.

Does not read key files; `config_credentials` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sidecar.core.keys import holds_secret
from sidecar.core.origins import parse_origin
from sidecar.document.notations import file_path, header_name, is_loopback, matching, text_of
from sidecar.document.yaml_text import Tree

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
"""Signatures by a private key, verified with the public one."""

MOST_URL: Final = 512

_SCOPE: Final = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_PARAMETER: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
_ROLE: Final = "role:"
_NO_SECRET: Final = "this is a key's secret: it must stand nowhere; rotate the key"

# Headers that fronts read for something else, that proxies set by themselves, or that belong to the connection.
_TAKEN: Final = frozenset(
    {
        b"accept",
        b"connection",
        b"cookie",
        b"date",
        b"expect",
        b"forwarded",
        b"host",
        b"keep-alive",
        b"origin",
        b"range",
        b"referer",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"user-agent",
        b"via",
        b"x-real-ip",
        b"x-request-id",
    }
)
_TAKEN_BEGINNINGS: Final = (
    b"access-control-",
    b"content-",
    b"sec-",
    b"x-envoy-",
    b"x-forwarded-",
    b"x-original-",
    b"x-portcullis-",
)


def credential_header(value: Tree) -> bytes:
    """The name of a header that may carry a credential, in lower case."""
    name = header_name(value)
    if isinstance(value, str) and holds_secret(value):
        raise ValueError(_NO_SECRET)
    if name == b"cookie":
        raise ValueError("it carries all cookies of a site at once: name a header of the key's own")
    if name in _TAKEN or name.startswith(_TAKEN_BEGINNINGS):
        raise ValueError('it is read for another purpose: name a header of the key\'s own, as "X-Api-Key"')
    return name


def parameter(value: Tree) -> str:
    """The name of a query parameter, in lower case: case does not count."""
    remedy = 'expected the name of a query parameter such as "api_key"'
    return matching(_PARAMETER, value, remedy).lower()


def scope(value: Tree) -> str:
    """A scope, as keys have them. A role stands for scopes and is none."""
    remedy = 'expected 1 to 64 of A-Z a-z 0-9 . _ : / -, such as "orders.write"'
    text = matching(_SCOPE, value, remedy)
    if holds_secret(text):
        raise ValueError(_NO_SECRET)
    if text.startswith(_ROLE):
        raise ValueError("a role is given to keys: write the scopes that it stands for")
    return text


def origin(value: Tree) -> str:
    """A web origin, or a rule for several, in canonical text; see `origins`."""
    return parse_origin(text_of(value, 'expected an origin such as "example.com" or "https://example.com"'))


def own_issuer(value: Tree) -> str:
    """The URL under which this gate issues tokens."""
    text = _url(value, 'expected a URL such as "https://gate.example"')
    if "?" in text:
        raise ValueError("an issuer has no query: end it before the question mark")
    return text


def key_set_url(value: Tree) -> str:
    """Where a key set is fetched from."""
    return _url(value, 'expected a URL such as "https://idp.example/jwks.json"')


def key_file(value: Tree) -> Path:
    """The path of a PEM file, which is taken for the key itself at times."""
    if isinstance(value, str) and "-----BEGIN" in value:
        raise ValueError("expected the path of a PEM file, not what is in it")
    return file_path(value)


def printable(most: int) -> Callable[[Tree], str]:
    """A reader of names that are compared whole."""

    def read(value: Tree) -> str:
        text = text_of(value, "expected text")
        if not 1 <= len(text) <= most or not text.isprintable() or text.strip() != text:
            raise ValueError(f"expected 1 to {most} printable characters, no blank first or last")
        return text

    return read


def claim(value: Tree) -> str:
    """The name of a token's claim."""
    return printable(128)(value)


def claim_or_none(value: Tree) -> str:
    """The name of a token's claim; empty: it is not read."""
    return "" if value == "" else claim(value)


def algorithm(value: Tree) -> str:
    """A signature's algorithm, of the ones that a gate can verify without being able to sign."""
    remedy = f"expected one of {', '.join(ALGORITHMS)}"
    text = text_of(value, remedy)
    if text.lower() == "none":
        raise ValueError(f"a token without a signature is anybody's: {remedy}")
    if text.upper() in {"HS256", "HS384", "HS512"}:
        raise ValueError(
            f"whoever can verify it can also make tokens, and published keys would be secrets: {remedy}"
        )
    if text not in ALGORITHMS:
        raise ValueError(remedy)
    return text


def _url(value: Tree, remedy: str) -> str:
    """https, or http where nobody listens in: on loopback."""
    text = text_of(value, remedy)
    if len(text) > MOST_URL or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{remedy}: at most {MOST_URL} ASCII characters, others percent-encoded")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ValueError(remedy) from None  # from None: urlsplit quotes what may be a password
    if "@" in url.netloc:
        raise ValueError("user and password have no place here: take them out of the URL")
    if url.scheme not in {"http", "https"} or not url.hostname or port == 0:
        raise ValueError(remedy)
    if url.scheme == "http" and not is_loopback(url.hostname):
        raise ValueError("anybody on the way could answer: take https (http is for loopback only)")
    if "#" in text:
        raise ValueError("a fragment is never sent: end it before #")
    return text
