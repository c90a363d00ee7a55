"""Proofs after any history of the registry, against an oracle that remembers nothing and verifies from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core import keys
from sidecar.core.control import Entry
from sidecar.core.keys import Kind
from sidecar.core.principals import Principal
from tests.core.proving import made, token
from tests.doubles import HASH_KEY, presented, registered, secret
from tests.issuers import NOW_MS

IDS = ("k_a", "k_b")
NUMBERS = (0, 1, 2)
times = st.sampled_from([0, 1, 500, 1_500, 20_000])


@dataclass(frozen=True)
class Write:
    key_id: str
    secrets: tuple[tuple[int, int], ...]
    enabled: bool
    expires_in_ms: int
    scopes: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class Delete:
    key_id: str


@dataclass(frozen=True)
class Wait:
    ms: int


@dataclass(frozen=True)
class Lose:
    """The replica misses what changed, and knows that it does."""


@dataclass(frozen=True)
class Read:
    """A read from the store begins."""

    key_id: str


@dataclass(frozen=True)
class End:
    """The read under way ends."""


@dataclass(frozen=True)
class Revoke:
    token_id: str


Event = Write | Delete | Wait | Lose | Read | End | Revoke

writes = st.builds(
    Write,
    st.sampled_from(IDS),
    st.sampled_from([((0, 0),), ((1, 0), (0, 1_000)), ((1, 0),), ((2, 0), (1, 400)), ((0, 0), (2, 20_000))]),
    st.booleans(),
    st.sampled_from([0, 0, 1_000, 30_000]),
    st.sampled_from([(), ("a",), ("a", "b"), ("role:clerk",)]),
    st.sampled_from(Kind),
)
events = st.one_of(
    writes,
    st.builds(Delete, st.sampled_from(IDS)),
    st.builds(Wait, times),
    st.builds(Lose),
    st.builds(Read, st.sampled_from(IDS)),
    st.builds(End),
    st.builds(End),
    st.builds(Revoke, st.sampled_from(["t1", "t2"])),
)
CREDENTIALS = {
    **{
        presented(key_id, number, way): (key_id, number, way)
        for key_id in IDS
        for number in NUMBERS
        for way in "skbc"
    },
    **{token(key_id, "a", token_id=name): (key_id, name, "token") for key_id in IDS for name in ("t1", "t2")},
}


@dataclass
class World:
    """The registry as it is, and a replica that follows it."""

    now_ms: int = NOW_MS
    table: dict[str, Entry] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    reading: dict[str, Entry | None] | None = None

    def __post_init__(self) -> None:
        self.proofs = made(revoked=self.revoked)

    def happen(self, event: Event) -> None:
        match event:
            case Write(key_id, secrets, enabled, expires_in_ms, scopes, kind):
                self.table[key_id] = registered(
                    key_id,
                    kind=kind,
                    secrets=[(number, until and self.now_ms + until) for number, until in secrets],
                    enabled=enabled,
                    expires_ms=expires_in_ms and self.now_ms + expires_in_ms,
                    scopes=scopes,
                    created_ms=NOW_MS - 1,
                )
                self.proofs.follow({key_id: self.table[key_id]})
            case Delete(key_id):
                self.table.pop(key_id, None)
                self.proofs.follow({key_id: None})
            case Wait(ms):
                self.now_ms += ms
            case Lose():
                self.proofs.follow(None)
            case Read(key_id) if self.reading is None:
                self.proofs.ask([key_id])
                self.reading = {key_id: self.table.get(key_id)}
            case End() if self.reading is not None:
                self.proofs.answer(self.reading)
                self.reading = None
            case Revoke(token_id):
                self.revoked.add(token_id)

    def truth(self, credential: bytes) -> tuple[object, ...] | None:
        """Who it is, looked up in the registry as it is."""
        key_id, what, way = CREDENTIALS[credential]
        entry = self.table.get(key_id)
        if entry is None:
            return None
        key = keys.read(key_id, entry.at_ms, entry.payload)
        if 0 < key.expires_ms <= self.now_ms:
            return None
        scopes = {"orders.read" if scope == "role:clerk" else scope for scope in key.scopes}
        if way == "token":
            if what in self.revoked or self.now_ms >= NOW_MS + 905_000:
                return None
            scopes &= {"a"}
        else:
            hashed = keys.hash_secret(secret(int(what)).encode(), HASH_KEY)
            valid = [
                known
                for known in key.secrets
                if known.hash == hashed and (known.until_ms == 0 or self.now_ms < known.until_ms)
            ]
            if not valid:
                return None
        misplaced = key.kind is (Kind.SERVER if way == "c" else Kind.CLIENT)
        return key.id.encode(), key.kind.value, key.enabled, frozenset(scopes), misplaced


def told_of(found: object) -> tuple[object, ...] | None:
    if not isinstance(found, Principal):
        return None
    return found.id, found.kind, found.enabled, found.scopes, found.misplaced


@given(st.lists(events, max_size=25))
@settings(max_examples=150, deadline=None)
def test_it_never_says_more_than_the_registry(history: list[Event]) -> None:
    world = World()

    for event in history:
        world.happen(event)
        for credential in CREDENTIALS:
            known = world.proofs.known(credential, world.now_ms)
            found = known or world.proofs.prove(credential, world.now_ms)
            if isinstance(found, str):
                assert found == CREDENTIALS[credential][0]
            else:
                assert told_of(found) == world.truth(credential), (event, credential[:12])
