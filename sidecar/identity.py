"""Who is who, in one process: what credentials are proved with, kept up to date.

    registry's changes (follower) ──┐
    another configuration ──────────┼─> Proofs
    the fleet's hash key ───────────┤
    keys of foreign issuers ────────┘   fetched from where they publish them

It decides nothing: `core.proofs` does, and `gate` asks it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from sidecar.config import Credentials
from sidecar.control.follow import News
from sidecar.core.keys import Key
from sidecar.core.principals import Principal, principal_of
from sidecar.core.proofs import Proofs
from sidecar.core.tokens import KeySet, Trust
from sidecar.jwks import JwksKeeper


class Identity:
    """`hash_key` is the fleet's, None while nobody has told it; `warn` is told what an operator should look at."""

    def __init__(
        self, credentials: Credentials, *, hash_key: bytes | None, warn: Callable[[str], None]
    ) -> None:
        self._credentials = credentials
        self._hash_key = hash_key
        self._warn = warn
        self._fetched: dict[str, KeySet] = {}
        self._keeper: JwksKeeper | None = None
        self._switched = asyncio.Event()
        self._trust = self._trusted()
        self.proofs = Proofs(
            digest_key=os.urandom(32),
            hash_key=hash_key,
            roles=credentials.roles,
            trust=self._trust,
            unknown_key=self._look_for,
        )

    async def run(self) -> None:
        """Keep the keys of foreign issuers until cancelled."""
        while True:
            self._switched.clear()
            self._keeper = JwksKeeper(self._credentials.issuers, self._adopt, self._warn, time.monotonic)
            await self._keeper.run()  # until it is closed; at once when there is nothing to keep
            await self._switched.wait()

    def follow(self, news: News) -> None:
        """Records of the registry were changed, or tokens taken back."""
        self.proofs.revoked = news.control.revoked
        self.proofs.follow(news.keys)

    def apart(self) -> Proofs:
        """Proofs by what is in force now, for asking what would be: the ones in use learn nothing of it."""
        return Proofs(
            digest_key=os.urandom(32),
            hash_key=self._hash_key,
            roles=self._credentials.roles,
            trust=self._trust,
            revoked=self.proofs.revoked,
        )

    def switch(self, credentials: Credentials) -> None:
        """Go on with another configuration."""
        if credentials == self._credentials:
            return
        others = {issuer.name: issuer for issuer in self._credentials.issuers}
        self._fetched = {
            issuer.name: self._fetched[issuer.name]
            for issuer in credentials.issuers
            if issuer.name in self._fetched and issuer == others.get(issuer.name)
        }
        self._credentials = credentials
        self._trust = self._trusted()
        self._heed()
        self._switched.set()
        if self._keeper is not None:
            self._keeper.close()

    def principal(self, key: Key) -> Principal:
        """The principal that this key's secrets would prove."""
        return principal_of(key, self._credentials.roles)

    def tell_hash_key(self, hash_key: bytes) -> None:
        """The fleet's hash key is known now."""
        if hash_key != self._hash_key:
            self._hash_key = hash_key
            self._heed()

    def _adopt(self, issuer: str, keys: KeySet) -> None:
        self._fetched[issuer] = keys
        self._trust = self._trust.with_keys(issuer, keys)
        self._heed()

    def _look_for(self, issuer: str) -> None:
        if self._keeper is not None:
            self._keeper.asked_for(issuer)

    def _heed(self) -> None:
        self.proofs.heed(roles=self._credentials.roles, trust=self._trust, hash_key=self._hash_key)

    def _trusted(self) -> Trust:
        """Whom this configuration believes, with the keys that are known so far."""
        keys = dict(self._fetched)
        for issuer in self._credentials.issuers:
            if isinstance(issuer.jwks, str):
                keys[issuer.name] = KeySet.parse(issuer.jwks, issuer.algorithms)
        return Trust(self._credentials.tokens, self._credentials.issuers, keys)
