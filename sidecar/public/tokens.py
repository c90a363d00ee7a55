"""Tokens of keys: issued (RFC 6749, 4.4), looked into (RFC 7662), taken back (RFC 7009).

Who asks was authenticated before. The registry is asked each time, so that what is said of a token is what it
is worth at this moment; and that is what its key is worth:

    scopes   those of the key now, of which the token may name fewer
    life     the token's, the key's if that ends before, and none while the key is disabled
    secret   of no concern: who rotates it takes no token away

A token that is taken back is known by its id alone; neither the store nor the audit ever holds a token. Every
replica remembers those ids for as long as the tokens would have lived, so one key cannot have any number of them
taken back.
"""

from __future__ import annotations

import os
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from sidecar.config import Credentials, Tokens
from sidecar.control.changes import Changes, Conflict
from sidecar.control.keys import KeyMissing
from sidecar.core.compact import LONGEST_TOKEN, open_token
from sidecar.core.keys import MOST_SCOPES, Key, KeyUnreadable, Kind
from sidecar.core.principals import expanded
from sidecar.core.recent import Recent
from sidecar.core.tokens import TokenRefused, Trust, Verified, issue
from sidecar.public.refusals import Error, NotAuthenticated, Refusal, unavailable, unreadable

TABLE: Final = "revoked"
GRANT: Final = "client_credentials"
TOKEN_ID_BYTES: Final = 16
MOST_TAKEN_BACK: Final = 1_000
"""Tokens of one key that are taken back here and have not ended yet. Whoever needs more disables the key."""
MOST_KEYS_COUNTED: Final = 16_384

MAY_INTROSPECT: Final = "token.introspect"
"""The scope of a key that may look into the tokens of others."""
MAY_REVOKE: Final = "token.revoke"
"""The scope of a key that may take back the tokens of others."""

INACTIVE: Final[Mapping[str, object]] = {"active": False}
"""RFC 7662 (2.2): nothing besides, not even why."""

Form = Mapping[str, str]


class Registry(Protocol):
    """Where keys are looked up."""

    async def get(self, key_id: str) -> Key:
        """Raises KeyMissing, KeyUnreadable and StoreUnavailable."""


