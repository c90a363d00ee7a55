"""The front for nginx `auth_request` and ingress-nginx.

Their subrequest is always `GET`, and what the client asked arrives in headers that the configuration sets.
nginx sends the raw URI (`X-Original-URI`), ingress-nginx an absolute URL (`X-Original-URL`). Whichever of the
two the proxy does not set, a client can send; so both at once are refused: choosing either would let somebody
behind the other kind of proxy say what they asked for. With the URL its own host counts, not
`X-Forwarded-Host`, which ingress-nginx passes through from the client.

nginx takes 2xx for "go on", hands 401 and 403 to the client, and makes an error of everything else. A refusal
is therefore a 403 (or 401) whose true status is in `X-Portcullis-Status`, for the configuration to turn
around. No answer has a body: before 1.29.7 nginx keeps the connection to the gate only then.

It reads no `X-Forwarded-For` and no method or path of the subrequest itself.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.addresses import canonical_address
from sidecar.core.model import Request, Verdict
from sidecar.core.paths import PathRefused, canonical_path, split_absolute, split_target
from sidecar.fronts import UNKNOWN_ADDRESS, Head, answers, datum
from sidecar.fronts.credentials import CredentialReader
from sidecar.fronts.datum import Malformed

_OWN: Final = (
    b"x-forwarded-host",
    b"x-original-method",
    b"x-original-uri",
    b"x-original-url",
    b"x-real-ip",
)

_REFUSE: Final = (
    b"%bContent-Length: 0\r\nX-Portcullis-Status: %d\r\nX-Portcullis-Reason: %b\r\n"
    b"X-Request-Id: %b\r\n%b%b\r\n"
)


class NginxFront:
    """`/auth/nginx`."""

    name: Final = "nginx"
    index: Final = 0
    path: Final = b"/auth/nginx"

    def __init__(self, *, credentials: CredentialReader, legacy_headers: bool) -> None:
        self._credential = credentials.read
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
            if real_ip := get(b"x-real-ip"):
                address = canonical_address(real_ip.decode("latin-1")) or UNKNOWN_ADDRESS
            method = datum.method(get(b"x-original-method"))
            uri, url = get(b"x-original-uri"), get(b"x-original-url")
            if url is None:
                authority = get(b"x-forwarded-host")
            else:
                uri, authority = _path_and_host(uri, url)
            if uri is None:
                raise Malformed("the proxy did not say the client's URI")
            if authority:
                host = datum.host(authority)
            raw_path, query = split_target(uri)
            path = canonical_path(raw_path)
            if said := get(b"x-original-length"):
                length = datum.length(said)
            key = self._credential(headers)
        except (Malformed, PathRefused) as refused:
            malformed = str(refused)
        request = Request(address=address, method=method, host=host, path=path, headers=headers)
        request.bodiless = True
        # Most of what follows most requests do not have; asking costs less than passing it on.
        if malformed is not None:
            request.malformed = malformed
        if length is not None:
            request.content_length = length
        if content_type := get(b"content-type"):
            request.content_type = content_type
        if b"x-original-tls" in headers:
            request.tls = datum.tls_version(headers)
        if query:
            request.query = query
        if key is not None:
            request.key = key
        if request_id := get(b"x-request-id"):
            request.request_id = datum.request_id(request_id)
        return request

    def write(self, request: Request, verdict: Verdict, request_id: bytes, keep_alive: bool) -> bytes:
        if verdict.reason.allowed:
            return answers.allow(verdict, request_id, keep_alive, legacy=self._legacy)
        status = answers.refused_status(verdict)
        seen = 401 if status == 401 else 403
        return _REFUSE % (
            answers.STATUS_LINE[seen],
            status,
            verdict.reason.code.encode(),
            request_id,
            answers.refusal_lines(verdict, seen, legacy=self._legacy) + answers.shadow_line(verdict),
            answers.close_line(keep_alive),
        )

    refuse = write


def _path_and_host(uri: bytes | None, url: bytes) -> tuple[bytes, bytes]:
    """The raw path and query that the client asked for, and the host that it asked, of an absolute URL."""
    if uri is not None:
        raise Malformed("both X-Original-URI and X-Original-URL")
    _, host, target = split_absolute(url)
    return target, host
