"""What must hold of every rendered object, whatever the schemas allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from tests.kubernetes.rendered import OVERLAYS, Pods, all_of, gates, one, overlay, pods

Container = Mapping[str, Any]

VOLUMES: Final = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""What the `restricted` pod security level lets a pod mount."""

EVERY_POD: Final = [
    pytest.param(name, each, id=f"{name}-{each.owner.rpartition('/')[2]}")
    for name in OVERLAYS
    for each in pods(overlay(name))
]
EVERY_CONTAINER: Final = [
    pytest.param(each, container, id=f"{name}-{container['name']}")
    for name in OVERLAYS
    for each in pods(overlay(name))
    for container in each.containers()
]
EVERY_LASTING: Final = [
    pytest.param(container, id=f"{name}-{container['name']}")
    for name in OVERLAYS
    for each in pods(overlay(name))
    for container in each.lasting()
]


# --- pods -----------------------------------------------------------------------


@pytest.mark.parametrize(("pods", "container"), EVERY_CONTAINER)
def test_it_passes_the_restricted_level(pods: Pods, container: Container) -> None:
    """The controls of https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    pod, own = pods.spec["securityContext"], container["securityContext"]
    volumes = [set(volume) - {"name"} for volume in pods.spec.get("volumes", ())]

    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pods.spec)
    assert not {"privileged", "procMount", "seLinuxOptions", "windowsOptions"} & set(own)
    assert not pod.get("sysctls")
    assert not any("hostPort" in port for port in container.get("ports", ()))
    assert all(kinds <= VOLUMES for kinds in volumes), volumes
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert pod["runAsNonRoot"] is True
    assert own.get("runAsNonRoot", True)
    assert own.get("runAsUser", pod["runAsUser"]) > 0
    assert own.get("seccompProfile", pod["seccompProfile"]) == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_has_its_namespace_hold_it_to_that_level(name: str) -> None:
    (namespace,) = all_of(overlay(name), "Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for item in overlay(name):
        assert item["kind"] == "Namespace" or item["metadata"]["namespace"] == namespace["metadata"]["name"]


@pytest.mark.parametrize(("pods", "container"), EVERY_CONTAINER)
def test_it_writes_only_where_something_is_mounted(pods: Pods, container: Container) -> None:
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(("pods", "container"), EVERY_CONTAINER)
def test_it_says_what_it_needs_and_what_it_may_take(pods: Pods, container: Container) -> None:
    resources = container["resources"]

    assert set(resources["requests"]) == set(resources["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("container", EVERY_LASTING)
def test_it_is_probed(container: Container) -> None:
    named = {port["name"] for port in container["ports"]}

    assert {"readinessProbe", "livenessProbe"} <= set(container)
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        for how in ("httpGet", "tcpSocket"):
            asked = container.get(kind, {}).get(how)
            assert asked is None or asked["port"] in named, f"{kind} asks a port that the container has not"


@pytest.mark.parametrize(("pods", "container"), EVERY_CONTAINER)
def test_it_names_its_version(pods: Pods, container: Container) -> None:
    image, _, tag = container["image"].partition(":")

    assert tag, f"{image} has no tag"
    assert re.search(r"\d+\.\d+\.\d+", tag), f"{tag} is no version"


@pytest.mark.parametrize(("pods", "container"), EVERY_CONTAINER)
def test_it_mounts_what_there_is(pods: Pods, container: Container) -> None:
    volumes = {volume["name"] for volume in pods.spec.get("volumes", ())} | {"data"}

    assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


@pytest.mark.parametrize(("name", "pods"), EVERY_POD)
def test_it_holds_no_key_to_the_api_server(name: str, pods: Pods) -> None:
    assert pods.spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize(("name", "pods"), EVERY_POD)
def test_its_references_lead_somewhere(name: str, pods: Pods) -> None:
    objects = overlay(name)
    maps = {item["metadata"]["name"] for item in all_of(objects, "ConfigMap")}
    accounts = {item["metadata"]["name"] for item in all_of(objects, "ServiceAccount")}

    for volume in pods.spec.get("volumes", ()):
        if "configMap" in volume:
            assert volume["configMap"]["name"] in maps
        if "secret" in volume:
            assert volume["secret"]["secretName"] == "portcullis"
    assert pods.spec.get("serviceAccountName") in {None, *accounts}


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_ships_no_secret(name: str) -> None:
    assert not all_of(overlay(name), "Secret")


# --- who belongs to whom ----------------------------------------------------------


@pytest.mark.parametrize(("name", "pods"), EVERY_POD)
def test_a_workload_selects_its_own_pods_and_no_others(name: str, pods: Pods) -> None:
    assert [each.owner for each in _selected(name, pods.selector)] == [pods.owner]


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_service_selects_pods_that_have_its_ports(name: str) -> None:
    for service in all_of(overlay(name), "Service"):
        (behind,) = _selected(name, service["spec"]["selector"])

        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(behind.ports())


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_disruption_budget_and_the_spread_are_about_the_gates(name: str) -> None:
    found = gates(overlay(name))
    budgets = all_of(overlay(name), "PodDisruptionBudget")

    assert [budget["spec"]["selector"]["matchLabels"] for budget in budgets] == [found.selector]
    for constraint in found.spec["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == found.selector


def test_the_autoscaler_scales_the_gate_by_its_own_cpu() -> None:
    (autoscaler,) = all_of(overlay("standalone"), "HorizontalPodAutoscaler")
    target = autoscaler["spec"]["scaleTargetRef"]
    deployment = one(overlay("standalone"), target["kind"], target["name"])

    assert "replicas" not in deployment["spec"], "applying the files again would undo what the autoscaler did"
    (metric,) = autoscaler["spec"]["metrics"]
    gates(overlay("standalone")).container(metric["containerResource"]["container"])
    assert autoscaler["spec"]["minReplicas"] >= 2


def test_prometheus_finds_every_gate() -> None:
    monitor = one(overlay("standalone"), "PodMonitor", "portcullis")
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]

    assert expression == {"key": "portcullis/gate", "operator": "Exists"}
    for name in OVERLAYS:
        found = gates(overlay(name))
        assert expression["key"] in found.labels
        assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= set(found.ports())


# --- who reaches whom -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "port", "labels", "namespace", "reaches"),
    [
        ("nginx-sidecar", "http", {}, {}, True),
        ("nginx-sidecar", "application", {}, {}, False),
        ("nginx-sidecar", "health", {}, {}, False),
        (
            "nginx-sidecar",
            "health",
            {"app.kubernetes.io/name": "prometheus"},
            {"kubernetes.io/metadata.name": "monitoring"},
            True,
        ),
        ("envoy-sidecar", "http", {}, {}, True),
        ("envoy-sidecar", "application", {}, {}, False),
        ("standalone", "check", {}, {}, False),
        ("standalone", "check", {}, {"portcullis/asks": "yes"}, True),
        ("standalone", "health", {}, {"portcullis/asks": "yes"}, False),
        (
            "standalone",
            "health",
            {"app.kubernetes.io/name": "prometheus"},
            {"kubernetes.io/metadata.name": "monitoring"},
            True,
        ),
    ],
)
def test_the_network_lets_to_the_gates_only_who_should(
    name: str, port: str, labels: Mapping[str, str], namespace: Mapping[str, str], reaches: bool
) -> None:
    assert port in gates(overlay(name)).ports()

    assert _lets_in(name, gates(overlay(name)), port, labels, namespace) is reaches


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_gates_reach_the_store(name: str) -> None:
    (store,) = (each for each in pods(overlay(name)) if each.owner == "StatefulSet/portcullis-valkey")

    assert _lets_in(name, store, "valkey", gates(overlay(name)).labels, None)
    assert not _lets_in(name, store, "valkey", {"app.kubernetes.io/name": "application"}, None)
    assert not _lets_in(
        name, store, "valkey", gates(overlay(name)).labels, {"kubernetes.io/metadata.name": "elsewhere"}
    )


def test_the_standalone_gates_may_ask_the_store_and_names_alone() -> None:
    (policy,) = (
        item
        for item in all_of(overlay("standalone"), "NetworkPolicy")
        if item["spec"]["podSelector"]["matchLabels"] == gates(overlay("standalone")).selector
    )

    assert "Egress" in policy["spec"]["policyTypes"]
    assert sorted(port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]) == [
        53,
        53,
        6379,
    ]


def _selected(name: str, selector: Mapping[str, str]) -> list[Pods]:
    return [each for each in pods(overlay(name)) if selector.items() <= each.labels.items()]


def _lets_in(
    name: str, target: Pods, port: str, labels: Mapping[str, str], namespace: Mapping[str, str] | None
) -> bool:
    """Whether the policies let a pod with these labels, in such a namespace, to a port; None is the target's own."""
    about = [
        item["spec"]
        for item in all_of(overlay(name), "NetworkPolicy")
        if item["spec"]["podSelector"]["matchLabels"].items() <= target.labels.items()
    ]
    rules = [rule for policy in about for rule in policy.get("ingress", ())]
    assert about, f"no policy is about {target.owner}: everybody reaches it"
    return any(
        port in {each["port"] for each in rule["ports"]}
        and ("from" not in rule or any(_is_from(peer, labels, namespace) for peer in rule["from"]))
        for rule in rules
    )


def _is_from(peer: Mapping[str, Any], labels: Mapping[str, str], namespace: Mapping[str, str] | None) -> bool:
    if "namespaceSelector" not in peer and namespace is not None:
        return False
    return _matches(peer.get("podSelector", {}), labels) and _matches(
        peer.get("namespaceSelector", {}), namespace or {}
    )


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    present: Iterator[bool] = (
        each["key"] in labels for each in selector.get("matchExpressions", ()) if each["operator"] == "Exists"
    )
    return selector.get("matchLabels", {}).items() <= labels.items() and all(present)
