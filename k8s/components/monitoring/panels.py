"""What the dashboard shows: rows of panels, and the query behind each line of them.

`$gates` stands for the gates that are chosen at the top of the dashboard; `$__rate_interval` is Grafana's. How that
becomes Grafana's JSON is `dashboard`'s business: after a change, `python -m k8s.components.monitoring.dashboard`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple


class Shape(Enum):
    """How a panel draws. The value is Grafana's name of it."""

    LINES = "timeseries"
    NUMBER = "stat"
    BARS = "bargauge"
    HEAT = "heatmap"
    TABLE = "table"


class Query(NamedTuple):
    """One expression; `legend` names its lines, with `{{label}}` for a label."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is Grafana's name of one; `warn` and `bad` are where a number turns yellow and red.

    `bad` below `warn` says that less is worse.
    """

    title: str
    about: str
    queries: tuple[Query, ...]
    shape: Shape = Shape.LINES
    unit: str = "short"
    width: int = 8
    stacked: bool = False
    most: float | None = None
    warn: float | None = None
    bad: float | None = None


class Row(NamedTuple):
    title: str
    panels: tuple[Panel, ...]


def _rate(series: str, which: str = "") -> str:
    chosen = f"$gates, {which}" if which else "$gates"
    return f"rate({series}{{{chosen}}}[$__rate_interval])"


def _total(series: str, which: str = "", *, by: str = "") -> str:
    """Events a second of all gates, apart by the labels `by`."""
    return f"sum by ({by}) ({_rate(series, which)})" if by else f"sum({_rate(series, which)})"


def _share(which: str) -> str:
    """The part of all decisions that has these labels; 0 while there are none of them, but others."""
    return f"({_total(_DECISIONS, which)} or 0 * {_total(_DECISIONS)}) / {_total(_DECISIONS)}"


def _quantiles(series: str, *quantiles: float) -> tuple[Query, ...]:
    return tuple(
        Query(f"histogram_quantile({each}, {_total(f'{series}_bucket', by='le')})", f"{100 * each:g} %")
        for each in quantiles
    )


def _each(gauge: str) -> tuple[Query, ...]:
    """A gauge of every gate."""
    return (Query(f"{gauge}{{$gates}}", "{{instance}}"),)


def _by(label: str, series: str, which: str = "") -> tuple[Query, ...]:
    """One line for each value of a label."""
    return (Query(_total(series, which, by=label), f"{{{{{label}}}}}"),)


def _number(
    title: str,
    about: str,
    expr: str,
    *,
    unit: str = "short",
    warn: float | None = None,
    bad: float | None = None,
) -> Panel:
    return Panel(title, about, (Query(expr),), Shape.NUMBER, unit, width=4, warn=warn, bad=bad)


_DECISIONS: Final = "portcullis_decisions_total"
_LIMIT: Final = "portcullis_limit_total"
_REFUSED: Final = 'outcome="refused"'
_EVER_REFUSED: Final = 'outcome=~"refused|outage_refused"'
_ENFORCED: Final = 'outcome!="shadow_refused"'

_NOW = Row(
    "Now",
    (
        _number("Gates", "Gates that Prometheus reaches.", "sum(up{$gates})", warn=1, bad=0.5),
        _number("Requests", "Decided by all gates.", _total(_DECISIONS), unit="reqps"),
        _number(
            "Refused",
            "Part of the requests, attack mode's refusals included.",
            _share('allowed="false"'),
            unit="percentunit",
            warn=0.1,
            bad=0.25,
        ),
        _number(
            "Attack mode",
            "1 while it is on anywhere.",
            "max(portcullis_attack_mode{$gates})",
            warn=0.5,
            bad=1,
        ),
        _number(
            "Stores silent",
            "Gates whose store does not answer: their outage policy decides.",
            "sum(1 - portcullis_store_up{$gates})",
            warn=0.5,
            bad=1,
        ),
        _number(
            "Slowest in a hundred",
            "99 % of the decisions take less than this, waiting for the store included.",
            _quantiles("portcullis_decision_seconds", 0.99)[0].expr,
            unit="s",
            warn=0.01,
            bad=0.02048,
        ),
        Panel(
            "Alerts",
            "What fires or is about to; the README has a chapter on each.",
            (
                Query(
                    'count by (alertname, alertstate) (ALERTS{alertname=~"Portcullis.*"})',
                    "{{alertname}} {{alertstate}}",
                ),
            ),
            width=24,
        ),
    ),
)

_TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Requests by front",
            "Who asks: nginx, envoy, forward (Caddy, Traefik, HAProxy) or api.",
            _by("front", _DECISIONS),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Verdicts by reason",
            "ok and exempt are let through.",
            _by("reason", _DECISIONS),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Refusals by reason",
            "The same without what is let through.",
            _by("reason", _DECISIONS, 'allowed="false"'),
            unit="reqps",
            stacked=True,
        ),
        Panel(
            "Refused, part of all",
            "Attack mode's refusals apart from all others.",
            (
                Query(_share('allowed="false", reason!="attack_mode"'), "by rules"),
                Query(_share('reason="attack_mode"'), "by attack mode"),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Requests by gate",
            "Uneven, where a balancer prefers some.",
            _by("instance", _DECISIONS),
            unit="reqps",
        ),
        Panel(
            "Shadow",
            "What rules in shadow mode would have refused.",
            _by("rule", "portcullis_shadow_total"),
            unit="reqps",
        ),
    ),
)

_LIMITS = Row(
    "Limits",
    (
        Panel(
            "Limits that refuse most",
            "Refusals now, the ten highest.",
            (Query(f"topk(10, {_total(_LIMIT, _REFUSED, by='limit')})", "{{limit}}"),),
            Shape.BARS,
            "reqps",
        ),
        Panel(
            "Refused, part of what each limit concerned",
            "A limit that refuses nobody for weeks may be tightened; one that refuses many customers is wrong.",
            (
                Query(
                    f"{_total(_LIMIT, _EVER_REFUSED, by='limit')} / {_total(_LIMIT, _ENFORCED, by='limit')}",
                    "{{limit}}",
                ),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Limits without the store",
            "What the outage policy admitted and refused.",
            (Query(_total(_LIMIT, 'outcome=~"outage_.*"', by="limit, outcome"), "{{limit}} {{outcome}}"),),
            unit="reqps",
        ),
    ),
)

_LATENCY = Row(
    "Latency of decisions",
    (
        Panel(
            "How long decisions take",
            "From a request read to its verdict. Below some 100 µs it is memory, above it the store.",
            _by("le", "portcullis_decision_seconds_bucket"),
            Shape.HEAT,
            "s",
            width=12,
        ),
        Panel(
            "Quantiles",
            "Half, 99 % and 99.9 % of the decisions take less.",
            _quantiles("portcullis_decision_seconds", 0.5, 0.99, 0.999),
            unit="s",
            width=6,
        ),
        Panel(
            "Slower than 20.48 ms",
            "Part of the decisions; the objective allows 0.1 %, and the alerts look at this over hours.",
            (
                Query(
                    'portcullis:decisions_slow:ratio_rate5m{job=~"$job", namespace=~"$namespace"}', "5 min"
                ),
                Query('portcullis:decisions_slow:ratio_rate1h{job=~"$job", namespace=~"$namespace"}', "1 h"),
            ),
            unit="percentunit",
            width=6,
        ),
    ),
)

_STORE = Row(
    "Store",
    (
        Panel("Answers", "1 while the store answers a gate.", _each("portcullis_store_up"), most=1, width=6),
        Panel(
            "Time of a call",
            "From a batch sent to its answer: half and 99 % take less.",
            _quantiles("portcullis_store_seconds", 0.5, 0.99),
            unit="s",
            width=6,
        ),
        Panel(
            "Errors",
            "Calls without a usable answer.",
            _by("kind", "portcullis_store_errors_total"),
            unit="cps",
            width=6,
        ),
        Panel(
            "Decided without the store",
            "Part of the requests: above nothing only in an outage, or where `store.deadline_ms` is too short.",
            (Query(_share('source="outage"'), "outage policy"),),
            unit="percentunit",
            most=1,
            width=6,
        ),
    ),
)

_LEDGER = Row(
    "Ledger",
    (
        Panel(
            "Store calls per decision",
            "Far below 1: batches are shared, permits leased, refusals remembered.",
            (
                Query(
                    f"{_total('portcullis_store_seconds_count')} / {_total(_DECISIONS)}", "calls per decision"
                ),
            ),
            width=6,
        ),
        Panel(
            "Counters per call",
            "How well the calls are shared.",
            (
                Query(
                    f"{_total('portcullis_store_batch_size_sum')} / {_total('portcullis_store_batch_size_count')}",
                    "mean",
                ),
                *_quantiles("portcullis_store_batch_size", 0.99),
            ),
            width=6,
        ),
        Panel(
            "What decides",
            "Memory: permits in hand, closed counters, rules. Store: somebody waited. Outage: its policy.",
            _by("source", _DECISIONS),
            unit="reqps",
            stacked=True,
            width=6,
        ),
        Panel(
            "Counters in memory",
            "Subjects that were active of late, times the limits that concern them.",
            _each("portcullis_ledger_counters"),
            width=6,
        ),
    ),
)

_CONTROL = Row(
    "Control",
    (
        Panel(
            "Epoch",
            "The changes by operators that are in force; the same at every gate.",
            _each("portcullis_control_epoch"),
            width=6,
        ),
        Panel(
            "Lag",
            "Since a gate last knew that its control state is current; below a second or two.",
            _each("portcullis_control_lag_seconds"),
            unit="s",
            width=6,
        ),
        Panel(
            "Attack mode, stale control state",
            "1 where it is so.",
            (
                Query("portcullis_attack_mode{$gates}", "attack mode {{instance}}"),
                Query("portcullis_control_stale{$gates}", "stale {{instance}}"),
            ),
            most=1,
            width=6,
        ),
        Panel(
            "Wrong admin tokens",
            "Requests to the admin plane that were refused.",
            _by("instance", "portcullis_admin_refusals_total"),
            unit="reqps",
            width=6,
        ),
        Panel(
            "Configurations in force",
            "How many different ones; 1, but for the time of a roll-out.",
            (Query('count(count_values("digest", portcullis_config_digest{$gates}))', "configurations"),),
            width=12,
        ),
        Panel(
            "Reloads",
            "Attempts to read the configuration again a second, and gates that refused theirs.",
            (
                *_by("outcome", "portcullis_config_reloads_total"),
                Query("sum(1 - portcullis_config_last_reload_ok{$gates})", "gates that refused theirs"),
            ),
            width=12,
        ),
    ),
)

_FLEET = Row(
    "Fleet",
    (
        Panel(
            "Versions",
            "What runs where.",
            (Query("sum by (instance, version) (portcullis_build_info{$gates})"),),
            Shape.TABLE,
        ),
        Panel(
            "Gates and workers",
            "Reached, not reached, the processes that decide, and how many of these ended and were replaced.",
            (
                Query("sum(up{$gates})", "gates"),
                Query("sum(1 - up{$gates})", "not reached"),
                Query("sum(portcullis_workers{$gates})", "workers"),
                Query("sum(portcullis_worker_restarts_total{$gates})", "replaced"),
            ),
        ),
        Panel(
            "Connections",
            "Open ones of the proxies, against `listen.max_connections` of each worker.",
            _each("portcullis_connections"),
        ),
        Panel(
            "Memory, part of what there may be",
            "Of the container with all its processes, or of the machine; at 100 % the kernel ends the gate.",
            (
                Query(
                    "portcullis_memory_used_bytes{$gates} / portcullis_memory_limit_bytes{$gates}",
                    "{{instance}}",
                ),
            ),
            unit="percentunit",
            most=1,
        ),
        Panel(
            "Memory",
            "Resident, of the process that answers Prometheus: the gate, or the parent of its workers.",
            _each("process_resident_memory_bytes"),
            unit="bytes",
        ),
        Panel(
            "Processor",
            "Cores that this process uses; a worker has one at most.",
            (Query(_rate("process_cpu_seconds_total"), "{{instance}}"),),
        ),
    ),
)

ROWS: Final = (_NOW, _TRAFFIC, _LIMITS, _LATENCY, _STORE, _LEDGER, _CONTROL, _FLEET)
