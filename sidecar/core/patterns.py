"""Patterns with `*`, and a rule's `match` made of them.

In a pattern `*` matches anything, `/` included; `/x/*` also matches `/x`. The first listed pattern that
matches names the route, so that a flood of paths makes no counters.

No backtracking: the time is linear in text that clients choose.
"""

from __future__ import annotations

from sidecar.core.model import Match


class Pattern:
    """A `*` pattern, matched in linear time: no backtracking over text that clients choose.

    `or_bare`: one that ends in `/*` also matches what lies before that.

    >>> Pattern("/x/*").matches("/x"), Pattern("/x/*").matches("/xy"), Pattern("*.png").matches("/a/b.png")
    (True, False, True)
    """

    __slots__ = ("_bare", "_head", "_middle", "_tail", "text")

    def __init__(self, text: str, *, or_bare: bool = True) -> None:
        self.text = text
        pieces = text.split("*")
        self._head = pieces[0]
        self._tail = pieces[-1] if len(pieces) > 1 else None
        self._middle = [piece for piece in pieces[1:-1] if piece]
        self._bare = Pattern(text[:-2], or_bare=False) if or_bare and text.endswith("/*") else None

    def matches(self, text: str) -> bool:
        if self._tail is None:
            return text == self._head
        if self._bare is not None and self._bare.matches(text):
            return True
        at, end = len(self._head), len(text) - len(self._tail)
        if at > end or not text.startswith(self._head) or not text.endswith(self._tail):
            return False
        for piece in self._middle:
            found = text.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


class Matcher:
    """A rule's `match`, compiled: answers the route's name, or None."""

    __slots__ = ("_hosts", "_methods", "_paths")

    def __init__(self, match: Match) -> None:
        self._hosts = tuple(Pattern(host.lower()) for host in match.hosts)
        self._methods = frozenset(match.methods)
        self._paths = tuple(Pattern(path) for path in match.paths)

    def route(self, method: str, host: str, path: str) -> str | None:
        if self._methods and method not in self._methods:
            return None
        if self._hosts and not any(pattern.matches(host) for pattern in self._hosts):
            return None
        if not self._paths:
            return "*"
        for pattern in self._paths:
            if pattern.matches(path):
                return pattern.text
        return None
