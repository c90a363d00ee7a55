"""What of a document means something only where keys are checked: with `credentials.mode: registry`.

Looked for in the tree, so that a mistake elsewhere hides nothing, and a default is not taken for a wish.

Does not read the keys' own sections: `credentials` does.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.document.walk import Problem
from sidecar.document.yaml_text import Tree

_WAY_OUT = 'write "credentials: {mode: registry}", or remove it'
_CREDENTIALS = {
    "bearer": "no token is read",
    "server": "no pair of headers is read",
    "client": "no pair of headers is read",
    "roles": "no key has scopes",
    "tenants": "no key has a tenant",
    "tokens": "nobody could be given one",
    "jwt": "no token is read",
}


def without_registry(tree: Tree) -> Iterator[Problem]:
    """The keys of a document without a registry that could never act; each with the way out."""
    sections = _keys(tree)
    credentials = _keys(sections.get("credentials"))
    for key, why in _CREDENTIALS.items():
        if key in credentials:
            yield _problem(f"credentials.{key}", f"{why} where keys are not checked")
    for at, rule in enumerate(_items(sections.get("limits"))):
        limit, path = _keys(rule), f"limits[{at}]"
        yield from _of_match(limit, path)
        for number, dimension in enumerate(_items(limit.get("per"))):
            if dimension == "tenant":
                why = '"tenant": nobody has a tenant where keys are not checked'
                yield _problem(f"{path}.per[{number}]", why)
        if "plans" in limit:
            yield _problem(f"{path}.plans", "nobody has a plan where keys are not checked")
        if limit.get("counts") == "credential_failures":
            why = '"credential_failures": no credential fails where keys are not checked'
            yield _problem(f"{path}.counts", why)
    for at, rule in enumerate(_items(sections.get("filters"))):
        path = f"filters[{at}]"
        yield from _of_match(_keys(rule), path)
        for key in ("kinds", "scopes"):  # `origins` stands with `kinds` only
            if key in _keys(rule):
                yield _problem(f"{path}.{key}", "everybody is anonymous where keys are not checked")


def public_without_tokens(tree: Tree) -> Iterator[Problem]:
    """A public port on which nothing would be served."""
    listen, credentials = _keys(_keys(tree).get("listen")), _keys(_keys(tree).get("credentials"))
    if listen.get("public", "off") != "off" and "tokens" not in credentials:
        message = "only the endpoints of issued tokens are there: set `credentials.tokens`, or remove it"
        yield Problem("listen.public", message)


def _of_match(rule: dict[str, Tree], path: str) -> Iterator[Problem]:
    for key in ("kinds", "plans", "scopes"):
        if key in _keys(rule.get("match")):
            yield _problem(f"{path}.match.{key}", "everybody is anonymous where keys are not checked")


def _problem(path: str, why: str) -> Problem:
    return Problem(path, f"{why}: {_WAY_OUT}")


def _keys(tree: Tree) -> dict[str, Tree]:
    return tree if isinstance(tree, dict) else {}


def _items(tree: Tree) -> list[Tree]:
    return tree if isinstance(tree, list) else []
