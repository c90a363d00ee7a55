"""Errors of the admin plane as `application/problem+json` (RFC 9457).

Every error has `type` (`about:blank`: the status says it all), `title`, `status` and `detail`; one about
the control state also has the current `epoch`, as an extension. What looks like the secret of a key is
not repeated, wherever somebody put it.
This module does not log and does not decide what is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
import orjson
from aiohttp import web

from sidecar.core.keys import without_secrets


class Problem(Exception):
    """Raised by a resource to refuse a request: `status`, a sentence for who asked, and other members."""

    def __init__(self, status: int, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.members = members


class ProblemDetails(msgspec.Struct, frozen=True, kw_only=True):
    """An error (RFC 9457). `detail` says what to do about it."""

    type: str
    title: str
    status: int
    detail: str
    epoch: str | None = None


def problem(status: int, detail: str, members: Mapping[str, object] | None = None) -> web.Response:
    """The response for a refusal."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": without_secrets(detail),
    }
    return web.Response(
        status=status,
        body=orjson.dumps(body | dict(members or {})),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store"},
    )


def problem_of(error: web.HTTPException) -> web.Response:
    """The response for an error that aiohttp raised: not found, wrong method, body too large."""
    detail = _DETAILS.get(error.status, error.reason or "")
    response = problem(error.status, detail)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


_DETAILS = {
    404: "There is nothing here.",
    405: "This resource does not take the method.",
    413: "The body is larger than this resource takes.",
}
