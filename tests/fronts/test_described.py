"""A request in words, as each proxy would ask: every front reads the same out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from sidecar.core.addresses import AddressSet
from sidecar.fronts import Front
from sidecar.fronts.api import ApiFront
from sidecar.fronts.credentials import opaque
from sidecar.fronts.described import Described, FrontName, asked_by
from sidecar.fronts.envoy import EnvoyFront
from sidecar.fronts.forward import ForwardFront
from sidecar.fronts.nginx import NginxFront

OPAQUE = opaque((b"x-api-key",))
NOBODY = AddressSet(())
MAKE: dict[str, Callable[[], Front]] = {
    "nginx": lambda: NginxFront(credentials=OPAQUE, legacy_headers=False),
    "envoy": lambda: EnvoyFront(
        credentials=OPAQUE, trusted=NOBODY, envoy_address="real_ip", legacy_headers=False
    ),
    "forward": lambda: ForwardFront(credentials=OPAQUE, trusted=NOBODY, legacy_headers=False),
    "api": lambda: ApiFront(credentials=OPAQUE, legacy_headers=False),
}
ORDER = Described(
    "2001:db8::1",
    "POST",
    "Shop.example:8443",
    "/a/../b%20c?d=e",
    {"X-Api-Key": "k", "Content-Type": "application/json", "Content-Length": "12"},
)


@pytest.mark.parametrize("name", get_args(FrontName))
def test_it_is_read_alike_by_every_front(name: FrontName) -> None:
    request = MAKE[name]().read(asked_by(name, ORDER))

    assert request.malformed is None
    assert (request.address, request.method, request.host) == ("2001:db8::1", "POST", "shop.example")
    assert request.path == "/b c"
    assert (request.key, request.content_type, request.content_length) == (b"k", b"application/json", 12)


@pytest.mark.parametrize("name", get_args(FrontName))
def test_it_reads_the_front_back_from_the_path_that_is_asked(name: FrontName) -> None:
    head = asked_by(name, ORDER)
    front = MAKE[name]()

    assert head.target.startswith(front.path) if front.path.endswith(b"/") else head.target == front.path


@pytest.mark.parametrize("name", ["nginx", "envoy", "forward"])
def test_it_lets_the_proxy_have_the_last_word(name: FrontName) -> None:
    lies = {"X-Real-IP": "192.0.2.66", "x-forwarded-for": "192.0.2.66", "X-Original-Method": "GET"}

    request = MAKE[name]().read(asked_by(name, ORDER._replace(headers=lies)))

    assert (request.address, request.method) == ("2001:db8::1", "POST")


def test_it_tells_envoys_address_as_it_is_configured() -> None:
    front = EnvoyFront(credentials=OPAQUE, trusted=NOBODY, envoy_address="forwarded", legacy_headers=False)

    request = front.read(asked_by("envoy", ORDER, forwarded=True))

    assert request.address == "2001:db8::1"


@pytest.mark.parametrize("name", get_args(FrontName))
def test_it_does_not_hide_that_a_header_comes_twice(name: FrontName) -> None:
    twice = {"X-Api-Key": "a", "x-api-key": "b"}

    request = MAKE[name]().read(asked_by(name, ORDER._replace(headers=twice)))

    assert request.malformed == "a header that may come once came more than once"


def test_it_knows_no_method_that_is_not_ascii() -> None:
    with pytest.raises(UnicodeEncodeError):
        asked_by("envoy", ORDER._replace(method="GÉT"))
