"""How single values are written: durations, sizes, endpoints, patterns, names.

A notation reads one leaf of the document (`Tree`) into the value that the gate works with, or
raises ValueError with the remedy: what should stand there instead. The path and the value are
added by `walk`; so a message from here never repeats the value, which may be a secret.

Does not touch the file system and does not resolve relative paths: `config` does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from sidecar.core.addresses import parse_cidr
from sidecar.core.model import Dimension
from sidecar.document.yaml_text import Tree

SECOND_MS: Final = 1000
DAY_MS: Final = 86_400_000
MAX_PERMITS: Final = 1_000_000_000
"""Far above any rate, far below where Lua's doubles lose whole numbers."""

_DURATION: Final = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_DURATION_MS: Final = {"s": SECOND_MS, "m": 60 * SECOND_MS, "h": 3600 * SECOND_MS, "d": DAY_MS}
_SIZE: Final = re.compile(r"([0-9]{1,15})(B|KB|MB|GB|KiB|MiB|GiB)")
_SIZE_BYTES: Final = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, 5.6.2
_HOSTNAME: Final = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_HOST_PATTERN: Final = re.compile(r"[a-z0-9_.*-]{1,253}|\[[0-9a-f:.]{2,45}\]")
_GROUP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_RESTRICTED_NAME: Final = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"  # RFC 6838, 4.2
_MEDIA_TYPE: Final = re.compile(
    rf"{_RESTRICTED_NAME}/(?:{_RESTRICTED_NAME}|\*(?:\+[a-z0-9][a-z0-9!#$&^_.-]{{0,125}})?)"
)
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_DOT_SEGMENT: Final = re.compile(r"/\.{1,2}(?:/|$)")

MAX_SOCKET_PATH: Final = 107
"""Bytes of a unix socket's path, one less than `sun_path` holds on Linux."""


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A TCP address to listen on. `host` has no brackets; `port` 0 means any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """A unix socket to listen on, with the permissions and the group that it is given."""

    path: Path
    mode: int = 0o660
    group: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}?mode={self.mode:04o}" + (f"&group={self.group}" if self.group else "")


Endpoint = TcpEndpoint | UnixEndpoint


@dataclass(frozen=True, slots=True)
class Notation:
    """How to read one kind of leaf, and the words that tell an operator what is expected."""

    read: Callable[[Tree], object]
    form: str
    secret: bool = False
    """Whether messages must not show the value as it is."""


def duration_ms(low_ms: int, high_ms: int) -> Callable[[Tree], int]:
    """A reader of durations in milliseconds within the bounds: whole numbers with s, m, h or d."""

    def read(value: Tree) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError(f'a duration has a unit: "{value}s"')
        found = _DURATION.fullmatch(text_of(value, 'expected a duration such as "10s", "1m", "1h" or "1d"'))
        if found is None:
            raise ValueError('expected a duration: a whole number with s, m, h or d, such as "90s"')
        ms = int(found[1]) * _DURATION_MS[found[2]]
        if not low_ms <= ms <= high_ms:
            raise ValueError(f"expected {shown_ms(low_ms)} to {shown_ms(high_ms)}")
        return ms

    return read


def shown_ms(ms: int) -> str:
    """A duration as one writes it, in the largest unit that divides it.

    >>> shown_ms(5_400_000)
    '90m'
    """
    for unit in ("d", "h", "m"):
        if ms and ms % _DURATION_MS[unit] == 0:
            return f"{ms // _DURATION_MS[unit]}{unit}"
    return f"{ms // SECOND_MS}s"


