"""The configuration: from `portcullis.yaml` to frozen values, whole or not at all.

`load` finds and reads the document and the files that it names (lists, keys); `parse` does the same
for text. Either returns a `Config` in which nothing is left to check, or raises one
`ConfigError` with every problem that could be found. How the document is written is `document`'s.

A Config holds plain values only and may be pickled: a parent hands it to its workers.

Opens nothing but the files that it reads, makes no directory and looks at no variable of the
environment except the two that are named here; tokens and hash keys are `serve`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from sidecar.config_credentials import (
    ClaimNames,
    Credentials,
    Issuer,
    JwksUrl,
    QueryNames,
    Tokens,
    credentials_of,
)
from sidecar.config_files import Folder, read_text
from sidecar.config_listen import AdminTls, Listen, PublicTls, listen_of
from sidecar.core.addresses import parse_cidrs
from sidecar.core.model import Filter, Limit
from sidecar.core.trigger import Thresholds
from sidecar.document.notations import (
    Endpoint,
    TcpEndpoint,
    UnixEndpoint,
    redacted_url,
    store_url,
)
from sidecar.document.registry import public_without_tokens, without_registry
from sidecar.document.rules import filter_of, filters_without_demand, limit_of, pattern_sets, same_names
from sidecar.document.schema import (
    TRIGGER_FOR_MS,
    TRIGGER_QUIET_MS,
    Document,
    ListSection,
    TriggerSection,
)
from sidecar.document.walk import Problem, read_struct, shown
from sidecar.document.yaml_text import YamlRefused, read_yaml

__all__ = [
    "Addresses",
    "AdminTls",
    "AttackMode",
    "ClaimNames",
    "Config",
    "ConfigError",
    "Credentials",
    "Endpoint",
    "Fronts",
    "Issuer",
    "JwksUrl",
    "Listen",
    "Logging",
    "Problem",
    "PublicTls",
    "QueryNames",
    "StoreConfig",
    "TcpEndpoint",
    "Tokens",
    "Tracing",
    "UnixEndpoint",
    "changes_needing_restart",
    "find",
    "load",
    "parse",
]

CONFIG_VARIABLE: Final = "PORTCULLIS_CONFIG"
STORE_URL_VARIABLE: Final = "PORTCULLIS_STORE_URL"
DEFAULT_NAME: Final = "portcullis.yaml"

_NO_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType({})


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
class Fronts:
    """`envoy_address` is "real_ip" or "forwarded"."""

    envoy_address: str


@dataclass(frozen=True, slots=True)
class Logging:
    """What the log tells besides refusals: a share of the allowed requests; `hide` are patterns of paths."""

    sample: float = 0.0
    allows_per_s: int = 100
    hide: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where spans go, "" for nowhere, and the share of the requests without a trace that begin one."""

    otlp: str = ""
    sample: float = 0.01


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that an operator decided, in the gate's units; nothing here is left to check.

    files   the document, the address lists and the keys: what a reload should watch
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
    log: Logging = Logging()
    tracing: Tracing = Tracing()
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
    text, problem = read_text(found)
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
    problems.extend(pattern_sets(tree))
    problems.extend(filters_without_demand(document, problems))
    problems.extend(public_without_tokens(tree))
    if document.credentials.mode != "registry" and not _unread("credentials.mode", problems):
        problems.extend(without_registry(tree))
    config = _meaning(document, url, Folder(folder.absolute(), problems), problems)
    if problems:
        placed = [replace(problem, line=problem.line or _line(problem.path, lines)) for problem in problems]
        raise ConfigError(name, sorted(placed, key=lambda problem: problem.line))
    return replace(config, digest=_digest(config))


def _unread(key: str, problems: list[Problem]) -> bool:
    """Whether the key, or a section around it, could not be read, so that the document holds its default."""
    return any(key == problem.path or key.startswith(f"{problem.path}.") for problem in problems)


