"""A real gate with a public plane over TLS, its keys made by an operator, and an OAuth client library as its client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import requests
from authlib.integrations.requests_client import OAuth2Session

from tests.certificates import Certificates
from tests.gates import Gate
from tests.issuers import AUDIENCE, ec_key, ed25519_key, pem_of
from tests.servers import WITHIN_S, free_port, short_directory

Session = Any
"""The library's client; it has no types."""
StartGate = Callable[..., Gate]

FILES = {
    "ed.pem": pem_of(ed25519_key("live")).decode(),
    "ec.pem": pem_of(ec_key("live")).decode(),
}
CLIENT = "203.0.113.9"
"""Who calls the application; who asks for tokens is on loopback."""


class ApiKey(NamedTuple):
    id: str
    secret: str


@dataclass(frozen=True)
class Public:
    """A gate with a public plane."""

    gate: Gate
    url: str
    port: int
    tls: Path
    """Where its certificate and key lie."""
    ca: Path

    def key(self, *scopes: str, kind: str = "server", **terms: object) -> ApiKey:
        """A new key, as an operator makes it."""
        origins = {"origins": ["*"]} if kind == "client" else {}
        document = {"kind": kind, "label": "test", "scopes": scopes, **origins, **terms}
        made = self.admin("POST", "/v1/keys", document)
        return ApiKey(made["id"], made["secret"])

    def admin(self, method: str, target: str, document: object = None) -> dict[str, Any]:
        body = None if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"}
        answer = self.gate.admin(target, method=method, headers=headers, body=body)
        assert answer.status in {200, 201}, answer.body
        told: dict[str, Any] = json.loads(answer.body)
        return told

    @contextmanager
    def client(
        self, key: ApiKey, *, method: str = "client_secret_basic", scope: str | None = None
    ) -> Iterator[Session]:
        with OAuth2Session(key.id, key.secret, token_endpoint_auth_method=method, scope=scope) as session:
            session.verify = str(self.ca)
            session.trust_env = False
            yield session

    def token(self, key: ApiKey, *, scope: str | None = None) -> str:
        with self.client(key, scope=scope) as session:
            token: str = session.fetch_token(f"{self.url}/oauth/token")["access_token"]
            return token

    def post(self, path: str, key: ApiKey | None = None, **form: str) -> requests.Response:
        """One request without the library, which hides what it dislikes."""
        auth = None if key is None else (key.id, key.secret)
        return requests.post(
            self.url + path,
            data=form,
            auth=auth,
            verify=str(self.ca),
            timeout=WITHIN_S,
            allow_redirects=False,
        )

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, verify=str(self.ca), timeout=WITHIN_S)

    def active(self, key: ApiKey, token: str) -> bool:
        with self.client(key) as session:
            answer = session.introspect_token(f"{self.url}/oauth/introspect", token=token)
            told: dict[str, Any] = answer.json()
        return bool(told["active"])

    def use(self, token: str, path: str = "/orders", *, address: str = CLIENT) -> int:
        """The status that an application's proxy gets for a request with this token."""
        return self.gate.forward(address, path, headers={"Authorization": f"Bearer {token}"}).status

    def rewrite(self, old: str, new: str) -> None:
        """Change the document; the gate looks at it often."""
        text = self.gate.document.read_text()
        assert old in text
        self.gate.document.write_text(text.replace(old, new))


@contextmanager
def public_gate(
    start: StartGate,
    certificates: Certificates,
    more: str = "",
    *,
    workers: int = 1,
    store_url: str | None = None,
) -> Iterator[Public]:
    """`more` is added to a document with a registry, tokens signed by `ed.pem`, and a filter for `/orders`."""
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    document = (
        f'credentials: {{mode: registry, tokens: {{issuer: "{url}", audience: {AUDIENCE}, keys: [ed.pem]}}}}\n'
        "filters:\n"
        '  - {name: orders, match: {paths: ["/orders/*"]}, scopes: [orders.read]}\n'
        f"{more}"
    )
    with short_directory() as tls:
        shutil.copy(certificates.server_cert, tls / "tls.crt")
        shutil.copy(certificates.server_key, tls / "tls.key")
        files = f"{{cert: {tls}/tls.crt, key: {tls}/tls.key}}"
        gate = start(
            document,
            listen=f'public: "127.0.0.1:{port}", public_tls: {files}',
            files=FILES,
            workers=workers,
            store_url=store_url,
        )
        yield Public(gate, url, port, tls, certificates.ca)
