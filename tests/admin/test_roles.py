"""Every operation, as it is declared: who may, what a stale If-Match does, and that its examples hold."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from sidecar.admin.explain import explained
from sidecar.admin.openapi import described
from sidecar.admin.operations import AnyOperation, Judged, Operations
from sidecar.admin.tokens import Role
from sidecar.config import parse
from tests.admin.control_plane import DOCUMENT, Plane, control_plane
from tests.admin.plane import Gate
from tests.stores import StoreServer

IN_PATH = {"list": "deny", "id": "k1", "request_id": "r-1"}


def _declared() -> Operations:
    """All operations, standing on nothing: only their declarations are looked at."""
    nothing = cast("Any", None)
    plane = Plane(nothing, parse(DOCUMENT, name="test", folder=Path("/gate")))
    return described([*plane.operations(), *explained(Gate().explain)])


OPERATIONS = _declared()
EVERY = pytest.mark.parametrize(
    "operation", OPERATIONS, ids=[f"{operation.method} {operation.path}" for operation in OPERATIONS]
)


def place(operation: AnyOperation) -> str:
    """The operation's path with its parameters filled in."""
    return operation.path.format(**{name: IN_PATH[name] for name in operation.names_in_path})


def test_there_is_something_to_try() -> None:
    assert {operation.role for operation in OPERATIONS} == set(Role)
    assert len(OPERATIONS) >= 15


@EVERY
@pytest.mark.parametrize("role", list(Role), ids=[role.value for role in Role])
def test_a_token_may_what_its_role_may(valkey: StoreServer, operation: AnyOperation, role: Role) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask(operation.method, place(operation), operation.example, role=role)

            if role.rank < operation.role.rank:
                assert answer.is_problem(403)
                assert operation.role.value in str(answer.json["detail"])
                assert await valkey_keys(plane) == 0
            else:
                assert answer.status in {operation.status, 404}, answer.text

    asyncio.run(scenario())


@EVERY
def test_without_a_token_nothing_is_answered(valkey: StoreServer, operation: AnyOperation) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.client.ask(operation.method, place(operation), headers={})

            assert answer.is_problem(401)
            assert await valkey_keys(plane) == 0

    asyncio.run(scenario())


@EVERY
def test_what_changes_something_is_no_get_and_needs_more_than_looking(
    valkey: StoreServer, operation: AnyOperation
) -> None:
    if operation.changes:
        assert operation.method != "GET"
        assert operation.role is not Role.VIEWER
    else:
        assert operation.method == "GET" or operation.path == "/v1/explain"


CHANGING = pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation.changes],
    ids=[f"{operation.method} {operation.path}" for operation in OPERATIONS if operation.changes],
)


@CHANGING
def test_a_change_of_what_has_changed_since_is_refused(valkey: StoreServer, operation: AnyOperation) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            seen = await plane.ask("PUT", "/v1/attack", {"on": False})
            await plane.ask("PUT", "/v1/attack", {"on": False})
            await plane.ask("POST", "/v1/keys", {"label": "x", "kind": "server", "id": "k1"})
            before = await plane.changes.epoch()

            answer = await plane.ask(
                operation.method,
                place(operation),
                operation.example,
                headers={"If-Match": seen.headers["ETag"]},
            )

            assert answer.is_problem(412), answer.text
            assert answer.json["epoch"] == str(before)
            assert await plane.changes.epoch() == before

    asyncio.run(scenario())


@CHANGING
@pytest.mark.parametrize(
    ("query", "headers", "names"),
    [
        ("?wait=61", {}, "wait"),
        ("?wait=-1", {}, "wait"),
        ("?wait=nan", {}, "wait"),
        ("?wait=soon", {}, "wait"),
        ("?wait=1&wait=2", {}, "wait"),
        ("?loud=1", {}, "loud"),
        ("", {"If-Match": "58-9f86d081884c7d65"}, "If-Match"),
        ("", {"If-Match": 'W/"58-9f86d081884c7d65"'}, "If-Match"),
        ("", {"If-Match": '"58"'}, "If-Match"),
    ],
)
def test_what_every_change_takes_is_checked(
    valkey: StoreServer, operation: AnyOperation, query: str, headers: dict[str, str], names: str
) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask(
                operation.method, place(operation) + query, operation.example, headers=headers
            )

            assert answer.is_problem(400)
            assert names in str(answer.json["detail"])
            assert await valkey_keys(plane) == 0

    asyncio.run(scenario())


@EVERY
def test_its_examples_are_what_it_takes_and_answers(operation: AnyOperation) -> None:
    if operation.takes_body:
        body = msgspec.convert(operation.example, operation.body)
        assert not isinstance(body, Judged) or list(body.problems()) == []
    else:
        assert operation.example is None
    if operation.answer_example is not None:
        msgspec.convert(operation.answer_example, operation.answer)


async def valkey_keys(plane: Plane) -> int:
    """Keys in the store: none, while nothing was changed."""
    count = await plane.store.command(b"DBSIZE")
    assert isinstance(count, int)
    return count
