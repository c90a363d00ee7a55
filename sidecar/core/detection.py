"""Suspicions, sought in a request: which patterns match, and what they are worth together.

Each pattern has a score, and a filter objects when the sum reaches its threshold: one strong sign is enough, and
so are several weak ones which mean nothing alone. That is the anomaly scoring of the OWASP core rule set
(https://coreruleset.org/docs/2-how-crs-works/2-1-anomaly_scoring/), with its severities 5, 4, 3, 2 and its usual
threshold 5. A pattern counts once, wherever and however often it matches.

    path      canonical, decoded once (see `paths`)                  "/items/o'neil"
    query     as sent, without the question mark                     "q=%253Cb%2526&lang=en"
    values    the query decoded, `+` as a blank, names included      "q=%3Cb%26&lang=en"
              and decoded once more where that changes it            "q=<b&&lang=en"
    headers   the values of those that the filter names, as sent

The expressions are RE2's (https://github.com/google/re2/wiki/Syntax), which never backtracks: the time grows with the
length of a text, the memory is bounded, and there are no back-references and no look-around.

Several patterns run as one automaton (RE2::Set), which is built as texts are met. Known ground takes nanoseconds a
byte, but the states of many patterns multiply: with all of the starter's in one, a client that sends 8 KiB of noise
holds the gate for 15 ms with each request. TOGETHER at a time it is one, and the usual text takes a few µs more
(`bench/patterns.py`). Most texts, however, are plain (`page=2&sort=asc`), and few patterns can match these at all:
`plain_texts` says which, and only those run on them.

Texts are bytes to the expressions (RE2's Latin-1): `.` matches every byte, line ends included, so that neither
broken UTF-8 nor a line end slips in between. What is not ASCII is written as the bytes of its UTF-8: `caf\\xC3\\xA9`.

A text longer than MAX_TEXT is searched up to there, and counts as critical by itself, as `oversize`: otherwise whoever
puts 8 KiB of padding first would not be seen. nginx lets through no longer ones unless it is told to.

This is a first filter, fast and coarse. It sees no bodies, it is no parser of SQL or HTML, and whoever knows its
patterns can write around them; what it stops is the bulk. Not here: which patterns there are (`starter_patterns`, and
the operator's own).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import re2

from .model import Detecting, Place, Severity, Suspicion
from .plain_texts import PLAIN, may_match

MAX_TEXT: Final = 8192
"""Bytes of one text that are searched."""
MAX_MEM: Final = 2 << 20
"""Bytes that RE2 may take for the patterns of one automaton, with its states."""
TOGETHER: Final = 16
"""Patterns in one automaton."""
TOGETHER_PLAIN: Final = 32
"""Plain texts have fewer ways to lead it on."""
OVERSIZE: Final = "oversize"

_UNICODE_ESCAPE: Final = re.compile(rb"%[uU]([0-9A-Fa-f]{4})")
_ESCAPE: Final = re.compile(rb"%[uU]?[0-9A-Fa-f]{2}")
_AROUND: Final = re.compile(r"\(\?(?:<?[=!]|>)")
_BACK_REFERENCE: Final = re.compile(r"(?:^|[^\\])(?:\\\\)*\\(?:[1-9]|k[<{'])|\(\?P=")
_CATEGORY: Final = re.compile(r"(?:^|[^\\])(?:\\\\)*\\[pP]")


class PatternRefused(ValueError):
    """A pattern that cannot be sought; its text is the pattern's name and the reason."""


class Found(NamedTuple):
    """What was found: the score, and the names of the patterns in the filter's order."""

    score: int
    names: tuple[str, ...]


NOTHING: Final = Found(0, ())

_Search = Callable[[bytes], list[int]]
"""The numbers of the patterns that match a text, in no order."""


@lru_cache(maxsize=64)  # a tenth of a second for all starter sets, and a policy is made anew now and then
def detector_of(detecting: Detecting) -> Detector:
    """What looks for these patterns. Raises PatternRefused."""
    return Detector(detecting)


