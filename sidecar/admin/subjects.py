"""Whom an operator means: a key, a tenant or an address, and one limit of the running configuration.

Reads and refuses; what then happens to the subject is the resources'.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from sidecar.admin.operations import MOST_NAMED, refused
from sidecar.core.keys import SECRET_PREFIX
from sidecar.core.model import Limit
from sidecar.document import notations
from sidecar.document.walk import shown

KEY_ID: Final = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}(?::[A-Za-z0-9._:/*%-]{1,128})?"

KeyId = Annotated[
    str,
    Meta(
        description="The public id of a key, as the log, `/v1/top` and `X-Portcullis-Key` show it: of the registry, "
        "`<issuer>:<subject>` of a foreign token, or with `credentials.mode: opaque` the key's keyed hash.",
        examples=["k7Qm2xYc"],
        extra_json_schema={"pattern": f"^{KEY_ID}$"},
    ),
]
TenantName = Annotated[
    str,
    Meta(
        description="The name of a tenant, as keys of the registry and tokens name it.",
        examples=["acme"],
        extra_json_schema={"pattern": "^[a-z][a-z0-9_-]{0,62}$"},
    ),
]
AddressText = Annotated[
    str, Meta(max_length=64, description="An address or a network.", examples=["203.0.113.0/24"])
]
LimitName = Annotated[
    str,
    Meta(max_length=63, description="The name of a limit in the configuration.", examples=["per-ip"]),
]

DIMENSIONS: Final = {"key": {"key"}, "tenant": {"tenant", "key"}, "address": {"ip"}}
"""The dimensions of a limit that each kind of subject needs one of."""


class Subject(NamedTuple):
    """`kind` is "key", "tenant" or "address"."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Subject:
        """A subject as it is written in a field of a table."""
        kind, _, value = text.partition(":")
        return cls(kind, value)

    def named(self) -> dict[str, str]:
        """As a member of an answer."""
        return {self.kind: self.value}


def subject_of(
    kinds: Sequence[str], *, key: str | None = None, tenant: str | None = None, address: str | None = None
) -> Subject | None:
    """The subject that one of the members names, None when none is there; only `kinds` may be.

    Raises Problem for two of them, and for a name that is none. The address is a canonical network.
    """
    members = {"key": key, "tenant": tenant, "address": address}
    given = [(kind, value) for kind, value in members.items() if value is not None]
    if len(given) > 1:
        raise refused([(" and ".join(kind for kind, _ in given), f"expected at most one of {_or(kinds)}")])
    if not given:
        return None
    kind, value = given[0]
    return Subject(kind, read(kind, value, _READERS[kind]))


def one_subject(
    kinds: Sequence[str], *, key: str | None = None, tenant: str | None = None, address: str | None = None
) -> Subject:
    """The subject that exactly one of the members names. Raises Problem."""
    subject = subject_of(kinds, key=key, tenant=tenant, address=address)
    if subject is None:
        raise refused([(_or(kinds), "expected exactly one of them")])
    return subject


def limit_of(limits: Sequence[Limit], name: str, subject: Subject) -> Limit:
    """The limit of this name, when it counts such subjects. Raises Problem naming those there are."""
    limit = next((limit for limit in limits if limit.name == name), None)
    if limit is None:
        there_are = ", ".join(limit.name for limit in limits[:MOST_NAMED]) or "none"
        raise refused([("limit", f"{shown(name)}: the configuration has no such limit; it has {there_are}")])
    kinds = [dimension.kind for dimension in limit.per]
    if not DIMENSIONS[subject.kind].intersection(kinds):
        counted = ", ".join(kinds)
        raise refused([(subject.kind, f"the limit {name} does not count it: it counts per {counted}")])
    return limit


def read(member: str, text: str, reader: Callable[[str], str]) -> str:
    """What `reader` makes of a member's text. Raises Problem where it raises ValueError."""
    try:
        return reader(text)
    except ValueError as exc:
        raise refused([(member, f"{shown(text)}: {exc}")]) from None


def read_ms(member: str, text: str | None, reader: Callable[[str], int]) -> int:
    """What `reader` makes of a time or duration; 0 for none. Raises Problem where it raises ValueError."""
    if text is None:
        return 0
    try:
        return reader(text)
    except ValueError as exc:
        raise refused([(member, f"{shown(text)}: {exc}")]) from None


class Named(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A subject as answers name it: one of the three."""

    key: str | None = None
    tenant: str | None = None
    address: str | None = None


def _key_id(text: str) -> str:
    if SECRET_PREFIX in text:
        raise ValueError("this is a secret, not an id; now that it was shown around, rotate its key")
    if not _KEY_ID.fullmatch(text):
        raise ValueError(
            "expected a letter or digit, then up to 63 of A-Z a-z 0-9 _ -, or <issuer>:<subject> of a foreign token"
        )
    return text


_KEY_ID: Final = re.compile(KEY_ID)
_READERS: Final[dict[str, Callable[[str], str]]] = {
    "key": _key_id,
    "tenant": notations.name,
    "address": notations.cidr,
}


def _or(kinds: Sequence[str]) -> str:
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}"
