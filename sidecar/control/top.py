"""Top: every replica tells the store whom it saw most in the last minutes; whoever asks adds them up.

A replica puts one small summary into the hash `top`, at most every five seconds and only while there is
something to tell. A summary that is older than a minute is not read, and the next replica that puts one
removes it; when nobody puts any the keys expire.

The sum keeps what the sketches promise (see `core.sketch`): people are shown at least how often somebody
came and at most how often. Both are estimates where a replica looks at a sample: above a thousand requests
a second.

No credential is told: a key by its public id, a route without its query. Nothing here decides anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec

from sidecar.control.changes import ControlStore, Space
from sidecar.core.addresses import subject_of
from sidecar.core.model import Request
from sidecar.core.patterns import Matcher
from sidecar.core.policy import Policy
from sidecar.core.sketch import By, Entry, Merging, Summary, Tally
from sidecar.steps import in_steps
from sidecar.store import StoreUnavailable, scripts

TURN_S: Final = 1.0
"""How often the sample follows the rate."""
TELL_MS: Final = 5_000
"""How often a replica tells what is new."""
REFRESH_MS: Final = 30_000
"""How often it tells what is not: its last minutes are still to be counted."""
STALE_MS: Final = 60_000
"""A replica that told nothing for this long is gone."""

LISTED: Final = 64
"""Names in each list of a summary, which takes at most some 40 kB, and usually 15."""
MAX_NAME: Final = 64
"""Characters of a route; addresses and key ids are shorter."""
MOST_REPLICAS: Final = 256
"""More are not added up: the ones that told something last are."""
AT_ONCE: Final = 4
"""Summaries read in one piece: a millisecond of work."""


class TopAnswer(NamedTuple):
    """The heaviest of the fleet. Each list is ranked by what is certain, `Entry.at_least`.

    since_s   seconds that the longest summary covers
    replicas  how many had something to tell
    """

    since_s: int
    replicas: int
    heaviest: Mapping[By, Sequence[Entry]]
    refused: Mapping[By, Sequence[Entry]]


class Names:
    """Address and route under which a request is told, by the policy in force.

    The address as limits count it: of IPv6 the network, because one client has a whole one. The route as
    the first limit with a pattern for it names it, else the first segment of the path.
    """

    def __init__(self, policy: Callable[[], Policy]) -> None:
        self._policy = policy
        self._known: Policy | None = None
        self._matchers: list[Matcher] = []

    def __call__(self, request: Request) -> tuple[str, str]:
        policy = self._policy()
        if policy is not self._known:
            self._known = policy
            self._matchers = [Matcher(limit.match) for limit in policy.limits if limit.match.paths]
        route = self._route(request)
        if len(route) > MAX_NAME:
            route = f"{route[: MAX_NAME - 1]}…"
        return subject_of(request.address, policy.ipv6_prefix), route

    def _route(self, request: Request) -> str:
        if not request.path:
            return "malformed"
        for matcher in self._matchers:
            route = matcher.route(request.method, request.host, request.path)
            if route is not None:
                return route
        segment = request.path.split("/", 2)[1]
        return f"/{segment}/*" if segment else "/"


class TopTeller:
    """Tells the store what this process's tally has seen; turns the tally on the way.

    `store` is a connection of its own: `close` ends it. `failed` is told the kind and the text of what went wrong.
    """

    def __init__(
        self,
        *,
        store: ControlStore,
        prefix: str,
        replica: str,
        tally: Tally,
        clock_ms: Callable[[], float],
        failed: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._script = scripts.read("top")
        self._keys = list(_keys(prefix))
        self._replica = replica.encode()
        self._tally = tally
        self._clock_ms = clock_ms
        self._failed = failed
        self._told: tuple[int, float] | None = None
        """Samples and time of the last summary; None when the store has none."""

    async def run(self) -> None:
        """Tell until cancelled."""
        due_ms = self._clock_ms() + TELL_MS
        while True:
            await asyncio.sleep(TURN_S)
            self._tally.turn(self._clock_ms())
            if self._clock_ms() >= due_ms:
                due_ms = self._clock_ms() + TELL_MS
                try:
                    await self.tell()
                except StoreUnavailable as exc:
                    self._failed(exc.kind, str(exc))

    async def tell(self) -> bool:
        """Put a summary if it is not the one that is there already; whether it did. Raises StoreUnavailable."""
        tally, now_ms = self._tally, self._clock_ms()
        if tally.empty:
            if self._told is None:
                return False
            await self._put(b"")
            self._told = None
            return True
        if self._told is not None and self._told[0] == tally.samples and now_ms - self._told[1] < REFRESH_MS:
            return False
        told = (tally.samples, now_ms)
        await self._put(await self._written(now_ms))
        self._told = told
        return True

    async def close(self) -> None:
        await self._store.close()

    async def _put(self, summary: bytes) -> None:
        arguments = [self._replica, summary, str(STALE_MS).encode()]
        await self._store.script(self._script, self._keys, arguments)

    async def _written(self, now_ms: float) -> bytes:
        """The summary as JSON. Between any two steps the loop answers requests."""
        lists: list[dict[str, Summary]] = []
        for refused in (False, True):
            told: dict[str, Summary] = {}
            for by in By:
                steps = self._tally.summary_steps(by, refused=refused, most=LISTED)
                told[by.value] = await in_steps(steps)
            lists.append(told)
        return msgspec.json.encode(
            {"since_s": self._tally.covers_s(now_ms), "heaviest": lists[0], "refused": lists[1]}
        )


class TopReader:
    """Adds up what the replicas told."""

    def __init__(self, *, store: ControlStore, prefix: str) -> None:
        self._store = store
        self._top, self._times = _keys(prefix)

    async def read(self, most: int) -> TopAnswer:
        """The `most` heaviest of each list. Raises StoreUnavailable."""
        since_s = replicas = 0
        heaviest, refused = {by: Merging() for by in By}, {by: Merging() for by in By}
        fresh = await self._fresh()
        for at in range(0, len(fresh), AT_ONCE):
            for told in await self._told(fresh[at : at + AT_ONCE]):
                replicas += 1
                since_s = max(since_s, told.since_s)
                for merging, lists in ((heaviest, told.heaviest), (refused, told.refused)):
                    for by in By:
                        merging[by].add(lists.by(by))
            await asyncio.sleep(0)
        return TopAnswer(since_s, replicas, await _surest(heaviest, most), await _surest(refused, most))

    async def _fresh(self) -> list[bytes]:
        """The replicas whose summaries are not stale, by the store's clock."""
        time = await self._store.command(b"TIME")
        match time:
            case [bytes(seconds), bytes(micros)] if seconds.isdigit() and micros.isdigit():
                since_ms = int(seconds) * 1000 + int(micros) // 1000 - STALE_MS
            case _:
                raise StoreUnavailable("response", "the store's answer has not the shape of TIME's")
        words = [b"+inf", str(since_ms).encode(), b"LIMIT", b"0", str(MOST_REPLICAS).encode()]
        found = await self._store.command(b"ZREVRANGEBYSCORE", self._times, *words)
        return found if isinstance(found, list) else []

    async def _told(self, replicas: Sequence[bytes]) -> list[_Told]:
        """Their summaries. One that cannot be read, as from another version, is left out."""
        values = await self._store.command(b"HMGET", self._top, *replicas)
        told: list[_Told] = []
        for value in values if isinstance(values, list) else []:
            if value is not None:
                try:
                    told.append(_DECODER.decode(value))
                except (msgspec.DecodeError, UnicodeDecodeError):
                    continue
        return told


