"""One gate with every kind of rule and key behind nginx, Envoy and Caddy at once, each with its shipped file, over TLS.

    client --TLS--> nginx  \\
    client --TLS--> Envoy  --> one application
    client --TLS--> Caddy  /        |
                                one gate, one store

Keys are made by the command line and the admin API, as operators make them. What a case of the tables sends may name
secrets and tokens in braces (`{shop}`): `Site.ask` puts them in.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from sidecar.core.keys import secret_of
from tests import issuers, stores
from tests.application import Application, application
from tests.certificates import Certificates
from tests.control.operators import command, done
from tests.fronts.shipped import START, Client, fresh_address
from tests.gates import Gate, gate
from tests.proxies import Proxy
from tests.servers import Answer, Headers, eventually, pairs, short_directory
from tests.stores import StoreServer

FENCED: Final = "127.8.0.1"
"""An address from which the tenant `fenced` may ask; see DOCUMENT."""
BOUND: Final = "127.7.0.1"
"""One from which the key `bound` may."""
PASSES: Final = "127.9.9.9"
"""One that attack mode lets pass."""
FAILURES: Final = 3
"""Credentials of an address that may fail."""

DOCUMENT: Final = f"""
store: {{deadline_ms: 10000}}
log: {{refusals_per_s: 1000}}
default: deny
attack_mode: {{pass: [{PASSES}]}}
credentials:
  mode: registry
  roles: {{editor: [orders.read, orders.write]}}
  tenants: {{fenced: {{cidrs: [127.8.0.0/16]}}}}
  jwt:
    - {{name: idp, issuer: "{issuers.THEIRS}", audiences: [{issuers.AUDIENCE}], algorithms: [ES256], leeway: 0s,
       jwks: {{file: jwks.json}}, claims: {{tenant: org, plan: plan}}}}
patterns:
  my-bots: [{{name: evilbot, pattern: "(?i)evilbot", in: [headers, values], severity: warning}}]
limits:
  - {{name: guessing, per: [ip], permits: {FAILURES}, window: 31d, block_for: 10m, counts: credential_failures}}
  - {{name: per-key, per: [key], permits: 2, window: 31d, plans: {{gold: 4, barred: 0}},
     match: {{paths: ["/metered"]}}}}
  - {{name: per-tenant, per: [tenant], permits: 3, window: 31d, match: {{paths: ["/shared"]}}}}
  - {{name: pages, per: [ip], permits: 2, window: 31d, match: {{kinds: [client], paths: ["/shop/metered"]}}}}
filters:
  - {{name: orders, match: {{paths: ["/orders/*"]}}, methods: [GET, POST], content_types: [application/json],
     max_body: 1000}}
  - {{name: reads, match: {{methods: [GET], paths: ["/orders/*"]}}, scopes: [orders.read]}}
  - {{name: writes, match: {{methods: [POST], paths: ["/orders/*"]}}, scopes: [orders.write]}}
  - {{name: mine, match: {{paths: ["/mine", "/metered", "/shared"]}}}}
  - {{name: documents, match: {{paths: ["/documents"]}}, content_types: ["application/*+json", text/plain]}}
  - {{name: web, match: {{paths: ["/shop/*"]}}, kinds: [client, server], methods: [GET, PUT]}}
  - {{name: embedded, match: {{paths: ["/shop/embedded"]}}, kinds: [client, server], origins: [".example.com", "https://pay.example"]}}
  - {{name: carts, match: {{paths: ["/shop/cart"]}}, scopes: [cart.write]}}
  - {{name: mobile, match: {{methods: [GET, PUT], paths: ["/mobile"]}}, kinds: [client]}}
  - {{name: public, match: {{paths: ["/login", "/healthz"]}}, kinds: [anonymous, client, server]}}
  - {{name: strangers, match: {{paths: ["/join"]}}, kinds: [anonymous]}}
  - {{name: modern, match: {{paths: ["/modern"]}}, tls_min: "1.3"}}
  - {{name: golden, match: {{paths: ["/golden"], plans: [gold]}}}}
  - {{name: waf, match: {{paths: ["/search"]}}, kinds: [anonymous, server],
     patterns: [sql-injection, xss, log4shell, scanners, my-bots]}}
  - {{name: bots, match: {{paths: ["/bots"]}}, kinds: [anonymous], patterns: [my-bots], threshold: 3}}
  - {{name: looked-at, match: {{paths: ["/watched"]}}, kinds: [anonymous, server]}}
  - {{name: watching, match: {{paths: ["/watched"]}}, mode: shadow, patterns: [xss]}}
  - {{name: watching-scopes, match: {{paths: ["/watched"]}}, mode: shadow, scopes: [watch]}}
