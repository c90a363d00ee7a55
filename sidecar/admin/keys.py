"""`/v1/keys`: the registry of API keys.

A secret stands in the answer of the call that made it, and in no other; hashes stand in none. What a field
may hold is the registry's business (`core.keys`): its refusals come out as they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sidecar.admin.operations import (
    Answer,
    Call,
    EpochText,
    Fleet,
    MomentText,
    Nothing,
    Operation,
    Operations,
    matching,
)
from sidecar.admin.pages import Cursor, NextCursor
from sidecar.admin.problems import Problem
from sidecar.admin.times import later_ms, moment, moment_or_none, span_ms
from sidecar.admin.tokens import Role
from sidecar.control.changes import Changes
from sidecar.control.keys import SLICE, Issued, KeyMissing, KeyRegistry
from sidecar.control.pages import CursorRefused
from sidecar.core.keys import SECRET_PREFIX, FieldRefused, Key, KeyUnreadable, Kind, Terms
from sidecar.document.notations import DAY_MS, duration_ms

USUAL_GRACE: Final = "24h"
MOST_GRACE_MS: Final = 30 * DAY_MS
MOST_LISTED: Final = 1_000

_grace_ms = duration_ms(0, MOST_GRACE_MS)

IdText = Annotated[
    str, matching("[A-Za-z0-9][A-Za-z0-9_-]{0,63}", description="Public; without one it is made.")
]
LabelText = Annotated[
    str, Meta(min_length=1, max_length=200, description="For people: whose key it is. Printable characters.")
]
NameText = Annotated[str, matching("([a-z][a-z0-9_-]{0,62})?", description='"" for none.', examples=["gold"])]
Scopes = Annotated[
    list[Annotated[str, matching("[A-Za-z0-9._:/-]{1,64}", examples=["orders.write"])]],
    Meta(max_length=100, description="What the key may do, as filters name it."),
]
Cidrs = Annotated[
    list[Annotated[str, Meta(max_length=64, examples=["192.0.2.0/24"])]],
    Meta(max_length=100, description="The networks that the key works from; none: from anywhere."),
]
Origins = Annotated[
    list[Annotated[str, Meta(max_length=320, examples=["https://app.example.com"])]],
    Meta(
        max_length=100,
        description="The web origins that a client key works from: `example.com`, `.example.com` for its subdomains, "
        "`*` for any; with a scheme or a port where these are demanded. A server key has none.",
    ),
]
ExpiresText = Annotated[
    str,
    Meta(
        max_length=40,
        description="From when on the key is refused: a time to come, or a duration from now on. null: never.",
        examples=["90d", "2027-01-01T00:00:00Z"],
    ),
]


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key to be made."""

    label: LabelText
    kind: Kind
    tenant: NameText = ""
    plan: NameText = ""
    scopes: Scopes = []
    cidrs: Cidrs = []
    origins: Origins = []
    expires: ExpiresText | None = None
    id: IdText | None = None


class KeyChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Other terms for a key. What is left out stays."""

    label: LabelText | UnsetType = UNSET
    tenant: NameText | UnsetType = UNSET
    plan: NameText | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    cidrs: Cidrs | UnsetType = UNSET
    origins: Origins | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    expires: ExpiresText | UnsetType | None = UNSET


class Rotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For how long the secret so far is valid beside the new one: 0s to 30d."""

    grace: Annotated[str, Meta(examples=["24h"], extra_json_schema={"pattern": "^[0-9]{1,9}[smhd]$"})] = (
        USUAL_GRACE
    )


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which key."""

    id: Annotated[str, matching("[A-Za-z0-9][A-Za-z0-9_-]{0,63}")]


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which keys: at most `limit`, from where `cursor` says on, of one tenant if it is named."""

    cursor: Cursor = ""
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED)] = 100
    tenant: Annotated[str, matching("([a-z][a-z0-9_-]{0,62})?")] = ""


class SecretTimes(msgspec.Struct, frozen=True, kw_only=True):
    """When a secret was made, and until when it is valid; null: as long as the key."""

    created: MomentText
    until: MomentText | None


class KeyDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A key. Of its secrets, the newest first, nobody can say more."""

    id: str
    label: str
    tenant: str
    plan: str
    kind: Kind
    scopes: tuple[str, ...]
    cidrs: tuple[str, ...]
    origins: tuple[str, ...]
    enabled: bool
    expires: MomentText | None
    created: MomentText
    changed: MomentText
    secrets: list[SecretTimes]


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Some keys, in no order; `unreadable` are the ids of damaged records."""

    epoch: EpochText
    keys: list[KeyDetails]
    cursor: NextCursor
    unreadable: list[str]


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key and its new secret, which is shown this once."""

    key: KeyDetails
    id: str
    secret: str


class ChangedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key as it is now."""

    key: KeyDetails


class DeletedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key that is gone."""

    id: str


def keys(registry: KeyRegistry, changes: Changes, fleet: Fleet) -> Operations:
    """The operations of the registry."""

    async def listed(call: Call[Nothing, Listing]) -> Answer[KeyList]:
        epoch = await changes.epoch()  # before the keys: what is changed meanwhile has a later one
        at = call.at
        try:
            page = await registry.page(cursor=at.cursor, most=at.limit, tenant=at.tenant)
        except CursorRefused as exc:
            raise Problem(400, f"cursor: {exc}.") from exc
        found: list[KeyDetails] = []
        for first in range(0, len(page.keys), SLICE):
            found += map(details, page.keys[first : first + SLICE])
            await asyncio.sleep(0)  # others get their turn
        cursor = page.cursor or None
        members = KeyList(epoch=str(epoch), keys=found, cursor=cursor, unreadable=page.unreadable)
        return Answer(members, epoch=epoch)

    async def shown(call: Call[Nothing, Named]) -> Answer[KeyDetails]:
        key_id = _named(call.at)
        epoch = await changes.epoch()
        with _refusals():
            return Answer(details(await registry.get(key_id)), epoch=epoch)

    async def create(call: Call[NewKey, Nothing]) -> Answer[IssuedKey]:
        body = call.body
        terms = Terms(
            label=body.label,
            tenant=body.tenant,
            plan=body.plan,
            scopes=tuple(body.scopes),
            cidrs=tuple(body.cidrs),
            origins=tuple(body.origins),
            expires_ms=_expires_ms(body.expires, registry.now_ms()),
        )
        with _refusals():
            issued = await registry.create(
                body.kind, terms, key_id=body.id or "", actor=call.actor, if_epoch=call.if_epoch
            )
        return _issued(issued)

    async def update(call: Call[KeyChanges, Named]) -> Answer[ChangedKey]:
        key_id, terms = _named(call.at), _terms(call.body, registry.now_ms())
        with _refusals():
            kept = await registry.update(key_id, terms, actor=call.actor, if_epoch=call.if_epoch)
        return Answer(ChangedKey(key=details(kept.key)), changed=kept.changed)

    async def rotate(call: Call[Rotation, Named]) -> Answer[IssuedKey]:
        key_id = _named(call.at)
        try:
            grace_ms = _grace_ms(call.body.grace)
        except ValueError as exc:
            raise Problem(400, f"grace: {exc}.") from exc
        with _refusals():
            issued = await registry.rotate(
                key_id, grace_ms=grace_ms, actor=call.actor, if_epoch=call.if_epoch
            )
        return _issued(issued)

    async def delete(call: Call[Nothing, Named]) -> Answer[DeletedKey]:
        key_id = _named(call.at)
        with _refusals():
            changed = await registry.delete(key_id, actor=call.actor, if_epoch=call.if_epoch)
        return Answer(DeletedKey(id=key_id), changed=changed)

    place = "/v1/keys/{id}"
    missing = {404: "There is no such key."}
    damaged = missing | {500: "The record of the key cannot be read: delete it."}
    return (
        Operation(
            "GET", "/v1/keys", Role.VIEWER, "List keys", listed, body=Nothing, at=Listing, answer=KeyList
        ),
        Operation(
            "POST",
            "/v1/keys",
            Role.ADMIN,
            "Make a key",
            create,
            answer_example=_ISSUED,
            body=NewKey,
            at=Nothing,
            answer=IssuedKey,
            fleet=fleet,
            status=201,
            errors={409: "There is a key with this id."},
            example={
                "label": "billing",
                "kind": "server",
                "tenant": "acme",
                "plan": "gold",
                "expires": "90d",
            },
        ),
        Operation(
            "GET",
            place,
            Role.VIEWER,
            "Show a key",
            shown,
            answer_example=_KEY,
            body=Nothing,
            at=Named,
            answer=KeyDetails,
            errors=damaged,
        ),
        Operation(
            "PATCH",
            place,
            Role.ADMIN,
            "Change a key",
            update,
            answer_example={"key": _KEY | {"enabled": False}},
            body=KeyChanges,
            at=Named,
            answer=ChangedKey,
            fleet=fleet,
            errors=damaged | {409: "Others changed the key at the same time."},
            example={"enabled": False},
        ),
        Operation(
            "DELETE",
            place,
            Role.ADMIN,
            "Delete a key",
            delete,
            answer_example={"id": "k_4zqg7n2m5tq3w6xk"},
            body=Nothing,
            at=Named,
            answer=DeletedKey,
            fleet=fleet,
            errors=missing,
        ),
        Operation(
            "POST",
            f"{place}/rotate",
            Role.ADMIN,
            "Give a key a new secret",
            rotate,
            answer_example=_ISSUED,
            body=Rotation,
            at=Named,
            answer=IssuedKey,
            fleet=fleet,
            errors=damaged | {409: "Others changed the key at the same time."},
            example={"grace": "24h"},
        ),
    )


def details(key: Key) -> KeyDetails:
    """The key as operators see it: without hashes."""
    return KeyDetails(
        id=key.id,
        label=key.label,
        tenant=key.tenant,
        plan=key.plan,
        kind=key.kind,
        scopes=key.scopes,
        cidrs=key.cidrs,
        origins=key.origins,
        enabled=key.enabled,
        expires=moment_or_none(key.expires_ms),
        created=moment(key.created_ms),
        changed=moment(key.changed_ms),
        secrets=[
            SecretTimes(created=moment(secret.created_ms), until=moment_or_none(secret.until_ms))
            for secret in key.secrets
        ],
    )


def _issued(issued: Issued) -> Answer[IssuedKey]:
    key = issued.key
    return Answer(IssuedKey(key=details(key), id=key.id, secret=issued.secret), changed=issued.changed)


def _named(at: Named) -> str:
    """The id. Raises Problem for a secret in its place, before anything of it goes further."""
    if SECRET_PREFIX in at.id:
        raise Problem(404, "There is no such key: this is a secret, not an id; rotate the key that it opens.")
    return at.id


def _terms(body: KeyChanges, now_ms: int) -> Terms:
    """What the body says, without what it leaves out."""
    terms = Terms()
    if body.label is not UNSET:
        terms["label"] = body.label
    if body.tenant is not UNSET:
        terms["tenant"] = body.tenant
    if body.plan is not UNSET:
        terms["plan"] = body.plan
    if body.scopes is not UNSET:
        terms["scopes"] = tuple(body.scopes)
    if body.cidrs is not UNSET:
        terms["cidrs"] = tuple(body.cidrs)
    if body.origins is not UNSET:
        terms["origins"] = tuple(body.origins)
    if body.enabled is not UNSET:
        terms["enabled"] = body.enabled
    if body.expires is not UNSET:
        terms["expires_ms"] = _expires_ms(body.expires, now_ms)
    if not terms:
        raise Problem(400, f"Name at least one of {', '.join(KeyChanges.__struct_fields__)}.")
    return terms


def _expires_ms(text: str | None, now_ms: int) -> int:
    """When a key expires; 0: never."""
    if text is None:
        return 0
    try:
        return now_ms + span_ms(text) if len(text) <= 10 else later_ms(text, now_ms)
    except ValueError as exc:
        raise Problem(400, f"expires: {exc}.") from exc


@contextmanager
def _refusals() -> Iterator[None]:
    """The registry's refusals as problems."""
    try:
        yield
    except FieldRefused as exc:
        raise Problem(400, f"{exc}.") from exc
    except KeyMissing as exc:
        raise Problem(404, f"There is no key `{exc.id}`.") from exc
    except KeyUnreadable as exc:
        raise Problem(500, f"{str(exc)[0].upper()}{str(exc)[1:]}.") from exc


_KEY: Final[dict[str, object]] = {
    "id": "k_4zqg7n2m5tq3w6xk",
    "label": "billing",
    "tenant": "acme",
    "plan": "gold",
    "kind": "server",
    "scopes": ["orders.write"],
    "cidrs": ["192.0.2.0/24"],
    "origins": [],
    "enabled": True,
    "expires": "2027-02-20T05:00:00.123Z",
    "created": "2026-11-22T05:00:00.123Z",
    "changed": "2026-11-22T05:00:00.123Z",
    "secrets": [{"created": "2026-11-22T05:00:00.123Z", "until": None}],
}
_ISSUED: Final[dict[str, object]] = {
    "key": _KEY,
    "id": "k_4zqg7n2m5tq3w6xk",
    "secret": f"pcs_{'x' * 48}",  # its checksum says that it is none
}
