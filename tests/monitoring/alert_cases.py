"""When each alert fires and when it does not: series minute by minute, and who is named at which minute."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

FLEET = 'job="portcullis", namespace="shop"'
A = f'{FLEET}, instance="a"'
B = f'{FLEET}, instance="b"'

Series = Mapping[str, str]
Named = tuple[str, ...]
NOBODY: Named = ()


class Case(NamedTuple):
    """`firing` has, for some minutes, the labels of those for whom the alert fires then."""

    alert: str
    why: str
    series: Series
    firing: Mapping[int, Named]


def gauge(*spans: tuple[int, float]) -> str:
    """A value for so many minutes, then another."""
    return " ".join(f"{value:g}" for minutes, value in spans for _ in range(minutes))


def counter(*spans: tuple[int, int]) -> str:
    """A count that rises by so much a minute for so many minutes, then by so much."""
    steps = [step for minutes, step in spans for _ in range(minutes)]
    return " ".join(str(value) for value in accumulate(steps))


def verdicts(labels: str, samples: str) -> Series:
    return {f'portcullis_decisions_total{{{A}, front="nginx", {labels}}}': samples}


def decisions(*spans: tuple[int, int, int]) -> Series:
    """The histogram: for so many minutes, so many decisions a minute, so many of them slow."""
    name = "portcullis_decision_seconds"
    return {
        f"{name}_count{{{A}}}": counter(*((minutes, each) for minutes, each, _ in spans)),
        f'{name}_bucket{{{A}, le="0.02048"}}': counter(*((minutes, each - slow) for minutes, each, slow in spans)),
    }  # fmt: skip


OK = 'allowed="true", reason="ok", source="store"'
LIMITED = 'allowed="false", reason="rate_limited", source="memory"'
ATTACKED = 'allowed="false", reason="attack_mode", source="memory"'
OUTAGE = 'allowed="true", reason="ok", source="outage"'

CASES = (
    Case(
        "PortcullisDown",
        "one of two does not answer for ten minutes",
        {f"up{{{A}}}": gauge((5, 1), (10, 0), (6, 1)), f"up{{{B}}}": gauge((21, 1))},
        {4: NOBODY, 6: NOBODY, 7: (A,), 14: (A,), 15: NOBODY},
    ),
    Case(
        "PortcullisDown",
        "what is down is no gate",
        {f"up{{{A}}}": gauge((10, 1)), 'up{job="shop", instance="a"}': gauge((10, 0))},
        {9: NOBODY},
    ),
    Case(
        "PortcullisAbsent",
        "the first gate comes after ten minutes",
        {'up{job="shop"}': gauge((20, 1)), f"up{{{A}}}": "_x10 " + gauge((10, 0))},
        {4: NOBODY, 5: ('job="portcullis"',), 9: ('job="portcullis"',), 10: NOBODY},
    ),
    Case(
        "PortcullisWorkersRestart",
        "five in a row at one gate, and one at another",
        {
            f"portcullis_worker_restarts_total{{{A}}}": counter((20, 0), (5, 1), (30, 0)),
            f"portcullis_worker_restarts_total{{{B}}}": counter((20, 0), (1, 1), (34, 0)),
        },
        {20: NOBODY, 25: (A,), 50: NOBODY},
    ),
    Case(
        "PortcullisMemoryNearLimit",
        "95 % of one limit is little of another",
        {
            f"portcullis_memory_used_bytes{{{A}}}": gauge((5, 500), (20, 950), (5, 500)),
            f"portcullis_memory_limit_bytes{{{A}}}": gauge((30, 1000)),
            f"portcullis_memory_used_bytes{{{B}}}": gauge((30, 950)),
            f"portcullis_memory_limit_bytes{{{B}}}": gauge((30, 2000)),
        },
        {9: NOBODY, 10: (A,), 25: NOBODY},
    ),
    Case(
        "PortcullisStoreSilent",
        "for ten minutes at one gate",
        {
            f"portcullis_store_up{{{A}}}": gauge((5, 1), (10, 0), (5, 1)),
            f"portcullis_store_up{{{B}}}": gauge((20, 1)),
        },
        {5: NOBODY, 6: (A,), 15: NOBODY},
    ),
    Case(
        "PortcullisOutagePolicyDecides",
        "a third of the requests for ten minutes",
        {**verdicts(OK, counter((40, 100))), **verdicts(OUTAGE, counter((10, 0), (10, 50), (20, 0)))},
        {11: NOBODY, 12: (FLEET,), 26: NOBODY},
    ),
    Case(
        "PortcullisOutagePolicyDecides",
        "one in two hundred, as on a starved machine",
        {**verdicts(OK, counter((40, 199))), **verdicts(OUTAGE, counter((40, 1)))},
        {30: NOBODY},
    ),
    Case(
        "PortcullisRefusalsHigh",
        "two in five for half an hour",
        {**verdicts(OK, counter((70, 90))), **verdicts(LIMITED, counter((10, 0), (30, 60), (30, 0)))},
        {20: NOBODY, 30: (FLEET,), 40: (FLEET,), 60: NOBODY},
    ),
    Case(
        "PortcullisRefusalsHigh",
        "attack mode refuses almost everybody",
        {**verdicts(OK, counter((60, 10))), **verdicts(ATTACKED, counter((60, 900)))},
        {50: NOBODY},
    ),
    Case(
        "PortcullisRefusalsHigh",
        "half of hardly any requests",
        {**verdicts(OK, counter((60, 10))), **verdicts(LIMITED, counter((60, 10)))},
        {50: NOBODY},
    ),
    Case(
        "PortcullisRefusalsHigh",
        "nobody asks",
        {**verdicts(OK, counter((60, 0))), **verdicts(LIMITED, counter((60, 0)))},
        {50: NOBODY},
    ),
    Case(
        "PortcullisAttackModeOn",
        "on at one of two",
        {
            f"portcullis_attack_mode{{{A}}}": gauge((5, 0), (5, 1), (5, 0)),
            f"portcullis_attack_mode{{{B}}}": gauge((15, 0)),
        },
        {4: NOBODY, 5: (FLEET,), 9: (FLEET,), 10: NOBODY},
    ),
    Case(
        "PortcullisAttackModeLong",
        "an hour, though another gate took over meanwhile",
        {
            f"portcullis_attack_mode{{{A}}}": gauge((5, 0), (40, 1), (40, 0)),
            f"portcullis_attack_mode{{{B}}}": gauge((20, 0), (55, 1), (10, 0)),
        },
        {64: NOBODY, 65: (FLEET,), 74: (FLEET,), 75: NOBODY},
    ),
    Case(
        "PortcullisControlLag",
        "one is deaf; another's store is silent",
        {
            f"portcullis_control_lag_seconds{{{A}}}": gauge((5, 0.5), (10, 30), (5, 0.5)),
            f"portcullis_store_up{{{A}}}": gauge((20, 1)),
            f"portcullis_control_lag_seconds{{{B}}}": gauge((5, 0.5), (10, 30), (5, 0.5)),
            f"portcullis_store_up{{{B}}}": gauge((5, 1), (10, 0), (5, 1)),
        },
        {5: NOBODY, 6: (A,), 15: NOBODY},
    ),
    Case(
        "PortcullisControlStale",
        "for ten minutes",
        {f"portcullis_control_stale{{{A}}}": gauge((5, 0), (10, 1), (5, 0))},
        {5: NOBODY, 6: (A,), 15: NOBODY},
    ),
    Case(
        "PortcullisEpochsDiffer",
        "one follows five minutes late",
        {
            f"portcullis_control_epoch{{{A}}}": gauge((5, 1), (15, 2)),
            f"portcullis_control_epoch{{{B}}}": gauge((10, 1), (10, 2)),
        },
        {7: NOBODY, 8: (FLEET,), 10: NOBODY},
    ),
    Case(
        "PortcullisEpochsDiffer",
        "an epoch a minute, each seen by one before the other",
        {
            f"portcullis_control_epoch{{{A}}}": counter((20, 1)),
            f"portcullis_control_epoch{{{B}}}": counter((1, 0), (19, 1)),
        },
        dict.fromkeys(range(20), NOBODY),
    ),
    Case(
        "PortcullisEpochsDiffer",
        "both begin anew",
        {f"portcullis_control_epoch{{{gate}}}": gauge((5, 9), (15, 1)) for gate in (A, B)},
        dict.fromkeys(range(4, 10), NOBODY),
    ),
    Case(
        "PortcullisConfigurationsDiffer",
        "one has had another for twenty minutes; another fleet's is its own",
        {
            f"portcullis_config_digest{{{A}}}": gauge((40, 7)),
            f"portcullis_config_digest{{{B}}}": gauge((5, 7), (20, 8), (15, 7)),
            'portcullis_config_digest{job="portcullis", namespace="blog", instance="a"}': gauge((40, 9)),
        },
        {19: NOBODY, 20: (FLEET,), 25: NOBODY},
    ),
    Case(
        "PortcullisConfigurationRejected",
        "for ten minutes at one gate",
        {
            f"portcullis_config_last_reload_ok{{{A}}}": gauge((5, 1), (10, 0), (5, 1)),
            f"portcullis_config_last_reload_ok{{{B}}}": gauge((20, 1)),
        },
        {5: NOBODY, 6: (A,), 15: NOBODY},
    ),
    Case(
        "PortcullisLatencyBurnsFast",
        "a fifth is slow for ten minutes",
        decisions((60, 1000, 0), (10, 1000, 200), (20, 1000, 0)),
        {65: NOBODY, 66: (FLEET,), 80: NOBODY},
    ),
    Case(
        "PortcullisLatencyBurnsFast",
        "a fifth is slow for two minutes",
        decisions((60, 1000, 0), (2, 1000, 200), (20, 1000, 0)),
        dict.fromkeys(range(60, 75), NOBODY),
    ),
    Case(
        "PortcullisLatencyBurnsSlowly",
        "a twentieth is slow for an hour and a half",
        decisions((360, 1000, 0), (90, 1000, 50), (60, 1000, 0)),
        {417: NOBODY, 418: (FLEET,), 490: NOBODY},
    ),
    Case(
        "PortcullisLatencyBurnsSlowly",
        "nobody asks",
        decisions((60, 0, 0)),
        {50: NOBODY},
    ),
)
