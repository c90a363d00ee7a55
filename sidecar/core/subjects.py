"""Subjects: whom a counter counts, and how the counters of one subject are named in the store.

    <prefix>{<shard>}:<limit>:<window_ms>/<slice_ms>:<part>|<part>...

There is one part for each dimension of the limit, in its order, escaped: no part holds a separator, and
different values have different parts. So all counters of a key, a tenant or an address can be told: by
name where the other dimensions are a closed set (routes), else by a pattern.

An operator names a subject as `<limit> <kind>:<value>`, with kind `key`, `tenant` or `address`.

Nothing here knows requests (see `policy`) or asks the store.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from itertools import product
from typing import Final
from urllib.parse import quote_from_bytes
from zlib import crc32

from sidecar.core.addresses import parse_cidr, subject_of
from sidecar.core.model import Limit

KINDS: Final = {"key": "key", "tenant": "tenant", "address": "ip"}
"""The kinds of subjects, and the dimension by which a limit counts them."""

MOST_NAME: Final = 256
"""Characters of a key's id or a tenant."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9._:/*\-]{1,128}")
_GLOB: Final = re.compile(r"([*?\[\]^\\-])")


def escaped(part: bytes) -> str:
    """A subject's part that cannot contain a separator, and cannot equal another part.

    >>> escaped(b"acme"), escaped(b"a|b")
    ('acme', 'a%7Cb')
    """
    text = part.decode("latin-1")
    if _PLAIN.fullmatch(text):
        return text
    quoted = quote_from_bytes(part, safe="/:*")
    if len(quoted) <= 128:
        return quoted
    return "#" + blake2b(part, digest_size=16).hexdigest()


def names_of(limit: Limit, prefix: str, shards: int) -> tuple[str, ...]:
    """What the names of a limit's counters in the store begin with, for each shard."""
    return tuple([f"{prefix}{{{shard}}}:{_counted(limit)}:" for shard in range(shards)])


def shard_of(subject: str, shards: int) -> int:
    """Where a subject's counters live: the same shard for all limits."""
    return crc32(subject.encode()) % shards if shards > 1 else 0


class Chosen:
    """The counters of one limit that are one subject's.

    limit     the limit's name
    field     the subject as it is told to all replicas: `<limit> <kind>:<value>`, in its one way to write it
    subjects  the whole subjects; None when only a pattern tells them
    keys      the names of their counters in the store
    glob      the pattern, as a Redis glob; what it finds may be more, `has` tells
    """

    def __init__(
        self, limit: Limit, field: str, parts: tuple[str | None, ...], *, prefix: str, shards: int
    ) -> None:
        """`parts` are those of the subject, None where any will do."""
        self.limit = limit.name
        self.field = field
        self.subjects: tuple[str, ...] | None = None
        self.keys: tuple[bytes, ...] = ()
        if None not in parts:
            self._name(limit, [(part,) for part in parts if part is not None], prefix, shards)
        elif [kind for (kind, _), part in zip(limit.per, parts, strict=True) if part is None] == ["route"]:
            routes = tuple(dict.fromkeys(escaped(path.encode()) for path in limit.match.paths or ("*",)))
            self._name(limit, [routes if part is None else (part,) for part in parts], prefix, shards)
        counted = _counted(limit)
        any_part = "|".join("*" if part is None else _unglobbed(part) for part in parts)
        self.glob = f"{_unglobbed(prefix)}{{*}}:{_unglobbed(counted)}:{any_part}".encode()
        self._part = next((part.encode() for part in parts if part is not None), b"")
        of_parts = r"\|".join("[^|]*" if part is None else re.escape(part) for part in parts)
        self._pattern = re.compile(
            rf"{re.escape(prefix)}\{{\d+\}}:{re.escape(counted)}:{of_parts}".encode(), re.DOTALL
        )

    def has(self, key: bytes) -> bool:
        """Whether a counter of this name is among them."""
        # The search for the part costs a fifth of the pattern, and nearly all that is asked about fails it.
        return self._part in key and self._pattern.fullmatch(key) is not None

    def _name(self, limit: Limit, parts: list[tuple[str, ...]], prefix: str, shards: int) -> None:
        names = names_of(limit, prefix, shards)
        self.subjects = tuple("|".join(each) for each in product(*parts))
        begins = [names[shard_of(subject, shards)] for subject in self.subjects]
        self.keys = tuple([(b + s).encode() for b, s in zip(begins, self.subjects, strict=True)])


def choose(limit: Limit, kind: str, value: str, *, prefix: str, shards: int, ipv6_prefix: int) -> Chosen:
    """A subject's counters under a limit. Raises ValueError, with words for the operator.

    An address is one that the limit counts as one: `ipv6_prefix` bits of an IPv6 address.
    """
    if KINDS.get(kind) not in [dimension for dimension, _ in limit.per]:
        raise ValueError(f"the limit {limit.name} does not count by {kind}")
    if kind == "address":
        part = value = _one_subject(value, ipv6_prefix)
    else:
        if not 0 < len(value) <= MOST_NAME or not value.isprintable():
            raise ValueError(f"the {kind} has 1 to {MOST_NAME} printable characters")
        part = escaped(value.encode())
    fixed = {"global": "*", KINDS[kind]: part}
    parts = tuple([fixed.get(dimension) for dimension, _ in limit.per])
    return Chosen(limit, f"{limit.name} {kind}:{value}", parts, prefix=prefix, shards=shards)


def counted_network(cidr: str, ipv6_prefix: int) -> str:
    """The least network around a canonical one that limits do not tell apart: overrides are for such.

    >>> counted_network("2001:db8::9/128", 64), counted_network("2001:db8::/32", 64)
    ('2001:db8::/64', '2001:db8::/32')
    """
    address, _, length = cidr.partition("/")
    return subject_of(address, ipv6_prefix) if ":" in cidr and int(length) > ipv6_prefix else cidr


def _counted(limit: Limit) -> str:
    return f"{limit.name}:{limit.window_ms}/{limit.slice_ms}"


def _one_subject(value: str, ipv6_prefix: int) -> str:
    """The subject that limits make of an address. Raises ValueError for what is none, or many."""
    if value == "unknown":
        return value
    address, _, length = parse_cidr(value).partition("/")
    if int(length) < (ipv6_prefix if ":" in address else 32):
        raise ValueError(f"{value}: limits count this as many subjects: name one address")
    return subject_of(address, ipv6_prefix)


def _unglobbed(text: str) -> str:
    """Text as a part of a glob that means only itself."""
    return _GLOB.sub(r"\\\1", text)
