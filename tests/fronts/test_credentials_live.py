"""What the gate sees of credentials and preflights through nginx, Envoy and Caddy, and what comes of its answers.

Behind each shipped file stand the real fronts with a registry's reader, and a gate that remembers what it was asked and
refuses as its target says.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
import uvloop

from sidecar.core.addresses import AddressSet
from sidecar.core.model import Reason, Request, Verdict
from sidecar.fronts import Waiter
from sidecar.fronts.envoy import EnvoyFront
from sidecar.fronts.forward import ForwardFront
from sidecar.fronts.heads import HeadTable
from sidecar.fronts.http import CheckProtocol
from sidecar.fronts.nginx import NginxFront
from sidecar.fronts.plane import CheckPlane
from tests.application import Application, application
from tests.fronts.doubles import REGISTRY
from tests.fronts.shipped import START, problem
from tests.proxies import Proxy
from tests.servers import Answer, Headers, eventually

PAGE = "https://app.example"
IDENTITY = b"X-Portcullis-Key: k_1\r\nX-Portcullis-Tenant: acme\r\nX-Portcullis-Plan: gold\r\n"
REFUSALS = (
    "malformed",
    "credential_missing",
    "origin",
    "method",
    "body_size",
    "content_type",
    "rate_limited",
    "store_unavailable",
)
"""One for each status that the gate gives for a reason of its own."""
REASONS = {reason.code: reason for reason in Reason}


@dataclass
class Remembering:
    """Refuses `/refuse/<reason>`, readably for PAGE, and lets everybody else in as the same one."""

    asked: list[Request] = field(default_factory=list)

    def check(self, request: Request, _waiter: Waiter) -> Verdict:
        self.asked.append(request)
        if request.malformed is not None:
            verdict = Verdict(Reason.MALFORMED)
        elif request.path.startswith("/refuse/"):
            verdict = Verdict(REASONS[request.path.removeprefix("/refuse/")], retry_after_s=7)
        else:
            verdict = Verdict(Reason.OK)
            verdict.identity = IDENTITY
            return verdict
        if request.headers.get(b"origin") == PAGE.encode():
            verdict.allow_origin = PAGE.encode()
        return verdict


@contextmanager
def fronts(gate: Remembering) -> Iterator[str]:
    """The check plane with this gate on a loopback port, as `host:port`, until the end."""
    listening = threading.Event()
    address: list[str] = []
    ends: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        plane = CheckPlane(
            fronts=(
                NginxFront(credentials=REGISTRY, legacy_headers=False),
                EnvoyFront(
                    credentials=REGISTRY,
                    trusted=AddressSet(),
                    envoy_address="real_ip",
                    legacy_headers=False,
                ),
                ForwardFront(credentials=REGISTRY, trusted=AddressSet(), legacy_headers=False),
            ),
            heads=HeadTable(credential_headers=REGISTRY.names),
            check=gate.check,
            observe=lambda *_told: None,
        )
        plane.start(loop)
        server = await loop.create_server(lambda: CheckProtocol(plane), "127.0.0.1", 0)
        address.append(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        ends.append((loop, end))
        listening.set()
        await end.wait()
        plane.stop()
        server.close()
        await server.wait_closed()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    try:
        assert listening.wait(60)
        yield address[0]
    finally:
        for loop, end in ends:
            loop.call_soon_threadsafe(end.set)
        thread.join(60)


@dataclass(frozen=True)
class Site:
    """A proxy, what it asks, and the application behind it."""

    kind: str
    proxy: Proxy
    gate: Remembering
    application: Application

    def ask(self, target: str = "/", *, method: str = "GET", headers: Headers = ()) -> tuple[Answer, Request]:
        """The client's answer, and what the gate was asked."""
        self.gate.asked.clear()
        answer = self.proxy.ask(target, method=method, headers=headers)
        (asked,) = self.gate.asked
        return answer, asked


@pytest.fixture(scope="module", params=START)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    gate = Remembering()
    with ExitStack() as running:
        behind = running.enter_context(application())
        address = running.enter_context(fronts(gate))
        proxy = START[request.param](running, gate=address, application=behind.address)
        eventually(lambda: proxy.ask().status == 200, f"{request.param} lets a request through")
        yield Site(request.param, proxy, gate, behind)


# --- credentials --------------------------------------------------------------

WAYS: dict[str, tuple[dict[str, str], bytes]] = {
    "key": ({"X-Api-Key": "id.secret"}, b"kid.secret"),
    "server pair": ({"X-App-Id": "id", "X-App-Token": "secret"}, b"sid\0secret"),
    "client pair": ({"X-Client-Application-Id": "id", "X-Client-Token": "secret"}, b"cid\0secret"),
    "bearer": ({"Authorization": "Bearer a.b.c"}, b"ba.b.c"),
    "half a pair": ({"X-App-Token": "secret"}, b"s\0secret"),
}


@pytest.mark.parametrize(("headers", "key"), WAYS.values(), ids=WAYS.keys())
def test_it_shows_the_gate_every_credential(site: Site, headers: dict[str, str], key: bytes) -> None:
    answer, asked = site.ask(headers=headers)

    assert answer.status == 200
    assert (asked.key, asked.malformed) == (key, None)


