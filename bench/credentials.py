"""What a registry of keys costs: requests with credentials, against a gate that has limits only.

    limits only   two limits, of each address and of each key; a key is any text
    registry      the same limits; who asks is proved, and needs a scope, a method and a media type
    patterns      as registry, and all patterns of the starter look into path, query, User-Agent and Referer

All are asked POSTs whose heads never repeat. Limits only are the floor, with the server key's heads. Once with
permits in hand for one address, and once without leases for 100 000, so that every decision needs the store.

Every credential was proved before; what the proof costs is `micro`'s.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, ExitStack
from typing import Final, NamedTuple

from bench.cast import CLIENT, GENEROUS_MS, SUBJECTS, asked_by_nginx, gate, target, valkey
from bench.load import Heads, pressing
from bench.rounds import Effort, alternate
from bench.rows import Findings, Goal, Row
from sidecar.core.starter_patterns import STARTER
from sidecar.core.tokens import SigningKey, issue
from tests.gates import Gate
from tests.issuers import AUDIENCE, OURS, ed25519_key, pem_of
from tests.stores import StoreServer

GOAL: Final = Goal(0.8)
"""Of a server key, without patterns; the other rows say what something costs."""

LIMITS: Final = """
store: {deadline_ms: DEADLINE, prefix: "PREFIX:"}
limits:
  - {name: minute, per: [ip], permits: 1000000000, window: 1m, lease: LEASE}
  - {name: hour, per: [key], permits: 1000000000, window: 1h, lease: LEASE}
""".replace("DEADLINE", str(GENEROUS_MS))

REGISTRY: Final = f"""
credentials:
  mode: registry
  tokens: {{issuer: "{OURS}", audience: {AUDIENCE}, keys: [sign.pem]}}
filters:
  - {{name: json, content_types: [application/json], max_body: 1MB}}
  - {{name: orders, match: {{paths: ["/orders/*"]}}, methods: [GET, POST], scopes: [orders.write]}}
  - {{name: shop, match: {{paths: ["/shop/*"]}}, methods: [GET, POST], kinds: [client], origins: [.example.com]}}
"""

PATTERNS: Final = f"""{REGISTRY.rstrip()}
  - {{name: waf, patterns: [{", ".join(STARTER)}], threshold: 5, headers: [User-Agent, Referer]}}
"""

GATES: Final = {"limits": "", "registry": REGISTRY, "patterns": PATTERNS}

ORDERS, SHOP = "/orders/18734", "/shop/cart"
ORIGIN: Final = "https://www.example.com"
BODY: Final = (("Content-Type", "application/json"), ("X-Original-Length", "96"))
HOUR_MS: Final = 3_600_000

Lines = tuple[tuple[str, str], ...]


class _Made(NamedTuple):
    """A key that was registered, as it is presented."""

    id: str
    secret: str


class Case(NamedTuple):
    """`address` as `asked_by_nginx` takes it."""

    title: str
    address: str
    subjects: int
    lease: str


CASES: Final = (Case("from memory", CLIENT, 1, "auto"), Case("with the store", "{ip}", SUBJECTS, "never"))


def measure(effort: Effort) -> Findings:
    return Findings([row for case in CASES for row in _rows(case, effort)])


def _rows(case: Case, effort: Effort) -> list[Row]:
    with ExitStack() as ends:
        store = ends.enter_context(valkey())
        limits, registry, patterns = [ends.enter_context(_gate(name, case, store)) for name in GATES]
        server = _server_key(registry, "orders.write")
        _must_refuse(registry, _server_key(registry, "orders.read"))
        _must_refuse(patterns, _server_key(patterns, "orders.write"), query="?q=%3Cscript%3Ealert(1)")
        turns = {
            "server key": (registry, asked(case, ORDERS, server)),
            "server key, patterns": (patterns, asked(case, ORDERS, _server_key(patterns, "orders.write"))),
            "token issued here": (registry, asked(case, ORDERS, _token(server))),
            "client key": (registry, asked(case, SHOP, _client_key(registry))),
        }
        presses = {
            name: pressing(target(running), heads, effort.seconds) for name, (running, heads) in turns.items()
        }
        least = pressing(target(limits), asked(case, ORDERS, server), effort.seconds)
        taken = alternate(least, presses, effort)
        for running in (limits, registry, patterns):
            outage = running.metric("portcullis_decisions_total", source="outage")
            assert not outage, f"{outage:.0f} decisions were the outage policy's, not the limits'"
    return [
        taken.row(f"{name}, {case.title}, against limits only", name, GOAL if name == "server key" else None)
        for name in presses
    ]


def document(name: str, case: Case) -> str:
    """The configuration of one of the `GATES`; each has counters and keys of its own."""
    return LIMITS.replace("PREFIX", name).replace("LEASE", case.lease) + GATES[name]


def _gate(name: str, case: Case, store: StoreServer) -> AbstractContextManager[Gate]:
    return gate(document(name, case), store=store, files={"sign.pem": private_key().decode()})


def asked(case: Case, path: str, credential: Lines) -> Heads:
    """A POST with a body that presents this credential."""
    return asked_by_nginx(
        path,
        method="POST",
        address=case.address,
        subjects=case.subjects,
        novel=True,
        headers=(*BODY, *credential),
    )


def _must_refuse(running: Gate, credential: Lines, query: str = "") -> None:
    """A rule that refuses nobody would cost nothing."""
    heads = asked_by_nginx(ORDERS + query, method="POST", headers=(*BODY, *credential))
    status = running.ask(heads.target, headers=heads.headers).status
    assert status == 403, f"answered {status}"


def _server_key(running: Gate, scope: str) -> Lines:
    made = _made(running, kind="server", scopes=[scope])
    return (("X-Api-Key", f"{made.id}.{made.secret}"),)


def _client_key(running: Gate) -> Lines:
    made = _made(running, kind="client", origins=[ORIGIN])
    return (("X-Client-Application-Id", made.id), ("X-Client-Token", made.secret), ("Origin", ORIGIN))


def _token(server: Lines) -> Lines:
    """A token for the server key that these lines present."""
    ((_, whole),) = server
    token = issue(
        SigningKey.from_pem(private_key()),
        issuer=OURS,
        audience=AUDIENCE,
        key_id=whole.partition(".")[0],
        scopes=["orders.write"],
        token_id="bench",
        now_ms=int(time.time() * 1000),
        ttl_ms=HOUR_MS,
    )
    return (("Authorization", f"Bearer {token}"),)


def _made(running: Gate, **members: object) -> _Made:
    body = json.dumps({"label": "bench", **members}).encode()
    answer = running.admin("/v1/keys", method="POST", headers={"Content-Type": "application/json"}, body=body)
    assert answer.status == 201, answer
    made = json.loads(answer.body)
    return _Made(made["id"], made["secret"])


def private_key() -> bytes:
    """What the gates sign with: PEM, one for this run."""
    return pem_of(ed25519_key("bench"))
