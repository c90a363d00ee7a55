"""The trigger of attack mode: when traffic alone turns it on, and when it turns it off again.

Every replica reports how much it has decided and refused since it began. Two reports make a rate, and the
rates of all replicas together are the fleet's:

    replica a   100 ....... 700 ....... 1300          600/s
    replica b          40 ....... 840 ....... 1640    800/s      the fleet 1400/s
    replica c (restarted)        9000 ..... 12 ...    not known yet, so nothing
    replica d (lost)    500 .......                   nothing any more

A fleet at or above a threshold for the whole of `for_ms` turns attack mode on; one that was below all of
them for the whole of `quiet_ms` turns it off. What a person said stands:

    in force now                   above for long    quiet for long
    nobody ever said, or expired   on                -
    off, by the trigger            on                -
    off, by a person               -                 -
    on, by the trigger             -                 off
    on, by a person                -                 -

All gates look at the same reports and come to the same answer, give or take a look; the first one's change
is the one that is made.

It has no clock, reads no store and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from sidecar.core.control import Entry

MOST_GAP_MS: Final = 5_000
"""Nobody knows what was between two looks that are further apart, so seeing begins anew."""
LEAST_APART_MS: Final = 500
"""Reports closer together than this make no rate: one request in a millisecond is not a thousand a second."""


class Thresholds(NamedTuple):
    """When to turn on and off. At least one rate is not None."""

    refusals_per_s: int | None
    requests_per_s: int | None
    for_ms: int
    quiet_ms: int


class Report(NamedTuple):
    """What a replica had counted at a time by its own clock, which never goes back while it lives.

    `refusals` leaves out those of attack mode: they say nothing about a client.
    """

    counted_ms: int
    requests: int
    refusals: int


class Turn(NamedTuple):
    """What to do: turn attack mode on or off, and why, in words for the audit."""

    on: bool
    reason: str


class _Rates(NamedTuple):
    """Per second."""

    requests: float
    refusals: float


class Trigger:
    """What one gate has seen of its fleet, and what follows from it."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._looked_ms = 0
        self._last: dict[str, Report] = {}
        self._rates: dict[str, _Rates] = {}
        self._above_since_ms: dict[str, int] = {}
        self._below_since_ms: int | None = None

    @property
    def thresholds(self) -> Thresholds:
        return self._thresholds

    def restart(self) -> None:
        """Forget what was seen: something was not."""
        self._last.clear()
        self._rates.clear()
        self._above_since_ms.clear()
        self._below_since_ms = None

    def look(self, now_ms: int, reports: Mapping[str, Report], said: Entry | None) -> Turn | None:
        """What to do now, if anything.

        now_ms   by the store's clock, as the times of `said`
        reports  the last one of each replica that is not lost
        said     the entry about every request that is in force; None when nobody ever said
        """
        if not 0 <= now_ms - self._looked_ms <= MOST_GAP_MS or not reports:
            self.restart()
        self._looked_ms = now_ms
        self._measure(reports)
        self._note(now_ms)
        return self._turn_on(now_ms, said) or self._turn_off(now_ms, said)

    def _measure(self, reports: Mapping[str, Report]) -> None:
        for replica in self._last.keys() - reports.keys():
            del self._last[replica]
            self._rates.pop(replica, None)
        for replica, report in reports.items():
            last = self._last.get(replica)
            if last is None or _began_anew(last, report):
                self._last[replica] = report
                self._rates.pop(replica, None)
            elif (apart_ms := report.counted_ms - last.counted_ms) >= LEAST_APART_MS:
                self._last[replica] = report
                self._rates[replica] = _Rates(
                    (report.requests - last.requests) * 1000 / apart_ms,
                    (report.refusals - last.refusals) * 1000 / apart_ms,
                )

    def _note(self, now_ms: int) -> None:
        """Since when each threshold is passed, and since when none is."""
        above = {name: now_ms for name, rate, least in self._compared() if rate >= least}
        self._above_since_ms = {name: self._above_since_ms.get(name, at_ms) for name, at_ms in above.items()}
        if above:
            self._below_since_ms = None
        elif self._below_since_ms is None and self._rates and self._rates.keys() == self._last.keys():
            # Quiet begins only when everybody's rate is known; a newcomer does not end it.
            self._below_since_ms = now_ms

    def _compared(self) -> Iterator[tuple[str, float, int]]:
        """What is counted, the fleet's rate of it, and its threshold."""
        known, thresholds = self._rates.values(), self._thresholds
        if thresholds.requests_per_s is not None:
            yield "requests", sum(rates.requests for rates in known), thresholds.requests_per_s
        if thresholds.refusals_per_s is not None:
            yield "refusals", sum(rates.refusals for rates in known), thresholds.refusals_per_s

    def _turn_on(self, now_ms: int, said: Entry | None) -> Turn | None:
        if not _may_turn_on(said, now_ms):
            return None
        for_ms = self._thresholds.for_ms
        reasons = [
            f"{rate:.0f} {name}/s: at or above {least} for {_seconds(for_ms)}"
            for name, rate, least in self._compared()
            if name in self._above_since_ms and now_ms - self._above_since_ms[name] >= for_ms
        ]
        return Turn(True, "; ".join(reasons)) if reasons else None

    def _turn_off(self, now_ms: int, said: Entry | None) -> Turn | None:
        if said is None or self._below_since_ms is None or not _is_own_on(said, now_ms):
            return None
        # Not sooner after it was turned on either: gates with other thresholds may have done so.
        if now_ms - max(self._below_since_ms, said.at_ms) < self._thresholds.quiet_ms:
            return None
        rates = " and ".join(f"{rate:.0f} {name}/s" for name, rate, _ in self._compared())
        return Turn(False, f"{rates}: below the threshold for {_seconds(self._thresholds.quiet_ms)}")


def _began_anew(last: Report, report: Report) -> bool:
    """Whether a replica counts from zero again: its fall is not traffic."""
    return any(now < before for now, before in zip(report, last, strict=True))


def _may_turn_on(said: Entry | None, now_ms: int) -> bool:
    """Whether what is in force leaves it to the trigger: no person's word stands, and it is not on."""
    if said is None or not said.stands(now_ms):
        return True
    members = said.members()
    by_a_person = members.get("trigger") is not True and members.get("actor") != ""
    return members.get("on") is not True and not by_a_person


def _is_own_on(said: Entry, now_ms: int) -> bool:
    members = said.members()
    return said.stands(now_ms) and members.get("on") is True and members.get("trigger") is True


def _seconds(ms: int) -> str:
    return f"{ms / 1000:g} s"
