"""What a request to the public plane says: its form, the client's credential, and where it comes from.

    Authorization: Basic base64(form-encoded id ":" form-encoded secret)      RFC 6749 (2.3.1)
    client_id=...&client_secret=...                                            the same, in the body

One way at a time. Whatever two readers could read differently is refused: parameters that repeat, parameters
in the URL, several lines of one header. Parameters that nobody knows are ignored, and those without a value
are not there (RFC 6749, 3.2).

What is presented as a credential and cannot be one is handed on as one that nobody has: the gate refuses
it, and counts it, like any other.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web
from multidict import CIMultiDictProxy

from sidecar.core.addresses import AddressSet, canonical_address
from sidecar.core.forwarded import client_address
from sidecar.public.refusals import unreadable

MOST_BODY: Final = 16 * 1024
BODY_S: Final = 10.0
"""How long a body may take to arrive."""
MOST_PARAMETERS: Final = 64
FORM: Final = "application/x-www-form-urlencoded"

_NOT_IN_A_CREDENTIAL: Final = re.compile(r"[^!-~]")
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")

Headers = CIMultiDictProxy[str]


class Credential(NamedTuple):
    """The id and the secret that a client presents, in printable ASCII; either may be empty."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return "Credential(...)"


_NOBODYS: Final = Credential("?", "?")


class Caller(NamedTuple):
    """Who asks, as the gate wants to know it. `headers` are the client's, each name once."""

    address: str
    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    request_id: str


def caller_of(request: web.Request, trusted: AddressSet) -> Caller:
    """Raises Refusal for a request that names no address, or two hosts."""
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    # A unix socket's peer has no address: it is a proxy of this host, which says whom it speaks for.
    nearest = peer[0] if isinstance(peer, tuple) else None
    address = address_of(nearest, request.headers.getall("X-Forwarded-For", []), trusted)
    if address is None:
        raise unreadable("The proxy before this does not say who asks.")
    hosts = request.headers.getall("Host", [])
    if len(hosts) > 1:
        raise unreadable("The host is named twice.")
    request_id = request.headers.get("X-Request-Id", "")
    return Caller(
        address=address,
        method=request.method,
        host=hosts[0] if hosts else "",
        path=request.path,
        headers=_joined(request.headers),
        request_id=request_id if _REQUEST_ID.fullmatch(request_id) else "",
    )


def address_of(nearest: str | None, forwarded: list[str], trusted: AddressSet) -> str | None:
    """The client's address: the nearest peer's, unless that is a trusted proxy which names another.

    `nearest` None is a proxy on this host. None when nobody says it.

    >>> address_of("203.0.113.9", ["198.51.100.1"], AddressSet())
    '203.0.113.9'
    >>> address_of("10.0.0.1", ["198.51.100.1, 203.0.113.9"], AddressSet(["10.0.0.0/8"]))
    '203.0.113.9'
    """
    peer = None
    if nearest is not None:
        peer = canonical_address(nearest.partition("%")[0])  # a link-local one has its interface with it
        if peer is None or not trusted.contains(peer) or not forwarded:
            return peer
    return client_address(", ".join(forwarded).encode("utf-8", "replace"), trusted) if forwarded else None


def _joined(headers: Headers) -> dict[str, str]:
    """Each header once, in lower case: several lines mean the same as one with commas (RFC 9110, 5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        # What was not UTF-8 came as lone surrogates, which JSON cannot carry.
        text = value.encode("utf-8", "replace").decode()
        joined[lower] = f"{joined[lower]}, {text}" if lower in joined else text
    return joined


async def form_of(request: web.Request) -> dict[str, str]:
    """The parameters in the body. Raises Refusal."""
    if "?" in request.raw_path:
        # A URL ends up in logs, here and on the way; what it says is not even looked at.
        raise unreadable("Parameters belong in the body, none in the URL.")
    kinds = request.headers.getall("Content-Type", [])
    if len(kinds) != 1 or request.content_type != FORM:
        raise unreadable(f"The body must be {FORM}.")
    try:
        text = (await _body(request)).decode()
        # Not more than one wants to look at; "errors" makes it raise for what is no UTF-8.
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise unreadable("The body is no form in UTF-8, or has too many parameters.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise unreadable("A parameter stands there twice.")
    return {name: value for name, value in form.items() if value}


async def _body(request: web.Request) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > MOST_BODY:
                    raise unreadable(f"The body is longer than {MOST_BODY // 1024} KiB.", status=413)
    except TimeoutError:
        raise unreadable(f"The body did not arrive within {BODY_S:g} s.", status=408) from None
    except web.RequestPayloadError:
        raise unreadable("The body did not arrive whole.") from None
    return bytes(body)


def credential_of(headers: Headers, form: Mapping[str, str]) -> Credential | None:
    """What the client presents; None when it presents nothing. Raises Refusal for two ways at once."""
    lines = headers.getall("Authorization", [])
    if len(lines) > 1:
        raise unreadable("There is more than one credential.")
    scheme, _, encoded = lines[0].strip().partition(" ") if lines else ("", "", "")
    in_body = Credential(form.get("client_id", ""), form.get("client_secret", ""))
    if scheme.lower() != "basic":
        if lines and in_body.secret:
            raise unreadable("There is more than one credential.")
        return _presentable(in_body) if in_body.id or in_body.secret else None
    basic = _basic(encoded)
    # A client may name itself besides (RFC 6749, 3.2.1), and then as the same.
    if in_body.secret or in_body.id not in {"", basic.id}:
        raise unreadable("There is more than one credential.")
    return basic


def _basic(encoded: str) -> Credential:
    try:
        key_id, colon, secret = b64decode(encoded.strip(), validate=True).decode().partition(":")
        if not colon:
            return _NOBODYS
        decoded = (unquote_plus(part, errors="strict") for part in (key_id, secret))
        return _presentable(Credential(*decoded))
    except ValueError:
        return _NOBODYS


def _presentable(credential: Credential) -> Credential:
    """As a header can carry it. No id and no secret holds a question mark, so that nothing becomes valid."""
    return Credential(*(_NOT_IN_A_CREDENTIAL.sub("?", part) for part in credential))