def changes_needing_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ and that a running gate cannot change, such as `store.url`."""
    return [
        *(f"listen.{key}" for key in _differing(old.listen, new.listen)),
        *(["workers"] if old.workers != new.workers else []),
        *(f"store.{key}" for key in _differing(old.store, new.store)),
        *(["state_dir"] if old.state_dir != new.state_dir else []),
        *(["tracing.otlp"] if old.tracing.otlp != new.tracing.otlp else []),
    ]


def _differing(old: Listen | StoreConfig, new: Listen | StoreConfig) -> list[str]:
    return [item.name for item in fields(old) if getattr(old, item.name) != getattr(new, item.name)]


def _digest(config: Config) -> str:
    """A hash of the meaning: equal for documents that say the same, whatever their key order and files.

    The store's password is left out: a short hash that is shown to operators would otherwise let
    anyone who sees it try passwords. Of private keys only the public half counts.
    """
    store = replace(config.store, url=redacted_url(config.store.url))
    credentials = Credentials(mode="", headers=())  # their public part stands beside it
    meaning = replace(config, store=store, credentials=credentials, files=(), digest="")
    encoded = msgspec.json.encode([meaning, config.credentials.public()], enc_hook=str, order="sorted")
    return hashlib.sha256(encoded).hexdigest()[:16]


def _line(path: str, lines: Mapping[str, int]) -> int:
    """The line of `path`, or of the nearest key above it that is written."""
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path, 0) if path else 0


def _meaning(document: Document, url: str, folder: Folder, problems: list[Problem]) -> Config:
    addresses = document.addresses
    return Config(
        listen=listen_of(document.listen, folder, problems),
        workers=document.workers,
        store=_store(document, url, folder, problems),
        state_dir=folder.path / document.state_dir,
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
            deny=_networks(addresses.deny, folder, "addresses.deny", problems),
            allow=_networks(addresses.allow, folder, "addresses.allow", problems),
            exempt=_networks(addresses.exempt, folder, "addresses.exempt", problems),
        ),
        credentials=credentials_of(document.credentials, folder, problems),
        fronts=Fronts(envoy_address=document.fronts.envoy.address),
        limits=tuple(limit_of(section, document.store.outage) for section in document.limits),
        filters=tuple(filter_of(section, document.patterns) for section in document.filters),
        default_allow=document.default == "allow",
        legacy_headers=document.headers.legacy,
        refusals_per_s=document.log.refusals_per_s,
        files=tuple(dict.fromkeys(folder.watched)),
        log=Logging(document.log.sample, document.log.allows_per_s, document.log.hide),
        tracing=Tracing(document.tracing.otlp or "", document.tracing.sample),
    )


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


def _store(document: Document, url: str, folder: Folder, problems: list[Problem]) -> StoreConfig:
    section = document.store
    placed: dict[str, Path] = {}
    for key, name in (("ca", section.ca), ("cert", section.cert), ("key", section.key)):
        if name is None:
            continue
        if url.startswith("rediss://"):
            placed[key] = folder.existing(name, f"store.{key}")
        else:
            message = f'of no use with {shown(url, secret=True)}: take "rediss://", or remove it'
            problems.append(Problem(f"store.{key}", message))
    return StoreConfig(
        url=url,
        deadline_ms=section.deadline_ms,
        shards=section.shards,
        prefix=section.prefix,
        ca=placed.get("ca"),
        cert=placed.get("cert"),
        key=placed.get("key"),
    )


def _networks(section: ListSection, folder: Folder, path: str, problems: list[Problem]) -> tuple[str, ...]:
    networks = dict.fromkeys(section.cidrs)
    for at, name in enumerate(section.files):
        text = folder.text(name, f"{path}.files[{at}]", "the list")
        if text is None:
            continue
        try:
            networks.update(dict.fromkeys(parse_cidrs(text, str(name))))
        except ValueError as exc:
            problems.extend(Problem(f"{path}.files[{at}]", line) for line in str(exc).splitlines())
    return tuple(networks)
