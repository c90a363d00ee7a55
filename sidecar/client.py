"""A tiny client of the admin API, for the command line: one request, one JSON answer.

Finds the gate and the token where `serve` says they are:

    URL    --admin, PORTCULLIS_ADMIN_URL, `listen.admin` of the named document, http://127.0.0.1:8081
    token  PORTCULLIS_ADMIN_TOKEN, admin-token in the document's `state_dir`, ./portcullis-data/admin-token

It retries nothing and follows no redirects. What is asked, and how an answer is shown, is the commands'.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from sidecar.admin.tokens import VARIABLE, TokenUnusable, read_token
from sidecar.config import Endpoint, TcpEndpoint, find, load

URL_VARIABLE: Final = "PORTCULLIS_ADMIN_URL"
DEFAULT_URL: Final = "http://127.0.0.1:8081"
DEFAULT_STATE_DIR: Final = Path("portcullis-data")
TIMEOUT_S: Final = 10.0
MOST_BYTES: Final = 16 << 20


class AdminFailed(Exception):
    """The gate could not be asked, or refused; the text says why and what to do."""


class AdminClient:
    """Asks one gate. `url` is `http://host:port`, `https://host:port` or `unix:/path/of/the.sock`.

    Raises ValueError for any other URL.
    """

    def __init__(self, url: str, token: str | None) -> None:
        parts = urlsplit(url)
        sound = parts.path if parts.scheme == "unix" else parts.scheme in {"http", "https"} and parts.hostname
        if not sound or parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{url!r} is no address of a gate: expected http://host:port or unix:/path")
        self._url = url
        self._parts = parts
        self._port = parts.port  # raises ValueError when it is none
        self._token = token

    def post(self, resource: str, document: Mapping[str, object]) -> dict[str, object]:
        """What the gate answers to a document. Raises AdminFailed."""
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = self._connection()
        base = "" if self._parts.scheme == "unix" else self._parts.path.rstrip("/")
        try:
            connection.request("POST", base + resource, json.dumps(document), headers)
            response = connection.getresponse()
            status, body = response.status, response.read(MOST_BYTES)
            if response.length:  # cut off, or longer than any answer of ours
                raise http.client.IncompleteRead(body, response.length)
        except TimeoutError as exc:
            raise AdminFailed(f"the gate at {self._url} did not answer within {TIMEOUT_S:g} s") from exc
        except OSError as exc:
            raise AdminFailed(
                f"no gate answers at {self._url} ({exc.strerror or exc}): is it running? "
                f"--admin or {URL_VARIABLE} says where its admin plane listens"
            ) from exc
        except http.client.HTTPException as exc:
            raise AdminFailed(f"what answers at {self._url} is no gate: {exc!r}") from exc
        finally:
            connection.close()
        return self._understood(status, body)

    def _connection(self) -> http.client.HTTPConnection:
        parts = self._parts
        if parts.scheme == "unix":
            return _UnixConnection(parts.path)
        assert parts.hostname is not None, "checked when made"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, self._port, timeout=TIMEOUT_S)

    def _understood(self, status: int, body: bytes) -> dict[str, object]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        if status == 401:
            had = "the token is not that gate's" if self._token else "no token was found"
            raise AdminFailed(
                f"the gate at {self._url} wants its admin token, and {had}: set {VARIABLE}, or name the gate's "
                "document with --config, whose state_dir holds it"
            )
        if isinstance(answer, dict) and "detail" in answer:
            raise AdminFailed(f"refused ({status}): {answer['detail']}")
        raise AdminFailed(f"what answers at {self._url} is no gate, or another version: status {status}")


def client_for(admin: str | None, config: Path | None, env: Mapping[str, str]) -> AdminClient:
    """The client of the gate that the options and the environment name.

    Raises ConfigError for a bad document, AdminFailed for an unusable token, ValueError for a bad URL.
    """
    url = admin or env.get(URL_VARIABLE, "")
    document = find(config, env)
    state_dir = DEFAULT_STATE_DIR
    if document is not None and not (url and env.get(VARIABLE)):
        read = load(document, env)
        state_dir = read.state_dir
        url = url or _url_of(read.listen.admin)
    try:
        token = read_token(env, state_dir)
    except (TokenUnusable, OSError) as exc:
        raise AdminFailed(f"the admin token cannot be read: {exc}") from exc
    return AdminClient(url or DEFAULT_URL, None if token is None else token.secret)


def _url_of(endpoint: Endpoint) -> str:
    """Where to ask a gate of this machine; one that listens everywhere listens on loopback, too."""
    if not isinstance(endpoint, TcpEndpoint):
        return f"unix:{endpoint.path}"
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"http://{TcpEndpoint(everywhere.get(endpoint.host, endpoint.host), endpoint.port)}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
