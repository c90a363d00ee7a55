"""The frame, around an operation that is made up here: what it refuses, and how it words what went wrong."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from sidecar.admin.app import admin_app
from sidecar.admin.operations import (
    MOST_BODY,
    Answer,
    Call,
    Nothing,
    Operation,
    Operations,
    Reason,
    matching,
    reason_problems,
)
from sidecar.admin.tokens import Role, Tokens
from sidecar.control.changes import Changed, Conflict
from sidecar.control.fleet import Confirmed, Missing
from sidecar.core.control import Epoch
from sidecar.core.keys import secret_of
from sidecar.store import StoreUnavailable
from tests.admin import plane
from tests.admin.plane import AUTHORIZED, SECRET, Client, Gate, served

EPOCH = Epoch(58, "9f86d081884c7d65")
OLDER = Epoch(57, "00c0ffee00c0ffee")
SECRET_OF_A_KEY = secret_of(bytes(range(32)))


class Rename(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=5)]
    reason: Reason = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from reason_problems(self.reason)
        if self.name == "both":
            yield "name", "is two"
            yield "name", "is too many"


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: Annotated[str, matching("[a-z]+")]
    loud: bool = False


class Renamed(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class Things:
    """One thing that can be looked at and renamed, and a fleet that follows or does not."""

    def __init__(self) -> None:
        self.calls: list[Call[Rename, Place]] = []
        self.fails: Exception | None = None
        self.fleet_fails: Exception | None = None
        self.missing: tuple[Missing, ...] = ()
        self.settles = True
        self.settled_at: list[Epoch] = []
        self.waited: list[float] = []

    async def settled(self, epoch: Epoch) -> bool:
        self.settled_at.append(epoch)
        if self.fleet_fails is not None:
            raise self.fleet_fails
        return self.settles

    async def confirm(self, epoch: Epoch, wait_s: float) -> Confirmed:
        self.waited.append(wait_s)
        return Confirmed(3, self.missing)

    def operations(self) -> Operations:
        async def show(_: Call[Nothing, Place]) -> Answer[Renamed]:
            if self.fails is not None:
                raise self.fails
            return Answer(Renamed(name="x"), epoch=EPOCH)

        async def rename(call: Call[Rename, Place]) -> Answer[Renamed]:
            if self.fails is not None:
                raise self.fails
            self.calls.append(call)
            changed = Changed(EPOCH, 1_795_323_600_123, 0, 1, 0)
            return Answer(Renamed(name=call.body.name), changed=changed)

        path = "/v1/things/{id}"
        return (
            Operation("GET", path, Role.VIEWER, "Show a thing", show, body=Nothing, at=Place, answer=Renamed),
            Operation(
                "PUT",
                path,
                Role.OPERATOR,
                "Rename",
                rename,
                body=Rename,
                at=Place,
                answer=Renamed,
                fleet=self,
            ),
        )

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Client]:
        gate = Gate()
        app = admin_app(
            metrics_text=gate.metrics_text,
            ready=gate.readiness,
            explain=gate.explain,
            tokens=Tokens([SECRET]),
            operations=self.operations(),
        )
        async with served(app) as client:
            yield client


def asked(
    things: Things,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> plane.Answer:
    async def scenario() -> plane.Answer:
        async with things.served() as client:
            return await client.ask(method, path, body=body, headers=AUTHORIZED | dict(headers or {}))

    return asyncio.run(scenario())


def renamed(
    things: Things,
    query: str = "",
    body: bytes = b'{"name": "x"}',
    headers: Mapping[str, str] | None = None,
) -> plane.Answer:
    return asked(things, "PUT", f"/v1/things/a{query}", body, headers)


def test_it_hands_on_what_was_read_and_who_asks() -> None:
    things = Things()

    renamed(things, "?loud=true", b'{"name": "x", "reason": "\xc3\xbc"}', {"If-Match": f'"{OLDER}"'})

    (call,) = things.calls
    assert call.body == Rename(name="x", reason="ü")
    assert call.at == Place(id="a", loud=True)
    assert (call.actor, call.role, call.if_epoch) == ("local", Role.ADMIN, OLDER)


@pytest.mark.parametrize("tag", [{}, {"If-Match": "*"}])
def test_it_demands_no_epoch_unless_told(tag: dict[str, str]) -> None:
    things = Things()

    renamed(things, headers=tag)

    assert things.calls[0].if_epoch is None


def test_a_change_answers_once_its_own_processes_have_it() -> None:
    things = Things()

    answer = renamed(things)

    assert answer.status == 200
    assert answer.json == {
        "epoch": str(EPOCH),
        "at": "2026-11-22T05:00:00.123Z",
        "until": None,
        "confirmed": None,
        "name": "x",
    }
    assert answer.headers["ETag"] == f'"{EPOCH}"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert (things.settled_at, things.waited) == ([EPOCH], [])


def test_with_wait_it_says_who_is_missing() -> None:
    things = Things()
    things.missing = (Missing("g/1", "lost", OLDER, 12_345),)

    answer = renamed(things, "?wait=2.5")

    assert answer.json["confirmed"] == {
        "everywhere": False,
        "replicas": 3,
        "missing": [{"replica": "g/1", "state": "lost", "epoch": str(OLDER), "silent_s": 12.345}],
    }
    assert things.waited == [2.5]


@pytest.mark.parametrize("query", ["", "?wait=2.5"])
def test_a_change_that_its_own_gate_has_not_applied_is_told_as_unfinished(query: str) -> None:
    things = Things()
    things.settles = False
    things.missing = (Missing("g/1", "behind", OLDER, 300),)

    answer = renamed(things, query)

    assert answer.is_problem(504)
    assert "was made, but this gate has not applied it" in str(answer.json["detail"])
    assert "/v1/fleet" in str(answer.json["detail"])
    assert answer.json["epoch"] == str(EPOCH)
    assert len(things.calls) == 1


def test_a_change_that_arrived_everywhere_while_it_waited_is_done() -> None:
    things = Things()
    things.settles = False

    answer = renamed(things, "?wait=2.5")

    assert answer.status == 200
    assert answer.json["confirmed"] == {"everywhere": True, "replicas": 3, "missing": []}


@pytest.mark.parametrize("wait", ["0", "60"])
def test_it_waits_from_not_at_all_to_a_minute(wait: str) -> None:
    answer = renamed(Things(), f"?wait={wait}")

    assert answer.json["confirmed"] == {"everywhere": True, "replicas": 3, "missing": []}


def test_what_is_shown_has_the_epoch_as_its_tag() -> None:
    shown = asked(Things(), "GET", "/v1/things/a")

    assert (shown.status, shown.json, shown.headers["ETag"]) == (200, {"name": "x"}, f'"{EPOCH}"')


def test_head_is_get_without_the_body() -> None:
    head = asked(Things(), "HEAD", "/v1/things/a")

    assert (head.status, head.text, head.headers["ETag"]) == (200, "", f'"{EPOCH}"')


def test_other_methods_are_refused_with_those_there_are() -> None:
    answer = asked(Things(), "POST", "/v1/things/a", b"{}")

    assert answer.is_problem(405)
    assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD", "PUT"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "truncated"),
        (b"{}", "`name`"),
        (b"[]", "`array`"),
        (b"null", "`null`"),
        (b'{"name": 1}', "$.name"),
        (b'{"name": ""}', "$.name"),
        (b'{"name": "123456"}', "$.name"),
        (b'{"name": "x", "nam": 1}', "`nam`"),
        (b'{"name": "\xff"}', "UTF-8"),
        (b'{"name": "x"} ?', "trailing"),
        (b'{"name": "x", "reason": "%s"}' % (b"r" * 201), "$.reason"),
        (b'{"name": "x", "reason": "a\\nb"}', "reason: holds a control character"),
        (b'{"name": "x", "reason": "a\\n"}', "reason: holds a control character"),
        (b'{"name": "x", "reason": "\\u001b[2J"}', "reason: holds a control character"),
        (b'{"name": "x", "reason": "\\u202egpj"}', "reason: holds a control character"),
        (b'{"name": "both"}', "name: is two; name: is too many."),
        (
            b'{"name": "x", "reason": "leaked %s"}' % SECRET_OF_A_KEY.encode(),
            "reason: holds the secret of a key",
        ),
    ],
)
def test_a_bad_body_is_refused_with_the_member_and_the_reason(body: bytes, says: str) -> None:
    things = Things()

    answer = renamed(things, body=body)

    assert answer.is_problem(400)
    assert says in str(answer.json["detail"])
    assert things.calls == []


@pytest.mark.parametrize("secret", [SECRET_OF_A_KEY, SECRET_OF_A_KEY[:30]])
def test_a_refusal_does_not_repeat_a_secret_wherever_it_stood(secret: str) -> None:
    things = Things()

    for answer in (
        renamed(things, body=b'{"name": "x", "%s": 1}' % secret.encode()),
        renamed(things, f"?{secret}=1"),
        asked(things, "PUT", f"/v1/things/{secret}", b'{"name": "x"}'),
    ):
        assert answer.status in {400, 404}
        assert secret not in answer.text
    assert things.calls == []


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/v1/things/A", 404, "id"),
        ("/v1/things/a%0A", 404, "id"),
        ("/v1/things/", 404, ""),
        ("/v1/things/a/b", 404, ""),
        ("/v1/things/a?loud=perhaps", 400, "loud"),
        ("/v1/things/a?laud=true", 400, "`laud`"),
        ("/v1/things/a?id=b", 400, "`id`"),
        ("/v1/things/a?loud=true&loud=true", 400, "`loud`"),
        ("/v1/things/a?%ff=%ff", 400, "parameter"),
        ("/v1/things/a?%00=1", 400, "parameter"),
        ("/v1/things/%ff", 404, ""),
    ],
)
def test_a_bad_place_is_refused(path: str, status: int, says: str) -> None:
    things = Things()

    answer = asked(things, "PUT", path, b'{"name": "x"}')

    assert answer.is_problem(status)
    assert says in str(answer.json["detail"])
    assert things.calls == []


def test_it_takes_no_body_where_none_is_declared() -> None:
    assert asked(Things(), "GET", "/v1/things/a", b"{}").is_problem(400)


def test_it_takes_no_more_than_it_declares_unpacked_or_packed() -> None:
    packed = gzip.compress(b" " * (20 << 20))

    assert renamed(Things(), body=b" " * (MOST_BODY + 1)).is_problem(413)
    assert renamed(Things(), body=packed, headers={"Content-Encoding": "gzip"}).is_problem(413)


@pytest.mark.parametrize(
    ("why", "status", "says"),
    [
        ("epoch", 412, "has changed since"),
        ("absent", 409, "exists"),
        ("present", 404, "no such"),
        ("value", 409, "at the same time"),
    ],
)
def test_a_conflict_is_told_with_the_epoch_that_is_current(why: str, status: int, says: str) -> None:
    things = Things()
    things.fails = Conflict(why, EPOCH)

    answer = renamed(things)

    assert answer.is_problem(status)
    assert says in str(answer.json["detail"])
    assert answer.json["epoch"] == str(EPOCH)


@pytest.mark.parametrize(
    ("kind", "method", "status"),
    [
        ("timeout", "GET", 503),
        ("connection", "GET", 503),
        ("timeout", "PUT", 504),
        ("connection", "PUT", 503),
    ],
)
def test_a_silent_store_is_told_and_whether_the_outcome_is_known(kind: str, method: str, status: int) -> None:
    things = Things()
    things.fails = StoreUnavailable(kind, "nobody there")

    answer = asked(things, method, "/v1/things/a", b'{"name": "x"}' if method == "PUT" else None)

    assert answer.is_problem(status)
    assert (method == "PUT") == ("look whether" in str(answer.json["detail"]))


def test_a_store_that_falls_silent_after_the_change_does_not_unmake_it() -> None:
    things = Things()
    things.fleet_fails = StoreUnavailable("connection", "gone")

    answer = renamed(things)

    assert answer.is_problem(504)
    assert "was made" in str(answer.json["detail"])
    assert answer.json["epoch"] == str(EPOCH)
