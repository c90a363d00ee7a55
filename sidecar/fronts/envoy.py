"""The front for Envoy `ext_authz` over HTTP, and so for Istio, Envoy Gateway and the Gateway API's ExternalAuth.

Envoy asks with the client's own method, Host and path, the path behind a prefix. It does not say who the client
is unless told to: `X-Real-IP` from `headers_to_add`, which overrides a client's, or with `address: forwarded`
the walk along X-Forwarded-For.

Exactly 200 allows. Any 5xx means "the authorizer failed", which with `failure_mode_allow: true` lets the request
through; so a refusal with a 5xx is sent as 403 with the true status in `X-Portcullis-Status`. Everything else goes
to the client as it is.

It reads no `X-Forwarded-Host`, `-Uri`, `-Method` and no `X-Original-Method`, `-URI`, `-URL`.
"""

from __future__ import annotations

from typing import Final, Literal

from sidecar.core.addresses import AddressSet, canonical_address
from sidecar.core.forwarded import client_address
from sidecar.core.model import Request, Verdict
from sidecar.core.paths import PathRefused, canonical_path, split_target
from sidecar.fronts import UNKNOWN_ADDRESS, Head, answers, datum
from sidecar.fronts.credentials import CredentialReader
from sidecar.fronts.datum import Malformed

_PREFIX_LEN: Final = len(b"/auth/envoy")


class EnvoyFront:
    """`/auth/envoy/<original path>`. `trusted` are the proxies that the X-Forwarded-For walk passes."""

    name: Final = "envoy"
    index: Final = 1
    path: Final = b"/auth/envoy/"

    def __init__(
        self,
        *,
        credentials: CredentialReader,
        trusted: AddressSet,
        envoy_address: Literal["real_ip", "forwarded"],
        legacy_headers: bool,
    ) -> None:
        self._credential = credentials.read
        self._trusted = trusted
        self._forwarded = envoy_address == "forwarded"
        self._legacy = legacy_headers
        self.single_valued: Final = datum.single_valued(
            () if self._forwarded else (b"x-real-ip",), credentials.names
        )

    def read(self, head: Head) -> Request:
        headers = head.headers
        get = headers.get
        address, host, path, malformed = UNKNOWN_ADDRESS, "", "", None
        query = b""
        key: bytes | None = None
        length: int | None = None
        try:
            if head.repeated:
                datum.refuse_repeated(head, self.single_valued)
            address = self._address(headers) or UNKNOWN_ADDRESS
            host = datum.host(get(b"host"))
            raw_path, query = split_target(head.target[_PREFIX_LEN:])
            path = canonical_path(raw_path)
            if said := get(b"x-original-length"):
                length = datum.length(said)
            key = self._credential(headers)
        except (Malformed, PathRefused) as refused:
            malformed = str(refused)
        return Request(
            address=address,
            method=head.method.decode("ascii"),
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
        seen = 403 if status >= 500 else status
        lines = answers.refusal_lines(verdict, seen, legacy=self._legacy)
        if seen != status:
            lines += b"X-Portcullis-Status: %d\r\n" % status
        return answers.problem(seen, verdict, request_id, keep_alive, lines=lines, bodiless=request.bodiless)

    refuse = write

    def _address(self, headers: dict[bytes, bytes]) -> str | None:
        if self._forwarded:
            return client_address(headers.get(b"x-forwarded-for", b""), self._trusted)
        real_ip = headers.get(b"x-real-ip")
        return canonical_address(real_ip.decode("latin-1")) if real_ip else None
