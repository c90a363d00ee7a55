"""Proofs: which credentials are valid, and whose they are. What was proved once is remembered.

    presented --digest--> proved before, by the same record, not lapsed --------------------> Principal
        |
        +-- id and secret --> record known? --no--> the id, to be read from the store, then again
        |                        | yes
        |                        +--> one keyed hash, two comparisons ------------> Principal or INVALID
        +-- token --> signature and claims --> issued here: the record of its key, as above

A proof lasts until its secret, its key or its token ends, and no longer than the record that it was made by is
the one that is known here; so a changed key is judged anew at the next request. Records arrive when they are
first asked for and then follow the changes that replicas are told of.

For an unknown id and a wrong secret the work is the same, and so is the answer. What is not written like a
secret is refused without asking the store.

Credentials are remembered by a digest keyed for this process alone. All tables are bounded, those of what does
not exist apart from the others: who guesses ids pushes no key out.

Times are milliseconds by the store's clock, and arguments. Nothing here reads the store.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from enum import Enum
from hashlib import blake2b
from typing import Final, NamedTuple

from sidecar.core.control import Entry
from sidecar.core.credentials import BEARER, CLIENT_PAIR, SERVER_PAIR, WAYS
from sidecar.core.keys import (
    Key,
    KeyUnreadable,
    Kind,
    checked_id,
    is_secret,
    proved_until_ms,
    read,
)
from sidecar.core.principals import Places, Principal, expanded, principal_of
from sidecar.core.recent import Recent
from sidecar.core.tokens import TokenRefused, Trust, Verified, looks_like_token

MOST_KEYS: Final = 32_768
MOST_ABSENT: Final = 16_384
MOST_PROOFS: Final = 65_536
ABSENT_MS: Final = 60_000
"""How long an id is believed to be nobody's: the store's data may have been lost, and be back."""
REFUSED_MS: Final = 2_000
"""How long a token that was refused is not looked at again."""
FOREVER_MS: Final = 1 << 62


def is_token(presented: bytes) -> bool:
    """Whether a token is presented, and not an id with a secret."""
    return presented[:1] == BEARER and looks_like_token(presented[1:])


class Unproven(Enum):
    """What a credential can be instead of somebody's."""

    INVALID = "invalid"
    UNKNOWABLE = "unknowable"
    """Nobody has told the fleet's hash key yet."""


INVALID = Unproven.INVALID
UNKNOWABLE = Unproven.UNKNOWABLE


class Record:
    """What the registry says of an id: a key, or that there is none that can be read. Compared by identity.

    `until_ms` is when that there is none is asked again; 0: nobody has used it yet.
    """

    __slots__ = ("_places", "key", "until_ms")

    def __init__(self, key: Key | None) -> None:
        self.key = key
        self._places: Places | None = None
        self.until_ms = 0

    def places(self, key: Key) -> Places:
        """Where it works from; made when its first secret is proved."""
        if self._places is None:
            self._places = Places.of(key)
        return self._places


class _Proof(NamedTuple):
    """`record` is None where none was needed: of a foreign token."""

    principal: Principal
    until_ms: int
    key_id: str
    record: Record | None
    token_id: str


