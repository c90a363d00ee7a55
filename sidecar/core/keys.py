"""API keys: the record of one, its rules, and its secrets, which are kept as keyed hashes only.

A secret is random and long, so one fast keyed hash is enough; who steals the store without the fleet's
hash key cannot even try guesses. A secret is written so that scanners of repositories and logs recognise
it, and its checksum tells a real one from a look-alike without asking anybody:

    pcs_ | base64url of 32 random bytes and their CRC-32 |        52 characters

A key has at most two secrets, the newest first. Rotation adds one and lets the one before it live on for
the grace; the third drops the first:

    made     A
    rotated  B  A until the grace ends
    rotated  C  B until the grace ends          A is gone

A record in the store that is not exactly as written here is an error that names the key, never a key with
other rights: a member that an older version does not know may be a restriction.

Times are milliseconds by the store's clock, and arguments. This module does not draw random bytes, does not
read the store, and does not judge requests.
"""

from __future__ import annotations

import json
import re
from base64 import b32encode, urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from hashlib import blake2b
from hmac import compare_digest
from typing import Final, NamedTuple, TypedDict
from zlib import crc32

from sidecar.core.addresses import parse_cidr
from sidecar.core.origins import parse_origin

MOST_SECRETS: Final = 2
MOST_SCOPES: Final = 100
MOST_CIDRS: Final = 100
MOST_ORIGINS: Final = 100
LONGEST_LABEL: Final = 200
LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, the last that RFC 3339 can write."""

ID_BYTES: Final = 10
SECRET_BYTES: Final = 32
SECRET_PREFIX: Final = "pcs_"

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_SCOPE: Final = re.compile(r"[A-Za-z0-9._:/-]{1,64}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SECRET: Final = re.compile(rf"(?={SECRET_PREFIX}([A-Za-z0-9_-]{{48}}))")
_WHOLE: Final = re.compile(rb"pcs_[A-Za-z0-9_-]{48}")
_LIKE_SECRET: Final = re.compile(rf"{SECRET_PREFIX}[A-Za-z0-9_-]+")
_SHOWN: Final = 60


class Kind(Enum):
    """Whether a key is kept secret by a server, or shipped in a client and therefore public."""

    SERVER = "server"
    CLIENT = "client"


class Secret(NamedTuple):
    """The keyed hash of one secret; `until_ms` 0: as long as the key."""

    hash: str
    created_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as an operator registered it.

    id             public; holds no dot, which ends it in `<id>.<secret>`
    tenant, plan   "" when it has none
    scopes         what it may do, as filters name it
    cidrs          the networks that it works from, canonical; none: from anywhere
    origins        the web origins that a client key works from, see `origins`
    expires_ms     from when on it is refused; 0: never
    changed_ms     when the record was last written
    secrets        the newest first
    """

    id: str
    kind: Kind
    label: str
    tenant: str
    plan: str
    scopes: tuple[str, ...]
    cidrs: tuple[str, ...]
    origins: tuple[str, ...]
    enabled: bool
    expires_ms: int
    created_ms: int
    changed_ms: int
    secrets: tuple[Secret, ...]

    def expired(self, now_ms: int) -> bool:
        return 0 < self.expires_ms <= now_ms


class Terms(TypedDict, total=False):
    """What an operator may say about a key, when it is made and later."""

    label: str
    tenant: str
    plan: str
    scopes: tuple[str, ...]
    cidrs: tuple[str, ...]
    origins: tuple[str, ...]
    enabled: bool
    expires_ms: int


