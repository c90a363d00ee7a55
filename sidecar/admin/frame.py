"""The frame around operations: from a request to a call, and from what it came to back to a response.

    role ──> parameters ──> If-Match ──> body ──> the operation ──> (the fleet follows) ──> response

Everything is read and refused before the operation runs, so a refusal changes nothing.

Does not know what any operation means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isnan
from typing import Annotated, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta

from sidecar.admin.operations import (
    Answer,
    AnyOperation,
    Applied,
    Call,
    Confirmation,
    Fleet,
    Judged,
    MissingReplica,
    refused,
)
from sidecar.admin.problems import Problem
from sidecar.admin.times import moment, moment_or_none
from sidecar.admin.tokens import Holder
from sidecar.control.changes import Changed, Conflict
from sidecar.control.fleet import Confirmed
from sidecar.core.control import Epoch
from sidecar.store import StoreUnavailable

HOLDER: Final = web.RequestKey("holder", Holder)
"""Where a request keeps who asks."""
MOST_WAIT_S: Final = 60


class Waiting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every operation that changes something takes beside its own parameters."""

    wait: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=MOST_WAIT_S,
                description="Seconds to wait until every replica has the change; `confirmed` says how it went.",
            ),
        ]
        | msgspec.UnsetType
    ) = msgspec.UNSET


def add_operations(app: web.Application, operations: Iterable[AnyOperation]) -> None:
    """Give `app` the operations. A GET answers HEAD, too."""
    for operation in operations:
        handler = _handler(operation)
        app.router.add_route(operation.method, operation.path, handler)
        if operation.method == "GET":
            app.router.add_route("HEAD", operation.path, handler)


def _handler(operation: AnyOperation) -> Handler:
    decoder = msgspec.json.Decoder(operation.body)

    async def answer(request: web.Request) -> web.Response:
        holder = request[HOLDER]
        if holder.role.rank < operation.role.rank:
            raise Problem(
                403,
                f'This needs a token with the role {operation.role.value}; "{holder.name}" is a '
                f"{holder.role.value}.",
            )
        parameters = _parameters(request)
        wait_s = _wait_s(parameters) if operation.changes else None
        at = _place(operation, request.match_info, parameters)
        if_epoch = _demanded(request) if operation.changes else None
        body = await _body(request, operation, decoder)
        try:
            answered = await operation.perform(Call(body, at, holder.name, holder.role, if_epoch))
        except Conflict as conflict:
            raise _conflict(conflict) from conflict
        except StoreUnavailable as exc:
            raise _silent(exc, changes=operation.changes) from exc
        return await _response(operation, answered, wait_s)

    return answer


# --- what came in ----------------------------------------------------------------


def _parameters(request: web.Request) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in request.query.items():
        if name in parameters:
            raise Problem(400, f"{_shown(name)}: stands in the query twice.")
        parameters[name] = value
    return parameters


def _wait_s(parameters: dict[str, str]) -> float | None:
    """Takes `wait` out of the parameters; None when it is not there."""
    given = {"wait": parameters.pop("wait")} if "wait" in parameters else {}
    try:
        wait_s = msgspec.convert(given, Waiting, strict=False).wait
    except msgspec.ValidationError as error:
        raise Problem(400, _told(error)) from error
    if wait_s is msgspec.UNSET:
        return None
    if isnan(wait_s):
        raise Problem(400, f"wait: expected seconds from 0 to {MOST_WAIT_S}.")
    return wait_s


def _place(operation: AnyOperation, in_path: Mapping[str, str], parameters: Mapping[str, str]) -> object:
    """The parameters of path and query together. What the path names wrongly is not there: 404."""
    for name in parameters:
        if name in in_path:
            raise Problem(400, f"There is no parameter `{name}`: it stands in the path.")
    try:
        return msgspec.convert({**in_path, **parameters}, operation.at, strict=False)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        status = 404 if place and place["member"] in in_path else 400
        raise Problem(status, _told(error)) from error


def _demanded(request: web.Request) -> Epoch | None:
    """The epoch of `If-Match`. `*` demands nothing: there is always a state."""
    lines = request.headers.getall("If-Match", [])
    if not lines or lines == ["*"]:
        return None
    tag = lines[0]
    try:
        if len(lines) > 1 or not (len(tag) > 2 and tag[0] == tag[-1] == '"'):
            raise ValueError(tag)
        return Epoch.parse(tag[1:-1])
    except ValueError:
        raise Problem(
            400, 'If-Match: expected one epoch in double quotes, as an ETag has it: "58-9f86d081884c7d65".'
        ) from None


