"""The configuration: from `portcullis.yaml` to frozen values, whole or not at all.

`load` finds and reads the document and the address lists that it names; `parse` does the same
for text. Either returns a `Config` in which nothing is left to check, or raises one
`ConfigError` with every problem that could be found. How the document is written is `document`'s.

A Config holds plain values only and may be pickled: a parent hands it to its workers.

Opens nothing but the files that it reads, makes no directory and looks at no variable of the
environment except the two that are named here; tokens and hash keys are `serve`'s.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from sidecar.core.addresses import parse_cidrs
from sidecar.core.model import Filter, Limit
from sidecar.core.trigger import Thresholds
from sidecar.document.notations import (
    MAX_SOCKET_PATH,
    Endpoint,
    TcpEndpoint,
    UnixEndpoint,
    redacted_url,
    store_url,
)
from sidecar.document.rules import filter_of, filters_without_demand, limit_of, same_names
from sidecar.document.schema import TRIGGER_FOR_MS, TRIGGER_QUIET_MS, Document, ListSection, TriggerSection
from sidecar.document.walk import Problem, read_struct, shown
from sidecar.document.yaml_text import YamlRefused, read_yaml

__all__ = [
    "Addresses",
    "AdminTls",
    "AttackMode",
    "Config",
    "ConfigError",
    "Credentials",
    "Endpoint",
    "Fronts",
    "Listen",
    "Problem",
    "StoreConfig",
    "TcpEndpoint",
    "UnixEndpoint",
    "changes_needing_restart",
    "find",
    "load",
    "parse",
]

CONFIG_VARIABLE: Final = "PORTCULLIS_CONFIG"
STORE_URL_VARIABLE: Final = "PORTCULLIS_STORE_URL"
DEFAULT_NAME: Final = "portcullis.yaml"

MAX_FILE_BYTES: Final = 64 << 20
"""Of one file: a list of a million networks is some 20 MB."""

_NO_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AdminTls:
    """PEM files of the admin plane's TLS. With `client_ca` clients have to show a certificate it signed."""

    cert: Path
    key: Path
    client_ca: Path | None


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the planes listen, and the bounds on the check plane's connections."""

    check: tuple[Endpoint, ...]
    admin: Endpoint
    admin_tls: AdminTls | None
    health: Endpoint | None
    idle_s: float
    max_connections: int
    grace_s: float


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Which store, and how long it may take. `url` may hold a password: repr does not show it."""

    url: str = field(repr=False)
    deadline_ms: int
    shards: int
    prefix: str
    ca: Path | None
    cert: Path | None
    key: Path | None

    @property
    def shown_url(self) -> str:
        """The URL without its password, for messages and logs."""
        return redacted_url(self.url)


@dataclass(frozen=True, slots=True)
class AttackMode:
    """What attack mode answers, whom it lets pass, whether it is on while its state is unknown.

    `trigger` is None when only people turn it on and off.
    """

    status: int
    retry_after_s: int
    passes: tuple[str, ...]
    unknown_on: bool
    trigger: Thresholds | None


@dataclass(frozen=True, slots=True)
class Addresses:
    """Canonical networks, the document's and its files' together, in order and without repeats."""

    deny: tuple[str, ...]
    allow: tuple[str, ...]
    exempt: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """`mode` is "none" or "opaque"; `headers` are lower-case names of headers that carry a key."""

    mode: str
    headers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Fronts:
    """`envoy_address` is "real_ip" or "forwarded"."""

    envoy_address: str


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that an operator decided, in the gate's units; nothing here is left to check.

    files   the document and the address lists: what a reload should watch
    digest  16 hexadecimal digits that change when the meaning does; see `_digest`
    """

    listen: Listen
    workers: int
    store: StoreConfig
    state_dir: Path
    trusted_proxies: tuple[str, ...]
    ipv6_prefix: int
    attack_mode: AttackMode
    addresses: Addresses
    credentials: Credentials
    fronts: Fronts
    limits: tuple[Limit, ...]
    filters: tuple[Filter, ...]
    default_allow: bool
    legacy_headers: bool
    refusals_per_s: int
    files: tuple[Path, ...]
    digest: str = ""


