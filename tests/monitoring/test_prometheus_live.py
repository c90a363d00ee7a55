"""Gates, a store and a Prometheus with the shipped files: what an operator sees of traffic, an attack and an outage.

One story is told once; the tests read what Prometheus has of it. That an alert stays silent, and those that take
hours, are promtool's (`test_rules`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from k8s.components.monitoring.dashboard import query
from k8s.components.monitoring.panels import ROWS, Panel, Query
from tests.gates import Gate, gate
from tests.monitoring.prometheus import Labels, Prometheus, prometheus
from tests.operators import attack
from tests.servers import eventually
from tests.stores import valkey
from tests.traffic import traffic

DEADLINE_MS = 400
DOCUMENT = """
limits:
  - {name: tight, per: [ip], permits: 60, window: 10m, match: {paths: ["/tight"]}}
  - {name: wide, per: [ip], permits: 1000000, window: 10m, lease: never, match: {paths: ["/wide"]}}
  - {name: trial, per: [ip], permits: 1, window: 10m, mode: shadow}
"""
BROKEN = "limits: [{name: tight, per: [planet], permits: 60, window: 10m}]\n"

META = "__meta_kubernetes_"

# What is 0 in this story, by panel or legend; everything else that the dashboard shows was above 0 once.
NEVER = {"stale {{instance}}", "replaced"}

# How slow this machine is, how much memory others take, and that Prometheus looks for its first targets only after
# some seconds, which are minutes here.
NOT_THE_GATES = {
    "PortcullisLatencyBurnsFast",
    "PortcullisLatencyBurnsSlowly",
    "PortcullisMemoryNearLimit",
    "PortcullisAbsent",
}


@dataclass(frozen=True)
class Story:
    """What happened.

    `asked` requests were answered, `counted` is what Prometheus then had of them, by reason; `alerts` is what
    each alert said when it fired.
    """

    gates: tuple[Gate, Gate]
    monitor: Prometheus
    asked: int
    counted: dict[str, float]
    alerts: dict[str, Labels]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """Traffic that is half refused, an outage, a broken document, an attack, and the end of one gate."""
    with (
        valkey() as store,
        gate(DOCUMENT, store_url=store.url(), deadline_ms=DEADLINE_MS) as first,
        gate(DOCUMENT, store_url=store.url(), deadline_ms=DEADLINE_MS) as second,
        prometheus(_addresses(first, second), _pods(first)) as monitor,
    ):
        fired: dict[str, Labels] = {}
        with traffic(first, second, paths=["/tight", "/wide"], connections=1) as asked:
            eventually(lambda: len(monitor.now('up{job="portcullis"} == 1')) == 2, "both gates are scraped")
            eventually(lambda: any(told.status == 429 for told in asked.told), "a limit refuses")
            with store.server.paused():
                fired |= monitor.wait_for("PortcullisStoreSilent", "PortcullisOutagePolicyDecides")
            monitor.wait_for_end("PortcullisStoreSilent", "PortcullisOutagePolicyDecides")

            good = second.document.read_text()
            second.document.write_text(BROKEN)
            fired |= monitor.wait_for("PortcullisConfigurationRejected")
            second.document.write_text(good)
            monitor.wait_for_end("PortcullisConfigurationRejected")
            # Their ports differ, so their configurations do.
            fired |= monitor.wait_for("PortcullisRefusalsHigh", "PortcullisConfigurationsDiffer")

            attack(store, True)
            fired |= monitor.wait_for("PortcullisAttackModeOn")
            attack(store, False)
            monitor.wait_for_end("PortcullisAttackModeOn")
            first.admin("/v1/attack", token="wrong")
        requests = len(asked.told)
        eventually(lambda: sum(_counted(monitor).values()) >= requests, "every request is counted")
        counted = _counted(monitor)
        second.server.kill()
        fired |= monitor.wait_for("PortcullisDown")
        yield Story((first, second), monitor, requests, counted, fired)


def _addresses(*gates: Gate) -> list[str]:
    return [f"127.0.0.1:{each.admin_port}" for each in gates]


def _pods(of: Gate) -> list[Labels]:
    """What Kubernetes would tell of a pod with a gate, and of others."""

    def port(pod: str, container: str, name: str, phase: str = "Running") -> Labels:
        return {
            "__address__": f"127.0.0.1:{of.admin_port}",
            f"{META}namespace": "shop",
            f"{META}pod_name": pod,
            f"{META}pod_phase": phase,
            f"{META}pod_container_name": container,
            f"{META}pod_container_port_name": name,
        }

    return [
        port("cart-1", "portcullis", "health"),
        port("cart-1", "portcullis", "check"),
        port("cart-1", "cart", "health"),
        port("cart-0", "portcullis", "health", "Succeeded"),
    ]


def _counted(monitor: Prometheus) -> dict[str, float]:
    found = monitor.now('sum by (reason) (portcullis_decisions_total{job="portcullis"})')
    return {line.labels["reason"]: line.values[0] for line in found}


def test_it_has_every_series_that_a_gate_shows(story: Story) -> None:
    text = story.gates[0].admin("/metrics", token=None).body.decode()
    shown = {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }

    named = story.monitor.now('group by (__name__) ({job="portcullis"})')

    assert len(shown) > 30
    assert shown <= {line.labels["__name__"] for line in named}


def test_it_counts_what_the_gates_answered(story: Story) -> None:
    happened = {reason for reason, count in story.counted.items() if count}

    assert happened == {"ok", "rate_limited", "attack_mode"}
    assert sum(story.counted.values()) == story.asked


def test_each_alert_fires_when_its_time_has_come(story: Story) -> None:
    firings = story.monitor.so_far('ALERTS{alertname=~"Portcullis.*", alertstate="firing"}')

    assert {line.labels["alertname"] for line in firings} >= set(story.alerts)
    assert len(story.alerts) == 7


def test_an_alert_says_who_and_how_much(story: Story) -> None:
    second = _addresses(*story.gates)[1]

    for name, notes in story.alerts.items():
        said = " ".join(notes.values())
        assert "{{" not in said, name
        assert "no value" not in said, name
        assert "error" not in said, name
    assert second in story.alerts["PortcullisDown"]["description"]
    assert second in story.alerts["PortcullisConfigurationRejected"]["description"]
    assert "%" in story.alerts["PortcullisOutagePolicyDecides"]["description"]


def test_only_what_happened_alarms(story: Story) -> None:
    firings = story.monitor.so_far('ALERTS{alertname=~"Portcullis.*", alertstate="firing"}')

    assert {line.labels["alertname"] for line in firings} - NOT_THE_GATES == set(story.alerts)


def test_it_evaluates_every_rule(story: Story) -> None:
    rules = [rule for group in story.monitor.get("rules")["groups"] for rule in group["rules"]]

    assert rules
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}


def test_it_finds_the_gates_among_the_pods(story: Story) -> None:
    found = [
        target["labels"]
        for target in story.monitor.get("targets", state="active")["activeTargets"]
        if target["scrapePool"] == "pods"
    ]

    instance = _addresses(story.gates[0])[0]
    assert found == [{"instance": instance, "job": "pods", "namespace": "shop", "pod": "cart-1"}]


@pytest.mark.parametrize(
    ("panel", "shown"),
    [
        pytest.param(panel, shown, id=f"{panel.title}-{at}")
        for row in ROWS
        for panel in row.panels
        for at, shown in enumerate(panel.queries)
    ],
)
def test_the_dashboard_shows_what_happened(story: Story, panel: Panel, shown: Query) -> None:
    expr = query(shown.expr).replace("$__rate_interval", "1s")
    for name, chosen in (("job", "portcullis"), ("namespace", ".*"), ("instance", ".+")):
        expr = expr.replace(f"${name}", chosen)

    lines = story.monitor.so_far(expr)

    assert "$" not in expr
    assert any(line.values for line in lines), f"{panel.title}: no data"
    highest = max(max(line.values, default=0) for line in lines)
    assert (highest > 0) != (shown.legend in NEVER)
