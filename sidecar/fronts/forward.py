"""The front for Traefik ForwardAuth, Caddy `forward_auth` and HAProxy's `auth-request`.

They ask with `GET` (HAProxy with `HEAD`) and say in `X-Forwarded-Method`, `-Uri`, `-Host`, `-Proto` and `-For` what
the client asked. 2xx allows; any other answer goes to the client whole, so a refusal is what it is.

It reads no `Forwarded`, which Traefik passes through from the client, no `X-Real-IP`, and no method or path of the
question itself.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.addresses import AddressSet
from sidecar.core.forwarded import client_address
from sidecar.core.model import Request, Verdict
from sidecar.core.paths import PathRefused, canonical_path, split_target
from sidecar.fronts import UNKNOWN_ADDRESS, Head, answers, datum
from sidecar.fronts.credentials import CredentialReader
from sidecar.fronts.datum import Malformed

_OWN: Final = (b"x-forwarded-host", b"x-forwarded-method", b"x-forwarded-uri")


class ForwardFront:
    """`/auth/forward`. `trusted` are the proxies that the X-Forwarded-For walk passes."""

    name: Final = "forward"
    index: Final = 2
    path: Final = b"/auth/forward"

    def __init__(self, *, credentials: CredentialReader, trusted: AddressSet, legacy_headers: bool) -> None:
        self._credential = credentials.read
        self._trusted = trusted
        self._legacy = legacy_headers
        self.single_valued: Final = datum.single_valued(_OWN, credentials.names)

    def read(self, head: Head) -> Request:
        headers = head.headers
        get = headers.get
        address, method, host, path, malformed = UNKNOWN_ADDRESS, "", "", "", None
        query = b""
        key: bytes | None = None
        length: int | None = None
        try:
            if head.repeated:
                datum.refuse_repeated(head, self.single_valued)
            if forwarded := get(b"x-forwarded-for"):
                address = client_address(forwarded, self._trusted) or UNKNOWN_ADDRESS
            method = datum.method(get(b"x-forwarded-method"))
            uri = get(b"x-forwarded-uri")
            if uri is None:
                raise Malformed("the proxy did not say the client's URI")
            host = datum.host(get(b"x-forwarded-host"))
            raw_path, query = split_target(uri)
            path = canonical_path(raw_path)
            if said := get(b"x-original-length"):
                length = datum.length(said)
            key = self._credential(headers)
        except (Malformed, PathRefused) as refused:
            malformed = str(refused)
        return Request(
            address=address,
            method=method,
            host=host,
            path=path,
            headers=headers,
            content_type=get(b"content-type"),
            content_length=length,
            tls=datum.tls_version(headers) if b"x-original-tls" in headers else None,
            query=query,
            key=key,
            request_id=datum.request_id(said_id) if (said_id := get(b"x-request-id")) else None,
            malformed=malformed,
            bodiless=head.method == b"HEAD",
        )

    def write(self, request: Request, verdict: Verdict, request_id: bytes, keep_alive: bool) -> bytes:
        if verdict.reason.allowed:
            return answers.allow(verdict, request_id, keep_alive, legacy=self._legacy)
        status = answers.refused_status(verdict)
        return answers.problem(
            status,
            verdict,
            request_id,
            keep_alive,
            lines=answers.refusal_lines(verdict, status, legacy=self._legacy),
            bodiless=request.bodiless,
        )

    refuse = write
