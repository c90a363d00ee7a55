"""The front for applications: `POST /v1/check` with a JSON question, answered with a JSON verdict.

    {"address": "203.0.113.9", "method": "POST", "host": "shop.example", "path": "/login",
     "headers": {"X-Api-Key": "..."}, "cost": 1}          all but `address` optional

Two kinds of bad question are told apart. A document that the application got wrong (no JSON, unknown members,
wrong types, an address that is none) is a 4xx problem that names the member. What the application's own client
got wrong (a path, host, method or header that cannot be judged) is a verdict: 200 with `"allowed": false`,
so that an application that goes on after errors of the gate is not passed by a bad path.

The credential, `Content-Type` and `Content-Length` are those in `headers`; the TLS version is not asked, so a filter
that demands one refuses. Headers of the HTTP request itself say nothing about the client; its `traceparent`, however,
is nearer to who asks than one in `headers`, and its `X-Request-Id` names the question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import orjson

from sidecar.core.addresses import canonical_address
from sidecar.core.model import Quota, Request, Verdict
from sidecar.core.paths import PathRefused, canonical_path, split_target
from sidecar.fronts import Head, Unreadable, answers, datum
from sidecar.fronts.credentials import CredentialReader
from sidecar.fronts.datum import Malformed

_MEMBERS: Final = frozenset({"address", "cost", "headers", "host", "method", "path"})
_MOST_COST: Final = 2**31 - 1
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,256}")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

_ANSWER: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
    b"X-Request-Id: %b\r\n%b%b%b\r\n%b"
)


class ApiFront:
    """`POST /v1/check`. Credentials are read from the question's own `headers`."""

    name: Final = "api"
    index: Final = 3
    path: Final = b"/v1/check"
    single_valued: Final = frozenset({b"host", b"content-length", b"x-request-id"})

    def __init__(self, *, credentials: CredentialReader, legacy_headers: bool) -> None:
        self._credential = credentials.read
        self._legacy = legacy_headers

    def read(self, head: Head) -> Request:
        if head.method != b"POST":
            raise Unreadable(405, "POST a JSON object", ("POST",))
        if head.repeated and not self.single_valued.isdisjoint(head.repeated):
            raise Unreadable(400, "a header that may come once came more than once")
        question = _question(head.body)
        address = _address(question.get("address"))
        cost = _cost(question.get("cost"))
        raw_method = _text("method", question.get("method", "GET"))
        raw_host = _text("host", question.get("host", ""))
        raw_path = _text("path", question.get("path", "/"))
        pairs = _pairs(question.get("headers", {}))

        method, host, path, malformed = "", "", "", None
        query = b""
        key: bytes | None = None
        length: int | None = None
        headers: dict[bytes, bytes] = {}
        try:
            headers = _headers(pairs)
            method = datum.method(raw_method)
            host = datum.host(raw_host)
            encoded_path, query = split_target(raw_path)
            path = canonical_path(encoded_path)
            length = datum.length(headers.get(b"content-length"))
            key = self._credential(headers)
        except (Malformed, PathRefused) as refused:
            malformed = str(refused)
        if b"traceparent" in head.headers:
            headers[b"traceparent"] = head.headers[b"traceparent"]
        return Request(
            address=address,
            method=method,
            host=host,
            path=path,
            headers=headers,
            content_type=headers.get(b"content-type"),
            content_length=length,
            query=query,
            key=key,
            request_id=datum.request_id(head.headers.get(b"x-request-id")),
            malformed=malformed,
            cost=cost,
        )

    def write(self, request: Request, verdict: Verdict, request_id: bytes, keep_alive: bool) -> bytes:
        allowed = verdict.reason.allowed
        body = orjson.dumps(
            {
                "allowed": allowed,
                "status": verdict.status if allowed else answers.refused_status(verdict),
                "reason": verdict.reason.code,
                "retry_after_s": verdict.retry_after_s,
                "quotas": [_quota(quota) for quota in verdict.quotas],
                "request_id": request_id.decode("ascii"),
            }
        )
        lines = answers.quota_lines(verdict, legacy=self._legacy) + answers.shadow_line(verdict)
        return _ANSWER % (
            len(body),
            request_id,
            verdict.identity if allowed else b"",
            lines,
            answers.close_line(keep_alive),
            body,
        )

    def refuse(self, request: Request, verdict: Verdict, request_id: bytes, keep_alive: bool) -> bytes:
        status = answers.refused_status(verdict)
        return answers.problem(
            status,
            verdict,
            request_id,
            keep_alive,
            lines=answers.refusal_lines(verdict, status, legacy=False),
            detail=request.malformed,
            bodiless=request.bodiless,
        )


def _question(body: bytes) -> dict[str, object]:
    try:
        question: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Unreadable(400, "the body is not JSON (in UTF-8)") from None
    if not isinstance(question, dict):
        raise Unreadable(400, "the body is not a JSON object")
    if unknown := question.keys() - _MEMBERS:
        name = min(unknown)[:64]
        raise Unreadable(400, f"{name}: no such member; there are {', '.join(sorted(_MEMBERS))}")
    return question


def _address(value: object) -> str:
    if value is None:
        raise Unreadable(400, "address: missing; it is the client's IP address")
    address = canonical_address(value) if isinstance(value, str) else None
    if address is None:
        raise Unreadable(400, "address: not an IP address (a string, without a port)")
    return address


def _cost(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_COST:
        raise Unreadable(400, f"cost: not a whole number from 1 to {_MOST_COST}")
    return value


def _text(member: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise Unreadable(400, f"{member}: not a string")
    return value.encode()


def _pairs(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise Unreadable(400, "headers: not an object of names and values")
    if not all(isinstance(text, str) for text in value.values()):
        raise Unreadable(400, "headers: a value is not a string; join several values with a comma")
    return value


def _headers(pairs: Mapping[str, str]) -> dict[bytes, bytes]:
    headers = {name.encode().lower(): text.strip(" \t").encode() for name, text in pairs.items()}
    if len(headers) != len(pairs):
        raise Malformed("a header that may come once came more than once")
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise Malformed("a header's name or value holds characters that HTTP does not allow")
    return headers


def _quota(quota: Quota) -> dict[str, object]:
    window_s, odd_ms = divmod(quota.limit.window_ms, 1000)
    return {
        "name": quota.limit.name,
        "permits": quota.limit.permits,
        "window_s": window_s + odd_ms / 1000 if odd_ms else window_s,
        "remaining": quota.remaining,
        "reset_s": quota.reset_s,
    }
