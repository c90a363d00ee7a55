"""The rendered nginx pod, run here and watched: a real Prometheus with the shipped scrapes and rules tells an
operator of its traffic, and of attack mode that was switched on from within the container.

Kubernetes' part is played by the test: it says which ports the pod's containers have, as discovery would. Rules look
at one job, which `scrape.yaml` names; what `scrape-pods.yaml` finds has another here (`monitoring.prometheus`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from tests.kubernetes.pod_here import PodHere
from tests.kubernetes.rendered import one, overlay
from tests.kubernetes.test_pod_live import Running, running
from tests.monitoring.prometheus import Labels, Prometheus, prometheus
from tests.servers import eventually

META: Final = "__meta_kubernetes_"
NAME: Final = "gateway-6f7d9c5b4-x2x7k"
ALERT: Final = "PortcullisAttackModeOn"


class Watched(NamedTuple):
    here: Running
    monitor: Prometheus

    @property
    def health(self) -> str:
        return f"127.0.0.1:{self.here.pod.port('health')}"

    def gate_says(self, metric: str) -> list[float]:
        """What Prometheus has of the one gate now; nothing when its last scrape failed."""
        of_the_gate = f'{{job="portcullis", instance="{self.health}"}}'
        lines = self.monitor.now(f"{metric}{of_the_gate} and on (job, instance) up{of_the_gate} == 1")
        return [line.values[0] for line in lines]


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """The pod and its Prometheus; who uses it leaves attack mode off."""
    with (
        running() as here,
        prometheus([f"127.0.0.1:{here.pod.port('health')}"], _discovered(here.pod)) as monitor,
    ):
        found = Watched(here, monitor)
        eventually(lambda: found.gate_says("portcullis_attack_mode") == [0], "the pod is scraped")
        yield found


def _discovered(pod: PodHere) -> list[Labels]:
    """What Prometheus' discovery of pods makes of this one: a target for each port of each container, the sidecar's
    among them, which Kubernetes has as an init container; and one without a port for a container that has none."""
    namespace = one(overlay("nginx-sidecar"), "Deployment", "gateway")["metadata"]["namespace"]
    found: list[Labels] = []
    for container in pod.pods.containers():
        about = {
            f"{META}namespace": namespace,
            f"{META}pod_name": NAME,
            f"{META}pod_phase": "Running",
            f"{META}pod_container_name": container["name"],
        }
        ports = container.get("ports", ())
        found += [
            {
                **about,
                "__address__": f"127.0.0.1:{pod.port(port['name'])}",
                f"{META}pod_container_port_name": port["name"],
            }
            for port in ports
        ] or [{**about, "__address__": "127.0.0.1"}]
    return found


def test_prometheus_finds_the_gates_port_among_all_of_the_pod(watched: Watched) -> None:
    eventually(lambda: bool(watched.monitor.now('up{job="pods"} == 1')), "a port of the pod is scraped")
    targets = watched.monitor.get("targets", state="active")["activeTargets"]
    found = [target["labels"] for target in targets if target["scrapePool"] == "pods"]

    assert found == [{"instance": watched.health, "job": "pods", "namespace": "gateway", "pod": NAME}]


def test_prometheus_counts_what_clients_of_the_pod_are_told(watched: Watched) -> None:
    before = _counted(watched.monitor)
    told = watched.here.statuses("127.0.9.20", most=300)

    assert set(told) == {200, 429}
    after = {"ok": before.get("ok", 0) + told[200], "rate_limited": before.get("rate_limited", 0) + told[429]}
    eventually(lambda: after.items() <= _counted(watched.monitor).items(), f"Prometheus has {after}")


def _counted(monitor: Prometheus) -> dict[str, float]:
    """Decisions by reason as of the last scrape that did not fail."""
    last = 'last_over_time(portcullis_decisions_total{job="portcullis", front="nginx"}[5m])'
    return {line.labels["reason"]: line.values[0] for line in monitor.now(f"sum by (reason) ({last})")}


def test_attack_mode_of_the_pod_alarms_until_it_is_off(watched: Watched) -> None:
    assert ALERT not in watched.monitor.firing()

    said = watched.here.exec("attack", "on", "--reason", "flood", "--wait")
    assert "attack mode is on" in said
    assert watched.here.statuses("127.0.9.21", most=1) == {503: 1}
    notes = watched.monitor.wait_for(ALERT)[ALERT]
    assert notes["summary"] == "Attack mode is on"

    watched.here.exec("attack", "off", "--reason", "over", "--wait")
    watched.monitor.wait_for_end(ALERT)
    # It ended because the gate says so, not because nobody hears the gate any more; a scrape may fail meanwhile.
    eventually(lambda: watched.gate_says("portcullis_attack_mode") == [0], "the gate says that it is off")
    assert watched.here.statuses("127.0.9.21", most=1) == {200: 1}
