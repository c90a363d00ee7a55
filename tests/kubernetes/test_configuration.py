"""What the rendered ConfigMaps say fits the pods that mount them, and passes whoever reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml

from sidecar.config import Config, TcpEndpoint, load
from sidecar.document.notations import UnixEndpoint
from tests.kubernetes.pod_here import PodHere
from tests.kubernetes.rendered import K8S, OVERLAYS, PROXIES, gates, one, overlay
from tests.servers import executable

SECRET: Final = {"hash-key": "k" * 32, "admin-tokens": "alice admin " + "a" * 32, "operator-token": "a" * 32}
SIDECARS: Final = [name for name in OVERLAYS if name.endswith("-sidecar")]


def configured(name: str, directory: Path) -> Config:
    """What the gate reads of an overlay's ConfigMap. Raises ConfigError as `portcullis config check` would tell."""
    document = directory / "portcullis.yaml"
    document.write_text(one(overlay(name), "ConfigMap", "portcullis")["data"]["portcullis.yaml"])
    return load(document, {})


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_document_is_good_and_its_ports_are_the_pods(name: str, directory: Path) -> None:
    listen, ports = configured(name, directory).listen, gates(overlay(name)).ports()
    open_to_others = [*listen.check, *([listen.health] if listen.health else [])]

    assert listen.health == TcpEndpoint("0.0.0.0", ports["health"])
    assert isinstance(listen.admin, TcpEndpoint)
    assert listen.admin.host == "127.0.0.1"
    for endpoint in open_to_others:
        if isinstance(endpoint, TcpEndpoint):
            assert endpoint.port in ports.values()


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_gate_writes_into_mounted_directories(name: str, directory: Path) -> None:
    config, gate = configured(name, directory), gates(overlay(name)).container("portcullis")
    writable = {mount["mountPath"] for mount in gate["volumeMounts"] if not mount.get("readOnly")}
    sockets = {str(each.path.parent) for each in config.listen.check if isinstance(each, UnixEndpoint)}

    assert writable == {str(config.state_dir), *sockets}


@pytest.mark.parametrize("name", SIDECARS)
def test_the_proxy_asks_over_the_socket_that_both_mount(name: str, directory: Path) -> None:
    (endpoint,) = configured(name, directory).listen.check
    assert isinstance(endpoint, UnixEndpoint)
    proxy = gates(overlay(name)).container(name.removesuffix("-sidecar"))

    mounts = [
        next(m["name"] for m in each["volumeMounts"] if m["mountPath"] == str(endpoint.path.parent))
        for each in (gates(overlay(name)).container("portcullis"), proxy)
    ]
    assert mounts[0] == mounts[1]


@pytest.mark.parametrize("name", OVERLAYS)
def test_there_is_time_to_end(name: str, directory: Path) -> None:
    found = gates(overlay(name))
    waits = {
        each["name"]: each.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        for each in found.lasting()
    }
    grace_s = configured(name, directory).listen.grace_s

    assert found.spec["terminationGracePeriodSeconds"] > max(waits.values()) + grace_s


@pytest.mark.parametrize("name", SIDECARS)
def test_the_gate_begins_before_the_proxy_and_ends_after_it(name: str) -> None:
    """https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/"""
    gate = gates(overlay(name)).container("portcullis")

    assert gate in gates(overlay(name)).spec["initContainers"]
    assert gate["restartPolicy"] == "Always"
    assert gate["startupProbe"]["httpGet"]["path"] == "/readyz"


