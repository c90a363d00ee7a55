"""config_listen: where the planes are, and that the files of their TLS are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar import config
from sidecar.config import AdminTls, Config, ConfigError, PublicTls, TcpEndpoint, UnixEndpoint

TOKENS = """\
credentials:
  mode: registry
  tokens: {issuer: "https://gate.example", audience: api, keys: [sign.pem]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a key that signs, as a public port needs one, and two empty files for TLS."""
    key = Ed25519PrivateKey.generate()
    (tmp_path / "sign.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "c.pem").touch()
    (tmp_path / "k.pem").touch()
    return tmp_path


def test_it_refuses_a_socket_whose_path_is_too_long() -> None:
    problems = refused(f"listen: {{admin: 'unix:{'x' * 105}'}}")

    assert [problem.path for problem in problems] == ["listen.admin"]
    assert "107 bytes" in problems[0].message


def test_it_takes_the_admin_planes_certificates_only_if_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    (tmp_path / "k.pem").touch()

    read = parse("listen: {admin_tls: {cert: c.pem, key: k.pem}}", folder=tmp_path)
    gone = refused("listen: {admin_tls: {cert: c.pem, key: x.pem, client_ca: y.pem}}", folder=tmp_path)

    assert read.listen.admin_tls == AdminTls(tmp_path / "c.pem", tmp_path / "k.pem", None)
    assert [problem.path for problem in gone] == ["listen.admin_tls.key", "listen.admin_tls.client_ca"]


def test_it_opens_a_public_port(folder: Path) -> None:
    plain = parse(f"listen: {{public: '127.0.0.1:7'}}\n{TOKENS}", folder=folder).listen
    tls = parse(
        f"listen: {{public: '0.0.0.0:7', public_tls: {{cert: c.pem, key: k.pem}}}}\n{TOKENS}", folder=folder
    ).listen

    assert (plain.public, plain.public_tls) == (TcpEndpoint("127.0.0.1", 7), None)
    assert tls.public_tls == PublicTls(folder / "c.pem", folder / "k.pem")


def test_it_refuses_certificates_that_are_not_there(folder: Path) -> None:
    text = f"listen: {{public: '[::1]:7', public_tls: {{cert: c2.pem, key: k2.pem}}}}\n{TOKENS}"

    problems = refused(text, folder=folder)

    assert [problem.path for problem in problems] == ["listen.public_tls.cert", "listen.public_tls.key"]


@pytest.mark.parametrize("place", ["127.0.0.2:7", "[::1]:7", "localhost:7", "unix:public.sock"])
def test_it_takes_a_public_port_without_tls_where_nobody_listens_in(place: str, folder: Path) -> None:
    assert parse(f"listen: {{public: '{place}'}}\n{TOKENS}", folder=folder).listen.public is not None


def test_it_places_sockets_beside_the_document(folder: Path) -> None:
    read = parse(f"listen: {{public: 'unix:p.sock', health: 'unix:h.sock'}}\n{TOKENS}", folder=folder)

    assert read.listen.public == UnixEndpoint(folder / "p.sock")
    assert read.listen.health == UnixEndpoint(folder / "h.sock")


@pytest.mark.parametrize("place", ["0.0.0.0:7", "[::]:7", "gate.example:7", "192.0.2.1:7"])
def test_it_demands_tls_of_a_public_port_that_others_reach(place: str, folder: Path) -> None:
    problems = refused(f"listen: {{public: '{place}'}}\n{TOKENS}", folder=folder)

    assert [problem.path for problem in problems] == ["listen.public"]
    assert "set `public_tls`" in problems[0].message


def parse(text: str, *, folder: Path = Path("/gate")) -> Config:
    return config.parse(text, name="portcullis.yaml", folder=folder)


def refused(text: str, *, folder: Path = Path("/gate")) -> tuple[config.Problem, ...]:
    with pytest.raises(ConfigError) as error:
        parse(text, folder=folder)
    return error.value.problems
