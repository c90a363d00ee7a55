"""Custom resources hold no field that their projects do not document, and all that these demand.

No API server is here to ask, and Kubernetes' schemas do not know them: FIELDS says what each project accepts,
as far as this project uses it, and where that is written. `*` is any name, `[]` the items of a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pytest
import yaml

from tests.kubernetes.rendered import PROXIES, Object, overlay
from tests.kubernetes.test_rendered import is_custom


class Accepted(NamedTuple):
    """The fields of a kind's `spec`; `demanded` are paths that must be there."""

    source: str
    fields: str
    demanded: str


FIELDS: Final[Mapping[tuple[str, str], Accepted]] = {
    ("monitoring.coreos.com/v1", "PodMonitor"): Accepted(
        "prometheus-operator: example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        """
        jobLabel namespaceSelector.any namespaceSelector.matchNames[] podTargetLabels[] sampleLimit
        selector.matchLabels.* selector.matchExpressions[].key selector.matchExpressions[].operator
        selector.matchExpressions[].values[]
        podMetricsEndpoints[].port podMetricsEndpoints[].path podMetricsEndpoints[].interval
        podMetricsEndpoints[].scrapeTimeout podMetricsEndpoints[].scheme podMetricsEndpoints[].honorLabels
        podMetricsEndpoints[].relabelings[].action podMetricsEndpoints[].relabelings[].regex
        podMetricsEndpoints[].relabelings[].replacement podMetricsEndpoints[].relabelings[].sourceLabels[]
        podMetricsEndpoints[].relabelings[].targetLabel
        """,
        "selector podMetricsEndpoints",
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): Accepted(
        "prometheus-operator: example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        """
        groups[].name groups[].interval groups[].labels.* groups[].limit groups[].query_offset
        groups[].rules[].alert groups[].rules[].record groups[].rules[].expr groups[].rules[].for
        groups[].rules[].keep_firing_for groups[].rules[].labels.* groups[].rules[].annotations.*
        """,
        "groups",
    ),
    ("gateway.envoyproxy.io/v1alpha1", "SecurityPolicy"): Accepted(
        "envoyproxy/gateway: api/v1alpha1/ext_auth_types.go, policy_helpers.go (targetRefs)",
        """
        targetRefs[].group targetRefs[].kind targetRefs[].name targetRefs[].sectionName
        extAuth.failOpen extAuth.timeout extAuth.recomputeRoute extAuth.headersToExtAuth[]
        extAuth.bodyToExtAuth.maxRequestBytes
        extAuth.http.path extAuth.http.headersToBackend[] extAuth.http.backendRefs[].name
        extAuth.http.backendRefs[].namespace extAuth.http.backendRefs[].port extAuth.http.backendRefs[].kind
        extAuth.http.backendRefs[].group
        """,
        "targetRefs extAuth.http.backendRefs",
    ),
    ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"): Accepted(
        "kubernetes-sigs/gateway-api: apis/v1beta1/referencegrant_types.go",
        "from[].group from[].kind from[].namespace to[].group to[].kind to[].name",
        "from to",
    ),
    ("security.istio.io/v1", "AuthorizationPolicy"): Accepted(
        "istio/api: security/v1beta1/authorization_policy.proto (served as v1, too)",
        "selector.matchLabels.* action provider.name rules[] targetRefs[].group targetRefs[].kind targetRefs[].name",
        "action provider.name rules",
    ),
    ("install.istio.io/v1alpha1", "IstioOperator"): Accepted(
        "istio/api: mesh/v1alpha1/config.proto (MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider)",
        """
        meshConfig.extensionProviders[].name
        meshConfig.extensionProviders[].envoyExtAuthzHttp.service
        meshConfig.extensionProviders[].envoyExtAuthzHttp.port
        meshConfig.extensionProviders[].envoyExtAuthzHttp.pathPrefix
        meshConfig.extensionProviders[].envoyExtAuthzHttp.timeout
        meshConfig.extensionProviders[].envoyExtAuthzHttp.failOpen
        meshConfig.extensionProviders[].envoyExtAuthzHttp.clearRouteCache
        meshConfig.extensionProviders[].envoyExtAuthzHttp.statusOnError
        meshConfig.extensionProviders[].envoyExtAuthzHttp.includeRequestHeadersInCheck[]
        meshConfig.extensionProviders[].envoyExtAuthzHttp.includeAdditionalHeadersInCheck.*
        meshConfig.extensionProviders[].envoyExtAuthzHttp.headersToUpstreamOnAllow[]
        meshConfig.extensionProviders[].envoyExtAuthzHttp.headersToDownstreamOnAllow[]
        meshConfig.extensionProviders[].envoyExtAuthzHttp.headersToDownstreamOnDeny[]
        """,
        "meshConfig.extensionProviders",
    ),
    ("traefik.io/v1alpha1", "Middleware"): Accepted(
        "traefik/traefik: docs/content/reference/dynamic-configuration/traefik.io_middlewares.yaml",
        """
        forwardAuth.address forwardAuth.trustForwardHeader forwardAuth.authResponseHeaders[]
        forwardAuth.authResponseHeadersRegex forwardAuth.authRequestHeaders[] forwardAuth.addAuthCookiesToResponse[]
        forwardAuth.tls.caSecret forwardAuth.tls.certSecret forwardAuth.tls.insecureSkipVerify
        """,
        "forwardAuth.address",
    ),
}


def custom() -> list[Object]:
    shipped = [item for path in PROXIES for item in yaml.safe_load_all(path.read_text())]
    return [item for item in [*overlay("standalone"), *shipped] if is_custom(item)]


@pytest.mark.parametrize("item", custom(), ids=lambda item: str(item["kind"]))
def test_it_holds_only_what_is_documented(item: Object) -> None:
    accepted = FIELDS[item["apiVersion"], item["kind"]]
    known = [field.split(".") for field in accepted.fields.split()]
    strangers = sorted(
        {path for path in _paths(item["spec"]) if not any(_is(path, field) for field in known)}
    )

    assert set(item) == {"apiVersion", "kind", "metadata", "spec"}
    assert not strangers, f"{accepted.source} has no such fields"
    for path in accepted.demanded.split():
        assert _at(item["spec"], path), f"{accepted.source} demands {path}"


def test_every_kind_of_the_table_is_shipped() -> None:
    assert {(item["apiVersion"], item["kind"]) for item in custom()} == set(FIELDS)


def _paths(value: Any, at: str = "") -> Iterator[str]:
    """The path of every leaf: `a.b[].c`, and `a.b[]` for items that are no mappings."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _paths(inner, f"{at}\0{key}" if at else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{at}[]")
    else:
        yield at


def _is(path: str, field: list[str]) -> bool:
    steps = path.split("\0")
    return len(steps) == len(field) and all(
        known in ("*", step) for step, known in zip(steps, field, strict=True)
    )


def _at(value: Any, path: str) -> bool:
    for step in path.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return False
        value = value[step]
    return value is not None
