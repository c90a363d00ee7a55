"""One header's value at a time: host, method, TLS version, length, request id.

What a value cannot be read as is refused here with `Malformed` or read as "the proxy did not say",
whichever cannot help a client. Which header carries which datum is each front's own knowledge; credentials are
read in `credentials`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from sidecar.fronts import Head

CLIENT_HEADERS: Final = frozenset(
    {
        b"access-control-request-method",
        b"authorization",
        b"content-length",
        b"content-type",
        b"cookie",
        b"host",
        b"origin",
        b"proxy-authorization",
        b"x-original-length",
        b"x-original-tls",
        b"x-forwarded-proto",
        b"x-request-id",
    }
)
"""Single-valued headers that every proxy front reads, or that decide who the client is."""

_HOST: Final = re.compile(r"([a-z0-9_](?:[a-z0-9._-]{0,252})|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

_TLS: Final = {
    spelling: version
    for version in ("1.0", "1.1", "1.2", "1.3")
    for spelling in (
        b"TLSv" + version.encode(),  # nginx, Envoy, HAProxy
        b"tls" + version.encode(),  # Caddy
        version.encode(),
    )
} | {b"TLSv1": "1.0"}

_USUAL: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})

_ABSENT: Final = (b"", b"-")  # nginx and Envoy write "-" where a variable has no value


class Malformed(Exception):
    """A request that cannot be judged. Its text is static: nothing of what the client sent is in it."""


def single_valued(
    own: Iterable[bytes], credential_headers: tuple[bytes, ...], *, without: frozenset[bytes] = frozenset()
) -> frozenset[bytes]:
    """The headers that a front refuses to see twice: everyone's, its own, and the credentials'."""
    return (CLIENT_HEADERS | frozenset(own) | frozenset(credential_headers)) - without


def refuse_repeated(head: Head, single: frozenset[bytes]) -> None:
    """Two lines of a single-valued header: the gate and the application might each believe another one."""
    if head.repeated and not single.isdisjoint(head.repeated):
        raise Malformed("a header that may come once came more than once")


@lru_cache(maxsize=1024)  # a site has few; a miss costs five times a hit
def host(value: bytes | None) -> str:
    """Lower-case host without port and without the root's trailing dot; "" when the proxy did not say.

    >>> host(b"Shop.Example.:8443"), host(b"[2001:DB8::1]:80"), host(None)
    ('shop.example', '[2001:db8::1]', '')
    """
    if not value:
        return ""
    try:
        text = value.decode("ascii").lower()
    except UnicodeDecodeError:
        raise Malformed("the host is not a host name") from None
    found = _HOST.fullmatch(text)
    if found is None:
        raise Malformed("the host is not a host name")
    return found[1].removesuffix(".")


def method(value: bytes | None) -> str:
    """The client's method, any token: unknown ones are the policy's business.

    Case matters (RFC 9110, 9.1), but not to every application: `post` would be a POST that no rule for POST sees.
    """
    if value is None:
        raise Malformed("the proxy did not say the client's method")
    if value == b"GET":
        return "GET"
    if not _TOKEN.fullmatch(value):
        raise Malformed("the client's method is not a token")
    text = value.decode("ascii")
    if text not in _USUAL and text.upper() in _USUAL:
        raise Malformed(
            "the client's method is a usual one in lower case, which applications read in two ways"
        )
    return text


def tls_version(headers: Mapping[bytes, bytes]) -> str | None:
    """`1.2` from `X-Original-TLS: TLSv1.2`; None when the proxy did not say, or says that it was not https.

    >>> tls_version({b"x-original-tls": b"TLSv1.3"}), tls_version({b"x-forwarded-proto": b"https"})
    ('1.3', None)
    """
    value = headers.get(b"x-original-tls")
    if value is None or headers.get(b"x-forwarded-proto", b"https").lower() != b"https":
        return None
    return _TLS.get(value)


def length(value: bytes | None) -> int | None:
    """Bytes of the client's body from `X-Original-Length`; None when the proxy did not say."""
    if value is None or value in _ABSENT:
        return None
    if not _LENGTH.fullmatch(value):
        raise Malformed("the body's length is not a number")
    return int(value)


def request_id(value: bytes | None) -> bytes | None:
    """The client's id when it is fit for a log line and a header, and no secret, else None: the gate makes its own."""
    return value if value is not None and _REQUEST_ID.fullmatch(value) and b"pcs_" not in value else None
