"""The keys of foreign issuers, fetched from where they publish them, again and again.

    every refresh ──────────────────────────┐
    sooner after a failure ─────────────────┼─> fetch ─> parse ─> adopt, if it is another document
    a token named a key that is not known ──┘             │
      (at most every 30 s)                                └─ any failure: the keys of before stay

Tokens come from strangers, so that what a token names makes nobody fetch more often than that; where from is
the configuration's word alone, and no redirect changes it.

It does not verify tokens.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import uniform
from typing import Final, Protocol

import aiohttp

from sidecar.core.jwks import KeySet, checked_url

TIMEOUT_S: Final = 5.0
LONGEST_DOCUMENT: Final = 256 * 1024
QUIET_S: Final = 30.0
"""Between two fetches that tokens asked for."""
AGAIN_S: Final = 1.0
AGAIN_AT_MOST_S: Final = 60.0
"""After a failure: the first wait and, doubled each time, the longest."""
JITTER: Final = 0.1
"""A refresh comes up to so much of its period sooner: replicas that started together drift apart."""


class JwksUrl(Protocol):
    """Where an issuer publishes its keys, and how often to look."""

    @property
    def url(self) -> str: ...
    @property
    def refresh_ms(self) -> int: ...


class KeptIssuer(Protocol):
    """An issuer; one whose keys are a text of the configuration is left alone."""

    @property
    def name(self) -> str: ...
    @property
    def algorithms(self) -> Sequence[str]: ...
    @property
    def jwks(self) -> str | JwksUrl: ...


class Schedule:
    """When the keys of one issuer are fetched next. Times are seconds by one monotonic clock.

    >>> schedule = Schedule(refresh_s=600, again_s=1)
    >>> schedule.begun(0); schedule.ended(0, failed=False, sooner=0)
    >>> schedule.left_s(10)
    590
    >>> schedule.ask(), schedule.left_s(10)
    (True, 20.0)
    """

    __slots__ = ("_again_s", "_asked", "_begun_s", "_due_s", "_failures", "_refresh_s")

    def __init__(self, refresh_s: float, again_s: float) -> None:
        self._refresh_s = refresh_s
        self._again_s = again_s
        self._begun_s = self._due_s = float("-inf")
        self._failures = 0
        self._asked = False

    def ask(self) -> bool:
        """Sooner, please; whether that is news."""
        news, self._asked = not self._asked, True
        return news

    def left_s(self, now_s: float) -> float:
        """How long to wait from now on, if nobody asks; 0 and less: it is time."""
        return (min(self._due_s, self._begun_s + QUIET_S) if self._asked else self._due_s) - now_s

    def begun(self, now_s: float) -> None:
        self._begun_s = now_s

    def ended(self, now_s: float, *, failed: bool, sooner: float) -> None:
        """`sooner`: by which part of its period the next refresh comes early."""
        self._asked = False  # whoever asked meanwhile has the answer, too
        self._failures = self._failures + 1 if failed else 0
        pause_s = self._refresh_s * (1 - sooner)
        if failed:
            pause_s = min(pause_s, AGAIN_AT_MOST_S, self._again_s * 2.0 ** min(self._failures - 1, 16))
        self._due_s = now_s + pause_s


@dataclass(slots=True)
class _Kept:
    """One issuer as this process follows it."""

    name: str
    algorithms: Sequence[str]
    url: str
    schedule: Schedule
    document: str | None = None
    """What its keys were read from; None until there are any."""
    warned: str = ""
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class JwksKeeper:
    """Keeps the keys of the issuers that publish them at a URL.

    adopt      told the issuer's name and its keys, when there are others than before
    warn       told when keys cannot be fetched, and why: once, until the reason is another
    clock      seconds, monotonic
    timeout_s  for one fetch, from connecting to the last byte
    again_s    the wait after the first failure
    tls        whom to trust over https; None: whom the system trusts

    Raises ValueError for a URL on the way to which others could change the keys.
    """

    def __init__(
        self,
        issuers: Iterable[KeptIssuer],
        adopt: Callable[[str, KeySet], None],
        warn: Callable[[str], None],
        clock: Callable[[], float],
        *,
        timeout_s: float = TIMEOUT_S,
        again_s: float = AGAIN_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._kept = {
            issuer.name: _Kept(
                issuer.name,
                issuer.algorithms,
                checked_url(issuer.jwks.url),
                Schedule(issuer.jwks.refresh_ms / 1000, again_s),
            )
            for issuer in issuers
            if not isinstance(issuer.jwks, str)
        }
        self._adopt = adopt
        self._warn = warn
        self._clock = clock
        self._timeout_s = timeout_s
        self._tls = tls
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Fetch and fetch again, until `close`; every issuer's at its own pace."""
        if self._closed or not self._kept:
            return
        # No cookies, and no proxy or password of the environment: a fetch is a question without a past.
        session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,  # what is counted is what is read
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
            trust_env=False,
        )
        async with session, asyncio.TaskGroup() as group:
            self._tasks = [group.create_task(self._keep(session, kept)) for kept in self._kept.values()]

    def close(self) -> None:
        """`run` returns soon, for good."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    def asked_for(self, name: str) -> None:
        """A token of this issuer named a key that is not known: its keys are looked at soon, but not often."""
        kept = self._kept.get(name)
        if kept is not None and kept.schedule.ask():
            kept.woken.set()

    async def _keep(self, session: aiohttp.ClientSession, kept: _Kept) -> None:
        schedule = kept.schedule
        while True:
            while (left_s := schedule.left_s(self._clock())) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await kept.woken.wait()
                kept.woken.clear()
            schedule.begun(self._clock())
            why = await self._fetch(session, kept)
            schedule.ended(self._clock(), failed=bool(why), sooner=uniform(0, JITTER))
            self._tell(kept, why)

    async def _fetch(self, session: aiohttp.ClientSession, kept: _Kept) -> str:
        """Adopts what is published; answers why that failed, "" if it did not."""
        try:
            document = await self._document(session, kept.url)
            keys = KeySet.parse(document, kept.algorithms) if document != kept.document else None
        except _NotFetched as exc:
            return str(exc)
        except ValueError as exc:
            return f"what it answers is no set of keys: {exc}"
        if keys is not None:
            self._adopt(kept.name, keys)
            kept.document = document
        return ""

    async def _document(self, session: aiohttp.ClientSession, url: str) -> str:
        """The text of a set. Raises _NotFetched, with words that are the same for the same failure."""
        try:
            async with session.get(url, allow_redirects=False, ssl=self._tls or True) as response:
                if 300 <= response.status < 400:
                    raise _NotFetched(
                        f"it answers {response.status}, and redirects are not followed: name its new URL"
                    )
                if response.status != 200:
                    raise _NotFetched(f"it answers {response.status}")
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LONGEST_DOCUMENT:
                        raise _NotFetched(f"its answer is longer than {LONGEST_DOCUMENT // 1024} KiB")
        except TimeoutError:
            raise _NotFetched(f"no whole answer within {self._timeout_s:g} s") from None
        except aiohttp.ClientConnectorCertificateError as exc:
            raise _NotFetched(f"its certificate is not to be trusted: {exc.certificate_error}") from None
        except aiohttp.ClientConnectorError as exc:
            raise _NotFetched(f"no connection: {exc.os_error.strerror or exc.os_error}") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise _NotFetched(f"no whole answer: {type(exc).__name__}") from None
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise _NotFetched("its answer is not text in UTF-8") from None

    def _tell(self, kept: _Kept, why: str) -> None:
        if why and why != kept.warned:
            meanwhile = (
                "the keys of before stay in force"
                if kept.document is not None
                else "until then no token of it is valid"
            )
            self._warn(f"credentials.jwt {kept.name}: its keys cannot be fetched: {why}; {meanwhile}")
        kept.warned = why


class _NotFetched(Exception):
    """There is no document; says why."""
