"""The rendered pods, run here: nginx asks the gate over their socket, the gate counts in the Valkey of its component.

What `pod_here` cannot do is named there. Started and ended in kubelet's order: init containers, the sidecar when
it is ready, then the others; at the end the others first, the sidecar last.
"""

from __future__ import annotations

import json
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Final

import pytest
import redis

from tests.application import application
from tests.fronts.shipped import Client
from tests.kubernetes.pod_here import PodHere
from tests.kubernetes.rendered import gates, one, overlay, pods
from tests.servers import END_WITHIN_S, Server, accepts, ask, eventually, short_directory

TOKEN: Final = "an-operators-token-of-more-than-enough-length"


@dataclass(frozen=True)
class Running:
    pod: PodHere
    store: PodHere
    gate: Server
    proxy: Server
    secret: dict[str, str]

    @property
    def port(self) -> int:
        return self.pod.port("http")

    def exec(self, *arguments: str) -> str:
        """`kubectl exec … -c portcullis -- portcullis …`"""
        return self.pod.run("portcullis", *arguments, env=self.pod.env("portcullis", self.secret))

    def statuses(self, address: str, *, most: int) -> Counter[int]:
        """What one client is answered, until it is refused."""
        client, found = Client(self.port, address), Counter[int]()
        try:
            while found.total() < most and set(found) <= {200}:
                found[client.ask().status] += 1
        finally:
            client.close()
        return found


@contextmanager
def running(name: str = "nginx-sidecar") -> Iterator[Running]:
    objects, proxy = overlay(name), name.removesuffix("-sidecar")
    with short_directory() as directory, short_directory() as data, application() as behind:
        (made,) = (each for each in pods(objects) if each.owner == "StatefulSet/portcullis-valkey")
        store = PodHere(made, objects, data, {})
        secret = {
            "hash-key": "a-key-for-the-fleet-of-this-test",
            "admin-tokens": f"alice operator {TOKEN}\n",
            "operator-token": f"{TOKEN}\n",
            "store-url": f"redis://127.0.0.1:{store.port('valkey')}/0",
        }
        pod = PodHere(gates(objects), objects, directory, secret, {9000: behind.port})
        for each in pod.pods.spec["initContainers"]:
            if "restartPolicy" not in each:
                pod.run(each["name"])
        if proxy == "nginx":
            _as_this_nginx(directory / "nginx-conf" / "nginx.conf", directory / "nginx-cache")
        with (
            _server(store, "valkey", "valkey", {}, "--bind", "127.0.0.1"),
            _server(pod, "portcullis", "health", secret) as gate,
            _server(pod, proxy, "http", secret) as server,
        ):
            found = Running(pod, store, gate, server, secret)
            # Envoy listens before it knows its clusters.
            eventually(
                lambda: found.statuses("127.0.9.99", most=1) == {200: 1}, f"{proxy} lets a request through"
            )
            yield found


def _server(pod: PodHere, name: str, port: str, secret: dict[str, str], *more: str) -> Server:
    number, probe = pod.port(port), pod.pods.container(name).get("startupProbe", {}).get("httpGet")
    log = pod.directory / f"{name}.log"
    log.touch()
    log.chmod(0o666)  # nginx opens its stdout anew, as a user who does not own it
    return Server(
        name,
        (*pod.command(name), *more),
        directory=pod.directory,
        ready=lambda: accepts(number) and (probe is None or ask(number, probe["path"]).status == 200),
        env=pod.env(name, secret),
        end_within_s=END_WITHIN_S,
    )


