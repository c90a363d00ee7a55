"""The command line's client: where it finds gate and token, and what it says when it does not get an answer."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sidecar.client import AdminClient, AdminFailed, client_for
from sidecar.config import ConfigError
from tests.servers import free_port


class AdminPlane:
    """An HTTP server that answers every POST with what the test says, and remembers what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"ok": true}'
        self.got: list[tuple[str, dict[str, str], Any]] = []

    @contextmanager
    def serving(self, *, unix: Path | None = None) -> Iterator[str]:
        """Its URL while it serves."""
        plane = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                plane.got.append((self.path, dict(self.headers.items()), json.loads(body)))
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
            url = f"http://127.0.0.1:{server.server_address[1]}"
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


# --- finding ---------------------------------------------------------------------


def found(client: AdminClient) -> tuple[str, str | None]:
    return client._url, client._token


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keep_token(folder: Path, secret: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "admin-token").write_text(f"{secret}\n")
    (folder / "admin-token").chmod(0o600)


def test_it_takes_the_defaults(elsewhere: Path) -> None:
    keep_token(elsewhere / "portcullis-data", "made")

    assert found(client_for(None, None, {})) == ("http://127.0.0.1:8081", "made")


def test_it_has_no_token_where_there_is_none(elsewhere: Path) -> None:
    assert found(client_for(None, None, {})) == ("http://127.0.0.1:8081", None)


def test_it_takes_what_the_document_says(elsewhere: Path) -> None:
    document = elsewhere / "gate.yaml"
    document.write_text('listen: {admin: "0.0.0.0:9"}\nstate_dir: state')
    keep_token(elsewhere / "state", "its-own")

    assert found(client_for(None, document, {})) == ("http://127.0.0.1:9", "its-own")
    assert found(client_for(None, None, {"PORTCULLIS_CONFIG": str(document)}))[1] == "its-own"
    assert found(client_for("http://other:1", document, {})) == ("http://other:1", "its-own")


def test_it_finds_a_unix_socket_of_the_document(elsewhere: Path) -> None:
    (elsewhere / "portcullis.yaml").write_text('listen: {admin: "unix:run/admin.sock"}')

    assert found(client_for(None, None, {}))[0] == f"unix:{elsewhere}/run/admin.sock"


def test_it_prefers_the_environment_and_then_reads_no_document(elsewhere: Path) -> None:
    (elsewhere / "portcullis.yaml").write_text("this: is wrong")
    env = {"PORTCULLIS_ADMIN_URL": "http://gate:1", "PORTCULLIS_ADMIN_TOKEN": "t"}

    assert found(client_for(None, None, env)) == ("http://gate:1", "t")
    assert found(client_for("http://named:2", None, env)) == ("http://named:2", "t")
    with pytest.raises(ConfigError):
        client_for(None, None, {})


def test_it_uses_no_token_that_others_can_read(elsewhere: Path) -> None:
    keep_token(elsewhere / "portcullis-data", "made")
    (elsewhere / "portcullis-data" / "admin-token").chmod(0o644)

    with pytest.raises(AdminFailed, match="others may read it"):
        client_for(None, None, {})
