"""What a token claims, judged: for whom it is, for how long, and what its bearer may do.

Two sets of rules: tokens issued here are exactly as we write them (RFC 9068); foreign ones are as
their issuer likes, and the configuration says which claims mean what.

The signature is not looked at here: who calls has verified it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

from sidecar.core.compact import TokenRefused
from sidecar.core.keys import LAST_MS, MOST_SCOPES, FieldRefused, checked_id, holds_secret

OWN_LEEWAY_MS: Final = 5_000
"""All replicas read the store's clock; this covers how far apart two of them may see it."""
LONGEST_TEXT: Final = 256
"""Characters of a subject, and of a token's id."""

# As the records of keys have them: see the rules for each field in `keys`.
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SCOPE: Final = re.compile(r"[A-Za-z0-9._:/-]{1,64}")

Claims = Mapping[str, object]


class Verified(NamedTuple):
    """What a token proves.

    issuer      "": issued here; else the name of the foreign issuer
    subject     issued here: the id of the key; else whom the issuer names
    tenant      and `plan`: "" unless a foreign issuer names them
    token_id    "" if a foreign token has none
    expires_ms  from when on it is refused, leeway included
    issued_ms   when it was issued, in whole seconds; of a foreign token 0
    """

    issuer: str
    subject: str
    scopes: tuple[str, ...]
    tenant: str
    plan: str
    token_id: str
    expires_ms: int
    issued_ms: int = 0


class ClaimNames(Protocol):
    """Which claims of an issuer are read as what; "" is not read."""

    @property
    def subject(self) -> str: ...
    @property
    def scopes(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def plan(self) -> str: ...


def own_claims(claims: Claims, audience: str, now_ms: int) -> Verified:
    """What a token issued here says. Raises TokenRefused."""
    _check_audience(claims, (audience,))
    expires_ms = _check_times(claims, OWN_LEEWAY_MS, now_ms)
    issued_ms = _time_ms(claims, "iat")
    if issued_ms is None:
        raise TokenRefused("it does not say when it was issued")
    subject = _text(claims, "sub", "its subject")
    if claims.get("client_id") != subject or not _is_id(subject):
        raise TokenRefused("its subject is not the id of the key that it was issued for")
    scopes = claims.get("scope", "")
    if not isinstance(scopes, str):
        raise TokenRefused("its scopes are not a text")
    token_id = _text(claims, "jti", "its id")
    return Verified("", subject, _known_scopes(scopes.split(" ")), "", "", token_id, expires_ms, issued_ms)


def foreign_claims(
    claims: Claims, name: str, audiences: Collection[str], leeway_ms: int, names: ClaimNames, now_ms: int
) -> Verified:
    """What a token of the foreign issuer `name` says. Raises TokenRefused.

    Scopes that no key of ours could have are left out: no filter can name them.
    """
    _check_audience(claims, audiences)
    expires_ms = _check_times(claims, leeway_ms, now_ms)
    subject = _text(claims, names.subject, "its subject")
    token_id = _text(claims, "jti", "its id") if "jti" in claims else ""
    scopes = claims.get(names.scopes, "") if names.scopes else ""
    return Verified(
        name,
        subject,
        _known_scopes(scopes.split(" ") if isinstance(scopes, str) else _texts(scopes, "its scopes")),
        _name(claims, names.tenant, "its tenant"),
        _name(claims, names.plan, "its plan"),
        token_id,
        expires_ms,
    )


# --- for whom, and when -------------------------------------------------------


def _check_audience(claims: Claims, ours: Collection[str]) -> None:
    given = claims.get("aud")
    if not any(
        each in ours for each in ([given] if isinstance(given, str) else _texts(given, "its audience"))
    ):
        raise TokenRefused("it is for another audience")


def _check_times(claims: Claims, leeway_ms: int, now_ms: int) -> int:
    """From when on the token is refused."""
    exp_ms = _time_ms(claims, "exp")
    if exp_ms is None:
        raise TokenRefused("it does not say when it expires")
    if exp_ms + leeway_ms <= now_ms:
        raise TokenRefused("it has expired")
    for claim in ("nbf", "iat"):
        begins_ms = _time_ms(claims, claim)
        if begins_ms is not None and now_ms + leeway_ms < begins_ms:
            raise TokenRefused("it is not valid yet")
    return exp_ms + leeway_ms


def _time_ms(claims: Claims, claim: str) -> int | None:
    """A NumericDate of RFC 7519, seconds with or without a fraction, in milliseconds."""
    value = claims.get(claim)
    if value is None and claim not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_MS // 1000:
        raise TokenRefused("one of its times is not a number of seconds since 1970")
    return int(value * 1000)


# --- who, and what it may -----------------------------------------------------


def _text(claims: Claims, claim: str, what: str) -> str:
    value = claims.get(claim)
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_TEXT or not value.isprintable():
        raise TokenRefused(f"{what} is not a text of 1 to {LONGEST_TEXT} printable characters")
    return value


def _texts(value: object, what: str) -> list[str]:
    if not isinstance(value, list):
        raise TokenRefused(f"{what} is neither a text nor a list of texts")
    texts = [each for each in value if isinstance(each, str)]
    if len(texts) != len(value):
        raise TokenRefused(f"{what} is neither a text nor a list of texts")
    return texts


def _name(claims: Claims, claim: str, what: str) -> str:
    """A tenant or a plan; "" if the claim is not read or not there. What is there and no name is no answer:
    without its tenant a token would be counted, and let in, as one of nobody."""
    if not claim or claim not in claims:
        return ""
    value = claims[claim]
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise TokenRefused(f"{what} is not a lower-case letter, then up to 62 of a-z 0-9 _ -")
    return value


def _known_scopes(texts: Iterable[str]) -> tuple[str, ...]:
    """Each scope that a filter could name, once, in their order."""
    scopes = dict.fromkeys(text for text in texts if _SCOPE.fullmatch(text) and not holds_secret(text))
    if len(scopes) > MOST_SCOPES:
        raise TokenRefused(f"it has more than {MOST_SCOPES} scopes")
    return tuple(scopes)


def _is_id(text: str) -> bool:
    try:
        checked_id(text)
    except FieldRefused:
        return False
    return True