def size(value: Tree) -> int:
    """Bytes, from a whole number or a number with B, KB, MB, GB, KiB, MiB or GiB.

    >>> size("10MB"), size("1KiB")
    (10000000, 1024)
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53:
        return value
    remedy = 'expected bytes: a whole number, or one with a unit such as "64KiB" or "10MB"'
    found = _SIZE.fullmatch(text_of(value, remedy))
    if found is None:
        raise ValueError(remedy)
    return int(found[1]) * _SIZE_BYTES[found[2]]


def endpoint(value: Tree) -> Endpoint:
    """Where to listen: `host:port`, `[v6]:port` or `unix:path?mode=0660&group=name`."""
    text = text_of(value, 'expected "host:port", "[::1]:8080" or "unix:path"')
    if text.startswith("unix:"):
        return _unix_endpoint(text.removeprefix("unix:"))
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError('expected a port from 0 to 65535 after the last colon, as in "127.0.0.1:8080"')
    if host in {"", "*"}:
        raise ValueError(f'expected an address before the port: "0.0.0.0:{port}" listens on all of IPv4')
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not _is_ip(host, 6):
            raise ValueError("what stands in brackets is not an IPv6 address")
    elif ":" in host:
        raise ValueError('an IPv6 address stands in brackets: "[::1]:8080"')
    elif not _HOSTNAME.fullmatch(host) or (re.fullmatch(r"[0-9.]+", host) and not _is_ip(host, 4)):
        raise ValueError("what stands before the port is neither an address nor a host name")
    return TcpEndpoint(host, int(port))


def endpoint_or_off(value: Tree) -> Endpoint | None:
    """An endpoint, or `off`."""
    return None if value == "off" else endpoint(value)


def _unix_endpoint(text: str) -> UnixEndpoint:
    path, question, query = text.partition("?")
    if not path or "\0" in path or path.endswith("/"):
        raise ValueError('expected the socket\'s path after "unix:"')
    mode, group = 0o660, None
    seen: set[str] = set()
    for part in query.split("&") if question else ():
        name, _, option = part.partition("=")
        if name not in {"mode", "group"} or name in seen:
            raise ValueError('after "?" expected mode and group, each once: "?mode=0660&group=www-data"')
        seen.add(name)
        if name == "mode":
            if not re.fullmatch(r"0?[0-7]{3}", option):
                raise ValueError('expected an octal mode such as "mode=0660"')
            mode = int(option, 8)
        elif _GROUP.fullmatch(option):
            group = option
        else:
            raise ValueError('expected the name of a group such as "group=www-data"')
    return UnixEndpoint(Path(path), mode, group)


def store_url(value: Tree) -> str:
    """Which store: `embedded` or the URL of a Redis or Valkey server."""
    forms = (
        'expected "embedded", "redis://host:6379/0", "rediss://host:6379/0" or "unix:///path/to/redis.sock"'
    )
    text = text_of(value, forms)
    if text == "embedded":
        return text
    if any(ord(char) < 33 or ord(char) == 127 for char in text):
        raise ValueError("a URL holds neither spaces nor control characters: percent-encode them")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        # From None: urlsplit quotes the part that it could not read, and that may be a password.
        raise ValueError(
            "not a URL that can be read: percent-encode @, :, /, ?, # and [ in the password"
        ) from None
    if url.scheme in {"redis+sentinel", "redis+cluster"}:
        raise ValueError("sentinels and clusters are not served by this version: name one server")
    if url.scheme not in {"redis", "rediss", "unix"} or not text.startswith(f"{url.scheme}://"):
        raise ValueError(forms)
    if url.fragment:
        raise ValueError('"#" begins a fragment: percent-encode it in a password (%23)')
    _check_server(url, port, forms)
    return text


def _check_server(url: SplitResult, port: int | None, forms: str) -> None:
    if url.scheme == "unix":
        if url.hostname or not url.path.startswith("/") or url.path == "/":
            raise ValueError('expected the socket\'s absolute path: "unix:///run/redis/redis.sock"')
        if url.query and not re.fullmatch(r"db=[0-9]{1,4}", url.query):
            raise ValueError('after "?" only the database may stand: "?db=0"')
        return
    if not url.hostname or port == 0:
        raise ValueError(forms)
    if url.query:
        raise ValueError("options after ? are not read: the keys of `store` set deadlines and certificates")
    if not re.fullmatch(r"/?|/[0-9]{1,4}", url.path):
        raise ValueError("after the host only the database's number may stand: /0")


def redacted_url(text: str) -> str:
    """A URL with the password taken out; what cannot be read as one of the document's is not shown at all.

    >>> redacted_url("redis://app:pw@redis:6379/0")
    'redis://app:***@redis:6379/0'
    """
    if text == "embedded":
        return text
    try:
        url = urlsplit(text)
        user, place = url.username or "", url.netloc.rpartition("@")[2]
        url.port  # noqa: B018 - raises when a password's characters have been taken for host and port
    except ValueError:
        return "***"
    if url.scheme not in {"redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "http", "https"}:
        return "***"
    if "@" in url.path + url.query + url.fragment:  # a password that was not percent-encoded
        return "***"
    if not _HOSTNAME.fullmatch(url.hostname or "x") and ":" not in (url.hostname or ""):
        return "***"
    login = f"{user}:***@" if url.password is not None else f"{user}@" if user else ""
    return f"{url.scheme}://{login}{place}{url.path}" + ("?***" if url.query or url.fragment else "")


def name(value: Tree) -> str:
    """The name of a rule, a plan, a tenant or another thing that the operator names."""
    remedy = "expected a name: a lower-case letter, then up to 62 of a-z 0-9 _ -"
    return matching(_NAME, value, remedy)


def dimension(value: Tree) -> Dimension:
    """One part of a limit's subject: ip, key, tenant, route, host, global or header:<name>."""
    remedy = "expected one of ip, key, tenant, route, host, global or header:<name>"
    text = text_of(value, remedy)
    if text in {"ip", "key", "tenant", "route", "host", "global"}:
        return Dimension(text)
    kind, _, header = text.partition(":")
    if kind != "header":
        raise ValueError(remedy)
    return Dimension("header", header_name(header))


def header_name(value: Tree) -> bytes:
    """The name of a header, in lower case as the check plane keeps them."""
    return matching(_TOKEN, value, 'expected the name of a header such as "X-Api-Key"').lower().encode()


