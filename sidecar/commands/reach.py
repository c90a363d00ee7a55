"""Which gate a command asks, and who asks: each by the first of these that says it.

    gate     --admin, PORTCULLIS_ADMIN_URL, a document named by --config, cli.yaml (`admin`),
             the document of PORTCULLIS_CONFIG or ./portcullis.yaml, http://127.0.0.1:8081
    token    --token-file, PORTCULLIS_ADMIN_TOKEN, cli.yaml (`token_file`),
             admin-token in the document's `state_dir`, ./portcullis-data/admin-token
    https    --ca, --cert, --cert-key; PORTCULLIS_ADMIN_CA, _CERT, _KEY; cli.yaml (`ca`, `cert`, `key`)

cli.yaml is the file that PORTCULLIS_CLI_CONFIG names, else $XDG_CONFIG_HOME/portcullis/cli.yaml, else
~/.config/portcullis/cli.yaml. Its paths begin at its folder.

A token is never an argument, which every user of the machine could read in the list of processes.
It asks nobody: `client` does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from sidecar.admin.tokens import MAX_SECRET, VARIABLE, TokenUnusable, read_token
from sidecar.client import AdminClient, AdminFailed, Identity, parse_url
from sidecar.config import ConfigError, Listen, TcpEndpoint, find, load
from sidecar.document.notations import Notation, file_path
from sidecar.document.walk import Problem, read_struct
from sidecar.document.yaml_text import Tree, YamlRefused, read_yaml

URL_VARIABLE: Final = "PORTCULLIS_ADMIN_URL"
CA_VARIABLE: Final = "PORTCULLIS_ADMIN_CA"
CERT_VARIABLE: Final = "PORTCULLIS_ADMIN_CERT"
KEY_VARIABLE: Final = "PORTCULLIS_ADMIN_KEY"
FILE_VARIABLE: Final = "PORTCULLIS_CLI_CONFIG"
DEFAULT_URL: Final = "http://127.0.0.1:8081"
DEFAULT_STATE_DIR: Final = Path("portcullis-data")


class UsageWrong(Exception):
    """Options or variables that cannot mean anything; `where` names them."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True, slots=True)
class Named:
    """What the options say; None where they say nothing."""

    admin: str | None = None
    token_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    cert_key: Path | None = None
    config: Path | None = None


def client_for(named: Named, env: Mapping[str, str]) -> AdminClient:
    """The client of the gate that options, environment and files name.

    Raises UsageWrong, ConfigError for a bad document or cli.yaml, and AdminFailed for files that cannot be used.
    """
    file = _read_file(env)
    if named.config is not None:  # cli.yaml may be about another gate
        file = msgspec.structs.replace(file, admin="", token_file=None)
    token = _token_of(named.token_file) if named.token_file is not None else None
    has_token = token is not None or bool(env.get(VARIABLE)) or file.token_file is not None
    url = named.admin or env.get(URL_VARIABLE, "") or file.admin
    document = find(named.config, env)
    state_dir = DEFAULT_STATE_DIR
    if document is not None and not (url and has_token):
        read = load(document, env)
        state_dir = read.state_dir
        url = url or _url_of(read.listen)
    if token is None and file.token_file is not None and not env.get(VARIABLE):
        token = _token_of(file.token_file)
    if token is None:
        token = _token_at(env, state_dir)
    return _client(url or DEFAULT_URL, token, named, env, file)


def _client(url: str, token: str | None, named: Named, env: Mapping[str, str], file: _File) -> AdminClient:
    try:
        is_https = parse_url(url).scheme == "https"
    except ValueError as exc:
        raise UsageWrong(str(exc), f"--admin, {URL_VARIABLE}, admin in cli.yaml") from exc
    asked = {"--ca": named.ca, "--cert": named.cert, "--cert-key": named.cert_key}
    if not is_https and (given := [option for option, path in asked.items() if path is not None]):
        raise UsageWrong(f"{url} is not https://, so no certificate would be looked at", ", ".join(given))
    identity = Identity(
        _first(named.ca, env.get(CA_VARIABLE), file.ca),
        _first(named.cert, env.get(CERT_VARIABLE), file.cert),
        _first(named.cert_key, env.get(KEY_VARIABLE), file.key),
    )
    if identity.key is not None and identity.cert is None:
        raise UsageWrong(
            "a key without its certificate: name that with --cert", f"--cert-key, {KEY_VARIABLE}"
        )
    return AdminClient(url, token, identity)


