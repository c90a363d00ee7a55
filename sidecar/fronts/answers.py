"""Whole HTTP/1.1 responses: what the fronts' answers have in common.

Everything that does not change is bytes already; one `%` makes the answer. Values that end up in a header
come from the configuration, from the gate, or from a header of the client's: none can hold a line break.

No `Date`: every proxy adds its own. Which status a proxy must see is each front's own knowledge.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import orjson

from sidecar.core.model import Reason, Request, Verdict
from sidecar.core.quota_headers import legacy_headers, ratelimit_header
from sidecar.fronts import UNKNOWN_ADDRESS

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}

STATUS_LINE: Final = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, "").encode()) for status in range(200, 600)
}

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

QUOTA_EXCEEDED: Final = "https://iana.org/assignments/http-problem-types#quota-exceeded"
"""Problem type of draft-ietf-httpapi-ratelimit-headers, whose member `violated-policies` goes with it."""

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""`Allow` of the 405 for a method that the parser does not know."""

CHALLENGE: Final = b"WWW-Authenticate: Bearer\r\n"
"""A 401 must name a scheme (RFC 9110, 11.6.1)."""

_CLOSE: Final = b"Connection: close\r\n"

_ALLOW: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Request-Id: %b\r\n%b"
_ALLOW_BARE: Final = _ALLOW + b"\r\n"
_ALLOW_QUOTAS: Final = _ALLOW + b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n\r\n"
_ALLOW_MORE: Final = _ALLOW + b"%b%b%b\r\n"

_READABLE: Final = (
    b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\n"
    b"Access-Control-Expose-Headers: RateLimit, RateLimit-Policy, Retry-After, X-Request-Id\r\n"
)
"""Without these a browser shows its page neither the status of a refusal nor when to come back."""


def allow(verdict: Verdict, request_id: bytes, keep_alive: bool, *, legacy: bool) -> bytes:
    """200 without a body: what nginx, Envoy and the forwarding proxies all take for "go on"."""
    if keep_alive and not legacy and not verdict.shadow:
        if verdict.policy_header:
            return _ALLOW_QUOTAS % (
                request_id,
                verdict.identity,
                verdict.policy_header,
                verdict.ratelimit or ratelimit_header(verdict.quotas),
            )
        return _ALLOW_BARE % (request_id, verdict.identity)
    return _ALLOW_MORE % (
        request_id,
        verdict.identity,
        quota_lines(verdict, legacy=legacy),
        shadow_line(verdict),
        close_line(keep_alive),
    )


def close_line(keep_alive: bool) -> bytes:
    """`Connection: close` when this is the connection's last answer."""
    return b"" if keep_alive else _CLOSE


def quota_lines(verdict: Verdict, *, legacy: bool) -> bytes:
    """`RateLimit-Policy` and `RateLimit` (and their forerunners) of the limits that applied, or nothing."""
    if not verdict.policy_header:
        return b""
    lines = b"RateLimit-Policy: %b\r\nRateLimit: %b\r\n" % (
        verdict.policy_header,
        verdict.ratelimit or ratelimit_header(verdict.quotas),
    )
    return lines + legacy_headers(verdict.quotas) if legacy else lines


def shadow_line(verdict: Verdict) -> bytes:
    """Which shadow rules would have refused this request, or nothing."""
    return b"X-Portcullis-Shadow: %b\r\n" % ", ".join(verdict.shadow).encode() if verdict.shadow else b""


def refusal_lines(verdict: Verdict, status: int, *, legacy: bool) -> bytes:
    """What a refusal says besides its status: when to come back, how to get in, what is left, which page may read it.

    `status` is the one that the proxy sees. Most proxies hand all of it to the client, so it names no rule.
    """
    lines = quota_lines(verdict, legacy=legacy)
    if verdict.retry_after_s is not None:
        lines += b"Retry-After: %d\r\n" % verdict.retry_after_s
    if status == 401:
        lines += CHALLENGE
    if verdict.status == 405:
        lines += b"Allow: %b\r\n" % ", ".join(verdict.methods).encode()
    if verdict.allow_origin:
        lines += _READABLE % verdict.allow_origin
    return lines


def problem(
    status: int,
    verdict: Verdict,
    request_id: bytes,
    keep_alive: bool,
    *,
    lines: bytes = b"",
    detail: str | None = None,
    bodiless: bool = False,
) -> bytes:
    """A refusal as RFC 9457 `application/problem+json`; its member `status` is the status sent.

    `lines` are further header lines. With `bodiless` the head says how long the body would be (RFC 9110, 9.3.2).
    """
    document: dict[str, object] = {
        "type": QUOTA_EXCEEDED if verdict.reason is Reason.RATE_LIMITED else "about:blank",
        "title": "Quota exceeded"
        if verdict.reason is Reason.RATE_LIMITED
        else _PHRASES.get(status, "Refused"),
        "status": status,
        "code": verdict.reason.code,
        "request_id": request_id.decode("ascii"),
    }
    if verdict.violated:
        document["violated-policies"] = verdict.violated
    if detail is not None:
        document["detail"] = detail
    body = orjson.dumps(document)
    return (
        b"%bContent-Type: application/problem+json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
        b"X-Request-Id: %b\r\n%b%b\r\n%b"
    ) % (
        STATUS_LINE[status],
        len(body),
        request_id,
        lines,
        close_line(keep_alive),
        b"" if bodiless else body,
    )


def plain_problem(
    status: int, code: str, detail: str, request_id: bytes, keep_alive: bool, *, bodiless: bool = False
) -> bytes:
    """A problem of the check plane itself, on no front's path: `not_found`, or what could not be parsed."""
    body = orjson.dumps(
        {
            "type": "about:blank",
            "title": _PHRASES.get(status, "Refused"),
            "status": status,
            "code": code,
            "request_id": request_id.decode("ascii"),
            "detail": detail,
        }
    )
    return (
        b"%bContent-Type: application/problem+json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
        b"X-Request-Id: %b\r\n%b\r\n%b"
    ) % (STATUS_LINE[status], len(body), request_id, close_line(keep_alive), b"" if bodiless else body)


def refused_status(verdict: Verdict) -> int:
    """The verdict's status, or 403 where a configured one would not refuse."""
    return verdict.status if 400 <= verdict.status <= 599 else 403


def unread(
    status: int, detail: str, *, methods: tuple[str, ...] = (), bodiless: bool = False
) -> tuple[Request, Verdict]:
    """What stands for a message that never became a request, so that it is answered and counted like one."""
    request = Request(
        address=UNKNOWN_ADDRESS,
        method="",
        host="",
        path="",
        headers={},
        malformed=detail,
        bodiless=bodiless,
    )
    reason = Reason.METHOD if status == 405 else Reason.MALFORMED
    return request, Verdict(reason, status=status, methods=methods)
