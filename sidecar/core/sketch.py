"""Who asks most and who is refused most, in bounded memory: sketches, merged over minutes and replicas.

`SpaceSaving` keeps the heaviest of many names in a fixed number of counters (Metwally, Agrawal and El Abbadi,
"Efficient computation of frequent and top-k elements in data streams", ICDT 2005). A name without a counter
takes over the smallest one, and its count with it as its possible error:

    capacity 2     a:5  b:3    + c    a:5  c:4 (of which 3 may be b's)    b: at most 4

    true <= count <= true + error      for every name that is listed
    true <= unlisted <= total/capacity for every name that is not

`Merging` adds summaries and keeps both promises (Agarwal et al., "Mergeable summaries", PODS 2012): a name that a
summary does not list has at most its `unlisted` there, which counts as error.

`Tally` is what a process keeps: a ring of minutes, each with a sketch of requests and one of refusals, by
address, key and route. It looks at a sample. Each request is in it with probability 1/stride, whatever came
before, and counts as `stride` requests, so every estimate is right in the mean. That of n requests has a
standard deviation of sqrt(n (stride - 1)): for a client with one per cent of all requests over five minutes
some two per cent of n. At low rates the stride is 1: everything is counted.

It does not tell the time, does not draw chances, and does not know how a request got its names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from enum import Enum
from heapq import heappush, heapreplace, nlargest
from math import ceil, log, log1p
from typing import Final, NamedTuple

from sidecar.core.model import Request, Verdict

CAPACITY: Final = 256
"""Counters of a sketch: a full one takes some 60 kB, and misses nobody with 1/256 of its minute's samples."""
MINUTE_MS: Final = 60_000
MINUTES: Final = 5
"""The current one and those before it: what is told covers the last four to five minutes."""
AIM_PER_S: Final = 1_000
"""Samples a second. Up to this rate every request is one."""


class Entry(NamedTuple):
    """A name, at most how often it came, and by how much that may be too high."""

    name: str
    at_most: int
    error: int

    @property
    def at_least(self) -> int:
        """People are shown this: in a flood of names that come once each, the counts of those who took
        over a counter last are high, and all of it is error."""
        return self.at_most - self.error


class Summary(NamedTuple):
    """The heaviest names, the greatest count first; any other name came at most `unlisted` times."""

    entries: tuple[Entry, ...]
    unlisted: int


class By(Enum):
    """What requests are told apart by."""

    ADDRESS = "addresses"
    KEY = "keys"
    ROUTE = "routes"

    def __init__(self, _: str) -> None:
        self.index: int = len(type(self).__members__)


class SpaceSaving:
    """The heaviest names of a stream, in `capacity` counters.

    Cost: a known name is one look-up and one store. The heap remembers for each name a count that it has had;
    that is brought up to date when it stands at the top, so each addition pays for one such step: O(log capacity).

    >>> sketch = SpaceSaving(2)
    >>> for name in "aaaaabbbc": sketch.add(name)
    >>> sketch.summary()
    Summary(entries=(Entry(name='a', at_most=5, error=0), Entry(name='c', at_most=4, error=3)), unlisted=4)
    """

    __slots__ = ("_capacity", "_counts", "_errors", "_heap", "total")

    def __init__(self, capacity: int) -> None:
        assert capacity > 0, "a sketch without counters"
        self.total = 0
        self._capacity = capacity
        self._counts: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def add(self, name: str, weight: int = 1) -> None:
        """Count `weight` (at least 1) more for `name`."""
        self.total += weight
        counts = self._counts
        count = counts.get(name)
        if count is not None:
            counts[name] = count + weight
        elif len(counts) < self._capacity:
            counts[name] = weight
            heappush(self._heap, (weight, name))
        else:
            least, loser = self._least()
            del counts[loser]
            self._errors.pop(loser, None)
            counts[name] = least + weight
            self._errors[name] = least
            heapreplace(self._heap, (least + weight, name))

    def summary(self) -> Summary:
        """What it knows."""
        unlisted = self._least()[0] if len(self._counts) == self._capacity else 0
        counts, errors = self._counts, self._errors
        ranked = sorted(counts, key=counts.__getitem__, reverse=True)
        return Summary(tuple([Entry(name, counts[name], errors.get(name, 0)) for name in ranked]), unlisted)

    def _least(self) -> tuple[int, str]:
        """The smallest counter, at the top of the heap."""
        heap, counts = self._heap, self._counts
        while heap[0][0] != (count := counts[heap[0][1]]):
            heapreplace(heap, (count, heap[0][1]))
        return heap[0]


