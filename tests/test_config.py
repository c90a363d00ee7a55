"""config: a document becomes one frozen value, or one error that lists everything."""

from __future__ import annotations

import os
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from sidecar import config
from sidecar.config import Config, ConfigError, TcpEndpoint, UnixEndpoint, changes_needing_restart
from sidecar.core.model import Cost, Dimension, Filter, Limit, Match, Mode, Outage
from sidecar.core.trigger import Thresholds

EXAMPLE = """\
listen: {check: ["127.0.0.1:8080", "unix:run/check.sock"], admin: "127.0.0.1:8081", health: "0.0.0.0:8082"}
store: {url: "redis://redis:6379/0", deadline_ms: 20}
trusted_proxies: ["10.0.0.0/8"]
attack_mode: {status: 503, retry_after_s: 60, pass: ["10.0.0.0/8"]}
addresses:
  deny:   {cidrs: ["198.51.100.0/24"], files: ["drop.txt"]}
  allow:  {cidrs: ["192.0.2.0/24"]}      # demanded by filters with `require: allow`
  exempt: {cidrs: ["127.0.0.0/8"]}       # skips limits
credentials: {mode: registry}
limits:
  - {name: per-ip,  per: [ip],  permits: 100,  window: 1m}
  - {name: per-key, per: [key], permits: 1000, window: 1m, plans: {gold: 10000}, outage: closed}
  - {name: login,   per: [ip, route], permits: 5, window: 1h, block_for: 10m, match: {methods: [POST], paths: ["/login"]}, mode: shadow}
filters:
  - {name: json-only, match: {methods: [POST, PUT, PATCH]}, content_types: [application/json]}
  - {name: office,    match: {paths: ["/admin/*"]}, require: allow}
  - {name: orders,    match: {paths: ["/orders/*"]}, scopes: [orders.write]}
"""  # noqa: E501 - as it stands in the design

# --- what a document means ------------------------------------------------------


def test_it_reads_the_whole_example(tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text(
        "# bad neighbours\n203.0.113.0/24  # one\n\n198.51.100.0/24\n2001:db8::1\n"
    )
    document = tmp_path / "portcullis.yaml"
    document.write_text(EXAMPLE)

    read = config.load(document, {})

    assert read.listen.check == (
        TcpEndpoint("127.0.0.1", 8080),
        UnixEndpoint(tmp_path / "run/check.sock", 0o660, None),
    )
    assert read.listen.health == TcpEndpoint("0.0.0.0", 8082)
    assert (read.store.url, read.store.deadline_ms, read.store.prefix) == ("redis://redis:6379/0", 20, "pc:")
    assert read.trusted_proxies == read.attack_mode.passes == ("10.0.0.0/8",)
    assert read.addresses.deny == ("198.51.100.0/24", "203.0.113.0/24", "2001:db8::1/128")
    assert read.addresses.allow == ("192.0.2.0/24",)
    assert read.addresses.exempt == ("127.0.0.0/8",)
    assert read.limits == (
        Limit(name="per-ip", per=(Dimension("ip"),), permits=100, window_ms=60_000, slice_ms=1000),
        Limit(
            name="per-key",
            per=(Dimension("key"),),
            permits=1000,
            window_ms=60_000,
            slice_ms=1000,
            plans={"gold": 10_000},
            outage=Outage.CLOSED,
        ),
        Limit(
            name="login",
            per=(Dimension("ip"), Dimension("route")),
            permits=5,
            window_ms=3_600_000,
            slice_ms=60_000,
            block_ms=600_000,
            match=Match(methods=("POST",), paths=("/login",)),
            mode=Mode.SHADOW,
            lease=False,
        ),
    )
    assert read.filters == (
        Filter(
            name="json-only",
            match=Match(methods=("POST", "PUT", "PATCH")),
            content_types=("application/json",),
        ),
        Filter(name="office", match=Match(paths=("/admin/*",)), require_allow=True),
        Filter(name="orders", match=Match(paths=("/orders/*",)), scopes=("orders.write",)),
    )
    assert read.files == (document, tmp_path / "drop.txt")


def test_it_has_a_default_for_everything() -> None:
    read = parse("")

    assert read == replace(
        read,
        listen=config.Listen(
            check=(TcpEndpoint("127.0.0.1", 8080),),
            admin=TcpEndpoint("127.0.0.1", 8081),
            admin_tls=None,
            health=None,
            public=None,
            public_tls=None,
            idle_s=75.0,
            max_connections=10_000,
            grace_s=10.0,
        ),
        workers=1,
        store=config.StoreConfig(
            url="embedded", deadline_ms=20, shards=1, prefix="pc:", ca=None, cert=None, key=None
        ),
        state_dir=Path("/gate/portcullis-data"),
        trusted_proxies=(),
        ipv6_prefix=64,
        attack_mode=config.AttackMode(
            status=503, retry_after_s=60, passes=(), unknown_on=False, trigger=None
        ),
        addresses=config.Addresses(deny=(), allow=(), exempt=()),
        credentials=config.Credentials(mode="opaque", headers=(b"x-api-key",)),
        fronts=config.Fronts(envoy_address="real_ip"),
        limits=(Limit(name="per-ip", per=(Dimension("ip"),), permits=100, window_ms=60_000, slice_ms=1000),),
        filters=(),
        default_allow=True,
        legacy_headers=False,
        refusals_per_s=10,
        files=(),
    )


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("default: deny", "default_allow", False),
        ("attack_mode: {unknown: on}", "attack_mode.unknown_on", True),
        ("attack_mode: {trigger: {}}", "attack_mode.trigger", None),
        (
            "attack_mode: {trigger: {refusals_per_s: 500}}",
            "attack_mode.trigger",
            Thresholds(refusals_per_s=500, requests_per_s=None, for_ms=10_000, quiet_ms=300_000),
        ),
        (
            "attack_mode: {trigger: {requests_per_s: 9, for: 1m, quiet: 1h}}",
            "attack_mode.trigger",
            Thresholds(refusals_per_s=None, requests_per_s=9, for_ms=60_000, quiet_ms=3_600_000),
        ),
        ("fronts: {envoy: {address: forwarded}}", "fronts.envoy_address", "forwarded"),
        ("headers: {legacy: true}", "legacy_headers", True),
        ("log: {refusals_per_s: 0}", "refusals_per_s", 0),
        ("log: {sample: 0.1, hide: ['/x/*']}", "log", config.Logging(sample=0.1, hide=("/x/*",))),
        ("tracing: {sample: 1}", "tracing", config.Tracing(otlp="", sample=1)),
        ("tracing: {otlp: 'http://o/v1'}", "tracing.otlp", "http://o/v1"),
        ("listen: {idle_s: 5}", "listen.idle_s", 5.0),
        ("credentials: {headers: [X-One, X-Two]}", "credentials.headers", (b"x-one", b"x-two")),
        ("state_dir: data", "state_dir", Path("/gate/data")),
        ("state_dir: /data", "state_dir", Path("/data")),
        ("limits: []", "limits", ()),
    ],
)
def test_it_gives_keys_their_meaning(text: str, attribute: str, value: object) -> None:
    found: object = parse(text)
    for part in attribute.split("."):
        found = getattr(found, part)

    assert found == value


