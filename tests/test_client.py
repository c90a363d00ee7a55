"""The command line's client: how it asks, and what it says when it does not get an answer."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.client import AdminClient, AdminFailed, Identity
from tests.certificates import Certificates
from tests.servers import free_port


class AdminPlane:
    """An HTTP server that answers every POST with what the test says, and remembers what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"ok": true}'
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.hang_up = False

    @contextmanager
    def serving(self, *, unix: Path | None = None, tls: ssl.SSLContext | None = None) -> Iterator[str]:
        """Its URL while it serves."""
        plane = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                plane.got.append((self.path, dict(self.headers.items()), json.loads(body)))
                if plane.hang_up:
                    return
                self.send_response(plane.status)
                self.send_header("Content-Length", str(len(plane.body)))
                self.end_headers()
                self.wfile.write(plane.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

            def address_string(self) -> str:
                return "somebody"

        server: socketserver.BaseServer
        if unix is None:
            server = HTTPServer(("127.0.0.1", 0), Handler)
            url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
        else:
            server = socketserver.UnixStreamServer(str(unix), Handler)
            url = f"unix:{unix}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield url
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


# --- asking ---------------------------------------------------------------------


def test_it_posts_json_with_the_token_and_reads_json() -> None:
    plane = AdminPlane()
    with plane.serving() as url:
        answer = AdminClient(url, "secret").post("/v1/explain", {"address": "é"})

    assert answer == {"ok": True}
    ((path, headers, document),) = plane.got
    assert (path, document) == ("/v1/explain", {"address": "é"})
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Content-Type"] == "application/json"


def test_it_sends_no_token_that_it_does_not_have() -> None:
    plane = AdminPlane()
    with plane.serving() as url:
        AdminClient(f"{url}/", None).post("/v1/explain", {})

    assert plane.got[0][0] == "/v1/explain"
    assert "Authorization" not in plane.got[0][1]


def test_it_asks_through_a_unix_socket(directory: Path) -> None:
    plane = AdminPlane()
    with plane.serving(unix=directory / "admin") as url:
        answer = AdminClient(url, "secret").post("/v1/explain", {})

    assert answer == {"ok": True}
    assert plane.got[0][0] == "/v1/explain"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, b'{"detail": "This needs the admin token."}', "PORTCULLIS_ADMIN_TOKEN"),
        (400, b'{"detail": "address: not an IP address."}', "refused (400): address: not an IP address."),
        (404, b"<html>", "no gate, or another version: status 404"),
        (200, b"[]", "no gate, or another version: status 200"),
        (200, b"<html>", "no gate, or another version: status 200"),
        (302, b"", "status 302"),
    ],
)
def test_it_says_why_it_was_refused(status: int, body: bytes, says: str) -> None:
    plane = AdminPlane()
    plane.status, plane.body = status, body
    with plane.serving() as url, pytest.raises(AdminFailed) as failed:
        AdminClient(url, "secret").post("/v1/explain", {})

    assert says in str(failed.value)
    assert "secret" not in str(failed.value)


def test_it_tells_a_missing_token_from_a_wrong_one() -> None:
    plane = AdminPlane()
    plane.status, plane.body = 401, b"{}"
    texts = []
    for token in (None, "wrong"):
        with plane.serving() as url, pytest.raises(AdminFailed) as failed:
            AdminClient(url, token).post("/v1/explain", {})
        texts.append(str(failed.value))

    assert "no token was found" in texts[0]
    assert "is not that gate's" in texts[1]


def test_it_names_the_remedy_when_nobody_answers(directory: Path) -> None:
    for url in (f"http://127.0.0.1:{free_port()}", f"unix:{directory}/none"):
        with pytest.raises(AdminFailed) as failed:
            AdminClient(url, None).post("/v1/explain", {})

        assert f"no gate answers at {url}" in str(failed.value)
        assert "PORTCULLIS_ADMIN_URL" in str(failed.value)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"]
)
def test_it_understands_nothing_but_http(answer: bytes) -> None:
    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with pytest.raises(AdminFailed, match="no gate"):
            AdminClient(url, None).post("/v1/explain", {})
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8081",
        "ftp://gate",
        "http://",
        "unix:",
        "http://a:b",
        "http://u:p@gate",
        "http://gate?x",
    ],
)
def test_it_refuses_what_is_no_address_of_a_gate(url: str) -> None:
    with pytest.raises(ValueError, match=r"no address of a gate|[Pp]ort"):
        AdminClient(url, None)


