"""What the tests of proofs share: whose tokens are believed, and how the gate asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.core.addresses import AddressSet
from sidecar.core.control import Entry
from sidecar.core.keys import Kind
from sidecar.core.origins import Origins
from sidecar.core.principals import Principal
from sidecar.core.proofs import Proofs, Unproven
from sidecar.core.tokens import KeySet, SigningKey, Trust, issue
from tests.doubles import HASH_KEY
from tests.issuers import AUDIENCE, NOW_MS, OURS, Foreign, Names, claims, ed25519_key, eddsa, jwks, pem_of

SIGNING = SigningKey.from_pem(pem_of(ed25519_key("ours")))


@dataclass(frozen=True)
class Own:
    issuer: str = OURS
    audience: str = AUDIENCE
    keys: tuple[SigningKey, ...] = (SIGNING,)


THEIRS = Foreign(claims=Names(tenant="org", plan="plan"))
TRUST = Trust(Own(), (THEIRS,), {"idp": KeySet.parse(jwks(eddsa()), THEIRS.algorithms)})


def made(**others: object) -> Proofs:
    whole: dict[str, object] = {
        "digest_key": b"d" * 32,
        "hash_key": HASH_KEY,
        "roles": {"clerk": ("orders.read",)},
        "trust": TRUST,
        **others,
    }
    return Proofs(**whole)  # type: ignore[arg-type]  # as above


def knowing(*entries: Entry, key_id: str = "k_a", **others: object) -> Proofs:
    it = made(**others)
    for entry in entries:
        told(it, key_id, entry)
    return it


def told(it: Proofs, key_id: str, entry: Entry | None) -> None:
    """The record is read from the store."""
    it.ask([key_id])
    it.answer({key_id: entry})


def who(it: Proofs, credential: bytes, now_ms: int = NOW_MS) -> Principal | Unproven | str:
    """As the gate asks: memory first."""
    return it.known(credential, now_ms) or it.prove(credential, now_ms)


def token(key_id: str = "k_a", *scopes: str, token_id: str = "t1", ttl_ms: int = 900_000) -> bytes:
    issued = issue(
        SIGNING,
        issuer=OURS,
        audience=AUDIENCE,
        key_id=key_id,
        scopes=scopes,
        token_id=token_id,
        now_ms=NOW_MS,
        ttl_ms=ttl_ms,
    )
    return b"b" + issued.encode()


def foreign(**members: object) -> bytes:
    return b"b" + eddsa().token(claims(**members))


def client_key(
    name: str = "web",
    *,
    origins: Sequence[str] = ("*",),
    plan: str = "",
    tenant: str = "",
    scopes: Sequence[str] = (),
    enabled: bool = True,
    misplaced: bool = False,
    networks: AddressSet | None = None,
) -> Principal:
    """The principal of a client key."""
    return Principal(
        name,
        kind=Kind.CLIENT,
        origins=Origins(origins),
        plan=plan,
        tenant=tenant,
        scopes=scopes,
        enabled=enabled,
        misplaced=misplaced,
        networks=networks,
    )