def test_it_takes_the_stores_outage_for_limits_that_say_none() -> None:
    read = parse(
        "store: {outage: open}\nlimits:\n"
        "- {name: a, per: [ip], permits: 1, window: 1s}\n"
        "- {name: b, per: [ip], permits: 1, window: 1s, outage: local}\n"
    )

    assert [limit.outage for limit in read.limits] == [Outage.OPEN, Outage.LOCAL]


def test_it_reads_costs() -> None:
    read = parse("limits: [{name: a, per: [ip], permits: 9, window: 1s, cost: 'header:X-Cost'}]")

    assert read.limits[0].cost == Cost(header=b"x-cost", most=9)


# --- finding and reading files --------------------------------------------------


def test_it_takes_the_defaults_when_there_is_no_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    read = config.load(None, {})

    assert read.files == ()
    assert read.state_dir == tmp_path / "portcullis-data"


def test_it_finds_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "portcullis.yaml").write_text("workers: 2")
    (tmp_path / "other.yaml").write_text("workers: 3")

    assert config.load(None, {}).workers == 2
    assert config.load(None, {"PORTCULLIS_CONFIG": "other.yaml"}).workers == 3
    assert config.load(Path("portcullis.yaml"), {"PORTCULLIS_CONFIG": "other.yaml"}).workers == 2


def test_it_refuses_a_document_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    os.mkfifo(tmp_path / "pipe")
    for name, says in [
        ("missing", "does not exist"),
        (".", "is not a file"),
        ("pipe", "is not a file"),
        ("latin", "is not UTF-8"),
        ("a\0b", "does not exist"),
    ]:
        with pytest.raises(ConfigError, match=f"the configuration {says}"):
            config.load(tmp_path / name, {})


def test_it_reads_lists_beside_the_document_wherever_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/drop.txt").write_text("192.0.2.1")
    (tmp_path / "p.yaml").write_text("addresses: {deny: {files: [lists/drop.txt, lists/drop.txt]}}")

    read = config.load(tmp_path / "p.yaml", {})

    assert read.addresses.deny == ("192.0.2.1/32",)
    assert read.files == (tmp_path / "p.yaml", tmp_path / "lists/drop.txt")