def short_cost(value: Tree) -> int | bytes:
    """What a request costs in its short forms: a whole number, or the header that says it."""
    remedy = 'expected a whole number from 1, "header:X-Cost" or {header: X-Cost, max: 10}'
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PERMITS:
        return value
    text = text_of(value, remedy)
    if not text.startswith("header:"):
        raise ValueError(remedy)
    return header_name(text.removeprefix("header:"))


def method(value: Tree) -> str:
    """An HTTP method; methods are case-sensitive, and the ones in use are upper-case."""
    text = matching(_TOKEN, value, 'expected an HTTP method such as "GET"')
    if "*" in text:
        raise ValueError("there is no pattern for methods: list them, or leave `methods` out for any")
    if text != text.upper():
        raise ValueError(f'methods are upper-case: "{text.upper()}"')
    return text


def host_pattern(value: Tree) -> str:
    """A pattern for hosts, in lower case; `*` matches anything."""
    text = text_of(value, 'expected a host or a pattern such as "*.example.com"').lower()
    if "/" in text or (":" in text and not text.startswith("[")) or "]:" in text:
        raise ValueError("a host is matched without scheme, port and path")
    if not text.isascii():
        raise ValueError("a host is matched as it is sent: write its punycode form (xn--...)")
    if not _HOST_PATTERN.fullmatch(text):
        raise ValueError('expected a host or a pattern such as "*.example.com"')
    return text


def path_pattern(value: Tree) -> str:
    """A pattern for canonical paths; `*` matches anything, `/` included."""
    text = text_of(value, 'expected a path or a pattern such as "/api/*"')
    if not text.startswith(("/", "*")):
        raise ValueError('a path pattern begins with "/" or "*"')
    if "?" in text or "#" in text:
        raise ValueError("paths are matched without the query: end the pattern before ? and #")
    if _ESCAPE.search(text):
        raise ValueError("paths are matched decoded: write the character instead of its %XX")
    if "//" in text or _DOT_SEGMENT.search(text) or "\\" in text:
        raise ValueError('paths are matched in their canonical form: without "//", "/./", "/../" and "\\"')
    if len(text) > 1024 or not text.isprintable():
        raise ValueError("expected at most 1024 printable characters")
    return text


def media_type(value: Tree) -> str:
    """A media type in lower case, without parameters; `image/*` is all of a kind, `application/*+json` all of a syntax.

    >>> media_type("Application/JSON"), media_type("application/*+json")
    ('application/json', 'application/*+json')
    """
    remedy = 'expected a media type such as "application/json", "image/*" or "application/*+json"'
    text = text_of(value, remedy).lower()
    if ";" in text:
        raise ValueError("a media type is matched without its parameters: end it before the semicolon")
    if text == "*/*":
        raise ValueError("leave `content_types` out for any media type")
    return matching(_MEDIA_TYPE, text, remedy)


def tls_version(value: Tree) -> str:
    """A TLS version, quoted or not: YAML reads a plain 1.2 as a number."""
    text = str(value) if isinstance(value, float) else value
    if not isinstance(text, str) or text not in {"1.0", "1.1", "1.2", "1.3"}:
        raise ValueError('expected "1.0", "1.1", "1.2" or "1.3"')
    return text


def expression(value: Tree) -> str:
    """A regular expression as RE2 reads it: found in time that is linear in what is searched."""
    text = text_of(value, 'expected a regular expression such as "(?i)evilbot"')
    from sidecar.core.detection import compiled_ok  # noqa: PLC0415 - it brings re2, which few documents need

    compiled_ok(text)
    return text


def cidr(value: Tree) -> str:
    """A network or a single address, in canonical text."""
    text = text_of(value, 'expected a network such as "192.0.2.0/24" or an address')
    try:
        return parse_cidr(text)
    except ValueError as exc:
        # Its message begins with the value, which `walk` shows (and redacts) already.
        raise ValueError(str(exc).removeprefix(repr(text)).lstrip(": ")) from None


def file_path(value: Tree) -> Path:
    """A path; relative ones are relative to the document."""
    text = text_of(value, "expected a path")
    if not text or "\0" in text:
        raise ValueError("expected a path")
    return Path(text)


def store_prefix(value: Tree) -> str:
    """What every name in the store begins with; no braces, which pick a cluster's slot."""
    return matching(_PREFIX, value, "expected 1 to 64 of A-Z a-z 0-9 _ . : / -")


def is_loopback(host: str) -> bool:
    """Whether only this machine can be meant.

    >>> is_loopback("localhost"), is_loopback("127.0.0.9"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def text_of(value: Tree, remedy: str) -> str:
    """A leaf that is text. Raises ValueError with the remedy."""
    if not isinstance(value, str):
        raise ValueError(remedy)
    return value


def matching(pattern: re.Pattern[str], value: Tree, remedy: str) -> str:
    """A leaf that is text of this form. Raises ValueError with the remedy."""
    text = text_of(value, remedy)
    if not pattern.fullmatch(text):
        raise ValueError(remedy)
    return text


def _is_ip(text: str, version: int) -> bool:
    try:
        return "%" not in text and ipaddress.ip_address(text).version == version
    except ValueError:
        return False