async def _surest(merging: Mapping[By, Merging], most: int) -> dict[By, tuple[Entry, ...]]:
    found: dict[By, tuple[Entry, ...]] = {}
    for by in By:
        found[by] = merging[by].surest(most)
        await asyncio.sleep(0)
    return found


def _keys(prefix: str) -> tuple[bytes, bytes]:
    space = Space(prefix)
    return space.key("top"), space.key("top_times")


# --- a summary in the store -----------------------------------------------------

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Name = Annotated[str, msgspec.Meta(max_length=4 * MAX_NAME)]  # a later version may cut later
_Entries = Annotated[tuple[tuple[_Name, _Count, _Count], ...], msgspec.Meta(max_length=LISTED)]


class _Lists(msgspec.Struct, frozen=True):
    """A list for each member of `By`: [[[name, at most, error], ...], unlisted]."""

    addresses: tuple[_Entries, _Count]
    keys: tuple[_Entries, _Count]
    routes: tuple[_Entries, _Count]

    def by(self, by: By) -> Summary:
        entries, unlisted = {By.ADDRESS: self.addresses, By.KEY: self.keys, By.ROUTE: self.routes}[by]
        return Summary(tuple([Entry(*entry) for entry in entries]), unlisted)


class _Told(msgspec.Struct, frozen=True):
    """What one replica told."""

    since_s: _Count
    heaviest: _Lists
    refused: _Lists


_DECODER: Final = msgspec.json.Decoder(_Told)