def test_it_names_file_and_line_of_every_bad_network(tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("192.0.2.0/24\nnonsense\n# fine\n10.0.0.1/8\n")

    problems = refused("addresses: {exempt: {files: [drop.txt, gone.txt]}}", folder=tmp_path)

    assert [problem.path for problem in problems] == ["addresses.exempt.files[0]"] * 2 + [
        "addresses.exempt.files[1]"
    ]
    assert problems[0].message.startswith("drop.txt:2: ")
    assert problems[1].message.startswith("drop.txt:4: ")
    assert "10.0.0.0/8" in problems[1].message
    assert problems[2].message.endswith("the list does not exist")


def test_it_takes_certificates_for_tls_only_and_only_if_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")

    read = parse("store: {url: 'rediss://r', ca: ca.pem}", folder=tmp_path)
    plain = refused("store: {url: 'redis://:hunter2@r', ca: ca.pem}", folder=tmp_path)
    gone = refused("store: {url: 'rediss://r', cert: c.pem, key: k.pem}", folder=tmp_path)

    assert read.store.ca == tmp_path / "ca.pem"
    assert [(problem.path, "rediss://" in problem.message) for problem in plain] == [("store.ca", True)]
    assert "hunter2" not in str(plain)
    assert [problem.path for problem in gone] == ["store.cert", "store.key"]


# --- what others do with it -----------------------------------------------------


def test_it_is_the_same_on_the_other_side_of_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("203.0.113.0/24")
    read = parse(EXAMPLE, folder=tmp_path)

    assert pickle.loads(pickle.dumps(read)) == read


def test_it_cannot_be_changed() -> None:
    read = parse("")

    with pytest.raises(FrozenInstanceError):
        read.workers = 2  # type: ignore[misc]  # what the test is about


def test_its_digest_follows_the_meaning_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "drop.txt").write_text("203.0.113.0/24")
    (tmp_path / "same.txt").write_text("# the same\n203.0.113.0/24\n")
    base = parse("workers: 2\naddresses: {deny: {files: [drop.txt]}}", folder=tmp_path)

    reordered = parse("addresses:\n  deny:\n    files: ['drop.txt']\nworkers: 2", folder=tmp_path)
    moved = parse("workers: 2\naddresses: {deny: {files: [same.txt]}}", folder=tmp_path)
    (tmp_path / "drop.txt").write_text("203.0.113.0/25")
    changed = parse("workers: 2\naddresses: {deny: {files: [drop.txt]}}", folder=tmp_path)

    assert len(base.digest) == 16
    assert base.digest == reordered.digest == moved.digest
    assert changed.digest != base.digest


@pytest.mark.parametrize(
    "text",
    [
        "workers: 2",
        "store: {prefix: 'x:'}",
        "store: {outage: open}",
        "listen: {check: ['unix:a']}",
        "listen: {check: ['unix:a?mode=0600']}",
        "limits: []",
        "limits: [{name: per-ip, per: [ip], permits: 101, window: 1m}]",
        "limits: [{name: per-ip, per: [ip], permits: 100, window: 1m, mode: shadow}]",
        "limits: [{name: per-ip, per: ['header:A'], permits: 100, window: 1m}]",
        "limits: [{name: per-ip, per: ['header:B'], permits: 100, window: 1m}]",
        "filters: [{name: a, deny: true}]",
        "default: deny",
        "headers: {legacy: true}",
        "addresses: {deny: {cidrs: [10.0.0.1]}}",
        "addresses: {allow: {cidrs: [10.0.0.1]}}",
        "store: {url: 'redis://a'}",
        "store: {url: 'redis://b'}",
    ],
)
def test_its_digest_changes_with_every_value(text: str) -> None:
    others = {
        parse(other).digest
        for other in ("", "workers: 3", "limits: [{name: b, per: [ip], permits: 1, window: 1s}]")
    }

    assert parse(text).digest not in others
    assert parse(text).digest == parse(text).digest


def test_its_digest_tells_nothing_of_the_password() -> None:
    digests = {parse(f"store: {{url: 'redis://app:{password}@r'}}").digest for password in ("one", "two")}

    assert len(digests) == 1


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", []),
        ("limits: []\nfilters: [{name: a, deny: true}]\nstore: {outage: open}\nipv6_prefix: 56", []),
        ("workers: 2", ["workers"]),
        ("state_dir: other", ["state_dir"]),
        ("listen: {check: ['127.0.0.1:9090'], grace_s: 3}", ["listen.check", "listen.grace_s"]),
        ("listen: {health: '127.0.0.1:9090'}\nworkers: 2", ["listen.health", "workers"]),
        ("store: {url: 'redis://r', shards: 2}", ["store.url", "store.shards"]),
    ],
)
def test_it_names_what_a_reload_cannot_change(text: str, keys: list[str]) -> None:
    assert changes_needing_restart(parse(""), parse(text)) == keys


def test_it_sees_a_new_password_as_a_change_that_needs_a_restart() -> None:
    old, new = (parse(f"store: {{url: 'redis://:{password}@r'}}") for password in ("one", "two"))

    assert changes_needing_restart(old, new) == ["store.url"]


def parse(text: str, *, folder: Path = Path("/gate"), env: dict[str, str] | None = None) -> Config:
    return config.parse(text, name="portcullis.yaml", folder=folder, env=env or {})


def refused(
    text: str, *, folder: Path = Path("/gate"), env: dict[str, str] | None = None
) -> tuple[config.Problem, ...]:
    with pytest.raises(ConfigError) as error:
        parse(text, folder=folder, env=env)
    return error.value.problems