class FieldRefused(ValueError):
    """A field cannot be as it was given. The text names the field, the value and the remedy."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field}: {_shown(value)}: {remedy}")
        self.field = field
        self.remedy = remedy


class KeyUnreadable(Exception):
    """A record in the store is not one of a key; `id` names it."""

    def __init__(self, key_id: str, why: str) -> None:
        super().__init__(
            f"the record of key {_shown(key_id)} cannot be read: {why}; delete it and create the key anew"
        )
        self.id = key_id


# --- what happens to a key ----------------------------------------------------


def created(key_id: str, kind: Kind, terms: Terms, secret_hash: str, now_ms: int) -> Key:
    """A new key with one secret. Raises FieldRefused; a label must be among the terms."""
    bare = Key(
        id=key_id,
        kind=kind,
        label="",
        tenant="",
        plan="",
        scopes=(),
        cidrs=(),
        origins=(),
        enabled=True,
        expires_ms=0,
        created_ms=now_ms,
        changed_ms=now_ms,
        secrets=(Secret(secret_hash, now_ms, 0),),
    )
    return updated(bare, terms, now_ms)


def updated(key: Key, terms: Terms, now_ms: int) -> Key:
    """The key on other terms; what they do not name stays. Raises FieldRefused.

    A secret whose grace is over goes with the opportunity.
    """
    if 0 < terms.get("expires_ms", 0) <= now_ms:
        past = datetime.fromtimestamp(terms["expires_ms"] / 1000, UTC).isoformat()
        raise FieldRefused("expires", past, "expected a time to come; to cut a key off at once, disable it")
    secrets = tuple(secret for secret in key.secrets if _lives(secret, now_ms))
    return _checked(replace(key, **terms, secrets=secrets, changed_ms=now_ms))


def rotated(key: Key, secret_hash: str, grace_ms: int, now_ms: int) -> Key:
    """The key with a new secret; the newest of the old ones lives on for the grace, 0 ends it at once."""
    secrets: tuple[Secret, ...] = (Secret(secret_hash, now_ms, 0),)
    if grace_ms > 0:
        until_ms = now_ms + grace_ms
        secrets += tuple(old._replace(until_ms=until_ms) for old in key.secrets[: MOST_SECRETS - 1])
    return _checked(replace(key, secrets=secrets, changed_ms=now_ms))


def _lives(secret: Secret, now_ms: int) -> bool:
    return secret.until_ms == 0 or now_ms < secret.until_ms


# --- secrets ------------------------------------------------------------------


def secret_of(random_bytes: bytes) -> str:
    """The text of a secret made of 32 random bytes.

    >>> secret_of(bytes(32))
    'pcs_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAZClWt'
    """
    assert len(random_bytes) == SECRET_BYTES, "a secret is made of 32 random bytes"
    return SECRET_PREFIX + urlsafe_b64encode(random_bytes + _checksum(random_bytes)).decode()


def id_of(random_bytes: bytes) -> str:
    """The id of a key whose operator chose none, made of 10 random bytes.

    >>> id_of(bytes(10))
    'k_aaaaaaaaaaaaaaaa'
    """
    assert len(random_bytes) == ID_BYTES, "an id is made of 10 random bytes"
    return f"k_{b32encode(random_bytes).decode().lower()}"


def holds_secret(text: str) -> bool:
    """Whether a secret of a key stands somewhere in the text; its checksum says that it is one.

    >>> holds_secret("it is " + secret_of(bytes(32))), holds_secret("pcs_" + "A" * 48)
    (True, False)
    """
    return SECRET_PREFIX in text and any(_is_whole(found[1]) for found in _SECRET.finditer(text))


def without_secrets(text: str) -> str:
    """The text with nothing left of what is written like a secret, be it cut off or none.

    >>> without_secrets("no key `pcs_AAAA`")
    'no key `pcs_***`'
    """
    return _LIKE_SECRET.sub(f"{SECRET_PREFIX}***", text)


def hash_secret(secret: bytes, hash_key: bytes) -> str:
    """What the store keeps of a secret: BLAKE2b-256 keyed with the fleet's hash key, in hex."""
    return blake2b(secret, digest_size=32, key=hash_key, person=b"key secret").hexdigest()


