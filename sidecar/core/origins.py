"""Origins: the web pages from which a public key may be used, as an operator names them.

    yourdomain.com                 this host
    .yourdomain.com                its subdomains, www included
    *                              any host
    https://app.example.com:8443   scheme and port are demanded where they stand

One rule has one text: lower case, addresses as browsers write them, and no port that goes without saying.

Whether the origin of a request satisfies a rule is not decided here.
"""

from __future__ import annotations

import re
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
    found = _ORIGIN.fullmatch(text) if len(text) <= 320 else None
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