def _first(option: Path | None, variable: str | None, file: Path | None) -> Path | None:
    return option or (Path(variable) if variable else file)


def _url_of(listen: Listen) -> str:
    """Where to ask a gate of this machine; one that listens everywhere listens on loopback, too."""
    endpoint = listen.admin
    scheme = "http" if listen.admin_tls is None else "https"
    if not isinstance(endpoint, TcpEndpoint):
        return f"unix:{endpoint.path}"
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"{scheme}://{TcpEndpoint(everywhere.get(endpoint.host, endpoint.host), endpoint.port)}"


# --- the token --------------------------------------------------------------------


def _token_at(env: Mapping[str, str], state_dir: Path) -> str | None:
    try:
        token = read_token(env, state_dir)
    except (TokenUnusable, OSError) as exc:
        raise AdminFailed(f"the admin token cannot be read: {exc}") from exc
    return None if token is None else token.secret


def _token_of(path: Path) -> str:
    """The token in a file, which may be a pipe (`<(vault read …)`). Its group may read it, others may not."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o007:
                raise AdminFailed(
                    f"{path}: others may read this token: chmod o= {path}, then make a new token"
                )
            read = file.read(MAX_SECRET + 2)
    except OSError as exc:
        raise AdminFailed(f"{path}: the admin token cannot be read: {exc.strerror or exc}") from exc
    secret = read.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(secret) <= MAX_SECRET or not all(0x21 <= octet <= 0x7E for octet in secret):
        raise AdminFailed(
            f"{path}: holds no token: expected one line of 1 to {MAX_SECRET} visible ASCII characters "
            "without spaces"
        )
    return secret.decode("ascii")


# --- cli.yaml ----------------------------------------------------------------------


def _address(value: Tree) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a URL such as https://gate:8081")
    try:
        parse_url(value)
    except ValueError:
        raise ValueError("expected http://host:port, https://host:port or unix:/path") from None
    return value


_URL: Final = msgspec.Meta(extra={"notation": Notation(_address, "a URL", secret=True)})
_PATH: Final = msgspec.Meta(extra={"notation": Notation(file_path, "a path")})


class _File(msgspec.Struct, frozen=True):
    """What cli.yaml says."""

    admin: Annotated[str, _URL] = ""
    token_file: Annotated[Path, _PATH] | None = None
    ca: Annotated[Path, _PATH] | None = None
    cert: Annotated[Path, _PATH] | None = None
    key: Annotated[Path, _PATH] | None = None


def _read_file(env: Mapping[str, str]) -> _File:
    path = _file_of(env)
    if path is None:
        return _File()
    try:
        found = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(str(path), [Problem("", f"cannot be read: {exc.strerror or exc}")]) from exc
    except UnicodeDecodeError:
        raise ConfigError(str(path), [Problem("", "is not UTF-8")]) from None
    except YamlRefused as exc:
        raise ConfigError(str(path), [Problem("", str(exc), exc.line)]) from None
    problems: list[Problem] = []
    file = read_struct(found.tree, _File, problems)
    if problems:
        placed = [
            Problem(problem.path, problem.message, found.lines.get(problem.path, 0)) for problem in problems
        ]
        raise ConfigError(str(path), placed)
    placed_paths = {
        name: None if (value := getattr(file, name)) is None else path.parent / value.expanduser()
        for name in ("token_file", "ca", "cert", "key")
    }
    return msgspec.structs.replace(file, **placed_paths)


def _file_of(env: Mapping[str, str]) -> Path | None:
    """The file to read, which must be there if a variable names it; None when there is none."""
    if named := env.get(FILE_VARIABLE):
        return Path(named)
    folder = env.get("XDG_CONFIG_HOME") or (f"{home}/.config" if (home := env.get("HOME")) else "")
    usual = Path(folder, "portcullis", "cli.yaml")
    return usual if folder and usual.is_file() else None
