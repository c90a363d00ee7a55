"""Refusals of the public plane, in the words of RFC 6749 (5.2), which RFC 7009 and RFC 7662 take over.

No text repeats what was sent, and none tells which half of a credential was wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

import orjson
from aiohttp import web

NOT_STORED: Final = MappingProxyType({"Cache-Control": "no-store", "Pragma": "no-cache"})
"""RFC 6749 (5.1) demands both."""
CHALLENGE: Final = 'Basic realm="portcullis", charset="UTF-8"'
AGAIN_S: Final = 1


class Error(Enum):
    """What went wrong, for programs."""

    INVALID_REQUEST = "invalid_request"
    INVALID_CLIENT = "invalid_client"
    INVALID_SCOPE = "invalid_scope"
    UNAUTHORIZED_CLIENT = "unauthorized_client"
    UNSUPPORTED_GRANT_TYPE = "unsupported_grant_type"
    ACCESS_DENIED = "access_denied"
    TEMPORARILY_UNAVAILABLE = "temporarily_unavailable"
    """Of RFC 6749 (4.1.2.1), as no error of the token endpoint says it."""


class Refusal(Exception):
    """A request is refused: `detail` is a sentence for who reads the client's log, without quotes."""

    def __init__(self, error: Error, detail: str, *, status: int = 400, retry_after_s: int = 0) -> None:
        super().__init__(detail)
        self.error: Final = error
        self.detail: Final = detail
        self.status: Final = status
        self.headers: Final[Mapping[str, str]] = _headers(status, retry_after_s)

    def response(self) -> web.Response:
        body = {"error": self.error.value, "error_description": self.detail}
        return web.Response(
            status=self.status,
            body=orjson.dumps(body),
            content_type="application/json",
            headers={**NOT_STORED, **self.headers},
        )


class NotAuthenticated(Refusal):
    """Nobody, or somebody who is not who they say: the same whatever is wrong."""

    def __init__(self) -> None:
        detail = "This needs the id and the secret of a key, by HTTP Basic or in the body."
        super().__init__(Error.INVALID_CLIENT, detail, status=401)


def unreadable(detail: str, *, status: int = 400) -> Refusal:
    return Refusal(Error.INVALID_REQUEST, detail, status=status)


def unavailable(detail: str, *, retry_after_s: int = AGAIN_S, status: int = 503) -> Refusal:
    return Refusal(
        Error.TEMPORARILY_UNAVAILABLE, detail, status=status, retry_after_s=max(AGAIN_S, retry_after_s)
    )


def _headers(status: int, retry_after_s: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = CHALLENGE
    if retry_after_s:
        headers["Retry-After"] = str(retry_after_s)
    return headers