class ConfigError(Exception):
    """The document is refused whole; str() lists every problem, one a line, without secrets."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        super().__init__(name, problems)
        self.name = name
        self.problems = tuple(problems)

    def __str__(self) -> str:
        count = len(self.problems)
        lines = [f"{self.name}: {count} problem{'' if count == 1 else 's'}"]
        for problem in self.problems:
            place = f"{problem.path}: " if problem.path else ""
            line = f" (line {problem.line})" if problem.line else ""
            lines.append(f"  {place}{problem.message}{line}")
        return "\n".join(lines)


def find(path: Path | None, env: Mapping[str, str]) -> Path | None:
    """The document to read: `path`, else PORTCULLIS_CONFIG, else ./portcullis.yaml where there is one."""
    if path is not None:
        return path
    if named := env.get(CONFIG_VARIABLE):
        return Path(named)
    default = Path(DEFAULT_NAME)
    return default if default.exists() else None


def load(path: Path | None, env: Mapping[str, str]) -> Config:
    """The configuration from the document that `find` names; without one, the defaults.

    Raises ConfigError.
    """
    found = find(path, env)
    if found is None:
        return parse("", name="defaults", folder=Path(), env=env)
    text, problem = _read_text(found)
    if problem:
        raise ConfigError(str(found), [Problem("", f"the configuration {problem}")])
    config = parse(text, name=str(found), folder=found.parent, env=env)
    return replace(config, files=(found.absolute(), *config.files))


def parse(text: str, *, name: str, folder: Path, env: Mapping[str, str] = _NO_ENVIRONMENT) -> Config:
    """The configuration in `text`; `name` stands in messages, relative paths begin at `folder`.

    Raises ConfigError.
    """
    try:
        tree, lines = read_yaml(text)
    except YamlRefused as exc:
        column = f"column {exc.column}: " if exc.column else ""
        raise ConfigError(name, [Problem("", f"{column}{exc}", exc.line)]) from None
    problems: list[Problem] = []
    document = read_struct(tree, Document, problems)
    url = _effective_url(document, env, problems)
    problems.extend(same_names(tree))
    problems.extend(filters_without_demand(document, problems))
    config = _meaning(document, url, folder.absolute(), problems)
    if problems:
        placed = [replace(problem, line=problem.line or _line(problem.path, lines)) for problem in problems]
        raise ConfigError(name, sorted(placed, key=lambda problem: problem.line))
    return replace(config, digest=_digest(config))


def changes_needing_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ and that a running gate cannot change, such as `store.url`."""
    return [
        *(f"listen.{key}" for key in _differing(old.listen, new.listen)),
        *(["workers"] if old.workers != new.workers else []),
        *(f"store.{key}" for key in _differing(old.store, new.store)),
        *(["state_dir"] if old.state_dir != new.state_dir else []),
    ]


def _differing(old: Listen | StoreConfig, new: Listen | StoreConfig) -> list[str]:
    return [item.name for item in fields(old) if getattr(old, item.name) != getattr(new, item.name)]


def _digest(config: Config) -> str:
    """A hash of the meaning: equal for documents that say the same, whatever their key order and files.

    The store's password is left out: a short hash that is shown to operators would otherwise let
    anyone who sees it try passwords.
    """
    store = replace(config.store, url=redacted_url(config.store.url))
    meaning = replace(config, store=store, files=(), digest="")
    encoded = msgspec.json.encode(meaning, enc_hook=str, order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]


