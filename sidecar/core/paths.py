"""One path, one text: what rules match on, whatever way a client spells it.

The gate and the application each decode the path, and a client that finds a spelling which they
read differently walks around the rules. So the path is decoded exactly once here, the rules see the
result, and every spelling that is known to be read in two ways is refused rather than guessed at:

    %2f %5c %00, \\, control characters     separators and ends to some readers, text to others
    %252e, and the like                     an application that decodes twice sees another path
    /a/../../b                              above the root; some stay at the root, some fail
    /a//../b                                /b where slashes merge first (nginx), /a/b by RFC 3986
    % without two hex digits, not UTF-8     every decoder has its own idea
    # and spaces as they are                not in a URI; nginx ends the path at #
    *, http://…                             not a path

The rest is brought to one form: `//` collapses, `.` and `..` are resolved (RFC 3986, 5.2.4), escapes are
decoded. Case and a slash at the end are kept: they mean something to applications.

`;` is an ordinary character here, as to nginx, Envoy and most frameworks. Servlet containers and a
few others cut path parameters off each segment, so there `/admin;x` and even `/open/..;/admin` are
`/admin`. In front of such an application refuse the character, with a filter on the paths `*;*`.

Not here: what a path is matched against (`policy`), and where the target is found (`fronts`).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_PATH: Final = 8192
"""Bytes of an encoded path, without the query: nginx's and most applications' own cap."""

# Segments of unreserved characters (RFC 3986, 2.3), none empty or with a dot in front: canonical
# as they stand. Saves four fifths of the careful way's time on ordinary paths.
_plain = re.compile(rb"(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*/?").fullmatch

_REFUSED_RAW: Final = re.compile(rb"[\x00-\x20\x7f\\#?]")
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_REFUSED_ESCAPE: Final = re.compile(rb"%(?:2[fF]|5[cC]|00)")
_SECOND_LAYER: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_ABSOLUTE: Final = re.compile(
    rb"(https?)://((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]))(?::[0-9]{0,5})?(/.*)?", re.DOTALL | re.IGNORECASE
)


class PathRefused(ValueError):
    """A path or URI that readers may understand differently; its text is the reason, in a few words."""


def canonical_path(raw: bytes) -> str:
    """The path that rules match on, of an encoded path without its query.

    It begins with `/` and has no empty, `.` or `..` segments; a slash at the end stays. Encoding
    it again and asking again gives the same. Raises PathRefused, and nothing else.

    >>> canonical_path(b"/a//b/./c/../%64%C3%A9/")
    '/a/b/dé/'
    >>> canonical_path(b"/static/..%2fadmin")
    Traceback (most recent call last):
    sidecar.core.paths.PathRefused: encoded slash, backslash or NUL
    """
    if _plain(raw) and 0 < len(raw) <= MAX_PATH:
        return raw.decode("ascii")
    return _resolved(_decoded(raw))


def split_target(raw: bytes) -> tuple[bytes, bytes]:
    """Path and query of an origin-form request target; the query is empty when there is none.

    >>> split_target(b"/a/b?c=d?e"), split_target(b"/a")
    ((b'/a/b', b'c=d?e'), (b'/a', b''))
    """
    path, _, query = raw.partition(b"?")
    return path, query


def split_absolute(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Scheme, host and the rest of an absolute URI; raises PathRefused if it is not plainly one.

    Scheme and host are in lower case, the host without its port; the rest is `/` or path and query
    as they stand. The host must be a name or an address and be followed by a slash: where the URI was pasted
    together from a client's `Host` and target, as ingress-nginx does, `Host: a?b` must not turn
    the path into a query. User information is refused (RFC 9110, 4.2.4).

    >>> split_absolute(b"HTTP://Example.org:8080/a?b=c")
    (b'http', b'example.org', b'/a?b=c')
    """
    parts = _ABSOLUTE.fullmatch(raw)
    if parts is None:
        raise PathRefused("not an absolute http URI")
    scheme, host, rest = parts.groups()
    return scheme.lower(), host.lower(), rest or b"/"


def _decoded(raw: bytes) -> str:
    if len(raw) > MAX_PATH:
        raise PathRefused("path too long")
    if not raw.startswith(b"/"):
        raise PathRefused("path does not begin with a slash")
    if _REFUSED_RAW.search(raw):
        raise PathRefused("character that does not belong into a path")
    if _BAD_ESCAPE.search(raw):
        raise PathRefused("bad percent escape")
    if _REFUSED_ESCAPE.search(raw):
        raise PathRefused("encoded slash, backslash or NUL")
    decoded = unquote_to_bytes(raw)
    if _SECOND_LAYER.search(decoded):
        raise PathRefused("encoded twice")
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        raise PathRefused("not UTF-8") from None
    if _CONTROL.search(text):
        raise PathRefused("control character")
    return text


def _resolved(text: str) -> str:
    segments: list[str] = []
    final = ""
    for final in text.split("/")[1:]:
        if final == "..":
            if not segments:
                raise PathRefused("dot segment above the root")
            if not segments.pop():
                # An empty segment: a reader that collapses slashes first goes up one further.
                raise PathRefused("dot segment after an empty one")
        elif final != ".":
            segments.append(final)
    path = "/".join(segment for segment in segments if segment)
    if not path:
        return "/"
    # A path that ends in a slash, `.` or `..` names a directory.
    return f"/{path}/" if final in {"", ".", ".."} else f"/{path}"
