"""The OpenAPI document: valid, complete, and true of the plane that serves it, over a real store.

schemathesis makes requests of the document, sound ones and broken ones, and holds the answers against it.
Whether a sound request is accepted is not asked of it: a schema cannot say that of two members one must
be there. The resources' own tests do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sidecar.admin.openapi import document_of
from sidecar.admin.operations import Nothing
from sidecar.admin.tokens import Role
from tests.admin.control_plane import SECRETS, control_plane
from tests.admin.test_roles import OPERATIONS
from tests.stores import StoreServer

EXAMPLES = 25
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
AUTHORIZED = {"Authorization": f"Bearer {SECRETS[Role.ADMIN]}"}
DOCUMENT = document_of(OPERATIONS)


@pytest.fixture
def plane(valkey: StoreServer) -> Iterator[str]:
    """The address of a plane that serves in a thread of its own."""
    begun, end = Event(), Event()
    addresses: list[str] = []

    async def serve() -> None:
        async with control_plane(valkey) as plane:
            addresses.append(plane.client.base)
            begun.set()
            await asyncio.to_thread(end.wait)

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert begun.wait(10)
        yield addresses[0]
    finally:
        end.set()
        thread.join()


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(json.loads(json.dumps(DOCUMENT))).validate()


def test_it_names_every_operation_once() -> None:
    paths = DOCUMENT["paths"]
    assert isinstance(paths, dict)
    described = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    names = [part["operationId"] for methods in paths.values() for part in methods.values()]

    assert sorted(described) == sorted((operation.method, operation.path) for operation in OPERATIONS)
    assert len(set(names)) == len(names)


def test_its_schemas_have_plain_names() -> None:
    components = DOCUMENT["components"]
    assert isinstance(components, dict)

    assert [name for name in components["schemas"] if not name.isidentifier() or "_" in name] == []


def test_it_is_served_as_it_is(valkey: StoreServer) -> None:
    async def scenario() -> None:
        async with control_plane(valkey) as plane:
            answer = await plane.ask("GET", "/v1/openapi.json", role=Role.VIEWER)

            assert (answer.status, answer.json) == (200, DOCUMENT)

    asyncio.run(scenario())


EVERY = pytest.mark.parametrize(
    ("method", "path"),
    [(operation.method, operation.path) for operation in OPERATIONS],
    ids=[f"{operation.method} {operation.path}" for operation in OPERATIONS],
)


@EVERY
def test_it_tells_the_truth_about_sound_requests(plane: str, method: str, path: str) -> None:
    _try(plane, method, path, GenerationMode.POSITIVE, CHECKS)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (operation.method, operation.path)
        for operation in OPERATIONS
        if operation.takes_body or operation.at is not Nothing  # the others have nothing that could be broken
    ],
)
def test_it_tells_the_truth_about_broken_requests(plane: str, method: str, path: str) -> None:
    _try(plane, method, path, GenerationMode.NEGATIVE, [*CHECKS, negative_data_rejection])


def _try(plane: str, method: str, path: str, mode: GenerationMode, checks: list[CheckFunction]) -> None:
    # Tokens are `test_roles`': each of these requests has one, which the schema must not take away.
    schema = schemathesis.openapi.from_dict({**json.loads(json.dumps(DOCUMENT)), "security": []})
    operation = schema[path][method]

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: schemathesis.Case[Any]) -> None:
        if mode is GenerationMode.POSITIVE and "wait" in (case.query or {}):
            case.query["wait"] = 0  # nothing happens that could be waited for
        response = case.call(base_url=plane, headers=AUTHORIZED)
        refused_unread = response.status_code == 413  # which the check does not know for a refusal
        asked = [check for check in checks if not (refused_unread and check is negative_data_rejection)]
        case.validate_response(response, checks=asked)

    run()
