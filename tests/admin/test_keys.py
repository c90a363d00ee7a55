"""`/v1/keys` on the whole admin plane over a real store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
import pytest

from sidecar.admin.tokens import Role
from sidecar.core.keys import holds_secret
from tests.admin.control_plane import NAMES, SECRETS, Plane, control_plane
from tests.admin.plane import Answer
from tests.stores import StoreServer

BILLING: Final = {"label": "billing", "kind": "server", "tenant": "acme", "plan": "gold"}
TABLE: Final = "pc:{control}:keys"
MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def on(server: StoreServer, scenario: Callable[[Plane], Awaitable[None]]) -> None:
    async def run() -> None:
        async with control_plane(server) as plane:
            await scenario(plane)

    asyncio.run(run())


async def done(plane: Plane, method: str, path: str, body: object = None, status: int = 200) -> Any:
    """The members of an answer that is as it should be."""
    answer = await plane.ask(method, path, body)
    assert answer.status == status, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.json


async def made(plane: Plane, **members: object) -> Any:
    return await done(plane, "POST", "/v1/keys", {**BILLING, **members}, status=201)


def test_a_key_is_made_shown_listed_changed_rotated_and_deleted(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        created = await made(plane, scopes=["orders.write"], cidrs=["192.0.2.1"], expires="90d")
        key_id = created["id"]
        shown = await plane.ask("GET", f"/v1/keys/{key_id}", role=Role.VIEWER)
        listed = await plane.ask("GET", "/v1/keys", role=Role.VIEWER)

        assert holds_secret(created["secret"])
        assert shown.json == created["key"]
        assert shown.headers["ETag"] == listed.headers["ETag"] == f'"{created["epoch"]}"'
        assert listed.json == {
            "epoch": created["epoch"],
            "keys": [created["key"]],
            "cursor": None,
            "unreadable": [],
        }
        assert created["key"] == {
            "id": key_id,
            **BILLING,
            "scopes": ["orders.write"],
            "cidrs": ["192.0.2.1/32"],
            "origins": [],
            "enabled": True,
            "expires": created["key"]["expires"],
            "created": created["key"]["created"],
            "changed": created["at"],
            "secrets": [{"created": created["key"]["created"], "until": None}],
        }
        assert all(MOMENT.fullmatch(created["key"][name]) for name in ("expires", "created", "changed"))

        changed = await done(plane, "PATCH", f"/v1/keys/{key_id}", {"plan": "basic", "expires": None})
        same = {**created["key"], "plan": "basic", "expires": None, "changed": changed["at"]}
        assert changed["key"] == same

        rotated = await done(plane, "POST", f"/v1/keys/{key_id}/rotate", {})
        assert holds_secret(rotated["secret"])
        assert rotated["secret"] != created["secret"]
        assert [secret["until"] is None for secret in rotated["key"]["secrets"]] == [True, False]

        deleted = await done(plane, "DELETE", f"/v1/keys/{key_id}")
        assert deleted["id"] == key_id
        assert (await plane.ask("GET", f"/v1/keys/{key_id}")).is_problem(404)
        assert (await done(plane, "GET", "/v1/keys"))["keys"] == []

    on(valkey, scenario)


def test_a_secret_stands_in_the_answers_that_made_it_alone_and_a_hash_in_none(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        created = await made(plane, id="billing")
        texts = [
            (await plane.ask(method, path, body)).text
            for method, path, body in (
                ("GET", "/v1/keys", None),
                ("GET", "/v1/keys/billing", None),
                ("PATCH", "/v1/keys/billing", {"enabled": False}),
                ("POST", "/v1/keys", BILLING | {"id": "billing"}),
                ("POST", "/v1/keys", BILLING | {"label": created["secret"]}),
                ("PATCH", "/v1/keys/billing", {"scopes": [created["secret"]]}),
                ("GET", "/v1/audit", None),
                ("DELETE", "/v1/keys/billing", None),
            )
        ]
        with valkey.client() as client:
            stored: Any = client.xrange("pc:{control}:log")
        hashes = set(re.findall(r"[0-9a-f]{64}", repr(stored)))

        assert len(hashes) == 1
        assert not any(holds_secret(text) or created["secret"][4:] in text for text in texts)
        assert not any(one in text for one in hashes for text in [*texts, orjson.dumps(created).decode()])

    on(valkey, scenario)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"label": ""}, "label"),
        ({"label": "a\u0000b"}, "label"),
        ({"label": 1}, "label"),
        ({"kind": "root"}, "kind"),
        ({"tenant": "Acme"}, "tenant"),
        ({"plan": "gold\n"}, "plan"),
        ({"scopes": ["orders write"]}, "scopes"),
        ({"scopes": "orders.write"}, "scopes"),
        ({"cidrs": ["10.0.0.1/8"]}, "cidrs[0]: "),
        ({"origins": ["example.com"]}, "origins: "),
        ({"kind": "client"}, "origins: "),
        ({"kind": "client", "origins": ["https://example.com/x"]}, "origins[0]: "),
        ({"expires": "1x"}, "expires: "),
        ({"expires": ""}, "expires: "),
        ({"expires": "2020-01-01T00:00:00Z"}, "expires: expected a time to come"),
        ({"expires": "2027-01-01"}, "expires: "),
        ({"expires": "0s"}, "expires: "),
        ({"id": "a.b"}, "id"),
        ({"id": "pcs_x"}, "id: "),
        ({"id": ""}, "id"),
        ({"enabled": True}, "enabled"),
        ({"secret": "pcs_x"}, "secret"),
    ],
)
def test_what_a_key_cannot_be_is_refused_by_name_and_nothing_is_made(
    valkey: StoreServer, members: Mapping[str, object], named: str
) -> None:
    async def scenario(plane: Plane) -> None:
        answer = await plane.ask("POST", "/v1/keys", {**BILLING, **members})

        assert answer.is_problem(400), answer.text
        assert named in str(answer.json["detail"])
        with valkey.client() as client:
            assert client.dbsize() == 0

    on(valkey, scenario)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("", {}, "at least one of label, tenant, plan"),
        ("", {"kind": "client"}, "kind"),
        ("", {"id": "other"}, "id"),
        ("", {"label": None}, "label"),
        ("", {"enabled": "yes"}, "enabled"),
        ("", {"expires": "1s1"}, "expires"),
        ("", {"origins": ["*"]}, "origins"),
        ("", b"{", "truncated"),
        ("", b"[]", "object"),
        ("/rotate", {"grace": "31d"}, "grace: "),
        ("/rotate", {"grace": "soon"}, "grace: "),
        ("/rotate", {"grace": 1}, "grace"),
        ("/rotate", {"secret": "mine"}, "secret"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_the_key_stays(
    valkey: StoreServer, path: str, body: object, named: str
) -> None:
    async def scenario(plane: Plane) -> None:
        await made(plane, id="billing")
        before = (await plane.ask("GET", "/v1/keys/billing")).json
        method = "POST" if path else "PATCH"

        answer = await plane.ask(method, f"/v1/keys/billing{path}", body)

        assert answer.is_problem(400), answer.text
        assert named in str(answer.json["detail"])
        assert (await plane.ask("GET", "/v1/keys/billing")).json == before

    on(valkey, scenario)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/keys/nobody", None),
        ("PATCH", "/v1/keys/nobody", {"enabled": True}),
        ("DELETE", "/v1/keys/nobody", None),
        ("POST", "/v1/keys/nobody/rotate", {}),
        ("GET", "/v1/keys/a.b", None),
        ("DELETE", "/v1/keys/a%0Ab", None),
        ("GET", f"/v1/keys/{'x' * 65}", None),
    ],
)
def test_a_key_that_is_not_there_is_not_found(
    valkey: StoreServer, method: str, path: str, body: object
) -> None:
    async def scenario(plane: Plane) -> None:
        assert (await plane.ask(method, path, body)).is_problem(404)

    on(valkey, scenario)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/keys/{}", None),
        ("PATCH", "/v1/keys/{}", {"enabled": False}),
        ("DELETE", "/v1/keys/{}", None),
        ("POST", "/v1/keys/{}/rotate", {}),
    ],
)
def test_neither_a_secret_nor_an_id_with_a_line_end_is_one(
    valkey: StoreServer, method: str, path: str, body: object
) -> None:
    async def scenario(plane: Plane) -> None:
        issued = await made(plane, id="billing")
        before = await plane.audit.read(None, 10)

        for wrong in (issued["secret"], issued["secret"][:40], "billing%0A"):
            answer = await plane.ask(method, path.format(wrong), body)
            assert answer.is_problem(404)
            assert wrong not in answer.text
        assert list(await plane.table("keys")) == ["billing"]
        assert await plane.audit.read(None, 10) == before

    on(valkey, scenario)


def test_an_id_is_given_once(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        await made(plane, id="billing")

        assert (await plane.ask("POST", "/v1/keys", BILLING | {"id": "billing"})).is_problem(409)

    on(valkey, scenario)


@pytest.mark.parametrize(
    ("grace", "secrets"), [("0s", 1), ("1h", 2), ("30d", 2)], ids=["at once", "an hour", "a month"]
)
def test_the_grace_of_a_rotation_is_the_operators(valkey: StoreServer, grace: str, secrets: int) -> None:
    async def scenario(plane: Plane) -> None:
        await made(plane, id="billing")

        rotated = await done(plane, "POST", "/v1/keys/billing/rotate", {"grace": grace})

        assert len(rotated["key"]["secrets"]) == secrets

    on(valkey, scenario)


def test_who_did_what_stands_in_the_audit(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        await made(plane, id="billing")
        await done(plane, "PATCH", "/v1/keys/billing", {"enabled": False})
        await done(plane, "PATCH", "/v1/keys/billing", {"enabled": True})
        await done(plane, "PATCH", "/v1/keys/billing", {"label": "b", "enabled": True})
        await done(plane, "POST", "/v1/keys/billing/rotate", {"grace": "1h"})
        await done(plane, "DELETE", "/v1/keys/billing")

        entries = (await done(plane, "GET", "/v1/audit"))["entries"]
        told = ["create", "disable", "enable", "update", "rotate", "delete"]
        assert [entry["action"] for entry in entries] == [f"key.{word}" for word in told]
        assert {entry["actor"] for entry in entries} == {NAMES[Role.ADMIN]}

    on(valkey, scenario)


def test_a_listing_comes_in_pages_and_of_one_tenant(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        for number in range(25):
            await made(plane, id=f"k{number}", tenant=f"t{number % 2}")

        async def ids(query: str, limit: int) -> list[str]:
            found, cursor = list[str](), ""
            while True:
                page = await done(plane, "GET", f"/v1/keys?limit={limit}&cursor={cursor}{query}")
                assert len(page["keys"]) <= limit
                found += [key["id"] for key in page["keys"]]
                cursor = page["cursor"]
                if cursor is None:
                    return sorted(found)

        everybody = sorted(f"k{number}" for number in range(25))
        assert await ids("", 3) == await ids("", 1000) == everybody
        assert await ids("&tenant=t1", 4) == sorted(f"k{number}" for number in range(1, 25, 2))
        assert await ids("&tenant=nobody", 4) == []

    on(valkey, scenario)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "cursor=x", "cursor=1.", "tenant=Acme", "page=2", "limit=1&limit=2"],
)
def test_a_listing_that_cannot_be_is_refused(valkey: StoreServer, query: str) -> None:
    async def scenario(plane: Plane) -> None:
        assert (await plane.ask("GET", f"/v1/keys?{query}")).is_problem(400)

    on(valkey, scenario)


def test_a_damaged_record_is_named_and_does_not_hide_the_others(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        await made(plane, id="billing")
        with valkey.client() as client:
            client.hset(TABLE, "broken", b'1 0 {"enabled":true}')

        listed = await done(plane, "GET", "/v1/keys")
        assert ([key["id"] for key in listed["keys"]], listed["unreadable"]) == (["billing"], ["broken"])
        for method, path, body in (
            ("GET", "/v1/keys/broken", None),
            ("PATCH", "/v1/keys/broken", {"enabled": True}),
            ("POST", "/v1/keys/broken/rotate", {}),
        ):
            answer = await plane.ask(method, path, body)
            assert answer.is_problem(500)
            assert "broken" in str(answer.json["detail"])
        await done(plane, "DELETE", "/v1/keys/broken")

    on(valkey, scenario)


def test_no_token_stands_in_an_answer(valkey: StoreServer) -> None:
    async def scenario(plane: Plane) -> None:
        answers: list[Answer] = [await plane.ask("POST", "/v1/keys", BILLING, role=role) for role in Role]

        assert [answer.status for answer in answers] == [403, 403, 201]
        assert not any(secret in answer.text for answer in answers for secret in SECRETS.values())

    on(valkey, scenario)