class Merging:
    """Summaries being added up, one after the other. Holds as many names as they list."""

    __slots__ = ("_above", "_least", "_unlisted")

    def __init__(self) -> None:
        # What a name has at most is the sum of its counts, and of `unlisted` where it is not listed: that
        # is the sum of all `unlisted`, and where it is listed how much its count is above that.
        self._unlisted = 0
        self._above: dict[str, int] = {}
        self._least: dict[str, int] = {}

    def add(self, summary: Summary) -> None:
        unlisted, above, least = summary.unlisted, self._above, self._least
        self._unlisted += unlisted
        for name, count, error in summary.entries:
            above[name] = above.get(name, 0) + count - unlisted
            least[name] = least.get(name, 0) + count - error

    def summary(self, most: int) -> Summary:
        """The `most` names with the greatest counts of the sum.

        With sketches of at least most + 1 counters any name above total/(most + 1) is among them.
        """
        above = self._above
        heaviest = nlargest(most + 1, above, key=above.__getitem__)
        unlisted = self._unlisted + (above[heaviest[most]] if len(heaviest) > most else 0)
        return Summary(tuple([self._entry(name) for name in heaviest[:most]]), unlisted)

    def surest(self, most: int) -> tuple[Entry, ...]:
        """The `most` names that came most often for certain: what people are shown."""
        names = nlargest(most, self._least, key=self._least.__getitem__)
        return tuple([self._entry(name) for name in names])

    def _entry(self, name: str) -> Entry:
        at_most = self._unlisted + self._above[name]
        return Entry(name, at_most, at_most - self._least[name])


class _Minute:
    """The sketches of one minute, in the order of `By`."""

    __slots__ = ("number", "refused", "seen")

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen = tuple([SpaceSaving(CAPACITY) for _ in By])
        self.refused = tuple([SpaceSaving(CAPACITY) for _ in By])


class Tally:
    """One process's sketches of the last minutes.

    names   address and route under which a request is told
    chance  a random number in [0, 1), each time another
    """

    __slots__ = (
        "_about",
        "_chance",
        "_minute",
        "_minutes",
        "_names",
        "_skip",
        "_started_ms",
        "_taken",
        "_turned_ms",
        "samples",
        "stride",
    )

    def __init__(
        self, *, names: Callable[[Request], tuple[str, str]], chance: Callable[[], float], now_ms: float
    ) -> None:
        self._names = names
        self._chance = chance
        self._started_ms = self._turned_ms = now_ms
        self._minute = _Minute(int(now_ms // MINUTE_MS))
        self._minutes = deque([self._minute])
        self._skip = 0
        self._taken = 0  # since the last turn, or since the stride was doubled
        self._about = 0  # requests since the last turn, as estimated
        self.stride = 1
        self.samples = 0
        """How many requests were looked at so far."""

    def seen(self, request: Request, verdict: Verdict) -> None:
        """Count a request that was answered, usually by counting down to the next sample.

        How many to skip is drawn for each sample, not a chance for each request, so one that is no sample
        costs some 70 ns, a fifth of what counting it in the metrics does (`python -m bench --only micro`). A
        sample costs 1 to 4 us, a thousand times a second.
        """
        self._skip -= 1
        if self._skip < 0:
            self._sample(request, verdict)

    def turn(self, now_ms: float) -> None:
        """Follow the rate and the clock; to be called about once a second.

        Between two turns the stride doubles with every `AIM_PER_S` samples, so that a burst costs little
        before its rate is known. `now_ms` never goes back.
        """
        number = int(now_ms // MINUTE_MS)
        if number != self._minute.number:
            self._minute = _Minute(number)
            self._minutes.append(self._minute)
        while self._minutes[0].number <= number - MINUTES:
            self._minutes.popleft()
        elapsed_ms = now_ms - self._turned_ms
        if elapsed_ms > 0:
            self._use(max(1, ceil(self._about * 1000 / (elapsed_ms * AIM_PER_S))))
            self._turned_ms = now_ms
            self._taken = self._about = 0

    def summary_steps(self, by: By, *, refused: bool, most: int) -> Generator[None, None, Summary]:
        """The `most` heaviest of the last minutes, by requests or by refusals; each step adds a minute."""
        merging = Merging()
        for minute in tuple(self._minutes):
            sketch = (minute.refused if refused else minute.seen)[by.index]
            if sketch.total:
                merging.add(sketch.summary())
                yield
        return merging.summary(most)

    def covers_s(self, now_ms: float) -> int:
        """How many seconds the sketches cover."""
        begun_ms = max(self._started_ms, (self._minute.number - MINUTES + 1) * MINUTE_MS)
        return ceil((now_ms - begun_ms) / 1000)

    @property
    def empty(self) -> bool:
        """Whether no request was seen in the last minutes."""
        return not any(minute.seen[0].total for minute in self._minutes)

    def _sample(self, request: Request, verdict: Verdict) -> None:
        stride = self.stride
        address, route = self._names(request)
        key = verdict.key_id.decode(errors="replace")
        minute = self._minute
        for addresses, keys, routes in (minute.seen, minute.refused)[: 1 if verdict.reason.allowed else 2]:
            addresses.add(address, stride)
            routes.add(route, stride)
            if key:
                keys.add(key, stride)
        self.samples += 1
        self._about += stride
        self._taken += 1
        if self._taken == AIM_PER_S:
            self._taken = 0
            self._use(2 * stride)
        else:
            self._skip = self._gap()

    def _use(self, stride: int) -> None:
        """Sample with another stride. What was still to be skipped is drawn anew: chance has no memory."""
        self.stride = stride
        self._skip = self._gap()

    def _gap(self) -> int:
        """How many requests to skip when each is a sample with probability 1/stride: geometric."""
        if self.stride == 1:
            return 0
        return int(log(1.0 - self._chance()) / log1p(-1.0 / self.stride))