async def _body(
    request: web.Request, operation: AnyOperation, decoder: msgspec.json.Decoder[object]
) -> object:
    try:
        data = await _bounded(request, operation.most_body if operation.takes_body else 0)
        if not operation.takes_body:
            return operation.body()
        body = decoder.decode(data)
    except web.RequestPayloadError as error:
        raise Problem(400, "The body did not arrive whole.") from error
    except msgspec.DecodeError as error:  # of which ValidationError is one
        raise Problem(400, f"{error}.") from error
    except UnicodeDecodeError as error:
        raise Problem(400, "The body is not UTF-8.") from error
    if isinstance(body, Judged) and (problems := list(body.problems())):
        raise refused(problems)
    return body


async def _bounded(request: web.Request, most: int) -> bytes:
    """The body, unpacked. Raises HTTPRequestEntityTooLarge as soon as it is longer than `most` bytes."""
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > most:
            if most == 0:
                raise Problem(400, "This takes no body.")
            raise web.HTTPRequestEntityTooLarge(most, len(data))
    return bytes(data)


# --- what goes out ---------------------------------------------------------------


async def _response(operation: AnyOperation, answered: Answer[object], wait_s: float | None) -> web.Response:
    members: object = answered.members
    epoch = answered.epoch
    if operation.fleet is not None:
        assert answered.changed is not None, "it changes something, and has not said what"
        epoch = answered.changed.epoch
        applied = await _applied(operation.fleet, answered.changed, wait_s)
        members = {**msgspec.to_builtins(applied), **msgspec.to_builtins(members)}
    headers = {"Cache-Control": "no-store"}
    if epoch is not None:
        headers["ETag"] = f'"{epoch}"'
    return web.Response(
        status=operation.status,
        body=msgspec.json.encode(members),
        content_type="application/json",
        headers=headers,
    )


async def _applied(fleet: Fleet, changed: Changed, wait_s: float | None) -> Applied:
    try:
        settled = await fleet.settled(changed.epoch)
        found = None if wait_s is None else await fleet.confirm(changed.epoch, wait_s)
    except StoreUnavailable as exc:
        detail = (
            "The change was made, but the store fell silent before it was known who has it: see /v1/fleet."
        )
        raise Problem(504, detail, epoch=str(changed.epoch)) from exc
    if not settled and (found is None or found.missing):
        detail = (
            "The change was made, but this gate has not applied it yet, and acts on what it knew before: do not "
            "repeat it, and watch /v1/fleet until this gate is current."
        )
        raise Problem(504, detail, epoch=str(changed.epoch))
    return Applied(
        epoch=str(changed.epoch),
        at=moment(changed.at_ms),
        until=moment_or_none(changed.until_ms),
        confirmed=None if found is None else _confirmation(found),
    )


def _confirmation(found: Confirmed) -> Confirmation:
    missing = [
        MissingReplica(
            replica=one.replica, state=one.state, epoch=str(one.epoch), silent_s=one.silent_ms / 1000
        )
        for one in found.missing
    ]
    return Confirmation(everywhere=not missing, replicas=found.replicas, missing=missing)


def _conflict(conflict: Conflict) -> Problem:
    status, detail = _CONFLICTS[conflict.why]
    return Problem(status, detail, epoch=str(conflict.epoch))


def _silent(exc: StoreUnavailable, *, changes: bool) -> Problem:
    if not changes:
        return Problem(503, f"The store cannot be asked: {exc}.")
    if exc.kind == "timeout":
        return Problem(504, "The store did not answer in time: look whether the change was made.")
    return Problem(
        503, f"The store cannot be asked: {exc}. If this goes on, look whether the change was made."
    )


def _told(error: msgspec.ValidationError) -> str:
    """What msgspec says of parameters, in their words."""
    text = str(error)
    if unknown := _UNKNOWN.fullmatch(text):
        return f"There is no parameter {_shown(unknown['name'])}."
    place = _PLACE.search(text)
    if place is None:
        return f"{text}."
    return f"{place['member']}: {text[0].lower()}{text[1 : place.start()]}."


def _shown(name: str) -> str:
    return "`" + "".join(char if char.isprintable() else "?" for char in name[:60]) + "`"


_PLACE: Final = re.compile(r" - at `\$\.(?P<member>\w+)`\Z")
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_CONFLICTS: Final = {
    "epoch": (412, "The state has changed since: look at it again, and decide anew."),
    "absent": (409, "This exists already."),
    "present": (404, "There is no such entry."),
    "value": (409, "Somebody changed this at the same time: look at it again, and decide anew."),
}
