"""What kustomize makes of the shipped overlays, as plain objects, and where things stand in them.

`kustomize`, or the one inside kubectl, renders; without either a test fails with the way to get it. What must
hold of the objects is in the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

K8S: Final = Path(__file__).resolve().parent.parent.parent / "k8s"
OVERLAYS: Final = ("nginx-sidecar", "envoy-sidecar", "standalone")
PROXIES: Final = tuple(sorted((K8S / "overlays" / "standalone" / "proxies").glob("*.yaml")))
"""The objects that make a proxy elsewhere in the cluster ask the standalone gates: one ready file each."""

Object = Mapping[str, Any]


def render(folder: Path) -> tuple[Object, ...]:
    """The objects of a kustomization. Raises AssertionError with what kustomize says."""
    ran = subprocess.run([*_kustomize(), str(folder)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{folder}: {ran.stderr}"
    return tuple(yaml.safe_load_all(ran.stdout))


@cache
def overlay(name: str) -> tuple[Object, ...]:
    return render(K8S / "overlays" / name)


@cache
def _kustomize() -> tuple[str, ...]:
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    for program, arguments in (("kustomize", ("build",)), ("kubectl", ("kustomize",))):
        if found := shutil.which(program, path=places):
            return (found, *arguments)
    raise AssertionError(
        "neither kustomize nor kubectl is installed; `make test` does it, or: "
        "go install sigs.k8s.io/kustomize/kustomize/v5@v5.5.0"
    )


def one(objects: Sequence[Object], kind: str, name: str) -> Object:
    """The object of that kind and name; a ConfigMap's may have a hash behind it."""
    found = [
        item
        for item in objects
        if item["kind"] == kind
        and (item["metadata"]["name"] == name or item["metadata"]["name"].startswith(f"{name}-"))
    ]
    exact = [item for item in found if item["metadata"]["name"] == name] or found
    assert len(exact) == 1, f"{len(exact)} of {kind} {name}"
    return exact[0]


def all_of(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


class Pods(NamedTuple):
    """The pods that a workload makes."""

    owner: str
    labels: Mapping[str, str]
    selector: Mapping[str, str]
    spec: Mapping[str, Any]

    def containers(self) -> list[Mapping[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def lasting(self) -> list[Mapping[str, Any]]:
        """Those that run as long as the pod does: not the init containers that end."""
        sidecars = [each for each in self.spec.get("initContainers", ()) if each.get("restartPolicy")]
        return [*sidecars, *self.spec["containers"]]

    def container(self, name: str) -> Mapping[str, Any]:
        (found,) = (each for each in self.containers() if each["name"] == name)
        return found

    def ports(self) -> dict[str, int]:
        """The named ports of all containers."""
        named = [
            (port["name"], port["containerPort"])
            for each in self.containers()
            for port in each.get("ports", ())
        ]
        assert len(dict(named)) == len(named), f"{self.owner}: two ports have one name: {named}"
        return dict(named)


def pods(objects: Sequence[Object]) -> Iterator[Pods]:
    """The pods of every workload among the objects."""
    for item in all_of(objects, "Deployment", "StatefulSet", "DaemonSet", "Job"):
        template = item["spec"]["template"]
        yield Pods(
            f"{item['kind']}/{item['metadata']['name']}",
            template["metadata"]["labels"],
            item["spec"]["selector"]["matchLabels"],
            template["spec"],
        )


def gates(objects: Sequence[Object]) -> Pods:
    """The pods that hold the gate."""
    (found,) = (each for each in pods(objects) if "portcullis/gate" in each.labels)
    return found