def test_both_ways_to_deploy_run_the_same_gate() -> None:
    sidecar, standalone = (
        gates(overlay(name)).container("portcullis") for name in ("nginx-sidecar", "standalone")
    )

    for key in ("image", "args", "env", "securityContext", "startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[key] == standalone[key]
    assert (
        one(overlay("nginx-sidecar"), "ConfigMap", "portcullis")["data"]["cli.yaml"]
        == one(overlay("standalone"), "ConfigMap", "portcullis")["data"]["cli.yaml"]
    )


def test_the_shipped_proxies_ask_the_service_there_is(directory: Path) -> None:
    service = one(overlay("standalone"), "Service", "portcullis")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local"
    port = service["spec"]["ports"][0]["port"]
    texts = {path.name: path.read_text() for path in PROXIES}

    assert configured("standalone", directory).fronts.envoy_address == "forwarded", (
        "Istio and Envoy Gateway send no X-Real-IP"
    )
    assert f"http://{host}:{port}/auth/nginx" in texts["ingress-nginx-ingress.yaml"]
    assert f"http://{host}:{port}/auth/forward" in texts["traefik-middleware.yaml"]
    istio = yaml.safe_load(texts["istio-istiooperator.yaml"])["spec"]["meshConfig"]["extensionProviders"][0]
    policy = yaml.safe_load(texts["istio-authorizationpolicy.yaml"])["spec"]
    asked = istio["envoyExtAuthzHttp"]
    assert (asked["service"], asked["port"], asked["pathPrefix"]) == (host, port, "/auth/envoy")
    assert policy["provider"]["name"] == istio["name"]
    gateway = yaml.safe_load(texts["envoy-gateway-securitypolicy.yaml"])["spec"]["extAuth"]["http"]
    assert gateway["backendRefs"] == [{"name": "portcullis", "namespace": "portcullis", "port": port}]
    assert gateway["path"] == "/auth/envoy"


def test_the_gate_is_shown_the_same_headers_whichever_envoy_asks() -> None:
    """As in fronts/envoy.yaml; but these know no early mutation that would say the length, and no X-Real-IP."""
    shipped = yaml.safe_load((K8S / "fronts" / "envoy.yaml").read_text())["static_resources"]["listeners"][0]
    (manager,) = shipped["filter_chains"][0]["filters"]
    (asks,) = (
        each["typed_config"]
        for each in manager["typed_config"]["http_filters"]
        if each["name"] == "envoy.filters.http.ext_authz"
    )
    names = {each["exact"] for each in asks["allowed_headers"]["patterns"]} - {"x-original-length"} | {
        "x-forwarded-for"
    }
    gateway, istio = (
        yaml.safe_load(path.read_text())["spec"]
        for path in PROXIES
        if path.name in {"envoy-gateway-securitypolicy.yaml", "istio-istiooperator.yaml"}
    )

    assert set(gateway["extAuth"]["headersToExtAuth"]) == names
    (provider,) = istio["meshConfig"]["extensionProviders"]
    assert set(provider["envoyExtAuthzHttp"]["includeRequestHeadersInCheck"]) == names


# --- the proxies' own word ----------------------------------------------------------


def test_nginx_takes_what_its_pod_makes_of_the_shipped_file(directory: Path) -> None:
    pod = PodHere(gates(overlay("nginx-sidecar")), overlay("nginx-sidecar"), directory, SECRET)
    pod.run("nginx-conf")

    made = (directory / "nginx-conf" / "nginx.conf").read_text()
    assert f"server unix:{directory}/portcullis-socket/check.sock;" in made
    assert f"listen {pod.port('http')};" in made
    ran = subprocess.run(
        (executable("nginx"), "-t", "-q", "-e", "stderr", "-c", str(directory / "nginx-conf" / "nginx.conf")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_envoy_takes_what_its_pod_makes_of_the_shipped_file(directory: Path) -> None:
    pod = PodHere(gates(overlay("envoy-sidecar")), overlay("envoy-sidecar"), directory, SECRET)
    pod.run("envoy-yaml")

    made = yaml.safe_load((directory / "envoy-yaml" / "envoy.yaml").read_text())
    (gate,) = (each for each in made["static_resources"]["clusters"] if each["name"] == "gate")
    assert gate["type"] == "STATIC"
    assert f"{directory}/portcullis-socket/check.sock" in str(gate)
    ran = subprocess.run(
        (executable("envoy"), "--mode", "validate", "-c", str(directory / "envoy-yaml" / "envoy.yaml")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_an_edited_file_never_starts_with_half_of_its_addresses(directory: Path) -> None:
    pod = PodHere(gates(overlay("nginx-sidecar")), overlay("nginx-sidecar"), directory, SECRET)
    files = dict(one(overlay("nginx-sidecar"), "ConfigMap", "portcullis-nginx")["data"])
    pod.fill("fronts", {**files, "nginx.conf": files["nginx.conf"].replace("listen 80;", "listen 81;")})

    with pytest.raises(AssertionError, match="expected once"):
        pod.run("nginx-conf")
    assert not (directory / "nginx-conf" / "nginx.conf").exists()
