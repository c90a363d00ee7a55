"""What everybody may know of the tokens issued here: the keys that verify them, and where the endpoints are.

Both are documents in memory, the same for whoever asks and whatever the credential: caches may keep them, so that
who verifies tokens rarely asks.

A new signing key should stand second in the configuration, published and not used yet, for as long as caches
may keep the set; then it may sign.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from sidecar.config import Tokens

CACHED_S: Final = 300
METADATA_PATH: Final = "/.well-known/oauth-authorization-server"
KEYS_PATH: Final = "/.well-known/jwks.json"
TOKEN_PATH: Final = "/oauth/token"
INTROSPECT_PATH: Final = "/oauth/introspect"
REVOKE_PATH: Final = "/oauth/revoke"

_METHODS: Final = ("client_secret_basic", "client_secret_post")


class Published(NamedTuple):
    """JSON documents. `issuer_path` is what stands behind the metadata's path for an issuer with a path."""

    keys: bytes
    metadata: bytes
    issuer_path: str

    @classmethod
    def of(cls, tokens: Tokens) -> Published:
        keys = {"keys": [dict(key.public_jwk) for key in tokens.keys]}
        return cls(
            orjson.dumps(keys),
            orjson.dumps(_metadata(tokens.issuer)),
            urlsplit(tokens.issuer).path.rstrip("/"),
        )


def _metadata(issuer: str) -> dict[str, object]:
    """RFC 8414 (2). The endpoints are below the issuer: that is where clients reach this plane."""
    base = issuer.rstrip("/")
    return {
        "issuer": issuer,
        "token_endpoint": base + TOKEN_PATH,
        "introspection_endpoint": base + INTROSPECT_PATH,
        "revocation_endpoint": base + REVOKE_PATH,
        "jwks_uri": base + KEYS_PATH,
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],  # required, and there is no authorization endpoint
        "token_endpoint_auth_methods_supported": _METHODS,
        "introspection_endpoint_auth_methods_supported": _METHODS,
        "revocation_endpoint_auth_methods_supported": _METHODS,
    }
