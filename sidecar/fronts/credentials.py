"""The presented credential: which headers carry one, and what they say together.

A reader is made once from the configuration and runs for every request. Most requests present nothing, or one
header's worth; a request that presents two credentials is malformed, since the gate and the application might each
believe another one.

Nothing is verified here; `core.credentials` says in which form a registry gets to see what was presented.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from sidecar.core.credentials import BEARER, CLIENT_PAIR, SERVER_PAIR, WHOLE, HeaderPair
from sidecar.fronts.datum import Malformed

AUTHORIZATION: Final = b"authorization"
_BLANKS: Final = b" \t"


class CredentialReader(NamedTuple):
    """What reads the credential from a request's headers.

    names  lower-case headers that it reads: none of them may come twice, and no head with one is remembered
    read   the credential as presented, or None; raises Malformed when there is more than one
    """

    names: tuple[bytes, ...]
    read: Callable[[Mapping[bytes, bytes]], bytes | None]


def nobody() -> CredentialReader:
    """Everybody is anonymous, whatever they present."""
    return CredentialReader((), lambda _headers: None)


def opaque(names: tuple[bytes, ...]) -> CredentialReader:
    """The plain value of the first of these headers that is there and not empty."""

    def read(headers: Mapping[bytes, bytes]) -> bytes | None:
        for name in names:
            if value := headers.get(name):
                return value
        return None

    return CredentialReader(names, read)


def registry(
    *, headers: tuple[bytes, ...], bearer: bool, server: HeaderPair, client: HeaderPair
) -> CredentialReader:
    """A credential of the registry's, or a token: in one of `headers`, in a pair, or as `bearer`.

    An empty header counts as absent, and what a pair lacks is empty: no key is called that, so half a pair is
    presented and invalid. Of `Authorization` only the scheme Bearer is read (RFC 6750, 2.1): others, such as Basic,
    are between the client and the application.
    """
    names = tuple(dict.fromkeys((*headers, *server, *client, *((AUTHORIZATION,) if bearer else ()))))
    server_id, server_secret = server
    client_id, client_secret = client

    def read(given: Mapping[bytes, bytes]) -> bytes | None:
        # Written out: a loop over all the ways takes two to three times as long.
        get = given.get
        found: bytes | None = None
        several = False
        for name in headers:
            if value := get(name):
                several |= found is not None
                found = WHOLE + value
        if (server_id in given or server_secret in given) and (pair := _pair(SERVER_PAIR, get, server)):
            several |= found is not None
            found = pair
        if (client_id in given or client_secret in given) and (pair := _pair(CLIENT_PAIR, get, client)):
            several |= found is not None
            found = pair
        if bearer and (value := get(AUTHORIZATION)) and (token := _bearer_token(value)) is not None:
            several |= found is not None
            found = BEARER + token
        if several:
            raise Malformed("more than one credential")
        return found

    return CredentialReader(names, read)


def _pair(tag: bytes, get: Callable[[bytes, bytes], bytes], names: HeaderPair) -> bytes | None:
    key_id, secret = get(names.id, b""), get(names.secret, b"")
    return b"%b%b\0%b" % (tag, key_id, secret) if key_id or secret else None


def _bearer_token(value: bytes) -> bytes | None:
    """What follows the scheme Bearer, perhaps nothing; None for another scheme.

    >>> _bearer_token(b"bearer  a.b"), _bearer_token(b"Bearer"), _bearer_token(b"Basic YTpi")
    (b'a.b', b'', None)
    """
    if value[:7] == b"Bearer ":  # as nearly everybody writes it
        return value[7:].lstrip(_BLANKS)
    scheme, rest = value[:6], value[6:]
    if scheme.lower() != b"bearer" or (rest and rest[0] not in _BLANKS):
        return None
    return rest.lstrip(_BLANKS)