def _line(path: str, lines: Mapping[str, int]) -> int:
    """The line of `path`, or of the nearest key above it that is written."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 0) if path else 0


def _meaning(document: Document, url: str, folder: Path, problems: list[Problem]) -> Config:
    files: list[Path] = []
    addresses = document.addresses
    health = document.listen.health
    return Config(
        listen=Listen(
            check=tuple(
                _placed(endpoint, folder, f"listen.check[{at}]", problems)
                for at, endpoint in enumerate(document.listen.check)
            ),
            admin=_placed(document.listen.admin, folder, "listen.admin", problems),
            admin_tls=_admin_tls(document, folder, problems),
            health=None if health is None else _placed(health, folder, "listen.health", problems),
            idle_s=document.listen.idle_s,
            max_connections=document.listen.max_connections,
            grace_s=document.listen.grace_s,
        ),
        workers=document.workers,
        store=_store(document, url, folder, problems),
        state_dir=folder / document.state_dir,
        trusted_proxies=document.trusted_proxies,
        ipv6_prefix=document.ipv6_prefix,
        attack_mode=AttackMode(
            status=document.attack_mode.status,
            retry_after_s=document.attack_mode.retry_after_s,
            passes=document.attack_mode.passes,
            unknown_on=document.attack_mode.unknown == "on",
            trigger=_trigger(document.attack_mode.trigger),
        ),
        addresses=Addresses(
            deny=_networks(addresses.deny, folder, "addresses.deny", files, problems),
            allow=_networks(addresses.allow, folder, "addresses.allow", files, problems),
            exempt=_networks(addresses.exempt, folder, "addresses.exempt", files, problems),
        ),
        credentials=Credentials(mode=document.credentials.mode, headers=document.credentials.headers),
        fronts=Fronts(envoy_address=document.fronts.envoy.address),
        limits=tuple(limit_of(section, document.store.outage) for section in document.limits),
        filters=tuple(filter_of(section) for section in document.filters),
        default_allow=document.default == "allow",
        legacy_headers=document.headers.legacy,
        refusals_per_s=document.log.refusals_per_s,
        files=tuple(dict.fromkeys(files)),
    )


def _placed(endpoint: Endpoint, folder: Path, path: str, problems: list[Problem]) -> Endpoint:
    if isinstance(endpoint, TcpEndpoint):
        return endpoint
    socket = folder / endpoint.path
    if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
        message = (
            f"{shown(str(socket))}: longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have"
        )
        problems.append(Problem(path, message))
    return replace(endpoint, path=socket)


def _admin_tls(document: Document, folder: Path, problems: list[Problem]) -> AdminTls | None:
    section = document.listen.admin_tls
    if section.cert is None or section.key is None:
        return None
    tls = AdminTls(
        cert=folder / section.cert,
        key=folder / section.key,
        client_ca=None if section.client_ca is None else folder / section.client_ca,
    )
    for name, path in (("cert", tls.cert), ("key", tls.key), ("client_ca", tls.client_ca)):
        if path is not None and not path.is_file():
            problems.append(Problem(f"listen.admin_tls.{name}", f"{shown(str(path))}: there is no such file"))
    return tls


def _trigger(section: TriggerSection) -> Thresholds | None:
    if section.refusals_per_s is None and section.requests_per_s is None:
        return None
    return Thresholds(
        refusals_per_s=section.refusals_per_s,
        requests_per_s=section.requests_per_s,
        for_ms=TRIGGER_FOR_MS if section.for_ is None else section.for_,
        quiet_ms=TRIGGER_QUIET_MS if section.quiet is None else section.quiet,
    )


def _effective_url(document: Document, env: Mapping[str, str], problems: list[Problem]) -> str:
    url = env.get(STORE_URL_VARIABLE)
    if not url:
        return document.store.url
    try:
        return store_url(url)
    except ValueError as exc:
        problems.append(Problem(STORE_URL_VARIABLE, f"{shown(url, secret=True)}: {exc}"))
        return document.store.url


def _store(document: Document, url: str, folder: Path, problems: list[Problem]) -> StoreConfig:
    section = document.store
    named = {"ca": section.ca, "cert": section.cert, "key": section.key}
    placed = {key: folder / path for key, path in named.items() if path is not None}
    for key, path in placed.items():
        if not url.startswith("rediss://"):
            message = f'of no use with {shown(url, secret=True)}: take "rediss://", or remove it'
            problems.append(Problem(f"store.{key}", message))
        elif not path.is_file():
            problems.append(Problem(f"store.{key}", f"{shown(str(path))}: there is no such file"))
    return StoreConfig(
        url=url,
        deadline_ms=section.deadline_ms,
        shards=section.shards,
        prefix=section.prefix,
        ca=placed.get("ca"),
        cert=placed.get("cert"),
        key=placed.get("key"),
    )


def _networks(
    section: ListSection, folder: Path, path: str, files: list[Path], problems: list[Problem]
) -> tuple[str, ...]:
    networks = dict.fromkeys(section.cidrs)
    for at, name in enumerate(section.files):
        file = folder / name
        files.append(file)
        text, problem = _read_text(file)
        if problem:
            problems.append(Problem(f"{path}.files[{at}]", f"{shown(str(file))}: the list {problem}"))
            continue
        try:
            networks.update(dict.fromkeys(parse_cidrs(text, str(name))))
        except ValueError as exc:
            problems.extend(Problem(f"{path}.files[{at}]", line) for line in str(exc).splitlines())
    return tuple(networks)


def _read_text(path: Path) -> tuple[str, str]:
    """The text of a file, or ("", what is wrong with it)."""
    try:
        if not path.is_file():  # a pipe would keep the gate waiting for ever
            return "", "is not a file" if path.exists() else "does not exist"
        if path.stat().st_size > MAX_FILE_BYTES:
            return "", f"is larger than {MAX_FILE_BYTES >> 20} MiB"
        return path.read_text(encoding="utf-8-sig"), ""
    except UnicodeDecodeError as exc:
        return "", f"is not UTF-8 text (byte {exc.start})"
    except OSError as exc:
        return "", f"cannot be read: {exc.strerror}"
    except ValueError:
        return "", "has a path that no file can have"
