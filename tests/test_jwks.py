"""Keys are fetched over real sockets from a server that misbehaves in every way that it is told to."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.jwks import KeySet
from sidecar.jwks import AGAIN_AT_MOST_S, LONGEST_DOCUMENT, QUIET_S, JwksKeeper, Schedule
from tests.certificates import Certificates
from tests.issuers import Answer, Foreign, KeyServer, Url, at, eddsa, es256, jwks, key_server, rs256
from tests.servers import WITHIN_S

OFTEN_MS = 5
"""A period so short that a test sees many; nothing depends on how many."""
SOON_S = 0.001


class Ear:
    """What a keeper tells, and a way to wait for it."""

    def __init__(self) -> None:
        self.adopted: list[tuple[str, KeySet]] = []
        self.warned: list[str] = []
        self._told = asyncio.Event()

    def adopt(self, name: str, keys: KeySet) -> None:
        self.adopted.append((name, keys))
        self._told.set()

    def warn(self, words: str) -> None:
        self.warned.append(words)
        self._told.set()

    async def until(self, *, adopted: int = 0, warned: int = 0) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(self.adopted) < adopted or len(self.warned) < warned:
                self._told.clear()
                await self._told.wait()

    def knows(self, kid: str, algorithm: str = "ES256") -> bool:
        """Whether the last keys that were adopted hold this one."""
        return self.adopted[-1][1].find(kid, algorithm) is not None


@asynccontextmanager
async def keeping(
    *issuers: Foreign,
    clock: Callable[[], float] = monotonic,
    timeout_s: float = WITHIN_S,
    again_s: float = SOON_S,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[Ear, JwksKeeper]]:
    ear = Ear()
    keeper = JwksKeeper(issuers, ear.adopt, ear.warn, clock, timeout_s=timeout_s, again_s=again_s, tls=tls)
    running = asyncio.create_task(keeper.run())
    try:
        yield ear, keeper
    finally:
        keeper.close()
        await running


async def asked(server: KeyServer, times: int) -> None:
    """Until the server was asked so many times more."""
    await asyncio.to_thread(server.wait_for, len(server.asked) + times)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_fetches_every_issuers_keys_at_once(run: Callable[..., None]) -> None:
    async def scenario() -> None:
        with key_server(es256()) as one, key_server(eddsa(), rs256()) as two:
            a, b = at(one, issuer=Foreign(name="a")), at(two, issuer=Foreign(name="b"))
            async with keeping(a, b, Foreign(name="of a file", jwks=jwks(es256()))) as (ear, _):
                await ear.until(adopted=2)

            assert sorted(name for name, _ in ear.adopted) == ["a", "b"]
            assert ear.warned == []
            assert one.asked == two.asked == ["/jwks"]

    run(scenario())


def test_it_follows_a_rotation() -> None:
    async def scenario() -> None:
        with key_server(es256("before", "before")) as server:
            async with keeping(at(server, OFTEN_MS)) as (ear, _):
                await ear.until(adopted=1)
                assert ear.knows("before")
                server.publish(es256("before", "before"), es256("after", "after"))
                await ear.until(adopted=2)
                assert ear.knows("before")
                assert ear.knows("after")
                server.publish(es256("after", "after"))
                await ear.until(adopted=3)
                assert not ear.knows("before")

    asyncio.run(scenario())


def test_it_adopts_the_same_document_once() -> None:
    async def scenario() -> None:
        with key_server(es256()) as server:
            async with keeping(at(server, OFTEN_MS)) as (ear, _):
                await asked(server, 5)

            assert len(ear.adopted) == 1

    asyncio.run(scenario())


def test_an_outage_leaves_the_last_keys_in_force() -> None:
    async def scenario() -> None:
        with key_server(es256("before", "before")) as server:
            async with keeping(at(server, OFTEN_MS)) as (ear, _):
                await ear.until(adopted=1)
                server.stop()
                await ear.until(warned=1)
                assert ear.warned[0].startswith(
                    "credentials.jwt idp: its keys cannot be fetched: no connection"
                )
                assert ear.warned[0].endswith("; the keys of before stay in force")
                assert ear.knows("before")

                server.publish(es256("after", "after"))
                server.start()
                await ear.until(adopted=2)
                assert ear.knows("after")

    asyncio.run(scenario())


GOOD = jwks(es256()).encode()
FAILURES = {
    "garbage": (Answer(b"<html>"), "what it answers is no set of keys: "),
    "nothing": (Answer(b""), "what it answers is no set of keys: "),
    "no keys": (Answer(b'{"keys": []}'), "what it answers is no set of keys: expected an object"),
    "no usable key": (Answer(jwks(es256().jwk(use="enc")).encode()), "none of its keys can be used: key 1"),
    "not UTF-8": (Answer(b'{"keys": "\xff"}'), "its answer is not text in UTF-8"),
    "packed": (
        Answer(gzip.compress(GOOD), headers={"Content-Encoding": "gzip"}),
        "its answer is not text in UTF-8",
    ),
    "too long": (Answer(GOOD + b" " * LONGEST_DOCUMENT), "its answer is longer than 256 KiB"),
    "without end": (Answer(GOOD, endless=True), "its answer is longer than 256 KiB"),
    "cut off": (Answer(GOOD, headers={"Content-Length": "100000"}), "no whole answer: "),
    "not found": (Answer(GOOD, status=404), "it answers 404"),
    "broken": (Answer(GOOD, status=500), "it answers 500"),
    "no content": (Answer(b"", status=204), "it answers 204"),
}


@pytest.mark.parametrize(("answer", "why"), FAILURES.values(), ids=FAILURES)
def test_it_tells_once_why_keys_cannot_be_fetched(answer: Answer, why: str) -> None:
    async def scenario() -> None:
        with key_server() as server:
            server.answer = answer
            async with keeping(at(server)) as (ear, _):
                await asked(server, 4)  # it tries again, sooner than it would refresh
                await ear.until(warned=1)
                assert why in ear.warned[0]
                assert ear.warned[0].endswith("; until then no token of it is valid")
                assert ear.adopted == []

                server.publish(es256())
                await ear.until(adopted=1)
                assert len(ear.warned) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_it_goes_nowhere_else(status: int) -> None:
    async def scenario() -> None:
        with key_server(es256()) as elsewhere, key_server() as server:
            server.answer = Answer(status=status, headers={"Location": elsewhere.url})
            async with keeping(at(server)) as (ear, _):
                await ear.until(warned=1)

            assert f"it answers {status}, and redirects are not followed" in ear.warned[0]
            assert elsewhere.asked == []

    asyncio.run(scenario())


def test_it_tells_again_when_the_reason_is_another() -> None:
    async def scenario() -> None:
        with key_server() as server:
            server.answer = Answer(status=503)
            async with keeping(at(server, OFTEN_MS)) as (ear, _):
                await ear.until(warned=1)
                server.answer = Answer(b"garbage")
                await ear.until(warned=2)
                server.publish(es256())
                await ear.until(adopted=1)
                server.answer = Answer(status=503)
                await ear.until(warned=3)

            assert ["503" in words for words in ear.warned] == [True, False, True]

    asyncio.run(scenario())


def test_it_does_not_wait_for_who_does_not_answer() -> None:
    async def scenario() -> None:
        with key_server(es256()) as slow, key_server(es256()) as quick:
            slow.hold()
            issuers = at(slow, issuer=Foreign(name="slow")), at(quick, issuer=Foreign(name="quick"))
            async with keeping(*issuers, timeout_s=0.2) as (ear, _):
                await ear.until(adopted=1, warned=1)
                assert [name for name, _ in ear.adopted] == ["quick"]
                assert "jwt slow: its keys cannot be fetched: no whole answer within 0.2 s;" in ear.warned[0]

                slow.release()
                await ear.until(adopted=2)

    asyncio.run(scenario())


def test_tokens_that_name_unknown_keys_make_it_look_once() -> None:
    async def scenario() -> None:
        now_s = 0.0
        with key_server(es256("before", "before")) as server:
            async with keeping(at(server), clock=lambda: now_s) as (ear, keeper):
                await ear.until(adopted=1)
                server.publish(es256("after", "after"))
                now_s = QUIET_S
                for _ in range(1_000):
                    keeper.asked_for("idp")
                await ear.until(adopted=2)
                for _ in range(1_000):
                    keeper.asked_for("idp")
                    await asyncio.sleep(0)

            assert ear.knows("after")
            assert len(server.asked) == 2

    asyncio.run(scenario())


def test_it_looks_only_for_whom_it_keeps() -> None:
    async def scenario() -> None:
        with key_server(es256()) as server:
            async with keeping(at(server), Foreign(name="of a file", jwks=jwks(es256()))) as (ear, keeper):
                await ear.until(adopted=1)
                for name in ("of a file", "nobody", ""):
                    keeper.asked_for(name)

            assert len(server.asked) == 1

    asyncio.run(scenario())


def test_it_ends_in_the_middle_of_a_fetch_and_for_good() -> None:
    async def scenario() -> None:
        with key_server(es256()) as server:
            server.hold()
            async with keeping(at(server)) as (ear, keeper):
                await asyncio.to_thread(server.wait_for, 1)
                keeper.close()
                await keeper.run()

            assert (ear.adopted, ear.warned) == ([], [])

    asyncio.run(scenario())


def test_without_a_url_there_is_nothing_to_do() -> None:
    async def scenario() -> None:
        ear = Ear()
        await JwksKeeper([Foreign(jwks=jwks(es256()))], ear.adopt, ear.warn, monotonic).run()

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["http://idp.example/jwks", "file:///etc/passwd"])
def test_it_fetches_only_what_nobody_can_change_on_the_way(url: str) -> None:
    async def scenario() -> None:
        ear = Ear()
        with pytest.raises(ValueError, match="expected"):
            JwksKeeper([Foreign(jwks=Url(url))], ear.adopt, ear.warn, monotonic)

    asyncio.run(scenario())


@pytest.mark.parametrize("trusted", [True, False])
def test_it_believes_only_who_shows_a_certificate(trusted: bool, certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    client = ssl.create_default_context(cafile=certificates.ca if trusted else certificates.stranger_ca)

    async def scenario() -> None:
        with key_server(es256(), tls=context) as server:
            async with keeping(at(server), tls=client) as (ear, _):
                await ear.until(adopted=trusted, warned=not trusted)

            assert trusted or "its certificate is not to be trusted: " in ear.warned[0]
            assert len(ear.adopted) == trusted

    asyncio.run(scenario())


# --- when ---------------------------------------------------------------------


def test_it_tries_again_ever_later_but_never_later_than_it_would_refresh() -> None:
    def pauses(refresh_s: float) -> list[float]:
        schedule = Schedule(refresh_s, again_s=1.0)
        found = []
        for _ in range(9):
            schedule.begun(0.0)
            schedule.ended(0.0, failed=True, sooner=0.0)
            found.append(schedule.left_s(0.0))
        schedule.ended(0.0, failed=False, sooner=0.1)
        assert schedule.left_s(0.0) == refresh_s * 0.9
        return found

    assert pauses(600.0) == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert pauses(10.0) == [1, 2, 4, 8, 10, 10, 10, 10, 10]


STEP = st.tuples(st.sampled_from(["ask", "wait", "fail"]), st.floats(0, 100))


@given(st.floats(1, 1e6), st.lists(STEP, max_size=60))
def test_whoever_asks_it_rests_between_two_looks(refresh_s: float, steps: list[tuple[str, float]]) -> None:
    """But for its own refresh, and its own second try."""
    schedule, now_s, begun_s, own_s = Schedule(refresh_s, again_s=1.0), 0.0, float("-inf"), 0.0
    for step, for_s in steps:
        if step == "ask":
            schedule.ask()
        else:
            now_s += for_s
        if schedule.left_s(now_s) <= 0:
            assert now_s >= min(begun_s + QUIET_S, own_s)
            begun_s = now_s
            schedule.begun(now_s)
            schedule.ended(now_s, failed=step == "fail", sooner=0.0)
            own_s = now_s + schedule.left_s(now_s)
            assert 0 < own_s - now_s <= max(refresh_s, AGAIN_AT_MOST_S) * 1.01
