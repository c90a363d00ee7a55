"""When there is no answer, or a refusal: every command says why, what to do, and whether anything changed."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli import app
from tests.certificates import Certificates
from tests.commands.conftest import TOKEN, Run
from tests.commands.double import Asked, Double, Refused
from tests.servers import free_port

READS = [
    ["attack", "status"],
    ["address", "list", "deny"],
    ["address", "export", "deny"],
    ["key", "list"],
    ["key", "show", "k_1"],
    ["key", "export"],
    ["override", "list"],
    ["fleet"],
    ["top"],
    ["top", "--watch"],
    ["audit"],
    ["audit", "--follow"],
]
OPERATES = [
    ["attack", "on"],
    ["attack", "off"],
    ["address", "add", "deny", "192.0.2.1"],
    ["address", "remove", "deny", "192.0.2.1"],
    ["override", "set", "--limit", "l", "--key", "k_1", "--permits", "1"],
    ["override", "unset", "--limit", "l", "--key", "k_1"],
    ["reset", "--limit", "l", "--key", "k_1"],
]
ADMINISTERS = [
    ["key", "create", "--label", "a", "--kind", "server"],
    ["key", "update", "k_1", "--label", "b"],
    ["key", "disable", "k_1"],
    ["key", "enable", "k_1"],
    ["key", "rotate", "k_1"],
    ["key", "delete", "k_1"],
]
CHANGES = [*OPERATES, *ADMINISTERS]
EXPLAIN = ["explain", "--address", "192.0.2.1"]


@pytest.mark.parametrize("arguments", [*READS, *CHANGES, EXPLAIN], ids=" ".join)
def test_it_says_that_no_gate_answers(arguments: list[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for more in ([], ["--json"]):
        result = CliRunner().invoke(app, [*arguments, *more, "--admin", url])

        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"portcullis: no gate answers at {url}")
        assert "is it running?" in result.stderr
        assert "is not known" not in result.stderr, "nothing can have been changed"


@pytest.mark.parametrize("arguments", [*READS, *CHANGES, EXPLAIN], ids=" ".join)
def test_it_says_that_the_token_is_wrong_and_not_what_it_is(
    double: Double, run: Run, arguments: list[str]
) -> None:
    result = run(*arguments, token="s3cret")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "the token is not that gate's" in result.stderr
    assert "--token-file" in result.stderr
    assert "s3cret" not in result.output
    assert double.number == 57


@pytest.mark.parametrize(
    ("arguments", "token", "needed"),
    [
        *[(arguments, "a-viewer-s-token", "operator") for arguments in OPERATES],
        *[(arguments, "an-operator-s-token", "admin") for arguments in ADMINISTERS],
    ],
)
def test_it_says_which_role_it_takes(
    double: Double, run: Run, arguments: list[str], token: str, needed: str
) -> None:
    result = run(*arguments, token=token)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"refused (403): This needs a token with the role {needed}" in result.stderr
    assert "Ask with a token of that role" in result.stderr
    assert double.number == 57


@pytest.mark.parametrize("arguments", CHANGES, ids=" ".join)
def test_it_says_that_another_epoch_is_current(double: Double, run: Run, arguments: list[str]) -> None:
    result = run(*arguments, "--if-epoch", "56-0000000000000038")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "refused (412)" in result.stderr
    assert "nothing was changed" in result.stderr.lower()
    assert double.number == 57


def refusing(status: int, detail: str) -> Callable[[Asked], object]:
    def refuse(_: Asked) -> None:
        raise Refused(status, detail)

    return refuse


@pytest.mark.parametrize("arguments", [*READS, *CHANGES], ids=" ".join)
def test_it_says_that_the_store_is_silent(double: Double, run: Run, arguments: list[str]) -> None:
    double.broken = refusing(503, "The store cannot be asked: refused.")

    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "refused (503): The store cannot be asked: refused. Repeat it when" in result.stderr


@pytest.mark.parametrize("arguments", CHANGES, ids=" ".join)
@pytest.mark.parametrize("raw", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])
def test_it_says_that_the_outcome_is_unknown_when_the_answer_is_lost(
    double: Double, run: Run, arguments: list[str], raw: bytes
) -> None:
    double.broken = lambda _: raw

    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "whether the change was made is not known: look before you repeat it" in result.stderr


@pytest.mark.parametrize("arguments", READS, ids=" ".join)
def test_it_leaves_nothing_unknown_when_it_only_looked(
    double: Double, run: Run, arguments: list[str]
) -> None:
    double.broken = lambda _: b""

    result = run(*arguments)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "not known" not in result.stderr


@pytest.mark.parametrize("status", [400, 404, 409, 413, 429, 500, 504])
def test_it_repeats_what_the_gate_says(double: Double, run: Run, status: int) -> None:
    double.broken = refusing(status, "for: \x1b[2J expected 1s to 3660d")

    result = run("attack", "on", "--for", "1h")

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"refused ({status}): for: \N{REPLACEMENT CHARACTER}[2J expected 1s to 3660d" in result.stderr


# --- as a person is led --------------------------------------------------------------


def test_it_asks_through_tls_with_a_client_certificate(
    double: Double, certificates: Certificates, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    with double.serving(context) as url:
        options = ["--admin", url, "--token-file", "token", "--ca", str(certificates.ca)]
        certificate = ["--cert", str(certificates.client_cert), "--cert-key", str(certificates.client_key)]
        good = CliRunner().invoke(app, ["attack", "status", *options, *certificate])
        without = CliRunner().invoke(app, ["attack", "status", *options])

    assert (good.exit_code, good.stderr) == (0, "")
    assert without.exit_code == 1
    assert "a client certificate" in without.stderr
    assert "--cert-key" in without.stderr
    assert len(double.asked) == 1


def test_it_names_no_token_in_any_option() -> None:
    result = CliRunner().invoke(app, ["attack", "on", "--token", "s3cret"])

    assert result.exit_code == 2
    assert "No such option: --token" in result.stderr
    assert "s3cret" not in result.output
