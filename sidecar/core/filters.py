"""Filters: what one of them says against a request.

Which filters concern a request, and what follows from their findings, is `policy`'s.
"""

from __future__ import annotations

from typing import Final

from sidecar.core.model import Filter, Mode, Reason, Request

_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"})


class Finding:
    """What one filter (or address list) says against a request."""

    __slots__ = ("methods", "mode", "reason", "rule")

    def __init__(self, reason: Reason, rule: str, mode: Mode, methods: tuple[str, ...] = ()) -> None:
        self.reason = reason
        self.rule = rule
        self.mode = mode
        self.methods = methods


def objections_of(rule: Filter, request: Request, allowed: bool) -> list[Finding]:
    """What one matching filter says against a request. A datum that is missing is an objection."""
    found: list[Finding] = []
    mode = rule.mode
    bodiless = request.content_length == 0 or (
        request.content_length is None and request.content_type is None and request.method in _BODILESS
    )
    if rule.require_allow and not allowed:
        found.append(Finding(Reason.ADDRESS_NOT_ALLOWED, rule.name, mode))
    if rule.deny:
        reason = Reason.HOST if rule.match.hosts and not rule.match.paths else Reason.PATH
        found.append(Finding(reason, rule.name, mode))
    if rule.methods and request.method not in rule.methods:
        found.append(Finding(Reason.METHOD, rule.name, mode, rule.methods))
    if rule.content_types and not bodiless and not _type_accepted(rule.content_types, request.content_type):
        found.append(Finding(Reason.CONTENT_TYPE, rule.name, mode))
    if rule.max_body is not None and not bodiless:
        length = request.content_length
        if length is None or length > rule.max_body:
            found.append(Finding(Reason.BODY_SIZE, rule.name, mode))
    if rule.tls_min is not None and (request.tls is None or request.tls < rule.tls_min):
        found.append(Finding(Reason.TLS_VERSION, rule.name, mode))
    return found


def _type_accepted(accepted: tuple[str, ...], content_type: bytes | None) -> bool:
    if content_type is None:
        return False
    media = content_type.partition(b";")[0].strip().decode("latin-1").lower()
    kind, _, subtype = media.partition("/")
    return media in accepted or (subtype != "" and f"{kind}/*" in accepted)