def _as_this_nginx(conf: Path, cache: Path) -> None:
    """The image's nginx was built to use /var/cache/nginx, where the pod mounts something; this one was not. And in
    its container it may listen to everybody."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f" {kind}_temp_path {cache}/{kind};" for kind in kinds)
    text, found = re.subn(r"(?m)^http \{", f"http {{{own}", conf.read_text())
    text, listens = re.subn(r"listen (?=\d+;)", "listen 127.0.0.1:", text)
    assert (found, listens) == (1, 1)
    conf.unlink()
    conf.write_text(text)


@pytest.fixture(scope="module")
def here() -> Iterator[Running]:
    """The nginx pod; who uses it leaves it as it was, but for the permits of a client of its own."""
    with running() as found:
        yield found


def test_a_client_gets_its_permits_then_429(here: Running) -> None:
    found = here.statuses("127.0.9.1", most=300)

    assert set(found) == {200, 429}
    with redis.Redis(port=here.store.port("valkey")) as client:
        assert any(b":per-ip:" in key for key in client.scan_iter())
        kept = [client.config_get(name)[name] for name in ("appendonly", "maxmemory-policy", "save")]
    assert kept == ["yes", "noeviction", ""]


def test_the_port_that_prometheus_scrapes_tells_what_was_decided(here: Running) -> None:
    (endpoint,) = one(overlay("standalone"), "PodMonitor", "portcullis")["spec"]["podMetricsEndpoints"]
    scraped = ask(here.pod.port(endpoint["port"]), endpoint["path"])

    assert scraped.status == 200
    assert b'portcullis_decisions_total{allowed="true",front="nginx"' in scraped.body
    assert ask(here.pod.port(endpoint["port"]), "/v1/attack").status == 404


def test_envoy_asks_the_gate_of_its_pod_over_their_socket() -> None:
    with running("envoy-sidecar") as found:
        assert set(found.statuses("127.0.9.4", most=300)) == {200, 429}


def test_an_operator_switches_attack_mode_from_within_the_container(here: Running) -> None:
    said = here.exec("attack", "on", "--reason", "flood", "--wait")

    assert "attack mode is on" in said
    assert here.statuses("127.0.9.2", most=1) == {503: 1}
    here.exec("attack", "off", "--reason", "over", "--wait")
    assert here.statuses("127.0.9.2", most=1) == {200: 1}
    assert '"alice"' in here.exec("audit", "--json")


def test_a_changed_configmap_is_followed_by_the_running_gate(here: Running) -> None:
    files = dict(one(overlay("nginx-sidecar"), "ConfigMap", "portcullis")["data"])
    document, replaced = re.subn(r"permits: \d+", "permits: 0", files["portcullis.yaml"])
    assert replaced == 1

    here.pod.fill("portcullis-config", {**files, "portcullis.yaml": document})
    eventually(lambda: here.statuses("127.0.9.3", most=1) == {429: 1}, "the gate follows the ConfigMap")
    here.pod.fill("portcullis-config", files)
    eventually(lambda: here.statuses("127.0.9.3", most=1) == {200: 1}, "the gate follows it back")


def test_the_containers_run_as_the_users_of_the_pod(here: Running) -> None:
    spec = here.pod.pods.spec["securityContext"]
    status = Path(f"/proc/{here.gate.pid}/status").read_text()
    users = dict(line.split(":", 1) for line in status.splitlines())

    if here.pod.command("portcullis")[0] == "setpriv":
        assert users["Uid"].split() == [str(spec["runAsUser"])] * 4
        assert users["Gid"].split() == [str(spec["runAsGroup"])] * 4
        assert users["Groups"].split() == [str(spec["fsGroup"])]


def test_ending_in_kubelets_order_loses_no_request() -> None:
    """Requests are half sent when the proxy is told to end: it finishes them, and the gate still answers it."""
    with running() as found:
        halves = [_half_sent(found.port, f"127.0.9.{10 + number}") for number in range(8)]

        found.proxy.signal(signal.SIGQUIT)  # the image's STOPSIGNAL
        eventually(lambda: not accepts(found.port), "nginx takes no new connection")
        answers = []
        for connection in halves:
            connection.sendall(b"Host: shop.example\r\n\r\n")
            answers.append(_answer(connection))
            connection.close()
        assert found.proxy.wait(within_s=END_WITHIN_S) == 0
        found.gate.signal(signal.SIGTERM)
        assert found.gate.wait(within_s=END_WITHIN_S) == 0
        last = found.gate.lines()[-1]

    assert [status for status, _ in answers] == [200] * len(halves)
    assert all("RateLimit" in names for _, names in answers), "the gate was asked"
    assert json.loads(last)["event"] == "stopping"


def _half_sent(port: int, address: str) -> socket.socket:
    """A connection with one request answered and half of the next under way, so that nginx does not think it idle."""
    connection = socket.create_connection(
        ("127.0.0.1", port), timeout=END_WITHIN_S, source_address=(address, 0)
    )
    connection.sendall(b"GET /first HTTP/1.1\r\nHost: shop.example\r\n\r\nGET /second HTTP/1.1\r\n")
    assert _answer(connection)[0] == 200
    return connection


def _answer(connection: socket.socket) -> tuple[int, set[str]]:
    response = HTTPResponse(connection)
    response.begin()
    response.read()
    names = {name for name, _ in response.getheaders()}
    response.close()
    return response.status, names