class Proofs:
    """Of one process.

    digest_key  random, for this process
    hash_key    the fleet's, None while nobody has told it
    roles       what a scope `role:<name>` stands for
    trust       whose tokens are believed
    revoked     ids of tokens that were taken back
    unknown_key told the name of an issuer that may have a new key
    """

    def __init__(
        self,
        *,
        digest_key: bytes,
        hash_key: bytes | None,
        roles: Mapping[str, tuple[str, ...]],
        trust: Trust,
        revoked: Container[str] = (),
        unknown_key: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.revoked = revoked
        self._digest_key = digest_key
        self._hash_key = hash_key
        self._roles = roles
        self._trust = trust
        self._unknown_key = unknown_key
        self._records = Recent[str, Record](MOST_KEYS)
        self._absent = Recent[str, Record](MOST_ABSENT)
        self._proofs = Recent[bytes, _Proof](MOST_PROOFS)
        self._refused = Recent[bytes, int](MOST_ABSENT)
        self._asked: set[str] = set()

    # --- who is it ---

    def known(self, presented: bytes, now_ms: int) -> Principal | None:
        """The principal of a credential that was proved before and still is."""
        proof = self._proofs.get(self._digest(presented))
        if (
            proof is None
            or now_ms >= proof.until_ms
            or (proof.record is not None and self._records.get(proof.key_id) is not proof.record)
            or (proof.token_id and proof.token_id in self.revoked)
        ):
            return None
        return proof.principal

    def prove(self, presented: bytes, now_ms: int) -> Principal | Unproven | str:
        """The principal, or why there is none; a text is the id of a record that has to be known first."""
        way, text = presented[:1], presented[1:]
        if is_token(presented):
            return self._prove_token(presented, text, now_ms)
        named, _, secret = text.partition(b"\0" if way in {SERVER_PAIR, CLIENT_PAIR} else b".")
        if way not in WAYS or not is_secret(secret):
            return INVALID
        try:
            key_id = checked_id(named.decode("ascii", "replace"))
        except ValueError:
            return INVALID
        if self._hash_key is None:
            return UNKNOWABLE
        record = self._record(key_id, now_ms)
        if record is None:
            return key_id
        until_ms = proved_until_ms(record.key, secret, self._hash_key, now_ms)
        key = record.key
        if key is None or until_ms is None or key.expired(now_ms):
            return INVALID
        misplaced = (key.kind is Kind.CLIENT) is not (way == CLIENT_PAIR)
        principal = principal_of(key, self._roles, places=record.places(key), misplaced=misplaced)
        ends_ms = min(end_ms or FOREVER_MS for end_ms in (until_ms, key.expires_ms))
        self._proofs.add(self._digest(presented), _Proof(principal, ends_ms, key_id, record, ""))
        return principal

    def _prove_token(self, presented: bytes, token: bytes, now_ms: int) -> Principal | Unproven | str:
        digest = self._digest(presented)
        if now_ms < (self._refused.get(digest) or 0):
            return INVALID
        try:
            verified = self._trust.verify(token, now_ms)
        except TokenRefused as refused:
            if refused.unknown_key_of:
                self._unknown_key(refused.unknown_key_of)
            return self._refuse(digest, now_ms)
        if verified.issuer:
            proof = _Proof(self._foreign(verified), verified.expires_ms, "", None, "")
        elif verified.token_id in self.revoked:
            return self._refuse(digest, now_ms)
        else:
            record = self._record(verified.subject, now_ms)
            if record is None:
                return verified.subject
            key = record.key
            # A key that was deleted and made anew under its id is another one. Tokens tell whole seconds.
            if key is None or key.expired(now_ms) or verified.issued_ms + 999 < key.created_ms:
                return INVALID
            principal = principal_of(
                key,
                self._roles,
                places=record.places(key),
                asked=verified.scopes,
                misplaced=key.kind is Kind.CLIENT,
            )
            ends_ms = min(verified.expires_ms, key.expires_ms or FOREVER_MS)
            proof = _Proof(principal, ends_ms, key.id, record, verified.token_id)
        self._proofs.add(digest, proof)
        return proof.principal

    def _refuse(self, digest: bytes, now_ms: int) -> Unproven:
        """Do not verify this token again soon."""
        self._refused.add(digest, now_ms + REFUSED_MS)
        return INVALID

    def _foreign(self, verified: Verified) -> Principal:
        """The principal of a foreign token. Its name holds a colon, which no key's id does."""
        return Principal(
            f"{verified.issuer}:{verified.subject}",
            tenant=verified.tenant,
            plan=verified.plan,
            scopes=expanded(verified.scopes, self._roles),
        )

    def _record(self, key_id: str, now_ms: int) -> Record | None:
        """What is known of an id; None asks for it."""
        if (record := self._records.get(key_id)) is not None:
            return record
        record = self._absent.get(key_id)
        if record is not None and not record.until_ms:
            record.until_ms = now_ms + ABSENT_MS
        return record if record is not None and now_ms < record.until_ms else None

    def _digest(self, presented: bytes) -> bytes:
        return blake2b(presented, digest_size=16, key=self._digest_key).digest()

    # --- what is known ---

    def ask(self, key_ids: Iterable[str]) -> None:
        """These records are being read from the store. What was asked for before and did not come is given up."""
        self._asked = set(key_ids)

    def answer(self, records: Mapping[str, Entry | None]) -> None:
        """What was read of records, None for those that are not there. One that was changed meanwhile is not
        taken: it has to be asked for again."""
        for key_id, entry in records.items():
            if key_id in self._asked:
                self._asked.discard(key_id)
                self._learn(key_id, entry)

    def follow(self, keys: Mapping[str, Entry | None] | None) -> None:
        """Records that were changed, None for those that went; of keys that are not known here nothing is kept.
        None: nobody knows which, so all are forgotten."""
        if keys is None:
            self._asked.clear()
            self._records = Recent[str, Record](MOST_KEYS)
            self._absent = Recent[str, Record](MOST_ABSENT)
            return
        self._asked.difference_update(keys)
        for key_id, entry in keys.items():
            known = self._records.get(key_id)
            if known is not None and known.key and entry and known.key.changed_ms > entry.at_ms:
                continue  # what was read was later than this change
            if known is not None or key_id in self._absent:
                self._learn(key_id, entry)

    def heed(self, *, roles: Mapping[str, tuple[str, ...]], trust: Trust, hash_key: bytes | None) -> None:
        """Go on with another configuration or hash key: what was proved before has to be proved again."""
        self._roles, self._trust, self._hash_key = roles, trust, hash_key
        self._proofs = Recent[bytes, _Proof](MOST_PROOFS)
        self._refused = Recent[bytes, int](MOST_ABSENT)

    def _learn(self, key_id: str, entry: Entry | None) -> None:
        """A record that cannot be read is no key."""
        self._records.drop(key_id)
        self._absent.drop(key_id)
        try:
            key = None if entry is None else read(key_id, entry.at_ms, entry.payload)
        except KeyUnreadable:
            key = None
        (self._absent if key is None else self._records).add(key_id, Record(key))

    def __len__(self) -> int:
        """Keys that are known here."""
        return len(self._records)
