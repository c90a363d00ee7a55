"""`POST /v1/explain`: what the gate would answer to a described request, and why.

Nothing is charged. This module reads the description; what is explained, and how, is the gate's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from sidecar.admin.problems import Problem

MAX_HEADERS = 100

_Text = Annotated[str, msgspec.Meta(max_length=256)]
_Long = Annotated[str, msgspec.Meta(max_length=8_192)]


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A described request. `path` is the raw target, query included; a `front` left out is `api`."""

    address: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    method: _Text = "GET"
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=8_192)] = "/"
    host: _Text = ""
    headers: Annotated[dict[_Text, _Long], msgspec.Meta(max_length=MAX_HEADERS)] = {}
    front: Literal["nginx", "envoy", "forward", "api"] = "api"


def add_explain(
    app: web.Application, explain: Callable[[ExplainRequest], Awaitable[Mapping[str, object]]]
) -> None:
    """Give `app` the resource. `explain` may raise Problem, and returns what JSON can carry."""

    async def resource(request: web.Request) -> web.Response:
        try:
            asked = _DECODER.decode(await request.read())
        except web.RequestPayloadError as error:
            raise Problem(400, "The body did not arrive whole.") from error
        except msgspec.DecodeError as error:  # of which ValidationError is one
            raise Problem(400, f"{error}.") from error
        except UnicodeDecodeError as error:
            raise Problem(400, "The body is not UTF-8.") from error
        answer = await explain(asked)
        return web.Response(
            body=msgspec.json.encode(answer),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    app.router.add_post("/v1/explain", resource)


_DECODER = msgspec.json.Decoder(ExplainRequest)
