"""`GET /v1/openapi.json`: the operations as an OpenAPI 3.1 document, made from their declarations.

Schemas are msgspec's; the parameters, the errors and the members that every change is answered follow
from the frame. Knows nothing about any one operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from sidecar import VERSION
from sidecar.admin.frame import Waiting
from sidecar.admin.operations import Answer, AnyOperation, Applied, Call, Nothing, Operation, Operations
from sidecar.admin.problems import ProblemDetails
from sidecar.admin.tokens import Role

Part = dict[str, object]

_APPLIED_EXAMPLE: Final[Part] = {
    "epoch": "58-9f86d081884c7d65",
    "at": "2026-11-22T05:00:00.123Z",
    "until": None,
    "confirmed": {"everywhere": True, "replicas": 8, "missing": []},
}
_ETAG: Final[Part] = {
    "description": "The epoch, for `If-Match` of a change that must not overlook another.",
    "schema": {"type": "string", "pattern": '^"[0-9]{1,18}-[0-9a-f]{16}"$'},
}
_IF_MATCH: Final[Part] = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag that the change is about: refused with 412 when another epoch is current.",
    "schema": {"type": "string", "pattern": '^("[0-9]{1,18}-[0-9a-f]{16}"|[*])$'},
}
_EVERYWHERE: Final = {
    400: "What was sent is not what this takes; the detail names the member and the reason.",
    401: "No token, or one that is not known.",
    403: "The token's role is too low; the detail names the one that is needed.",
    503: "The store cannot be asked.",
}
_CHANGING: Final = {
    409: "Somebody changed this at the same time.",
    412: "`If-Match` names an epoch that is not the current one, which `epoch` names.",
    504: "Whether the change was made is not known; or, if `epoch` names it, it was made and has not arrived yet.",
}


def described(operations: Iterable[AnyOperation]) -> Operations:
    """The operations, and the one that describes them all, itself included."""
    document: Part = {}

    async def show(_: Call[Nothing, Nothing]) -> Answer[dict[str, object]]:
        return Answer(document)

    every = (
        *operations,
        Operation(
            "GET",
            "/v1/openapi.json",
            Role.VIEWER,
            "Show this document",
            show,
            body=Nothing,
            at=Nothing,
            answer=dict[str, object],
        ),
    )
    document.update(document_of(every))
    return every


def document_of(operations: Sequence[AnyOperation]) -> Part:
    """The OpenAPI 3.1 document of these operations."""
    kinds: set[type] = {ProblemDetails, Applied, Waiting}
    for operation in operations:
        kinds |= {kind for kind in (operation.body, operation.at, operation.answer) if kind is not Nothing}
    ordered = sorted(kinds, key=str)
    schemas, components = msgspec.json.schema_components(
        ordered, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    of: dict[type, Part] = dict(zip(ordered, schemas, strict=True))
    parameters = {operation.at for operation in operations} | {Waiting}
    inlined = {str(_reference(of[kind])) for kind in parameters if kind in of}
    paths: dict[str, Part] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, of, components)
    document: Part = {
        "openapi": "3.1.0",
        "info": {
            "title": "Portcullis admin API",
            "version": VERSION,
            "description": "Operators act on a running fleet. Every change is audited with the token's name.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token with a role: viewer, operator or admin, each may what those before it may.",
                }
            },
            "schemas": {name: schema for name, schema in components.items() if name not in inlined},
        },
    }
    plain: Part = msgspec.json.decode(msgspec.json.encode(document))  # tuples among the defaults are lists
    return plain


def _operation(operation: AnyOperation, of: Mapping[type, Part], components: Mapping[str, Part]) -> Part:
    part: Part = {
        "operationId": _name(operation),
        "summary": operation.summary,
        "description": f"Needs the role `{operation.role.value}`.",
        "tags": [operation.path.split("/")[2].partition(".")[0]],
        "parameters": _parameters(operation, of, components),
        "responses": _responses(operation, of),
    }
    if operation.takes_body:
        media: Part = {"schema": of[operation.body]}
        if operation.example is not None:
            media["example"] = operation.example
        part["requestBody"] = {"required": True, "content": {"application/json": media}}
    return part


def _name(operation: AnyOperation) -> str:
    """`get_keys_id` for `GET /v1/keys/{id}`."""
    words = operation.path.removeprefix("/v1/").replace("{", "").replace("}", "").replace(".", "/").split("/")
    return "_".join([operation.method.lower(), *words])


def _parameters(
    operation: AnyOperation, of: Mapping[type, Part], components: Mapping[str, Part]
) -> list[Part]:
    found = [] if operation.at is Nothing else _members(of[operation.at], components, operation.names_in_path)
    if operation.changes:
        found += [*_members(of[Waiting], components, ()), _IF_MATCH]
    return found


def _members(reference: Part, components: Mapping[str, Part], names_in_path: Sequence[str]) -> list[Part]:
    """The members of a Struct as parameters."""
    schema = components[_reference(reference)]
    properties = schema.get("properties")
    assert isinstance(properties, dict), "a Struct has properties"
    required = schema.get("required", ())
    assert isinstance(required, list | tuple)
    found: list[Part] = []
    for name, member in properties.items():
        rest = {key: value for key, value in member.items() if key != "description"}
        if rest.get("default") == "":
            del rest["default"]
        parameter: Part = {"name": name, "in": "path" if name in names_in_path else "query"}
        parameter["required"] = name in required
        if "description" in member:
            parameter["description"] = member["description"]
        found.append(parameter | {"schema": rest})
    return found


def _anything(kind: type) -> Part:
    """The schema of what msgspec has none for: any value. Raises for all but `object`."""
    assert kind is object, f"{kind} needs a schema"
    return {"description": "Any value."}


def _reference(schema: Part) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _responses(operation: AnyOperation, of: Mapping[type, Part]) -> Part:
    schema = of[operation.answer]
    example = operation.answer_example
    tagged = operation.changes or "epoch" in getattr(operation.answer, "__struct_fields__", ())
    if operation.changes:
        schema = {"allOf": [of[Applied], schema]}
        example = None if example is None else {**_APPLIED_EXAMPLE, **example}
    media: Part = {"schema": schema}
    if example is not None:
        media["example"] = example
    errors = dict(_EVERYWHERE)
    if operation.changes:
        errors |= _CHANGING
    if operation.names_in_path:
        errors[404] = "There is nothing here."
    if operation.takes_body:
        errors[413] = f"The body is larger than {operation.most_body} bytes."
    errors |= operation.errors
    responses: Part = {
        str(operation.status): {
            "description": "Done." if operation.changes else "What was asked.",
            "content": {"application/json": media},
        }
        | ({"headers": {"ETag": _ETAG}} if tagged else {})
    }
    for status, sentence in sorted(errors.items()):
        responses[str(status)] = {
            "description": sentence,
            "content": {"application/problem+json": {"schema": of[ProblemDetails]}},
        }
    return responses