def is_secret(text: bytes) -> bool:
    """Whether the text is written as a secret is, its checksum included; no key has any other.

    >>> is_secret(secret_of(bytes(32)).encode()), is_secret(b"hunter2")
    (True, False)
    """
    return _WHOLE.fullmatch(text) is not None and _is_whole(text[len(SECRET_PREFIX) :].decode())


def proved_until_ms(key: Key | None, presented: bytes, hash_key: bytes, now_ms: int) -> int | None:
    """Until when this secret of the key is valid, 0: as long as the key; None if it is not, now.

    `None` is the key that nobody has. The work is the same for any outcome, one hash and two comparisons, so
    that time does not tell whether an id exists.
    """
    hashed = hash_secret(presented, hash_key)
    until_ms: int | None = None
    for secret in (*(key.secrets if key is not None else ()), _DECOY, _DECOY)[:MOST_SECRETS]:
        if compare_digest(hashed, secret.hash) & _lives(secret, now_ms):
            until_ms = secret.until_ms
    return until_ms


_DECOY: Final = Secret("0" * 64, 0, 1)
"""Compared where a key has no second secret; it lapsed in 1970."""


def _checksum(random_bytes: bytes) -> bytes:
    return crc32(random_bytes).to_bytes(4)


def _is_whole(encoded: str) -> bool:
    try:
        decoded = urlsafe_b64decode(encoded)
    except Base64Error:
        return False
    return _checksum(decoded[:SECRET_BYTES]) == decoded[SECRET_BYTES:]


# --- the record in the store --------------------------------------------------


def record(key: Key) -> dict[str, object]:
    """The key as JSON keeps it. Its id names the entry, and when it was written is the entry's."""
    return {
        "kind": key.kind.value,
        "label": key.label,
        "tenant": key.tenant,
        "plan": key.plan,
        "scopes": key.scopes,
        "cidrs": key.cidrs,
        "origins": key.origins,
        "enabled": key.enabled,
        "expires": key.expires_ms,
        "created": key.created_ms,
        "secrets": [list(secret) for secret in key.secrets],
    }


def read(key_id: str, at_ms: int, payload: bytes) -> Key:
    """The key of a record that was written at `at_ms`. Raises KeyUnreadable."""
    try:
        return _checked(_key(key_id, at_ms, payload))
    except (ValueError, RecursionError) as exc:
        raise KeyUnreadable(key_id, str(exc) or "nested too deeply") from None  # its text may hold a hash


def _key(key_id: str, at_ms: int, payload: bytes) -> Key:
    try:
        members = json.loads(payload.decode(), object_pairs_hook=_unique)
    except ValueError:
        raise ValueError("it is not JSON with each member once") from None
    match members:
        case {
            "kind": "server" | "client" as kind,
            "label": str(label),
            "tenant": str(tenant),
            "plan": str(plan),
            "scopes": list(scopes),
            "cidrs": list(cidrs),
            "origins": list(origins),
            "enabled": bool(enabled),
            "expires": int(expires_ms),
            "created": int(created_ms),
            "secrets": list(secrets),
            **others,
        } if not others:
            return Key(
                id=key_id,
                kind=Kind(kind),
                label=label,
                tenant=tenant,
                plan=plan,
                scopes=tuple(scopes),
                cidrs=tuple(cidrs),
                origins=tuple(origins),
                enabled=enabled,
                expires_ms=expires_ms,
                created_ms=created_ms,
                changed_ms=at_ms,
                secrets=tuple(_secret(secret) for secret in secrets),
            )
    raise ValueError("it has not exactly the members of a key")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands there twice")
    return members


def _secret(value: object) -> Secret:
    match value:
        case [str(hashed), int(created_ms), int(until_ms)]:
            return Secret(hashed, created_ms, until_ms)
    raise ValueError("secrets: expected hash, created and until of each")


# --- the rules for each field -------------------------------------------------


