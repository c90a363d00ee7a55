"""Origins: the web pages from which a public key may be used, as an operator names them.

    yourdomain.com                 this host alone, with any scheme and any port
    .yourdomain.com                its subdomains, www included, and not itself
    yourdomain.com:8443            a port that is named is demanded
    https://app.example.com        so is a scheme, and with it the scheme's usual port
    https://app.example.com:8443   or the one that is named
    https://*                      any host
    *                              anybody, even who names no origin (mobile apps) or `null`

One rule has one text: lower case, addresses as browsers write them, and no port that goes without saying. An origin
too: browsers write it that way (WHATWG HTML, 7.1.1; RFC 6454, 6.2), so what is written otherwise is no browser's, and
only `*` lets it pass. Hence nothing is normalised here, and no lookalike can become its original on the way.

An origin is what a browser says of a page. Who is no browser says what it likes: this keeps a public key from being
used on other people's sites, and from nobody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from sidecar.core.addresses import canonical_address

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_ORIGIN: Final = re.compile(
    rf"(?:(?P<scheme>[a-z][a-z0-9+.-]{{0,31}})://)?"
    rf"(?P<host>\*|\[[0-9a-f:.]{{2,45}}\]|\.?{_LABEL}(?:\.{_LABEL})*)"
    rf"(?::(?P<port>[0-9]{{1,5}}))?"
)
_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")  # the WHATWG's "ends in a number": IPv4
_USUAL_PORTS: Final = {"http": "80", "https": "443"}
_LONGEST: Final = 320
"""Characters: more than scheme, the longest host and a port need."""


class Origins:
    """The origins that some rules allow, each a canonical text of `parse_origin`. Compiled once, never changed.

    The time depends on the dots of the origin, not on the number of rules.

    >>> shop = Origins(["example.com", "https://.example.com"])
    >>> shop.allows(b"http://example.com:8080"), shop.allows(b"https://www.example.com"), shop.allows(None)
    (True, True, False)
    >>> shop.allows(b"https://example.com.evil.example"), shop.allows(b"null"), Origins(["*"]).allows(b"null")
    (False, False, True)
    """

    __slots__ = ("_anybody", "_demands", "_subdomains")

    def __init__(self, rules: Iterable[str]) -> None:
        demands: dict[str, set[str]] = {}
        for rule in rules:
            found = _ORIGIN.fullmatch(rule)
            assert found is not None, "not a text of parse_origin"
            scheme, host, port = found["scheme"], found["host"], found["port"]
            demands.setdefault(host, set()).add(_demand(scheme, port))
        self._demands: Final = {host: frozenset(demanded) for host, demanded in demands.items()}
        self._anybody: Final = "" in demands.get("*", ())
        self._subdomains: Final = any(host[0] == "." for host in demands)

    def allows(self, origin: bytes | None) -> bool:
        """Whether a request with this `Origin` header, or without one, comes from where a rule allows it."""
        if self._anybody:
            return True
        if origin is None or len(origin) > _LONGEST:
            return False
        read = _read(origin)
        if read is None:
            return False
        host, satisfied = read
        demands = self._demands
        for known in (demands.get(host), demands.get("*")):
            if known is not None and not known.isdisjoint(satisfied):
                return True
        if self._subdomains:
            dot = host.find(".")
            while dot > 0:
                known = demands.get(host[dot:])
                if known is not None and not known.isdisjoint(satisfied):
                    return True
                dot = host.find(".", dot + 1)
        return False


def serializable(origin: bytes) -> bool:
    """Whether `Access-Control-Allow-Origin` may repeat this: one well-formed origin, and nothing else.

    Not `null`, although browsers send it: every sandboxed frame and every `data:` page has this origin, so to name it
    is to name anybody (W3C, CORS for Developers, "Avoid returning Access-Control-Allow-Origin: null"). Where
    anybody may read an answer, `*` says so.

    >>> serializable(b"https://example.com"), serializable(b"https://example.com/"), serializable(b"null")
    (True, False, False)
    """
    return len(origin) <= _LONGEST and _read(origin) is not None


def parse_origin(text: str) -> str:
    """The canonical text of an origin rule: who may use a client key from a web page.

    Raises ValueError with the remedy.

    >>> parse_origin("https://App.Example.com:443"), parse_origin(".example.com"), parse_origin("*")
    ('https://app.example.com', '.example.com', '*')
    """
    if not text.isascii():
        raise ValueError("browsers send names in their punycode form: write xn--...")
    text = text.lower()
    rest = text.partition("://")[2] or text
    if "*." in text:
        raise ValueError('write ".example.com" for all subdomains, without a star')
    if rest.endswith("."):
        raise ValueError("a host is written without a last dot")
    if any(char in rest for char in "/?#@\\"):
        raise ValueError("an origin is scheme, host and port: leave out user, path and what follows")
    found = _ORIGIN.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None or text == "null":
        raise ValueError(
            'expected an origin such as "example.com", ".example.com", "https://example.com:8443" or "*"'
        )
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if len(host.removeprefix(".")) > 253:
        raise ValueError("a host name has at most 253 characters")
    if host[0] == "[":
        address = canonical_address(host[1:-1])
        if address is None or ":" not in address:
            raise ValueError("expected an IPv6 address between the brackets")
        host = f"[{address}]"
    elif _NUMBER.fullmatch(host) and canonical_address(host) is None:
        raise ValueError("a host that ends in a number is an IPv4 address: write it as four decimal numbers")
    if port is not None and not (port[0] != "0" and int(port) < 65_536):
        raise ValueError("a port is 1 to 65535")
    if port == _USUAL_PORTS.get(scheme or ""):
        port = None  # as browsers write it
    return (f"{scheme}://" if scheme else "") + host + (f":{port}" if port else "")


@lru_cache(maxsize=1024)  # a site has few; a miss costs five times a hit
def _read(origin: bytes) -> tuple[str, tuple[str, str, str]] | None:
    """Host and all demands (see `_demand`) that an origin satisfies; None if no browser writes it so."""
    try:
        text = origin.decode("ascii")
        if parse_origin(text) != text:
            return None
    except ValueError:
        return None
    # It is the one text of a rule: an origin's, too, unless it leaves the scheme or a part of the host open.
    found = _ORIGIN.fullmatch(text)
    assert found is not None
    scheme, host, port = found["scheme"], found["host"], found["port"]
    if scheme is None or host[0] in "*.":
        return None
    usual = _USUAL_PORTS.get(scheme)
    return host, ("", _demand(scheme, port), _demand(None, port or usual))


def _demand(scheme: str | None, port: str | None) -> str:
    """What a rule demands of scheme and port, as one text.

    >>> _demand(None, None), _demand(None, "8443"), _demand("https", None), _demand("https", "8443")
    ('', ':8443', 'https://', 'https://:8443')
    """
    return (f"{scheme}://" if scheme else "") + (f":{port}" if port else "")