class IssuedTokens:
    """All methods take the id of the key that asks, and raise Refusal and StoreUnavailable.

    credentials   of the configuration in force: whoever rotates signing keys needs no restart
    now_ms        the time by the store's clock
    random_bytes  as many as asked for, that nobody can guess
    """

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        registry: Registry,
        changes: Changes,
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._credentials = credentials
        self._registry = registry
        self._changes = changes
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._believed: tuple[Tokens, Trust] | None = None
        self._taken = _TakenBack()

    async def issue(self, key_id: str, form: Form) -> dict[str, object]:
        """A new token, and what RFC 6749 (5.1) says of it."""
        grant = _needed(form, "grant_type")
        if grant != GRANT:
            raise Refusal(Error.UNSUPPORTED_GRANT_TYPE, f"There is only the grant {GRANT}.")
        key, tokens, now_ms = await self._asking(key_id), self._tokens(), self._now_ms()
        scopes = granted(self._scopes(key), form.get("scope"))
        ttl_ms = min(tokens.ttl_ms, key.expires_ms - now_ms if key.expires_ms else tokens.ttl_ms)
        token = issue(
            tokens.keys[0],
            issuer=tokens.issuer,
            audience=tokens.audience,
            key_id=key.id,
            scopes=scopes,
            token_id=self._random_bytes(TOKEN_ID_BYTES).hex(),
            now_ms=now_ms,
            ttl_ms=ttl_ms,
        )
        if len(token) > LONGEST_TOKEN:
            raise _too_many()
        expires_in_s = (now_ms + ttl_ms) // 1000 - now_ms // 1000
        answer: dict[str, object] = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": expires_in_s,
        }
        return answer | _shown(scopes)

    async def introspect(self, key_id: str, form: Form) -> Mapping[str, object]:
        """What a token is worth now. Keys see their own, and with `token.introspect` those of others."""
        token = _needed(form, "token")
        asking = await self._asking(key_id)
        verified = self._verified(token)
        if verified is None:
            return INACTIVE
        if verified.subject != asking.id and MAY_INTROSPECT not in self._scopes(asking):
            return INACTIVE
        claims = open_token(token.encode()).claims
        if self._now_ms() >= _ms(claims["exp"]):  # the gate's leeway is for its clocks, not a promise
            return INACTIVE
        key = asking if verified.subject == asking.id else await self._living(verified.subject)
        if (
            key is None
            or made_before(verified, key)
            or await self._changes.raw(TABLE, verified.token_id) is not None
        ):
            return INACTIVE
        scopes = self._scopes(key)
        told = {name: claims[name] for name in ("client_id", "sub", "iss", "aud", "exp", "iat", "jti")}
        return {
            "active": True,
            **_shown(tuple(scope for scope in verified.scopes if scope in scopes)),
            **told,
            "token_type": "Bearer",
        }

    async def revoke(self, key_id: str, form: Form) -> None:
        """Take a token back. Of what is no valid token of ours there is nothing to take (RFC 7009, 2.2).

        And of what was taken back before: the store is only read then, and the audit told nothing.
        """
        token = _needed(form, "token")
        asking = await self._asking(key_id)
        verified = self._verified(token)
        if verified is None:
            return
        if verified.subject != asking.id and MAY_REVOKE not in self._scopes(asking):
            raise Refusal(Error.UNAUTHORIZED_CLIENT, "This token was issued to another key.")
        if await self._changes.raw(TABLE, verified.token_id) is not None:
            return
        if wait_ms := self._taken.wait_ms(verified.subject, self._now_ms()):
            raise unavailable(
                "Too many tokens of this key are taken back: disable the key, or wait until some have ended.",
                status=429,
                retry_after_s=-(-wait_ms // 1000),
            )
        # Before it is done: of two at a time both count, and so does one whose outcome nobody knows.
        self._taken.add(verified.subject, verified.expires_ms)
        with suppress(Conflict):  # it was taken back meanwhile
            await self._changes.change(
                TABLE,
                put=[verified.token_id],
                payload={"key": verified.subject},
                until_ms=verified.expires_ms,
                actor=f"key {asking.id}",
                action="token.revoke",
                detail={"key": verified.subject},
                demand="absent",
            )

    # --- what is true now ---

    async def _asking(self, key_id: str) -> Key:
        """The key of who asks; it may have ended since it was proved."""
        key = await self._living(key_id)
        if key is None:
            raise NotAuthenticated
        return key

    async def _living(self, key_id: str) -> Key | None:
        """The key, if it may have tokens now."""
        try:
            key = await self._registry.get(key_id)
        except (KeyMissing, KeyUnreadable):
            return None
        living = key.enabled and key.kind is Kind.SERVER and not key.expired(self._now_ms())
        return key if living else None

    def _verified(self, token: str) -> Verified | None:
        """What a token says that this gate lets pass; those of other issuers are not known here."""
        try:
            return self._trust().verify(token.encode("utf-8", "replace"), self._now_ms())
        except TokenRefused:
            return None

    def _scopes(self, key: Key) -> frozenset[str]:
        return expanded(key.scopes, self._credentials().roles)

    def _tokens(self) -> Tokens:
        tokens = self._credentials().tokens
        assert tokens is not None, "a public port without tokens is refused with the document"
        return tokens

    def _trust(self) -> Trust:
        """What verifies our tokens, made anew for other signing keys."""
        tokens = self._tokens()
        if self._believed is None or self._believed[0] is not tokens:
            self._believed = (tokens, Trust(tokens, (), {}))
        return self._believed[1]


class _TakenBack:
    """When those tokens end that this process took back, by the keys that they were issued to.

    Other replicas count their own; of keys that nobody asked for in a long time it forgets.
    """

    def __init__(self) -> None:
        self._ends_ms = Recent[str, list[int]](MOST_KEYS_COUNTED)

    def wait_ms(self, key_id: str, now_ms: int) -> int:
        """For how long no more may be taken back; 0 when one may."""
        ends_ms = self._ends_ms.get(key_id)
        if ends_ms is None:
            return 0
        del ends_ms[: bisect_right(ends_ms, now_ms)]
        return ends_ms[0] - now_ms if len(ends_ms) >= MOST_TAKEN_BACK else 0

    def add(self, key_id: str, end_ms: int) -> None:
        ends_ms = self._ends_ms.get(key_id)
        if ends_ms is None:
            self._ends_ms.add(key_id, ends_ms := [])
        insort(ends_ms, end_ms)


def made_before(verified: Verified, key: Key) -> bool:
    """Whether a token is older than the key under its id: that key was deleted and made anew, and is another one.

    Tokens tell whole seconds. The gate's own rule, see `core.proofs`.
    """
    return verified.issued_ms + 999 < key.created_ms


def granted(held: frozenset[str], asked: str | None) -> tuple[str, ...]:
    """The scopes of a new token: those that were asked for, all that the key has if none were.

    Raises Refusal when the key does not have one of them.

    >>> granted(frozenset({"b", "a"}), None), granted(frozenset({"a", "b"}), "b b")
    (('a', 'b'), ('b',))
    """
    scopes = tuple(sorted(held)) if asked is None else tuple(dict.fromkeys(asked.split(" ")))
    if not held.issuperset(scopes):
        raise Refusal(Error.INVALID_SCOPE, "This key does not have all of these scopes.")
    if len(scopes) > MOST_SCOPES:
        raise _too_many()
    return scopes


def _too_many() -> Refusal:
    detail = (
        f"That is more than a token can hold ({MOST_SCOPES} scopes at most): ask for those that are needed."
    )
    return Refusal(Error.INVALID_SCOPE, detail)


def _shown(scopes: tuple[str, ...]) -> dict[str, object]:
    """Scopes as answers have them; the grammar of RFC 6749 (3.3) has no word for none."""
    return {"scope": " ".join(scopes)} if scopes else {}


def _ms(date: object) -> float:
    assert isinstance(date, int | float), "it was verified"
    return date * 1000


def _needed(form: Form, name: str) -> str:
    if name not in form:
        raise unreadable(f"There is no {name}.")
    return form[name]