class Detector:
    """The patterns of one filter, compiled once. Raises PatternRefused.

    >>> from .model import Detecting, Place, Severity, Suspicion
    >>> odd = Suspicion("mine/odd", "(?i)<blink", (Place.VALUES,), Severity.CRITICAL)
    >>> Detector(Detecting((odd,), threshold=5)).score("/", b"q=%3CBLINK%3E", {})
    Found(score=5, names=('mine/odd',))
    """

    __slots__ = ("_headers", "_path", "_query", "_search_headers", "_suspicions", "_values")

    def __init__(self, detecting: Detecting) -> None:
        self._suspicions = detecting.suspicions
        self._headers = detecting.headers
        for suspicion in detecting.suspicions:
            try:
                compiled_ok(suspicion.expression)
            except ValueError as exc:
                raise PatternRefused(f"{suspicion.name}: {exc}") from exc
        self._path = _search(Place.PATH, detecting.suspicions)
        self._query = _search(Place.QUERY, detecting.suspicions)
        self._values = _search(Place.VALUES, detecting.suspicions)
        self._search_headers = _search(Place.HEADERS, detecting.suspicions)

    def score(self, path: str, query: bytes, headers: Mapping[bytes, bytes]) -> Found:
        """What a request is suspected of: canonical path, raw query, and headers by their lower-case names."""
        found: list[int] = []
        oversize = False
        if self._path is not None:
            # Bounded by `paths`, which refuses longer ones; decoded, it is no longer than it was.
            found += self._path(path.encode())
        if query:
            if len(query) > MAX_TEXT:
                oversize = True
                query = query[:MAX_TEXT]
            if self._query is not None:
                found += self._query(query)
            if self._values is not None:
                for text in decoded(query):
                    found += self._values(text)
        if self._search_headers is not None:
            for name in self._headers:
                value = headers.get(name)
                if value:
                    if len(value) > MAX_TEXT:
                        oversize = True
                        value = value[:MAX_TEXT]
                    found += self._search_headers(value)
        if not found and not oversize:
            return NOTHING
        return self._sum(found, oversize)

    def _sum(self, found: Iterable[int], oversize: bool) -> Found:
        matched = [self._suspicions[number] for number in sorted(set(found))]
        score = sum(suspicion.severity.value for suspicion in matched)
        names = [suspicion.name for suspicion in matched]
        if oversize:
            score += Severity.CRITICAL.value
            names.append(OVERSIZE)
        return Found(score, tuple(names))


def decoded(query: bytes) -> tuple[bytes, ...]:
    """A query as an application may read it: decoded, and again if something is left to decode.

    `&` and `=` stay in between, so that what is sought does not run from one parameter into the next. Once more
    is for applications that decode what their framework has decoded. `%u003c` is Microsoft's way to write `<`.

    >>> decoded(b"a=1+2&b=%2541"), decoded(b"a=1")
    ((b'a=1 2&b=%41', b'a=1 2&b=A'), (b'a=1',))
    """
    text = query.replace(b"+", b" ")
    if b"%" not in text:
        return (text,)
    once = _unquoted(text)
    if b"%" not in once or not _ESCAPE.search(once):
        return (once,)
    return (once, _unquoted(once))


def compiled_ok(expression: str) -> None:
    """Raises ValueError, with the reason in words for an operator, unless `expression` can be sought."""
    if not expression.isascii():
        raise ValueError(
            r"write what is not ASCII as the bytes of its UTF-8, as in caf\xC3\xA9: texts are bytes"
        )
    if _AROUND.search(expression):
        raise ValueError(
            "RE2 has no look-around (?= (?! (?<= (?<! and no (?>: use several patterns that add up"
        )
    if _BACK_REFERENCE.search(expression):
        raise ValueError("RE2 has no back-references: write out what may repeat")
    if _CATEGORY.search(expression):
        raise ValueError(r"\p and \P do not apply: texts are bytes")
    try:
        compiled = _compiled(expression)
    except re2.error as exc:
        raise ValueError(f"RE2 cannot read it: {_reason(exc)}") from exc
    if compiled.search(b"") is not None:
        raise ValueError("it matches an empty text, and so every request")


def _unquoted(text: bytes) -> bytes:
    if b"%u" in text or b"%U" in text:
        text = _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)).encode("utf-8", "replace"), text)
    return unquote_to_bytes(text)


def _search(place: Place, suspicions: tuple[Suspicion, ...]) -> _Search | None:
    """A search for all patterns of a place, or None when it has none."""
    sought = [(number, suspicion) for number, suspicion in enumerate(suspicions) if place in suspicion.places]
    if not sought:
        return None
    search_all = _parts(sought, TOGETHER)
    search_plain = _parts([each for each in sought if may_match(each[1].expression)], TOGETHER_PLAIN)

    def search(text: bytes) -> list[int]:
        found = []
        for match, numbers in search_all if text.translate(None, PLAIN) else search_plain:
            matched = match(text)
            if matched:
                found += [numbers[index] for index in matched]
        return found

    return search


def _parts(sought: list[tuple[int, Suspicion]], size: int) -> list[tuple[_Search, list[int]]]:
    parts: list[tuple[_Search, list[int]]] = []
    for at in range(0, len(sought), size):
        part = sought[at : at + size]
        patterns = re2.Set.SearchSet(_options())
        for _, suspicion in part:
            patterns.Add(suspicion.expression.encode("ascii"))
        try:
            # RE2 tries the automaton here: one that has too little memory fails now, and not silently later.
            patterns.Compile()
        except re2.error:
            names = ", ".join(suspicion.name for _, suspicion in part)
            raise PatternRefused(f"{names}: too large together; use shorter repetitions") from None
        # Without the wrapper, which makes None of an empty list.
        parts.append((patterns._set.Match, [number for number, _ in part]))
    return parts


def _compiled(expression: str) -> re2._Regexp:
    # By way of the class, not of re2.compile, which would keep it.
    return re2._Regexp(expression.encode("ascii"), _options())


def _options() -> re2.Options:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = MAX_MEM
    options.dot_nl = True
    options.never_capture = True  # nobody asks what matched, only whether
    options.log_errors = False  # it would write to stderr; the reason is raised
    return options


def _reason(exc: Exception) -> str:
    """RE2's own words, which come as bytes."""
    reason = exc.args[0] if exc.args else "no reason given"
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
