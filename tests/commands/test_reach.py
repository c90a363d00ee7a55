"""Which gate is asked, and with which token: the first of several places that says it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.client import AdminClient, AdminFailed
from sidecar.commands.reach import Named, UsageWrong, client_for
from sidecar.config import ConfigError
from tests.certificates import Certificates

LOCAL = "http://127.0.0.1:8081"


def found(client: AdminClient) -> tuple[str, str | None]:
    return client._url, client._token


def keep_token(folder: Path, secret: str) -> None:
    folder.mkdir(exist_ok=True)
    private(folder / "admin-token", f"{secret}\n")


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def home_of(elsewhere: Path, text: str) -> dict[str, str]:
    """An environment whose home has a cli.yaml."""
    folder = elsewhere / "home" / ".config" / "portcullis"
    folder.mkdir(parents=True)
    (folder / "cli.yaml").write_text(text)
    return {"HOME": str(elsewhere / "home")}


# --- defaults and the gate's document ---------------------------------------------


def test_it_takes_the_defaults(elsewhere: Path) -> None:
    keep_token(elsewhere / "portcullis-data", "made")

    assert found(client_for(Named(), {})) == (LOCAL, "made")


def test_it_has_no_token_where_there_is_none() -> None:
    assert found(client_for(Named(), {})) == (LOCAL, None)


def test_it_takes_what_the_document_says(elsewhere: Path) -> None:
    document = elsewhere / "gate.yaml"
    document.write_text('listen: {admin: "0.0.0.0:9"}\nstate_dir: state')
    keep_token(elsewhere / "state", "its-own")

    assert found(client_for(Named(config=document), {})) == ("http://127.0.0.1:9", "its-own")
    assert found(client_for(Named(), {"PORTCULLIS_CONFIG": str(document)}))[1] == "its-own"
    other = Named(admin="http://other:1", config=document)
    assert found(client_for(other, {})) == ("http://other:1", "its-own")


def test_it_finds_a_unix_socket_of_the_document(elsewhere: Path) -> None:
    (elsewhere / "portcullis.yaml").write_text('listen: {admin: "unix:run/admin.sock"}')

    assert found(client_for(Named(), {}))[0] == f"unix:{elsewhere}/run/admin.sock"


def test_it_prefers_the_environment_and_then_reads_no_document(elsewhere: Path) -> None:
    (elsewhere / "portcullis.yaml").write_text("this: is wrong")
    env = {"PORTCULLIS_ADMIN_URL": "http://gate:1", "PORTCULLIS_ADMIN_TOKEN": "t"}

    assert found(client_for(Named(), env)) == ("http://gate:1", "t")
    assert found(client_for(Named(admin="http://named:2"), env)) == ("http://named:2", "t")
    with pytest.raises(ConfigError):
        client_for(Named(), {})


def test_it_uses_no_token_that_others_can_read(elsewhere: Path) -> None:
    keep_token(elsewhere / "portcullis-data", "made")
    (elsewhere / "portcullis-data" / "admin-token").chmod(0o644)

    with pytest.raises(AdminFailed, match="others may read it"):
        client_for(Named(), {})


# --- cli.yaml ------------------------------------------------------------------------


def test_it_takes_what_cli_yaml_says(elsewhere: Path) -> None:
    env = home_of(elsewhere, "admin: http://fleet:1\ntoken_file: token")
    private(elsewhere / "home/.config/portcullis/token", "from-file\n")
    (elsewhere / "portcullis.yaml").write_text("listen: {admin: 'localhost:9'}")

    assert found(client_for(Named(), env)) == ("http://fleet:1", "from-file")


def test_it_prefers_options_then_the_environment_then_cli_yaml(elsewhere: Path) -> None:
    env = home_of(elsewhere, "admin: http://fleet:1\ntoken_file: token")
    private(elsewhere / "home/.config/portcullis/token", "from-file")
    own = private(elsewhere / "own", "own")
    said = {**env, "PORTCULLIS_ADMIN_URL": "http://said:2", "PORTCULLIS_ADMIN_TOKEN": "said"}

    assert found(client_for(Named(), said)) == ("http://said:2", "said")
    assert found(client_for(Named(admin="http://option:3", token_file=own), said)) == (
        "http://option:3",
        "own",
    )


def test_it_prefers_a_document_that_an_option_names(elsewhere: Path) -> None:
    env = home_of(elsewhere, "admin: http://fleet:1\ntoken_file: none")
    document = elsewhere / "gate.yaml"
    document.write_text('listen: {admin: "127.0.0.1:9"}\nstate_dir: state')
    keep_token(elsewhere / "state", "its-own")

    assert found(client_for(Named(config=document), env)) == ("http://127.0.0.1:9", "its-own")


def test_it_reads_the_cli_yaml_that_a_variable_names(elsewhere: Path) -> None:
    home_of(elsewhere, "admin: http://home:1")
    xdg = elsewhere / "xdg" / "portcullis"
    xdg.mkdir(parents=True)
    (xdg / "cli.yaml").write_text("admin: http://xdg:2")
    (elsewhere / "mine.yaml").write_text("admin: http://mine:3")
    env = {"HOME": str(elsewhere / "home"), "XDG_CONFIG_HOME": str(elsewhere / "xdg")}

    assert found(client_for(Named(), env))[0] == "http://xdg:2"
    env["PORTCULLIS_CLI_CONFIG"] = str(elsewhere / "mine.yaml")
    assert found(client_for(Named(), env))[0] == "http://mine:3"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("admn: http://a:1", r"admn: unknown key: did you mean 'admin'\? \(line 1\)"),
        ("admin: http://a:1\ntoken: s3cret", r"token: unknown key: .*\(line 2\)"),
        ("admin: gate", "admin: .*expected http://host:port"),
        ("admin: http://u:s3cret@gate", "admin: .*expected http://host:port"),
        ("ca: [a]", "ca: a list: expected a path"),
        ("- admin", "expected a mapping"),
        ("admin: 'open", "not YAML"),
    ],
)
def test_it_refuses_a_wrong_cli_yaml_by_file_and_key(elsewhere: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        client_for(Named(), home_of(elsewhere, text))

    assert str(elsewhere / "home/.config/portcullis/cli.yaml") in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_it_refuses_to_do_without_a_cli_yaml_that_was_named(elsewhere: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml.*\n.*cannot be read: No such file"):
        client_for(Named(), {"PORTCULLIS_CLI_CONFIG": "none.yaml"})


# --- a token's file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "text", "says"),
    [
        (0o604, "t", "others may read this token"),
        (0o600, "", "holds no token"),
        (0o600, "s3cret\nand more", "holds no token"),
        (0o600, "s3cret é", "holds no token"),
        (0o600, "s3cret" * 200, "holds no token"),
    ],
)
def test_it_refuses_a_bad_token_file(elsewhere: Path, mode: int, text: str, says: str) -> None:
    path = elsewhere / "token"
    path.write_text(text)
    path.chmod(mode)

    with pytest.raises(AdminFailed, match=says) as failed:
        client_for(Named(token_file=path), {})

    assert str(path) in str(failed.value)
    assert "s3cret" not in str(failed.value)


def test_it_says_that_a_token_file_is_missing(elsewhere: Path) -> None:
    with pytest.raises(AdminFailed, match=r"none: the admin token cannot be read: No such file"):
        client_for(Named(token_file=Path("none")), {})


def test_it_takes_a_token_from_a_pipe_and_through_a_link(elsewhere: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"piped\r\n")
    os.close(write)
    private(elsewhere / "real", "linked\n")
    (elsewhere / "link").symlink_to("real")

    assert client_for(Named(token_file=Path(f"/dev/fd/{read}")), {})._token == "piped"
    assert client_for(Named(token_file=Path("link")), {})._token == "linked"
    os.close(read)


# --- https ------------------------------------------------------------------------------


def test_it_takes_certificates_from_options_variables_and_cli_yaml(
    elsewhere: Path, certificates: Certificates
) -> None:
    ca, cert, key = certificates.ca, certificates.client_cert, certificates.client_key
    variables = {"PORTCULLIS_ADMIN_CA": str(ca), "PORTCULLIS_ADMIN_CERT": str(cert)}
    env = home_of(elsewhere, f"admin: https://gate:1\nca: {ca}\ncert: {cert}\nkey: {key}")

    for named, given in (
        (Named("https://gate:1", ca=ca, cert=cert, cert_key=key), {}),
        (Named("https://gate:1"), {**variables, "PORTCULLIS_ADMIN_KEY": str(key)}),
        (Named(), env),
    ):
        client = client_for(named, given)

        assert client._tls is not None
        assert client._tls.cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize(
    ("named", "env", "where"),
    [
        (Named(ca=Path("ca.pem")), {}, "--ca"),
        (Named("http://gate:1", cert=Path("c"), cert_key=Path("k")), {}, "--cert, --cert-key"),
        (Named("https://gate:1", cert_key=Path("k")), {}, "--cert-key"),
        (Named("gate"), {}, "--admin"),
        (Named("http://u:s3cret@gate"), {}, "--admin"),
        (Named(), {"PORTCULLIS_ADMIN_URL": "http://gate:port"}, "PORTCULLIS_ADMIN_URL"),
    ],
)
def test_it_refuses_what_means_nothing(named: Named, env: dict[str, str], where: str) -> None:
    with pytest.raises(UsageWrong) as refused:
        client_for(named, env)

    assert where in refused.value.where
    assert "s3cret" not in str(refused.value)


def test_it_names_the_file_that_is_no_certificate(elsewhere: Path, certificates: Certificates) -> None:
    (elsewhere / "text").write_text("text")
    bad = Path("text")

    for named, file in (
        (Named("https://gate:1", ca=bad), "text"),
        (Named("https://gate:1", ca=Path("none")), "none"),
        (Named("https://gate:1", ca=certificates.ca, cert=bad), "text"),
        (Named("https://gate:1", cert=certificates.client_cert, cert_key=certificates.server_key), "client"),
    ):
        with pytest.raises(AdminFailed, match=rf"{file}.*cannot be used as"):
            client_for(named, {})