# --- https ------------------------------------------------------------------------


@contextmanager
def tls_plane(plane: AdminPlane, certificates: Certificates, *, wants_client: bool = False) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    if wants_client:
        context.load_verify_locations(certificates.ca)
        context.verify_mode = ssl.CERT_REQUIRED
    with plane.serving(tls=context) as url:
        yield url


def test_it_asks_through_tls(certificates: Certificates) -> None:
    plane = AdminPlane()
    with tls_plane(plane, certificates) as url:
        answer = AdminClient(url, "secret", Identity(certificates.ca)).post("/v1/explain", {})

    assert answer == {"ok": True}


def test_it_shows_its_certificate(certificates: Certificates) -> None:
    plane = AdminPlane()
    identity = Identity(certificates.ca, certificates.client_cert, certificates.client_key)
    with tls_plane(plane, certificates, wants_client=True) as url:
        answer = AdminClient(url, "secret", identity).post("/v1/explain", {})
        with pytest.raises(AdminFailed, match=r"wants a client certificate.*--cert-key"):
            AdminClient(url, "secret", Identity(certificates.ca)).post("/v1/explain", {})

    assert answer == {"ok": True}
    assert len(plane.got) == 1


def test_it_trusts_no_stranger(certificates: Certificates) -> None:
    plane = AdminPlane()
    with tls_plane(plane, certificates) as url:
        for identity in (None, Identity(certificates.stranger_ca)):
            with pytest.raises(AdminFailed, match=r"is not trusted .*--ca"):
                AdminClient(url, "secret", identity).post("/v1/explain", {})

    assert plane.got == [], "nobody was told the token"


def test_it_tells_http_from_https(certificates: Certificates) -> None:
    plane = AdminPlane()
    with plane.serving() as url, pytest.raises(AdminFailed, match="speaks http:// there"):
        AdminClient(url.replace("http:", "https:"), None).post("/v1/explain", {})


# --- changes ------------------------------------------------------------------------


def test_it_demands_an_epoch_and_asks_to_wait() -> None:
    plane = AdminPlane()
    with plane.serving() as url:
        AdminClient(url, None).ask(
            "POST", "/v1/x", query={"wait": "10", "cursor": None}, document={}, if_epoch="57-ab"
        )

    ((path, headers, _),) = plane.got
    assert path == "/v1/x?wait=10"
    assert headers["If-Match"] == '"57-ab"'


def test_it_knows_when_the_outcome_of_a_change_is_not_known(directory: Path) -> None:
    plane = AdminPlane()
    plane.hang_up = True
    with plane.serving() as url:
        with pytest.raises(AdminFailed, match="is not known") as lost:
            AdminClient(url, None).ask("POST", "/v1/x", document={})
        with pytest.raises(AdminFailed) as looked:
            AdminClient(url, None).post("/v1/explain", {})
    with pytest.raises(AdminFailed) as unreachable:
        AdminClient(f"unix:{directory}/none", None).ask("POST", "/v1/x", document={})

    assert "not known" not in str(looked.value)
    assert "not known" not in str(unreachable.value)
    assert (lost.value.status, lost.value.passing) == (None, True)


@pytest.mark.parametrize(("status", "passing"), [(403, False), (404, False), (503, True), (504, True)])
def test_it_knows_what_may_pass(status: int, passing: bool) -> None:
    plane = AdminPlane()
    plane.status, plane.body = status, b'{"detail": "No."}'
    with plane.serving() as url, pytest.raises(AdminFailed) as failed:
        AdminClient(url, None).post("/v1/x", {})

    assert (failed.value.status, failed.value.passing) == (status, passing)