def test_it_shows_no_credential_where_there_is_none(site: Site) -> None:
    headers = {"Authorization": "Basic YTpi", "X-Api-Key": "", "X-App-Id": "", "X-Client-Token": ""}

    answer, asked = site.ask(headers=headers)

    assert answer.status == 200
    assert asked.key is None


def test_it_lets_nobody_present_two_credentials(site: Site) -> None:
    answer, asked = site.ask(headers={"X-Api-Key": "a.b", "Authorization": "Bearer c.d"})

    assert answer.status == 400
    assert problem(answer)["code"] == "malformed"
    assert asked.key is None


@pytest.mark.parametrize("name", ["X-Api-Key", "X-App-Id", "X-Client-Application-Id"])
@pytest.mark.parametrize("lines", [("one", "two"), ("", "two"), ("one", "one")], ids=str)
def test_it_judges_the_line_that_the_application_sees(site: Site, name: str, lines: tuple[str, str]) -> None:
    site.application.forget()

    answer, asked = site.ask(headers=[(name, line) for line in lines])

    if answer.status == 200:  # Envoy has left the first
        (seen,) = site.application.seen()
        assert [value for key, value in seen.headers if key == name.lower()] == [lines[0]]
        assert asked.headers.get(name.lower().encode(), b"") == lines[0].encode()
    else:
        assert problem(answer)["code"] == "malformed"
        assert site.application.count() == 0


def test_it_keeps_the_secrets_of_pairs_from_the_application(site: Site) -> None:
    site.ask(headers={"X-App-Id": "id", "X-App-Token": "secret"})
    site.ask(headers={"X-Client-Application-Id": "id", "X-Client-Token": "secret"})

    for seen in site.application.seen()[-2:]:
        assert [value for _, value in seen.headers if value == "id"] == ["id"]
        passed = [value for _, value in seen.headers if value == "secret"]
        assert not passed


def test_it_leaves_the_application_what_may_be_its_own(site: Site) -> None:
    site.ask(headers={"Authorization": "Basic YTpi", "X-Api-Key": "id.secret"})

    seen = site.application.seen()[-1]
    assert (seen.header("authorization"), seen.header("x-api-key")) == ("Basic YTpi", "id.secret")


def test_it_tells_the_application_who_asks(site: Site) -> None:
    site.ask(headers={"X-Api-Key": "id.secret", "X-Portcullis-Tenant": "evil"})

    seen = site.application.seen()[-1]
    told = [seen.header(f"x-portcullis-{name}") for name in ("key", "tenant", "plan")]
    assert told == ["k_1", "acme", "gold"]


@pytest.mark.parametrize("query", ["a=b&a=%2fc%00", "a=b?c#", "%3Fa", "a=+%C3%A9&&=;"])
def test_it_shows_the_gate_the_query_as_it_was_sent(site: Site, query: str) -> None:
    target = f"/a?{query}".removesuffix("#")

    _, asked = site.ask(target)

    assert (asked.path, asked.query) == ("/a", target.partition("?")[2].encode())


# --- web pages ----------------------------------------------------------------


def test_it_asks_about_a_preflight_as_about_any_request(site: Site) -> None:
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "x-api-key",
    }

    allowed, asked = site.ask("/orders", method="OPTIONS", headers=headers)
    refused, _ = site.ask("/refuse/not_opened", method="OPTIONS", headers=headers)

    assert (asked.method, asked.path, asked.key) == ("OPTIONS", "/orders", None)
    assert asked.headers[b"origin"] == PAGE.encode()
    assert asked.headers[b"access-control-request-method"] == b"PUT"
    assert site.application.seen()[-1].method == "OPTIONS"
    assert (allowed.status, allowed.headers["Access-Control-Allow-Origin"]) == (200, None)
    assert refused.status == 403


@pytest.mark.parametrize("reason", REFUSALS)
def test_it_lets_an_allowed_page_read_a_refusal(site: Site, reason: str) -> None:
    answer, _ = site.ask(f"/refuse/{reason}", headers={"Origin": PAGE})

    status = REASONS[reason].status
    assert answer.status == (403 if status == 503 and site.kind == "envoy" else status)
    assert problem(answer)["code"] == reason
    assert answer.headers.get_all("Access-Control-Allow-Origin") == [PAGE]
    assert answer.headers.get_all("Vary") == ["Origin"]
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert exposed == "RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
    assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize("reason", ["credential_missing", "origin"])
def test_it_lets_no_other_page_read_a_refusal(site: Site, reason: str) -> None:
    answer, _ = site.ask(f"/refuse/{reason}", headers={"Origin": "https://evil.example"})

    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert answer.headers["Vary"] is None


@pytest.mark.parametrize("name", ["Origin", "Access-Control-Request-Method"])
def test_it_takes_two_lines_for_none(site: Site, name: str) -> None:
    answer, asked = site.ask(
        "/refuse/origin", method="OPTIONS", headers={"Origin": PAGE}.items() | {(name, "https://a.example")}
    )

    assert asked.malformed or asked.headers[name.lower().encode()] != PAGE.encode()
    assert answer.status in {400, 403}
