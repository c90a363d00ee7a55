"""schema: for every key of the document a good value, and what stands there without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.config_reference import reference
from sidecar.core.model import Dimension, Outage
from sidecar.document.notations import TcpEndpoint, UnixEndpoint
from sidecar.document.schema import Document
from sidecar.document.walk import Problem, read_struct
from sidecar.document.yaml_text import read_yaml

LIMIT = "name: a, per: [ip], permits: 5, window: 1m"

PUBLIC = "listen: {public: '0.0.0.0:7', public_tls: {cert: c.pem, key: k.pem}}"
TOKENS = "issuer: 'https://gate.example', audience: api, keys: [sign.pem]"
IDP = "name: idp, issuer: 'https://idp.example', audiences: [api, web], algorithms: [RS256, EdDSA]"
JWT = f"{IDP}, jwks: {{file: jwks.json}}"
FETCHED = f"{IDP}, jwks: {{url: 'https://idp.example/jwks', refresh: 1m}}"
CLAIMS = f"{JWT}, claims: {{subject: oid, scopes: '', tenant: org, plan: 'https://a/plan'}}"

GOOD = {
    "listen.check": ("listen: {check: ['unix:c.sock', '[::1]:1']}", "TcpEndpoint(host='::1', port=1)"),
    "listen.admin": ("listen: {admin: 'unix:admin.sock'}", "admin.sock"),
    "listen.health": ("listen: {health: off}", "None"),
    "listen.admin_tls.cert": ("listen: {admin_tls: {cert: c.pem, key: k.pem}}", "c.pem"),
    "listen.admin_tls.key": ("listen: {admin_tls: {cert: c.pem, key: k.pem}}", "k.pem"),
    "listen.admin_tls.client_ca": (
        "listen: {admin_tls: {cert: c.pem, key: k.pem, client_ca: ca.pem}}",
        "ca.pem",
    ),
    "listen.public": ("listen: {public: '127.0.0.1:7'}", "port=7"),
    "listen.public_tls.cert": (PUBLIC, "c.pem"),
    "listen.public_tls.key": (PUBLIC, "k.pem"),
    "listen.idle_s": ("listen: {idle_s: 2.5}", "2.5"),
    "listen.max_connections": ("listen: {max_connections: 1}", "1"),
    "listen.grace_s": ("listen: {grace_s: 0}", "0"),
    "workers": ("workers: 64", "64"),
    "store.url": ("store: {url: 'redis://r'}", "redis://r"),
    "store.deadline_ms": ("store: {deadline_ms: 10000}", "10000"),
    "store.shards": ("store: {shards: 1024}", "1024"),
    "store.prefix": ("store: {prefix: 'a:'}", "a:"),
    "store.outage": ("store: {outage: closed}", "closed"),
    "store.ca": ("store: {ca: ca.pem}", "ca.pem"),
    "store.cert": ("store: {cert: c.pem, key: k.pem}", "c.pem"),
    "store.key": ("store: {cert: c.pem, key: k.pem}", "k.pem"),
    "state_dir": ("state_dir: /var/lib/p", "/var/lib/p"),
    "trusted_proxies": ("trusted_proxies: [0.0.0.0/0]", "0.0.0.0/0"),
    "ipv6_prefix": ("ipv6_prefix: 48", "48"),
    "attack_mode.status": ("attack_mode: {status: 429}", "429"),
    "attack_mode.retry_after_s": ("attack_mode: {retry_after_s: 5}", "5"),
    "attack_mode.pass": ("attack_mode: {pass: [10.0.0.1]}", "10.0.0.1/32"),
    "attack_mode.unknown": ("attack_mode: {unknown: on}", "on"),
    "attack_mode.trigger.refusals_per_s": ("attack_mode: {trigger: {refusals_per_s: 501}}", "501"),
    "attack_mode.trigger.requests_per_s": ("attack_mode: {trigger: {requests_per_s: 20001}}", "20001"),
    "attack_mode.trigger.for": ("attack_mode: {trigger: {requests_per_s: 1, for: 1h}}", "3600000"),
    "attack_mode.trigger.quiet": ("attack_mode: {trigger: {requests_per_s: 1, quiet: 1d}}", "86400000"),
    "addresses.deny.cidrs": ("addresses: {deny: {cidrs: [192.0.2.0/24]}}", "192.0.2.0/24"),
    "addresses.deny.files": ("addresses: {deny: {files: [drop.txt]}}", "drop.txt"),
    "addresses.allow.cidrs": ("addresses: {allow: {cidrs: ['2001:DB8::/32']}}", "2001:db8::/32"),
    "addresses.allow.files": ("addresses: {allow: {files: [a.txt]}}", "a.txt"),
    "addresses.exempt.cidrs": ("addresses: {exempt: {cidrs: [127.0.0.0/8]}}", "127.0.0.0/8"),
    "addresses.exempt.files": ("addresses: {exempt: {files: [a.txt]}}", "a.txt"),
    "credentials.mode": ("credentials: {mode: none}", "none"),
    "credentials.headers": ("credentials: {headers: [X-Key]}", "x-key"),
    "credentials.bearer": ("credentials: {bearer: false}", "bearer=False"),
    "credentials.server.id": ("credentials: {server: {id: X-S}}", "b'x-s'"),
    "credentials.server.secret": ("credentials: {server: {secret: X-S}}", "b'x-s'"),
    "credentials.client.id": ("credentials: {client: {id: X-C}}", "b'x-c'"),
    "credentials.client.secret": ("credentials: {client: {secret: X-C}}", "b'x-c'"),
    "credentials.query.names": ("credentials: {query: {names: [Auth_Key]}}", "'auth_key'"),
    "credentials.query.mode": ("credentials: {query: {mode: enforce}}", "ENFORCE"),
    "credentials.roles": ("credentials: {roles: {editor: [orders.write]}}", "'editor': ('orders.write',)"),
    "credentials.tenants": ("credentials: {tenants: {acme: {cidrs: [10.0.0.1]}}}", "'acme'"),
    "credentials.tenants.<name>.cidrs": (
        "credentials: {tenants: {acme: {cidrs: [10.0.0.1]}}}",
        "10.0.0.1/32",
    ),
    "credentials.tokens": (f"credentials: {{tokens: {{{TOKENS}}}}}", "TokensSection("),
    "credentials.tokens.issuer": (f"credentials: {{tokens: {{{TOKENS}}}}}", "https://gate.example"),
    "credentials.tokens.audience": (f"credentials: {{tokens: {{{TOKENS}}}}}", "audience='api'"),
    "credentials.tokens.keys": (f"credentials: {{tokens: {{{TOKENS}}}}}", "sign.pem"),
    "credentials.tokens.ttl": (f"credentials: {{tokens: {{{TOKENS}, ttl: 1d}}}}", "ttl=86400000"),
    "credentials.jwt": (f"credentials: {{jwt: [{{{JWT}}}]}}", "JwtSection("),
    "credentials.jwt[].name": (f"credentials: {{jwt: [{{{JWT}}}]}}", "name='idp'"),
    "credentials.jwt[].issuer": (f"credentials: {{jwt: [{{{JWT}}}]}}", "issuer='https://idp.example'"),
    "credentials.jwt[].audiences": (f"credentials: {{jwt: [{{{JWT}}}]}}", "audiences=('api', 'web')"),
    "credentials.jwt[].algorithms": (f"credentials: {{jwt: [{{{JWT}}}]}}", "('RS256', 'EdDSA')"),
    "credentials.jwt[].jwks.file": (f"credentials: {{jwt: [{{{JWT}}}]}}", "jwks.json"),
    "credentials.jwt[].jwks.url": (f"credentials: {{jwt: [{{{FETCHED}}}]}}", "https://idp.example/jwks"),
    "credentials.jwt[].jwks.refresh": (f"credentials: {{jwt: [{{{FETCHED}}}]}}", "refresh=60000"),
    "credentials.jwt[].leeway": (f"credentials: {{jwt: [{{{JWT}, leeway: 0s}}]}}", "leeway=0"),
    "credentials.jwt[].claims.subject": (f"credentials: {{jwt: [{{{CLAIMS}}}]}}", "subject='oid'"),
    "credentials.jwt[].claims.scopes": (f"credentials: {{jwt: [{{{CLAIMS}}}]}}", "scopes=''"),
    "credentials.jwt[].claims.tenant": (f"credentials: {{jwt: [{{{CLAIMS}}}]}}", "tenant='org'"),
    "credentials.jwt[].claims.plan": (f"credentials: {{jwt: [{{{CLAIMS}}}]}}", "plan='https://a/plan'"),
    "patterns": ("patterns: {bots: [{name: a, pattern: evil, in: [path]}]}", "'bots'"),
    "patterns.<name>[].name": ("patterns: {bots: [{name: a, pattern: evil, in: [path]}]}", "name='a'"),
    "patterns.<name>[].pattern": ("patterns: {bots: [{name: a, pattern: evil, in: [path]}]}", "'evil'"),
    "patterns.<name>[].in": ("patterns: {bots: [{name: a, pattern: evil, in: [values]}]}", "VALUES"),
    "patterns.<name>[].severity": (
        "patterns: {bots: [{name: a, pattern: evil, in: [path], severity: notice}]}",
        "notice",
    ),
    "fronts.envoy.address": ("fronts: {envoy: {address: forwarded}}", "forwarded"),
    "limits": ("limits: []", "()"),
    "limits[].name": (f"limits: [{{{LIMIT}}}]", "name='a'"),
    "limits[].per": ("limits: [{name: a, per: [ip, 'header:X-U'], permits: 1, window: 1s}]", "x-u"),
    "limits[].permits": ("limits: [{name: a, per: [ip], permits: 0, window: 1s, cost: 9}]", "permits=0"),
    "limits[].window": ("limits: [{name: a, per: [ip], permits: 1, window: 31d}]", "2678400000"),
    "limits[].slices": (f"limits: [{{{LIMIT}, slices: 1000}}]", "1000"),
    "limits[].match": (f"limits: [{{{LIMIT}, match: {{methods: [PUT]}}}}]", "PUT"),
    "limits[].mode": (f"limits: [{{{LIMIT}, mode: shadow}}]", "shadow"),
    "limits[].outage": (f"limits: [{{{LIMIT}, outage: open}}]", "open"),
    "limits[].cost": (f"limits: [{{{LIMIT}, cost: 'header:X-Cost'}}]", "x-cost"),
    "limits[].cost.header": (f"limits: [{{{LIMIT}, cost: {{header: X-Cost}}}}]", "x-cost"),
    "limits[].cost.max": (f"limits: [{{{LIMIT}, cost: {{header: X-Cost, max: 3}}}}]", "max=3"),
    "limits[].block_for": (f"limits: [{{{LIMIT}, block_for: 10m}}]", "600000"),
    "limits[].lease": (f"limits: [{{{LIMIT}, lease: never}}]", "never"),
    "limits[].plans": (f"limits: [{{{LIMIT}, plans: {{gold: 77}}}}]", "77"),
    "limits[].counts": (f"limits: [{{{LIMIT}, counts: credential_failures}}]", "CREDENTIAL_FAILURES"),
    "filters": ("filters: []", "()"),
    "filters[].name": ("filters: [{name: f, deny: true}]", "name='f'"),
    "filters[].match": ("filters: [{name: f, deny: true, match: {hosts: [a.b]}}]", "a.b"),
    "filters[].mode": ("filters: [{name: f, deny: true, mode: shadow}]", "shadow"),
    "filters[].require": ("filters: [{name: f, require: allow}]", "require='allow'"),
    "filters[].deny": ("filters: [{name: f, deny: true}]", "deny=True"),
    "filters[].methods": ("filters: [{name: f, methods: [GET, HEAD]}]", "HEAD"),
    "filters[].content_types": ("filters: [{name: f, content_types: [text/plain]}]", "text/plain"),
    "filters[].max_body": ("filters: [{name: f, max_body: 1KiB}]", "1024"),
    "filters[].tls_min": ("filters: [{name: f, tls_min: 1.2}]", "tls_min='1.2'"),
    "filters[].kinds": ("filters: [{name: f, kinds: [anonymous, client]}]", "('anonymous', 'client')"),
    "filters[].scopes": ("filters: [{name: f, scopes: [orders.write]}]", "'orders.write'"),
    "filters[].origins": (
        "filters: [{name: f, kinds: [client], origins: ['https://A.example:443']}]",
        "'https://a.example'",
    ),
    "filters[].patterns": ("filters: [{name: f, patterns: [xss]}]", "patterns=('xss',)"),
    "filters[].threshold": ("filters: [{name: f, patterns: [xss], threshold: 1000}]", "1000"),
    "filters[].headers": ("filters: [{name: f, patterns: [xss], headers: [X-A]}]", "b'x-a'"),
    "default": ("default: deny", "deny"),
    "headers.legacy": ("headers: {legacy: true}", "legacy=True"),
    "log.refusals_per_s": ("log: {refusals_per_s: 0}", "0"),
    "log.sample": ("log: {sample: 1}", "1"),
    "log.allows_per_s": ("log: {allows_per_s: 1}", "allows_per_s=1"),
    "log.hide": ("log: {hide: [/reset/*]}", "'/reset/*'"),
    "tracing.otlp": ("tracing: {otlp: 'http://otel:4318/v1/traces'}", "http://otel:4318/v1/traces"),
    "tracing.sample": ("tracing: {sample: 0.5}", "0.5"),
    "match.hosts": (f"limits: [{{{LIMIT}, match: {{hosts: [A.b]}}}}]", "a.b"),
    "match.methods": ("filters: [{name: f, deny: true, match: {methods: [TRACE]}}]", "TRACE"),
    "match.kinds": (f"limits: [{{{LIMIT}, match: {{kinds: [server]}}}}]", "'server'"),
    "match.plans": (f"limits: [{{{LIMIT}, match: {{plans: [gold]}}}}]", "'gold'"),
    "match.scopes": (f"limits: [{{{LIMIT}, match: {{scopes: [a.b]}}}}]", "'a.b'"),
    "match.paths": ("filters: [{name: f, deny: true, match: {paths: ['/x/*']}}]", "/x/*"),
}


@pytest.mark.parametrize(("text", "value"), GOOD.values(), ids=GOOD)
def test_it_takes_a_good_value_for_every_key(text: str, value: str) -> None:
    document, problems = _read(text)

    assert problems == []
    assert value in repr(document)


def test_it_is_asked_about_every_key_that_there_is() -> None:
    documented = [line.split("`")[1] for line in reference().splitlines() if line.startswith("| `")]

    assert sorted(GOOD) == sorted(documented)


def test_it_is_a_working_gate_without_any_key() -> None:
    document, problems = _read("")

    assert problems == []
    assert document.listen.check == (TcpEndpoint("127.0.0.1", 8080),)
    assert document.listen.admin == TcpEndpoint("127.0.0.1", 8081)
    assert document.store.outage is Outage.LOCAL
    assert [(limit.name, limit.per, limit.permits, limit.window) for limit in document.limits] == [
        ("per-ip", (Dimension("ip"),), 100, 60_000)
    ]


def test_it_lets_several_endpoints_ask_for_any_free_port() -> None:
    document, problems = _read("listen: {check: ['127.0.0.1:0'], admin: '127.0.0.1:0'}")

    assert problems == []
    assert document.listen.admin == TcpEndpoint("127.0.0.1", 0)


def test_it_keeps_paths_as_they_are_written() -> None:
    document, _ = _read("listen: {check: ['unix:run/check.sock?mode=0600']}\nstate_dir: data")

    assert document.listen.check == (UnixEndpoint(Path("run/check.sock"), 0o600),)
    assert document.state_dir == Path("data")


def _read(text: str) -> tuple[Document, list[Problem]]:
    problems: list[Problem] = []
    document = read_struct(read_yaml(text).tree, Document, problems)
    return document, problems
