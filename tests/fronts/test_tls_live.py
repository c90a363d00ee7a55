"""Which TLS a client speaks reaches the gate through the shipped configurations: nginx, Envoy, Caddy, for real."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from tests.application import Application
from tests.certificates import Certificates
from tests.fronts.shipped import START, Client, fresh_address, problem
from tests.gates import Gate
from tests.servers import eventually

POLICY = """
filters: [{name: modern, match: {paths: ["/modern/*"]}, tls_min: "1.3"}]
"""


@pytest.mark.parametrize("kind", START)
def test_it_judges_the_tls_that_the_client_speaks(
    start_gate: Callable[..., Gate],
    backend: Application,
    certificates: Certificates,
    running: ExitStack,
    kind: str,
) -> None:
    gate = start_gate(POLICY)
    proxy = START[kind](running, gate=gate.address, application=backend.address, tls=certificates)
    old, new = speaking(certificates, ssl.TLSVersion.TLSv1_2), speaking(certificates, ssl.TLSVersion.TLSv1_3)

    with (
        closing(Client(proxy.port, fresh_address(), tls=old)) as behind,
        closing(Client(proxy.port, fresh_address(), tls=new)) as ahead,
    ):
        eventually(lambda: ahead.ask().status == 200, f"{kind} lets a request through")

        assert (
            problem(behind.ask("/modern/1", headers={"X-Original-TLS": "TLSv1.3"}))["code"] == "tls_version"
        )
        assert behind.ask("/").status == 200
        assert ahead.ask("/modern/1", headers={"X-Forwarded-Proto": "http"}).status == 200


def speaking(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's side of TLS that knows one version."""
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.minimum_version = context.maximum_version = version
    return context
