"""Every overlay renders, and the API server of three Kubernetes versions would take its objects, no field unknown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from tests.kubernetes.rendered import K8S, OVERLAYS, PROXIES, Object, overlay, render

VERSIONS: Final = ("1.31", "1.34", "1.37")
"""The oldest that sleeps in `preStop` without a feature gate (1.30 has it in beta), one between, the newest known."""

OWN_GROUPS: Final = {
    "gateway.envoyproxy.io",
    "gateway.networking.k8s.io",
    "install.istio.io",
    "monitoring.coreos.com",
    "security.istio.io",
    "traefik.io",
}
"""Groups of custom resources: `test_custom_resources` looks at these."""


def is_custom(item: Object) -> bool:
    return item["apiVersion"].split("/")[0] in OWN_GROUPS


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_it_passes_strict_validation(name: str, version: str) -> None:
    for item in overlay(name):
        if not is_custom(item):
            took = kubernetes_validate.validate(dict(item), version, strict=True)

            assert took == version, f"there are no schemas of {version}"


@pytest.mark.parametrize("version", VERSIONS)
def test_it_passes_strict_validation_with_the_shipped_ingress(version: str) -> None:
    own = [item for path in PROXIES for item in [_load(path)] if not is_custom(item)]

    assert [item["kind"] for item in own] == ["Ingress"]
    for item in own:
        kubernetes_validate.validate(dict(item), version, strict=True)


def test_validation_would_notice_an_unknown_field() -> None:
    (deployment,) = (item for item in overlay("standalone") if item["kind"] == "Deployment")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 3}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_the_fronts_are_a_kustomization_of_the_very_files() -> None:
    maps = {item["metadata"]["name"]: item for item in render(K8S / "fronts")}

    for name, file in (("portcullis-nginx", "nginx.conf"), ("portcullis-envoy", "envoy.yaml")):
        (found,) = (item for full, item in maps.items() if full.startswith(name))
        assert found["data"][file] == (K8S / "fronts" / file).read_text()


def test_one_object_a_file_and_the_file_says_which() -> None:
    for path in [
        *K8S.glob("base/*-*.yaml"),
        *K8S.glob("overlays/*/*-*.yaml"),
        *K8S.glob("components/*/*-*.yaml"),
    ]:
        if path.name.startswith("scrape-"):
            continue  # Prometheus' own configuration
        item = _load(path)

        assert path.name == f"{item['metadata']['name']}-{item['kind'].lower()}.yaml"


def test_no_name_stands_twice() -> None:
    for name in OVERLAYS:
        names = [(item["kind"], item["metadata"]["name"]) for item in overlay(name)]

        assert len(names) == len(set(names))


def _load(path: Path) -> Mapping[str, Any]:
    (item,) = yaml.safe_load_all(path.read_text())
    assert isinstance(item, dict)
    return item
