"""schema: for every key of the document a good value, and the bad ones that people write."""

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
    "limits[].counts": (f"limits: [{{{LIMIT}, counts: requests}}]", "requests"),
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
    "default": ("default: deny", "deny"),
    "headers.legacy": ("headers: {legacy: true}", "legacy=True"),
    "log.refusals_per_s": ("log: {refusals_per_s: 0}", "0"),
    "match.hosts": (f"limits: [{{{LIMIT}, match: {{hosts: [A.b]}}}}]", "a.b"),
    "match.methods": ("filters: [{name: f, deny: true, match: {methods: [TRACE]}}]", "TRACE"),
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


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("listen: '127.0.0.1:1'", "listen", "expected a mapping with keys such as check, admin, health"),
        ("listen: {check: '127.0.0.1:1'}", "listen.check", "expected a list"),
        ("listen: {check: []}", "listen.check", "listens nowhere"),
        ("listen: {check: [8080]}", "listen.check[0]", "8080: expected"),
        ("listen: {check: ['0.0.0.0:1', '0.0.0.0:1']}", "listen.check", "twice"),
        ("listen: {check: ['unix:a', 'unix:a?mode=0600']}", "listen.check", "twice"),
        ("listen: {admin: '127.0.0.1:8080'}", "listen.admin", '"127.0.0.1:8080": stands'),
        ("listen: {admin: off}", "listen.admin", '"off": expected'),
        ("listen: {health: false}", "listen.health", "false: expected"),
        ("listen: {admin_tls: {cert: c.pem}}", "listen.admin_tls.key", "set `key` too"),
        ("listen: {admin_tls: {key: k.pem}}", "listen.admin_tls.cert", "set `cert` too"),
        ("listen: {admin_tls: {client_ca: a.pem}}", "listen.admin_tls.client_ca", "set `cert` and `key` too"),
        (
            "listen: {admin: 'unix:a', admin_tls: {cert: c.pem, key: k.pem}}",
            "listen.admin_tls",
            "no use on a unix socket",
        ),
        ("listen: {public: '0.0.0.0:1'}", "listen.public", "needs a key registry"),
        ("listen: {idle_s: 0}", "listen.idle_s", "0: expected a number from 1 to 3600"),
        ("listen: {idle_s: 75s}", "listen.idle_s", "expected a number from"),
        ("listen: {max_connections: 1.5}", "listen.max_connections", "1.5: expected a whole number from 1"),
        ("listen: {grace_s: 601}", "listen.grace_s", "expected a number from 0 to 600"),
        ("workers: 0", "workers", "0: expected a whole number from 1 to 64"),
        ("workers: 65", "workers", "expected a whole number from 1 to 64"),
        ("workers: auto", "workers", '"auto": expected a whole number'),
        ("workers: true", "workers", "true: expected a whole number"),
        ("workers: 04", "workers", '"04": expected a whole number'),
        ("workers:", "workers", "nothing stands here"),
        ("store: redis://r", "store", '"redis://r": expected a mapping'),
        ("store: {url: redis}", "store.url", "expected"),
        ("store: {deadline_ms: 0}", "store.deadline_ms", "from 1 to 10000"),
        ("store: {deadline_ms: 20ms}", "store.deadline_ms", '"20ms": expected a whole number'),
        ("store: {shards: 1025}", "store.shards", "from 1 to 1024"),
        ("store: {prefix: '{a}'}", "store.prefix", '"{a}": expected 1 to 64'),
        ("store: {outage: close}", "store.outage", "one of local, open, closed (did you mean closed?)"),
        ("store: {outage: off}", "store.outage", '"off": expected one of local'),
        ("store: {ca: 1}", "store.ca", "1: expected a path"),
        ("store: {cert: c.pem}", "store.cert", "set `key` too"),
        ("store: {key: k.pem}", "store.key", "set `cert` too"),
        ("store: {deadline: 5}", "store.deadline", "did you mean 'deadline_ms'?"),
        ("state_dir: ''", "state_dir", '"": expected a path'),
        ("trusted_proxies: 10.0.0.0/8", "trusted_proxies", "expected a list"),
        ("trusted_proxies: [10.0.0.1/8]", "trusted_proxies[0]", '"10.0.0.1/8": has bits'),
        ("trusted_proxies: [a]", "trusted_proxies[0]", '"a": is not'),
        ("ipv6_prefix: 31", "ipv6_prefix", "from 32 to 128"),
        ("ipv6_prefix: /64", "ipv6_prefix", '"/64": expected a whole number'),
        ("attack_mode: {status: 200}", "attack_mode.status", "from 400 to 599"),
        ("attack_mode: {retry_after_s: 1m}", "attack_mode.retry_after_s", '"1m": expected a whole number'),
        ("attack_mode: {pass: [any]}", "attack_mode.pass[0]", '"any": is not'),
        ("attack_mode: {unknown: true}", "attack_mode.unknown", "true: expected off or on"),
        ("attack_mode: {trigger: {for: 10s}}", "attack_mode.trigger.for", "nothing would ever trigger"),
        ("attack_mode: {trigger: {quiet: 5m}}", "attack_mode.trigger.quiet", "set `refusals_per_s`"),
        ("attack_mode: {trigger: {requests_per_s: 0}}", "attack_mode.trigger.requests_per_s", "from 1 to"),
        (
            "attack_mode: {trigger: {requests_per_s: 1, for: 2h}}",
            "attack_mode.trigger.for",
            '"2h": expected 1s to 1h',
        ),
        (
            "attack_mode: {trigger: {requests_per_s: 1, quiet: 9s}}",
            "attack_mode.trigger.quiet",
            '"9s": expected 10s to 1d',
        ),
        ("addresses: {deny: [10.0.0.0/8]}", "addresses.deny", "keys such as cidrs, files"),
        ("addresses: {deny: {cidrs: [10.0.0.300]}}", "addresses.deny.cidrs[0]", '"10.0.0.300": is not'),
        ("addresses: {deny: {files: a.txt}}", "addresses.deny.files", "expected a list"),
        ("addresses: {pass: {}}", "addresses.pass", "known here: deny, allow, exempt"),
        ("credentials: {mode: registry}", "credentials.mode", "needs a key registry"),
        ("credentials: {mode: jwt}", "credentials.mode", "expected none or opaque"),
        ("credentials: {headers: []}", "credentials.headers", 'write "mode: none"'),
        ("credentials: {headers: [X-A, x-a]}", "credentials.headers", "the same header twice"),
        ("credentials: {headers: ['X A']}", "credentials.headers[0]", "the name of a header"),
        ("fronts: {envoy: {address: xff}}", "fronts.envoy.address", "expected real_ip or forwarded"),
        ("fronts: {nginx: {}}", "fronts.nginx", "unknown key"),
        ("limits: {a: 1}", "limits", "a mapping: expected a list"),
        ("limits: [per-ip]", "limits[0]", "keys such as name, per, permits"),
        ("limits: [{per: [ip], permits: 1, window: 1s}]", "limits[0].name", "missing: expected a name"),
        ("limits: [{name: a, permits: 1, window: 1s}]", "limits[0].per", "missing: expected a list"),
        ("limits: [{name: a, per: [ip], window: 1s}]", "limits[0].permits", "missing: expected a whole"),
        ("limits: [{name: a, per: [ip], permits: 1}]", "limits[0].window", "missing: expected a duration"),
        ("limits: [{name: A, per: [ip], permits: 1, window: 1s}]", "limits[0].name", '"A": expected a name'),
        ("limits: [{name: a, per: ip, permits: 1, window: 1s}]", "limits[0].per", '"ip": expected a list'),
        ("limits: [{name: a, per: [], permits: 1, window: 1s}]", "limits[0].per", "names no subject"),
        ("limits: [{name: a, per: [ip, ip], permits: 1, window: 1s}]", "limits[0].per", "twice"),
        ("limits: [{name: a, per: [ip, global], permits: 1, window: 1s}]", "limits[0].per", "stands alone"),
        ("limits: [{name: a, per: [tenant], permits: 1, window: 1s}]", "limits[0].per[0]", "key registry"),
        ("limits: [{name: a, per: [user], permits: 1, window: 1s}]", "limits[0].per[0]", '"user": expected'),
        ("limits: [{name: a, per: [ip], permits: -1, window: 1s}]", "limits[0].permits", "from 0 to"),
        ("limits: [{name: a, per: [ip], permits: '1', window: 1s}]", "limits[0].permits", '"1": expected'),
        ("limits: [{name: a, per: [ip], permits: 1, window: 0s}]", "limits[0].window", '"0s": expected 1s'),
        ("limits: [{name: a, per: [ip], permits: 1, window: 60}]", "limits[0].window", 'has a unit: "60s"'),
        (f"limits: [{{{LIMIT}, slices: 0}}]", "limits[0].slices", "from 1 to 1000"),
        (f"limits: [{{{LIMIT}, match: {{}}, mode: dry}}]", "limits[0].mode", "expected enforce or shadow"),
        (f"limits: [{{{LIMIT}, match: {{paths: []}}}}]", "limits[0].match.paths", "matches nothing"),
        (f"limits: [{{{LIMIT}, match: {{path: [/]}}}}]", "limits[0].match.path", "did you mean 'paths'?"),
        (f"limits: [{{{LIMIT}, match: {{kinds: [x]}}}}]", "limits[0].match.kinds", "needs a key registry"),
        (f"limits: [{{{LIMIT}, match: {{plans: }}}}]", "limits[0].match.plans", "needs a key registry"),
        (f"limits: [{{{LIMIT}, outage: deny}}]", "limits[0].outage", "one of local, open, closed"),
        (f"limits: [{{{LIMIT}, cost: 0}}]", "limits[0].cost", "0: expected a whole number from 1"),
        (f"limits: [{{{LIMIT}, cost: 6}}]", "limits[0].cost", "6: above the 5 permits"),
        (f"limits: [{{{LIMIT}, cost: 3, plans: {{low: 2}}}}]", "limits[0].cost", "permits of the plan low"),
        (f"limits: [{{{LIMIT}, cost: {{max: 3}}}}]", "limits[0].cost.header", "missing"),
        (f"limits: [{{{LIMIT}, cost: {{header: X, max: 6}}}}]", "limits[0].cost", "6: above the 5 permits"),
        (f"limits: [{{{LIMIT}, cost: {{header: X, max: 0}}}}]", "limits[0].cost.max", "from 1 to"),
        (f"limits: [{{{LIMIT}, cost: X-Cost}}]", "limits[0].cost", "header:X-Cost"),
        (f"limits: [{{{LIMIT}, cost: []}}]", "limits[0].cost", "a list: expected"),
        (f"limits: [{{{LIMIT}, block_for: 10}}]", "limits[0].block_for", '"10s"'),
        (f"limits: [{{{LIMIT}, lease: false}}]", "limits[0].lease", "false: expected auto or never"),
        (f"limits: [{{{LIMIT}, plans: [gold]}}]", "limits[0].plans", "expected a mapping"),
        (
            f"limits: [{{{LIMIT}, plans: {{gold: x}}}}]",
            "limits[0].plans.gold",
            '"x": expected a whole number',
        ),
        (f"limits: [{{{LIMIT}, plans: {{Gold: 1}}}}]", "limits[0].plans.Gold", '"Gold": expected a name'),
        (f"limits: [{{{LIMIT}, counts: credential_failures}}]", "limits[0].counts", "needs a key registry"),
        (f"limits: [{{{LIMIT}, counts: all}}]", "limits[0].counts", "expected requests"),
        (f"limits: [{{{LIMIT}, burst: 3}}]", "limits[0].burst", "unknown key"),
        ("filters: [{deny: true}]", "filters[0].name", "missing: expected a name"),
        ("filters: [{name: f, require: deny}]", "filters[0].require", '"deny": expected allow'),
        ("filters: [{name: f, deny: yes}]", "filters[0].deny", '"yes": expected true or false'),
        ("filters: [{name: f, methods: []}]", "filters[0].methods", "would refuse everything"),
        ("filters: [{name: f, methods: [get]}]", "filters[0].methods[0]", '"GET"'),
        ("filters: [{name: f, content_types: [json]}]", "filters[0].content_types[0]", '"json": expected'),
        ("filters: [{name: f, max_body: 1 MB}]", "filters[0].max_body", '"1 MB": expected bytes'),
        ("filters: [{name: f, tls_min: 1.5}]", "filters[0].tls_min", "1.5: expected"),
        ("filters: [{name: f, scopes: [a]}]", "filters[0].scopes", "needs a key registry"),
        ("filters: [{name: f, kinds: [anonymous]}]", "filters[0].kinds", "needs a key registry"),
        ("filters: [{name: f, patterns: [x]}]", "filters[0].patterns", "needs a key registry"),
        ("default: refuse", "default", "expected allow or deny"),
        ("headers: {legacy: on}", "headers.legacy", '"on": expected true or false'),
        ("log: {refusals_per_s: 1001}", "log.refusals_per_s", "from 0 to 1000"),
        ("limit: []", "limit", "did you mean 'limits'?"),
        ("- a", "", "a list: expected a mapping with keys such as listen"),
        ("a", "", '"a": expected a mapping'),
    ],
)
def test_it_refuses_a_bad_value_with_path_value_and_remedy(text: str, path: str, says: str) -> None:
    _, problems = _read(text)

    assert [problem.path for problem in problems] == [path]
    assert says in problems[0].message


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