def checked_id(text: str) -> str:
    """An id that an operator may choose. Raises FieldRefused."""
    if not _ID.fullmatch(text):
        raise FieldRefused("id", text, "expected a letter or digit, then up to 63 of A-Z a-z 0-9 _ -")
    if SECRET_PREFIX in text:
        raise FieldRefused("id", text, f"scanners take what holds {SECRET_PREFIX} for a secret: leave it out")
    return text


def _checked(key: Key) -> Key:
    """The key in canonical form. Raises FieldRefused."""
    checked_id(key.id)
    if (
        not 1 <= len(key.label) <= LONGEST_LABEL
        or not key.label.isprintable()
        or key.label.strip() != key.label
    ):
        remedy = f"expected 1 to {LONGEST_LABEL} printable characters, no blank first or last"
        raise FieldRefused("label", key.label, remedy)
    if holds_secret(key.label):
        raise FieldRefused("label", key.label, "this is a secret: it must stand nowhere; rotate its key")
    for field, name in (("tenant", key.tenant), ("plan", key.plan)):
        if name and not _NAME.fullmatch(name):
            raise FieldRefused(field, name, "expected a lower-case letter, then up to 62 of a-z 0-9 _ -")
    if key.kind is Kind.SERVER and key.origins:
        raise FieldRefused("origins", key.origins[0], "only client keys have origins: leave them out")
    if key.kind is Kind.CLIENT and not key.origins:
        raise FieldRefused("origins", None, 'a client key names the origins that it works from; "*" is any')
    if not 1 <= len(key.secrets) <= MOST_SECRETS:
        raise FieldRefused("secrets", len(key.secrets), "expected one or two")
    if not all(_HASH.fullmatch(secret.hash) for secret in key.secrets):
        raise FieldRefused("secrets", None, "expected the hash of each")
    if [secret.until_ms != 0 for secret in key.secrets] != [False, True][: len(key.secrets)]:
        raise FieldRefused("secrets", None, "the newest ends with the key, and the one before it earlier")
    times = [("expires", key.expires_ms), ("created", key.created_ms)]
    times += [("secrets", time) for secret in key.secrets for time in secret[1:]]
    for field, time in times:
        if type(time) is not int or not 0 <= time <= LAST_MS:  # true and false are ints, too
            raise FieldRefused(field, time, "expected milliseconds since 1970, before the year 10000")
    scopes = _each("scopes", key.scopes, MOST_SCOPES, _scope)
    cidrs = _each("cidrs", key.cidrs, MOST_CIDRS, parse_cidr)
    origins = _each("origins", key.origins, MOST_ORIGINS, parse_origin)
    if (scopes, cidrs, origins) == (key.scopes, key.cidrs, key.origins):
        return key  # as whatever was written by us: a fifth of the time of reading it
    return replace(key, scopes=scopes, cidrs=cidrs, origins=origins)


def _each(field: str, values: Iterable[object], most: int, parse: Callable[[str], str]) -> tuple[str, ...]:
    """The values in canonical form, each once, in their order."""
    parsed: dict[str, None] = {}
    for number, value in enumerate(values):
        if number == most:
            raise FieldRefused(f"{field}[{number}]", value, f"expected at most {most}")
        if not isinstance(value, str):
            raise FieldRefused(f"{field}[{number}]", value, "expected a text")
        try:
            parsed[parse(value)] = None
        except ValueError as exc:
            # parse_cidr's text begins with the value, which is shown already.
            remedy = str(exc).removeprefix(repr(value)).lstrip(": ")
            raise FieldRefused(f"{field}[{number}]", value, remedy) from None
    return tuple(parsed)


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text) or holds_secret(text):
        raise ValueError('expected 1 to 64 of A-Z a-z 0-9 . _ : / -, such as "orders.write"')
    return text


def _shown(value: object) -> str:
    """A value as messages repeat it: short, printable, and never a secret."""
    if value is None:
        return "nothing"
    text = "***" if holds_secret(str(value)) else json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
