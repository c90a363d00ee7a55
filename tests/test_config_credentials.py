"""config_credentials: the section with its files becomes values; private keys stay out of sight."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from sidecar import config
from sidecar.config import (
    ClaimNames,
    Config,
    ConfigError,
    Credentials,
    Issuer,
    JwksUrl,
    QueryNames,
    changes_needing_restart,
)
from sidecar.core.credentials import HeaderPair
from sidecar.core.model import Detecting, Mode
from sidecar.core.starter_patterns import STARTER
from sidecar.core.tokens import SigningKey

PEM = {name: Ed25519PrivateKey.generate() for name in ("sign.pem", "before.pem")}

TOKENS = """\
credentials:
  mode: registry
  tokens: {issuer: "https://gate.example", audience: api, keys: [sign.pem, before.pem]}
"""
FOREIGN = """\
credentials:
  mode: registry
  jwt:
    - name: idp
      issuer: "https://idp.example"
      audiences: [api]
      algorithms: [EdDSA]
      jwks: {%s}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two private keys and a set with the public half of one."""
    for name, key in PEM.items():
        (tmp_path / name).write_bytes(pem_of(key))
    published = dict(SigningKey.from_pem(pem_of(PEM["sign.pem"])).public_jwk)
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [published]}))
    return tmp_path


# --- what it means ----------------------------------------------------------------


def test_it_identifies_without_checking_when_nothing_is_said() -> None:
    read = parse("").credentials

    assert read == Credentials(
        mode="opaque",
        headers=(b"x-api-key",),
        bearer=False,
        server=HeaderPair(b"x-app-id", b"x-app-token"),
        client=HeaderPair(b"x-client-application-id", b"x-client-token"),
        query=QueryNames(
            frozenset({"api_key", "apikey", "api-key", "access_token", "app_token", "client_secret"}),
            Mode.SHADOW,
        ),
        roles={},
        tenants={},
        tokens=None,
        issuers=(),
    )


def test_it_reads_what_a_registry_needs() -> None:
    read = parse(
        "credentials: {mode: registry, headers: [X-K], server: {id: X-S}, client: {secret: X-C},"
        " query: {names: [Auth]}, roles: {editor: [orders.read, orders.write]},"
        " tenants: {acme: {cidrs: [203.0.113.0/24, 192.0.2.1, 192.0.2.1/32]}}}"
    ).credentials

    assert read == Credentials(
        mode="registry",
        headers=(b"x-k",),
        bearer=True,
        server=HeaderPair(b"x-s", b"x-app-token"),
        client=HeaderPair(b"x-client-application-id", b"x-c"),
        query=QueryNames(frozenset({"auth"}), Mode.ENFORCE),
        roles={"editor": ("orders.read", "orders.write")},
        tenants={"acme": ("203.0.113.0/24", "192.0.2.1/32")},
    )


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("{mode: registry}", Mode.ENFORCE),
        ("{mode: opaque}", Mode.SHADOW),
        ("{mode: none}", Mode.SHADOW),
        ("{mode: registry, query: {mode: shadow}}", Mode.SHADOW),
        ("{mode: opaque, query: {mode: enforce}}", Mode.ENFORCE),
    ],
)
def test_it_enforces_clean_queries_with_a_registry_unless_told_otherwise(text: str, mode: Mode) -> None:
    assert parse(f"credentials: {text}").credentials.query.mode is mode


def test_it_never_reads_bearer_tokens_that_nobody_checks() -> None:
    assert not parse("credentials: {mode: opaque}").credentials.bearer
    assert not parse("credentials: {mode: registry, bearer: false}").credentials.bearer


def test_it_reads_the_keys_that_sign(folder: Path) -> None:
    tokens = parse(TOKENS, folder=folder).credentials.tokens

    assert tokens is not None
    assert (tokens.issuer, tokens.audience, tokens.ttl_ms) == ("https://gate.example", "api", 900_000)
    assert tokens.keys == tuple(SigningKey.from_pem(pem_of(key)) for key in PEM.values())


def test_it_reads_foreign_issuers(folder: Path) -> None:
    of_file = parse(FOREIGN % "file: jwks.json", folder=folder).credentials.issuers
    fetched = parse(
        FOREIGN % 'url: "https://idp.example/jwks"'
        + "      leeway: 0s\n      claims: {subject: oid, scopes: scp, tenant: org, plan: plan}\n"
    ).credentials.issuers

    assert of_file == (
        Issuer(
            name="idp",
            issuer="https://idp.example",
            audiences=("api",),
            algorithms=("EdDSA",),
            leeway_ms=30_000,
            claims=ClaimNames("sub", "scope", "", ""),
            jwks=(folder / "jwks.json").read_text(),
        ),
    )
    assert fetched[0].jwks == JwksUrl("https://idp.example/jwks", 600_000)
    assert fetched[0].leeway_ms == 0
    assert fetched[0].claims == ClaimNames("oid", "scp", "org", "plan")


def test_it_reads_filters_about_who_asks_and_what_is_sought() -> None:
    read = parse(
        "credentials: {mode: registry}\n"
        "filters:\n"
        "- {name: web, match: {paths: ['/shop/*']}, kinds: [client, server], origins: [.example.com]}\n"
        "- {name: waf, mode: shadow, patterns: [xss]}\n"
    )

    assert read.filters[0].kinds == ("client", "server")
    assert read.filters[0].origins == (".example.com",)
    assert read.filters[1].detecting == Detecting(STARTER["xss"], 5, (b"user-agent", b"referer"))


# --- what others do with it ---------------------------------------------------------


def test_it_watches_the_files_of_keys(folder: Path) -> None:
    signing = parse(TOKENS, folder=folder)
    foreign = parse(FOREIGN % "file: jwks.json", folder=folder)

    assert signing.files == (folder / "sign.pem", folder / "before.pem")
    assert foreign.files == (folder / "jwks.json",)


def test_it_is_the_same_on_the_other_side_of_a_pipe(folder: Path) -> None:
    (folder / "all.yaml").write_text(TOKENS + FOREIGN.partition("registry\n")[2] % "file: jwks.json")
    read = config.load(folder / "all.yaml", {})

    assert read.credentials.tokens is not None
    assert read.credentials.issuers
    assert pickle.loads(pickle.dumps(read)) == read


def test_it_shows_no_private_key(folder: Path) -> None:
    read = parse(TOKENS, folder=folder)

    assert "PRIVATE" not in repr(read)
    assert "PRIVATE" not in repr(read.credentials.public())
    assert all(line not in repr(read) for line in pem_of(PEM["sign.pem"]).decode().splitlines())


def test_its_digest_follows_the_public_half_of_keys(folder: Path) -> None:
    base = parse(TOKENS, folder=folder)

    (folder / "sign.pem").write_bytes(b"# the same key\n" + pem_of(PEM["sign.pem"]))
    (folder / "copy.pem").write_bytes(pem_of(PEM["sign.pem"]))
    same = parse(TOKENS.replace("[sign.pem", "[copy.pem"), folder=folder)
    commented = parse(TOKENS, folder=folder)
    turned = parse(TOKENS.replace("sign.pem, before.pem", "before.pem, sign.pem"), folder=folder)
    (folder / "sign.pem").write_bytes(pem_of(Ed25519PrivateKey.generate()))
    other = parse(TOKENS, folder=folder)

    assert base.digest == same.digest == commented.digest
    assert len({base.digest, turned.digest, other.digest}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "mode: none",
        "mode: registry",
        "mode: registry, bearer: false",
        "mode: registry, server: {id: X-A}",
        "mode: registry, client: {id: X-A}",
        "mode: registry, query: {mode: shadow}",
        "mode: registry, query: {names: [a]}",
        "mode: registry, roles: {a: [b]}",
        "mode: registry, tenants: {a: {cidrs: [10.0.0.1]}}",
    ],
)
def test_its_digest_changes_with_every_value(text: str) -> None:
    others = {parse(other).digest for other in ("", "credentials: {mode: registry, headers: [X-B]}")}

    assert parse(f"credentials: {{{text}}}").digest not in others
    assert parse(f"credentials: {{{text}}}").digest == parse(f"credentials: {{{text}}}").digest


def test_it_reloads_all_of_it_but_the_public_port(folder: Path) -> None:
    read = parse(f"listen: {{public: '127.0.0.1:7'}}\n{TOKENS}", folder=folder)

    assert changes_needing_restart(parse("", folder=folder), read) == ["listen.public"]


# --- what it refuses ----------------------------------------------------------------


def test_it_refuses_keys_that_cannot_sign(folder: Path) -> None:
    (folder / "cert.pem").write_text("-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n")
    (folder / "der.pem").write_bytes(b"\xff\x00")
    (folder / "p384.pem").write_bytes(
        ec_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "locked.pem").write_bytes(pem_of(PEM["sign.pem"], BestAvailableEncryption(b"hunter2")))
    names = ["gone.pem", "cert.pem", "der.pem", "p384.pem", "locked.pem", "."]

    problems = refused(TOKENS.replace("sign.pem, before.pem", ", ".join(names)), folder=folder)

    assert [problem.path for problem in problems] == [f"credentials.tokens.keys[{at}]" for at in range(6)]
    for problem, says in zip(
        problems,
        [
            "does not exist",
            "openssl genpkey",
            "openssl genpkey",
            "nor a P-256 key",
            "passphrase",
            "not a file",
        ],
        strict=True,
    ):
        assert says in problem.message
        assert "hunter2" not in problem.message


def test_it_takes_a_key_on_p_256(folder: Path) -> None:
    (folder / "sign.pem").write_bytes(
        ec_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )

    tokens = parse(TOKENS, folder=folder).credentials.tokens

    assert tokens is not None
    assert [key.algorithm for key in tokens.keys] == ["ES256", "EdDSA"]


def test_it_refuses_the_same_key_twice(folder: Path) -> None:
    (folder / "copy.pem").write_bytes(pem_of(PEM["sign.pem"]))

    problems = refused(TOKENS.replace("before", "copy"), folder=folder)

    assert [problem.path for problem in problems] == ["credentials.tokens.keys[1]"]
    assert '"copy.pem": this key stands here already: remove one' in problems[0].message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", 'an object whose "keys"'),
        ("{", ""),
        ('{"keys": [{"kty": "oct", "k": "aHVudGVyMg"}]}', "none of its keys can be used"),
    ],
)
def test_it_refuses_key_sets_in_which_nothing_can_be_used(content: str, says: str, folder: Path) -> None:
    (folder / "jwks.json").write_text(content)

    problems = refused(FOREIGN % "file: jwks.json", folder=folder)

    assert [problem.path for problem in problems] == ["credentials.jwt[0].jwks.file"]
    assert problems[0].message.startswith('"jwks.json": ')
    assert says in problems[0].message
    assert "aHVudGVyMg" not in problems[0].message


def test_it_refuses_key_sets_without_a_key_for_the_issuers_algorithms(folder: Path) -> None:
    problems = refused((FOREIGN % "file: jwks.json").replace("EdDSA", "RS256"), folder=folder)

    assert [problem.path for problem in problems] == ["credentials.jwt[0].jwks.file"]


def test_it_refuses_a_key_set_that_is_not_there() -> None:
    problems = refused(FOREIGN % "file: gone.json")

    assert [problem.path for problem in problems] == ["credentials.jwt[0].jwks.file"]
    assert problems[0].message.endswith("the key set does not exist")


def test_it_refuses_what_needs_a_registry_and_says_how_to_get_one() -> None:
    problems = refused(
        "limits: [{name: a, per: [tenant], permits: 1, window: 1s, plans: {gold: 2}}]\n"
        "filters: [{name: b, kinds: [client], match: {scopes: [a]}}]\n"
        "credentials: {tenants: {acme: {cidrs: [10.0.0.1]}}}\n"
    )

    assert [(problem.path, problem.line) for problem in problems] == [
        ("limits[0].per[0]", 1),
        ("limits[0].plans", 1),
        ("filters[0].match.scopes", 2),
        ("filters[0].kinds", 2),
        ("credentials.tenants", 3),
    ]
    assert all('write "credentials: {mode: registry}"' in problem.message for problem in problems)


@pytest.mark.parametrize("credentials", ["{mode: registri}", "registry", "{mode: }"])
def test_it_does_not_ask_for_a_registry_where_the_mode_could_not_be_read(credentials: str) -> None:
    problems = refused(f"credentials: {credentials}\nfilters: [{{name: a, kinds: [client]}}]")

    assert [problem.path for problem in problems] in (["credentials.mode"], ["credentials"])


def test_it_refuses_a_public_port_with_nothing_to_serve() -> None:
    problems = refused("credentials: {mode: registry}\nlisten: {public: '127.0.0.1:7'}")

    assert [problem.path for problem in problems] == ["listen.public"]


def parse(text: str, *, folder: Path = Path("/gate")) -> Config:
    return config.parse(text, name="portcullis.yaml", folder=folder)


def refused(text: str, *, folder: Path = Path("/gate")) -> tuple[config.Problem, ...]:
    with pytest.raises(ConfigError) as error:
        parse(text, folder=folder)
    return error.value.problems


def pem_of(key: Ed25519PrivateKey, lock: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock or NoEncryption())
