"""Filters: what one of them says against a request.

Which filters concern a request, and what follows from their findings, is `policy`'s. A body that nobody announces
(a chunked one of a GET, without a type) cannot be seen from here: proxies do not tell how a body is framed.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from sidecar.core.model import Filter, Mode, Reason, Request

_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"})

_LONGEST_TYPE: Final = 1024
"""Bytes of a Content-Type: what is remembered has to end somewhere, and no client comes near."""

# RFC 9110, 8.3.1 and 5.6.6. The type is narrower, a name by RFC 6838, 4.2: nobody sends the `*` that a token may hold.
# All repetition is possessive, so the time is linear.
_NAME: Final = rb"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}+"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_CONTENT_TYPE: Final = re.compile(
    rb"[ \t]*+(" + _NAME + rb")/(" + _NAME + rb")"
    rb"(?:[ \t]*+;[ \t]*+(?:" + _TOKEN + rb"=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?+)*+[ \t]*+"
)  # fmt: skip


class Finding:
    """What one filter (or address list) says against a request."""

    __slots__ = ("methods", "mode", "reason", "rule")

    def __init__(self, reason: Reason, rule: str, mode: Mode, methods: tuple[str, ...] = ()) -> None:
        self.reason = reason
        self.rule = rule
        self.mode = mode
        self.methods = methods


def objections_of(
    rule: Filter, request: Request, allowed: bool, announced: str | None = None
) -> list[Finding]:
    """What one matching filter says against a request. A datum that is missing is an objection.

    `announced` is the method that a CORS preflight asks for: where that one may be used, so may the question.
    """
    found: list[Finding] = []
    mode = rule.mode
    if rule.require_allow and not allowed:
        found.append(Finding(Reason.ADDRESS_NOT_ALLOWED, rule.name, mode))
    if rule.deny:
        reason = Reason.HOST if rule.match.hosts and not rule.match.paths else Reason.PATH
        found.append(Finding(reason, rule.name, mode))
    if (
        rule.methods
        and request.method not in rule.methods
        and not (request.method == "OPTIONS" and announced in rule.methods)
    ):
        found.append(Finding(Reason.METHOD, rule.name, mode, rule.methods))
    if (rule.content_types or rule.max_body is not None) and _may_have_body(request):
        if rule.content_types and not _type_accepted(rule.content_types, request.content_type):
            found.append(Finding(Reason.CONTENT_TYPE, rule.name, mode))
        length = request.content_length
        if rule.max_body is not None and (length is None or length > rule.max_body):
            found.append(Finding(Reason.BODY_SIZE, rule.name, mode))
    if rule.tls_min is not None and (request.tls is None or request.tls < rule.tls_min):
        found.append(Finding(Reason.TLS_VERSION, rule.name, mode))
    return found


def _may_have_body(request: Request) -> bool:
    """A length decides; without one, a type announces a body, and so does every method that usually has one.

    Methods are compared with their case: `get` is none of those that have no body.
    """
    if request.content_length is not None:
        return request.content_length > 0
    return bool(request.content_type) or request.method not in _BODILESS


def _type_accepted(accepted: tuple[str, ...], content_type: bytes | None) -> bool:
    if content_type is None or len(content_type) > _LONGEST_TYPE:
        return False
    return not _patterns_of(content_type).isdisjoint(accepted)


@lru_cache(maxsize=1024)  # a site has few, but for the boundaries of multipart; a miss costs five times a hit
def _patterns_of(content_type: bytes) -> frozenset[str]:
    """What a filter may accept a Content-Type as; nothing if it is not one media type with its parameters.

    >>> sorted(_patterns_of(b"Application/Problem+JSON; charset=utf-8"))
    ['application/*', 'application/*+json', 'application/problem+json']
    >>> _patterns_of(b"image/png, text/html")
    frozenset()
    """
    found = _CONTENT_TYPE.fullmatch(content_type)
    if found is None:
        return frozenset()
    kind, subtype = found[1].decode("ascii").lower(), found[2].decode("ascii").lower()
    patterns = {f"{kind}/{subtype}", f"{kind}/*"}
    _, plus, suffix = subtype.rpartition("+")  # RFC 6839: what stands after the last one is the syntax
    return frozenset(patterns | {f"{kind}/*+{suffix}"} if plus else patterns)
