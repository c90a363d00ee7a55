"""Verdicts from memory against nginx `return 204`: a leased allow under two limits, a closed counter, a denied address.

Each twice: heads that repeat byte for byte (one client's next request), and heads that never do, which the gate has
to parse. The same run says how often one hot key asks the store.

Nothing here needs the store but for leases.
"""

from __future__ import annotations

from bench.cast import DENIED, GENEROUS_MS, asked_by_nginx, floor, gate, store_use, target, valkey
from bench.load import press, pressing
from bench.rounds import Effort, alternate
from bench.rows import Findings, Goal, Row
from tests.gates import Gate

DOCUMENT = """
limits:
  - {name: minute, per: [ip], permits: 1000000000, window: 1m, match: {paths: ["/open/*"]}}
  - {name: hour, per: [ip], permits: 1000000000, window: 1h, match: {paths: ["/open/*"]}}
  - {name: spent-day, per: [ip], permits: 1, window: 1d, match: {paths: ["/spent/*"]}}
  - {name: spent-month, per: [ip], permits: 1000000000, window: 30d, match: {paths: ["/spent/*"]}}
addresses: {deny: {cidrs: ["198.51.100.0/24"]}}
"""

GOAL = Goal(0.6)
HOT_GOAL = Goal(0.005, most=True)


def measure(effort: Effort) -> Findings:
    found = Findings()
    with (
        valkey() as store,
        store.client() as client,
        floor() as least,
        gate(DOCUMENT, store=store, deadline_ms=GENEROUS_MS) as running,
    ):
        _spend(running)
        for novel in (False, True):
            kinds = {
                "leased allow, two limits": asked_by_nginx("/open/a", novel=novel),
                "closed counter": asked_by_nginx("/spent/a", novel=novel, refused=True),
                "denied address": asked_by_nginx("/open/a", address=DENIED, novel=novel, refused=True),
            }
            presses = {
                name: pressing(target(running), heads, effort.seconds) for name, heads in kinds.items()
            }
            plain = asked_by_nginx("/open/a", novel=novel)
            taken = alternate(pressing(least, plain, effort.seconds), presses, effort)
            heads_are = "heads never repeat" if novel else "heads repeat"
            found.rows += [taken.row(f"from memory: {name}, {heads_are}", name, GOAL) for name in kinds]
        hot: list[tuple[int, int]] = []
        for _ in range(effort.rounds):
            before = store_use(client)
            load = press(target(running), asked_by_nginx("/open/a"), seconds=2 * effort.seconds)
            hot.append((store_use(client).since(before).calls, load.answers))
        found.rows.append(_hot_key(hot))
        outage = running.metric("portcullis_decisions_total", source="outage")
        assert not outage, f"{outage:.0f} decisions were the outage policy's, not the ledger's"
    return found


def _spend(running: Gate) -> None:
    """Use the one permit, so that the counter is closed from here on."""
    headers = dict(asked_by_nginx("/spent/a").headers)
    while running.ask("/auth/nginx", headers=headers).status == 200:
        pass


def _hot_key(rounds: list[tuple[int, int]]) -> Row:
    """All rounds together: a lease that is too small shows in some slices only."""
    calls, decisions = (sum(numbers) for numbers in zip(*rounds, strict=True))
    worst = max(each / of for each, of in rounds)
    return Row(
        "store calls per decision, one hot key with leases",
        calls / decisions,
        goal=HOT_GOAL,
        note=f"{calls} calls for {decisions} decisions; worst round {worst:.2g}",
        raw={"rounds": rounds},
    )