"""

KEYS: Final[dict[str, dict[str, object]]] = {
    "reader": {"scopes": ["orders.read"]},
    "editor": {"scopes": ["role:editor"]},
    "nobody": {"scopes": ["role:nobody"]},
    "off": {},
    "over": {"expires": "1s"},
    "turned": {},
    "cut": {},
    "gone": {},
    "bound": {"cidrs": ["127.7.0.0/16", "192.0.2.0/24"]},
    "fenced": {"tenant": "fenced"},
    "doubly": {"tenant": "fenced", "cidrs": ["127.8.1.0/24"]},
    "struck": {},
    "sieged": {"tenant": "sieged"},
    "plain": {},
    "golden": {"plan": "gold"},
    "barred": {"plan": "barred"},
    "one-of-acme": {"tenant": "acme"},
    "two-of-acme": {"tenant": "acme"},
    "subs": {"origins": [".shop.example"]},
    "secure": {"origins": ["https://shop.example"]},
    "port": {"origins": ["https://shop.example:8443"]},
    "anybody": {"origins": ["*"], "scopes": ["cart.write"]},
    "puny": {"origins": ["xn--bcher-kva.example"]},
    "app-off": {"origins": ["*"]},
}
"""What the admin API is asked to make; who has origins is a client key. `shop` and `page` the command line makes."""


@dataclass(frozen=True)
class Known:
    """What was made: secrets by the ids of their keys, tokens and texts that are none by names of their own."""

    secrets: Mapping[str, str]
    tokens: Mapping[str, str]

    def put_into(self, headers: Headers) -> list[tuple[str, str]]:
        texts = {**self.secrets, **self.tokens}
        return [(name, value.format_map(texts)) for name, value in pairs(headers)]


@dataclass(frozen=True)
class Site:
    """One of the proxies, with all that is behind."""

    kind: str
    proxy: Proxy
    gate: Gate
    store: StoreServer
    application: Application
    known: Known
    tls: Mapping[str, ssl.SSLContext]
    """How clients speak, by version."""

    def ask(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Headers = (),
        body: bytes | None = None,
        address: str | None = None,
        tls: str = "1.3",
    ) -> Answer:
        """One request of a client that was never seen before, unless `address` says otherwise."""
        given = self.known.put_into(headers)
        with closing(Client(self.proxy.port, address or fresh_address(), tls=self.tls[tls])) as client:
            return client.ask(target, method=method, headers=given, body=body)

    def status(self, status: int) -> int:
        """What the client sees of a status that the gate means."""
        return 403 if self.kind == "envoy" and status >= 500 else status

    def logged(self, answer: Answer) -> dict[str, Any]:
        """What the decision log says of a refusal."""
        name = answer.headers["X-Request-Id"]
        eventually(lambda: any(event.get("request_id") == name for event in self.gate.events()), name)
        return next(event for event in self.gate.events() if event.get("request_id") == name)


def _lets_in(site: Site) -> bool:
    return site.ask("/healthz").status == 200


@contextmanager
def sites(certificates: Certificates, *, state_dir: Path | None = None) -> Iterator[dict[str, Site]]:
    """All three, ready: keys and tokens are made, and what has to end has ended."""
    with ExitStack() as running:
        directory = running.enter_context(short_directory())
        store = running.enter_context(stores.valkey())
        behind = running.enter_context(application())
        signer = issuers.es256()
        asked = running.enter_context(
            gate(
                DOCUMENT,
                store_url=store.url(),
                state_dir=state_dir or directory / "state",
                files={"jwks.json": issuers.jwks(signer)},
            )
        )
        known = Known(made(asked), tokens(signer))
        tls = {
            "1.2": speaking(certificates, ssl.TLSVersion.TLSv1_2),
            "1.3": speaking(certificates, ssl.TLSVersion.TLSv1_3),
        }
        built = {
            kind: Site(
                kind,
                start(
                    running,
                    gate=asked.address,
                    application=behind.address,
                    tls=certificates,
                    also={"/var/log/nginx/access.log": "gated.log"} if kind == "nginx" else {},
                ),
                asked,
                store,
                behind,
                known,
                tls,
            )
            for kind, start in START.items()
        }
        for site in built.values():
            eventually(partial(_lets_in, site), f"{site.kind} lets a request in")
        behind.forget()
        yield built


def made(at: Gate) -> dict[str, str]:
    """Make all keys, and do to them what their names say; their secrets."""
    shop = ("--label", "shop", "--kind", "server", "--tenant", "acme", "--plan", "gold", "--id", "shop")
    scopes = ("--scope", "orders.read", "--scope", "orders.write", "--scope", "watch")
    page = ("--label", "page", "--kind", "client", "--origin", "shop.example", "--id", "page")
    secrets: dict[str, str] = {}
    for words in ((*shop, *scopes), page):
        ran = command(at, "key", "create", *words, "--json")
        assert ran.status == 0, ran
        secrets[json.loads(ran.out)["id"]] = json.loads(ran.out)["secret"]
    for key_id, terms in KEYS.items():
        kind = "client" if "origins" in terms else "server"
        answer = done(at, "POST", "/v1/keys", {"id": key_id, "label": key_id, "kind": kind, **terms})
        secrets[key_id] = answer["secret"]
    for key_id, grace in (("turned", "24h"), ("cut", "0s")):
        secrets[f"{key_id}-before"] = secrets[key_id]
        secrets[key_id] = done(at, "POST", f"/v1/keys/{key_id}/rotate", {"grace": grace})["secret"]
    for key_id in ("off", "app-off"):
        done(at, "PATCH", f"/v1/keys/{key_id}", {"enabled": False})
    done(at, "DELETE", "/v1/keys/gone")
    done(at, "PUT", "/v1/attack", {"on": True, "key": "struck"})
    done(at, "PUT", "/v1/attack", {"on": True, "tenant": "sieged"})
    over = {"X-Api-Key": f"over.{secrets['over']}"}
    eventually(lambda: at.forward(fresh_address(), "/mine", headers=over).status == 401, "it expires")
    return secrets


def tokens(signer: issuers.Signer) -> dict[str, str]:
    """Good and bad tokens of the foreign issuer, and what looks like a secret and is none."""
    now_s = int(time.time())

    def token(
        by: issuers.Signer = signer, *, header: Mapping[str, object] | None = None, **members: object
    ) -> str:
        good: dict[str, object] = {"exp": now_s + 600, "scope": "orders.read", "org": "acme", "plan": "gold"}
        return by.token(issuers.claims(**{**good, **members}), **(header or {})).decode()

    unsigned = (
        issuers.encoded({"alg": "none", "typ": "JWT"}),
        issuers.encoded(issuers.claims(exp=now_s + 600)),
    )
    good = token()
    return {
        "token": good,
        "token-over": token(exp=now_s - 1),
        "token-early": token(nbf=now_s + 600),
        "token-elsewhere": token(aud="another"),
        "token-of-others": token(iss="https://evil.example"),
        "token-endless": token(exp=None),
        "token-forged": token(issuers.es256("another")),
        "token-unknown-key": token(header={"kid": "unknown"}),
        "token-path-in-key": token(header={"kid": "../../../../dev/null"}),
        "token-own-key": token(issuers.es256("another"), header={"jwk": issuers.es256("another").jwk()}),
        "token-critical": token(header={"crit": ["exp"]}),
        "token-unsigned": b".".join((*unsigned, b"")).decode(),
        "token-cut": good[:-8],
        "token-swapped": ".".join((*good.split(".")[:2], good.split(".")[2][::-1])),
        "wrong": secret_of(os.urandom(32)),
    }


def speaking(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's side of TLS that knows one version."""
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.minimum_version = context.maximum_version = version
    return context
