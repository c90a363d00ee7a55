"""A tree held against a schema, so that all of its problems are found at once.

The schema is msgspec Structs. msgspec itself stops at the first mistake, so the walk takes the
structure apart: each field of a Struct, each item of a tuple and each value of a mapping is read
by itself, and only the leaves go through `msgspec.convert` or through the `Notation` that a
field names in `Meta(extra={"notation": ...})`. What cannot be read is a `Problem`, and the walk
goes on with the field's default.

A Struct may have a method `problems()` for what its fields must satisfy together; it is asked
only when each field could be read.

Knows nothing about limits or stores: `schema` does.
"""

from __future__ import annotations

import difflib
import enum
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Protocol, TypeVar, cast, get_args, get_origin, runtime_checkable

import msgspec

from sidecar.core.keys import holds_secret
from sidecar.document.notations import Notation, redacted_url
from sidecar.document.yaml_text import Tree, child_path

S = TypeVar("S", bound=msgspec.Struct)

_SHOWN: Final = 60
"""Characters of a value that a message repeats."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it is (`limits[1].window`), and the value with the remedy."""

    path: str
    message: str
    line: int = 0
    """Counted from 1; 0 when there is none (the environment, a missing file)."""


@runtime_checkable
class Judged(Protocol):
    """A Struct that knows what its fields must satisfy together."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Pairs of a path below the Struct (`window`, `jwt[1].name`, "" for itself) and the message for it."""


class _Lost(enum.Enum):
    LOST = enum.auto()


LOST: Final = _Lost.LOST
"""What could not be read; its problem is noted."""


def read_struct(tree: Tree, kind: type[S], problems: list[Problem]) -> S:
    """`tree` as a `kind` of which every field has a default; mistakes are appended to `problems`."""
    found = _struct({} if tree is None else tree, kind, "", problems)
    return kind() if found is LOST else found


def shown(value: Tree, *, secret: bool = False) -> str:
    """A value as messages repeat it: JSON, short, and never with a password in it.

    >>> shown("0s"), shown(["a"]), shown("redis://:pw@redis")
    ('"0s"', 'a list', '"redis://:***@redis"')
    """
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, str) and holds_secret(value):
        value = "***"
    elif isinstance(value, str) and (secret or "://" in value or "@" in value):
        value = redacted_url(value)
    text = json.dumps(value, ensure_ascii=False)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]}..." + ('"' if text[0] == '"' else "")


def did_you_mean(key: str, known: list[str]) -> str:
    """The known word that is nearest to an unknown one, or else all of them."""
    if close := difflib.get_close_matches(key, known, 1):
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(known)}"


def _walk(tree: Tree, kind: object, path: str, problems: list[Problem]) -> object:
    """`tree` as `kind`, an annotation of the schema, or LOST."""
    if tree is None:
        problems.append(Problem(path, "nothing stands here: remove the key for its default, or fill it"))
        return LOST
    if (notation := notation_of(kind)) is not None:
        return _notation(tree, notation, path, problems)
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(tree, kind, path, problems)
    if origin is tuple:
        return _list(tree, arguments[0], path, problems)
    if origin is dict:
        return _mapping(tree, arguments, path, problems)
    if origin is Annotated and get_origin(arguments[0]) is tuple:
        read = _walk(tree, arguments[0], path, problems)
        most = arguments[1].max_length
        if tree == []:
            problems.append(Problem(path, f"an empty list {arguments[1].extra['empty']}"))
        elif most is not None and isinstance(tree, list) and len(tree) > most:
            problems.append(Problem(path, f"{len(tree)} items: expected at most {most}"))
        return read
    if is_union(kind):
        struct, plain = struct_arm(kind), plain_arm(kind)
        if struct is not None and (plain is None or isinstance(tree, dict)):
            return _struct(tree, struct, path, problems)
        return _walk(tree, plain, path, problems)
    return _leaf(tree, kind, path, problems)


def _struct(tree: Tree, kind: type[S], path: str, problems: list[Problem]) -> S | _Lost:
    if not isinstance(tree, dict):
        message = f"{shown(tree)}: expected a mapping with keys such as {_some_keys(kind)}"
        problems.append(Problem(path, message))
        return LOST
    before = len(problems)
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, object] = {}
    missing = False
    problems.extend(
        Problem(child_path(path, key), f"unknown key: {did_you_mean(key, list(fields))}")
        for key in tree
        if key not in fields
    )
    for key, field in fields.items():
        if key in tree:
            value = _walk(tree[key], field.type, child_path(path, key), problems)
            if value is not LOST:
                values[field.name] = value
                continue
        elif field.required:
            problems.append(Problem(child_path(path, key), f"missing: expected {_plain_form(field.type)}"))
        missing = missing or field.required
    if missing:
        return LOST
    read = kind(**values)
    judged: object = read  # mypy holds that no Struct is Judged
    if isinstance(judged, Judged) and len(problems) == before:
        problems.extend(
            Problem(".".join(filter(None, (path, key))), message) for key, message in judged.problems()
        )
    return read


def _list(tree: Tree, item: object, path: str, problems: list[Problem]) -> tuple[object, ...] | _Lost:
    if not isinstance(tree, list):
        message = f"{shown(tree)}: expected a list, in brackets or with a dash before each item"
        problems.append(Problem(path, message))
        return LOST
    items = [_walk(value, item, child_path(path, at), problems) for at, value in enumerate(tree)]
    return tuple(value for value in items if value is not LOST)


def _mapping(
    tree: Tree, arguments: tuple[object, ...], path: str, problems: list[Problem]
) -> dict[object, object] | _Lost:
    if not isinstance(tree, dict):
        problems.append(Problem(path, f"{shown(tree)}: expected a mapping"))
        return LOST
    read = {
        _walk(key, arguments[0], child_path(path, key), problems): _walk(
            value, arguments[1], child_path(path, key), problems
        )
        for key, value in tree.items()
    }
    return {key: value for key, value in read.items() if LOST not in (key, value)}


def _notation(tree: Tree, notation: Notation, path: str, problems: list[Problem]) -> object:
    try:
        return notation.read(tree)
    except ValueError as exc:
        problems.append(Problem(path, f"{shown(tree, secret=notation.secret)}: {exc}"))
        return LOST


def _leaf(tree: Tree, kind: object, path: str, problems: list[Problem]) -> object:
    try:
        return msgspec.convert(tree, cast("type[object]", kind), strict=True)
    except msgspec.ValidationError:
        # msgspec's own words name Python's types; these name what an operator writes.
        hint = ""
        if isinstance(tree, str) and (close := difflib.get_close_matches(tree, choices(kind), 1)):
            hint = f" (did you mean {close[0]}?)"
        problems.append(Problem(path, f"{shown(tree)}: expected {_plain_form(kind)}{hint}"))
        return LOST


def notation_of(kind: object) -> Notation | None:
    """The notation that an annotation of the schema names, if it names one."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra and "notation" in meta.extra:
            notation = meta.extra["notation"]
            assert isinstance(notation, Notation)
            return notation
    return None


def is_union(kind: object) -> bool:
    """Whether an annotation offers several forms: a Struct or a leaf, or a value or None."""
    return get_origin(kind) in {typing.Union, types.UnionType}


def struct_arm(kind: object) -> type[msgspec.Struct] | None:
    """The form of a union that is a Struct, if it has one; so for what is a Struct itself."""
    for arm in get_args(kind) if is_union(kind) else (kind,):
        if isinstance(arm, type) and issubclass(arm, msgspec.Struct):
            return arm
    return None


def plain_arm(kind: object) -> object | None:
    """The form of a union that is not a Struct and not None, if it has one."""
    for arm in get_args(kind):
        if arm is not type(None) and not (isinstance(arm, type) and issubclass(arm, msgspec.Struct)):
            return cast("object", arm)
    return None


def choices(kind: object) -> list[str]:
    """The words of a closed set (an Enum or a Literal), else none."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    return [str(word) for word in get_args(kind)] if get_origin(kind) is typing.Literal else []


def form_of(kind: object) -> str:
    """What an annotation of the schema expects, in an operator's words."""
    if (notation := notation_of(kind)) is not None:
        return notation.form
    if words := [f"`{word}`" for word in choices(kind)]:
        return " or ".join(words) if len(words) < 3 else f"one of {', '.join(words)}"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return form_of(arguments[0]) + _bounds(arguments[1])
    if origin is tuple:
        return f"a list: {form_of(arguments[0])}"
    if origin is dict:
        return f"a mapping: {form_of(arguments[0])} -> {form_of(arguments[1])}"
    if is_union(kind):
        return form_of(plain_arm(kind))
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(
        cast("type[object]", kind), "a mapping"
    )


def _plain_form(kind: object) -> str:
    return form_of(kind).replace("`", "")


def _bounds(meta: msgspec.Meta) -> str:
    return f" from {meta.ge} to {meta.le}" if meta.ge is not None else ""


def _some_keys(kind: type[msgspec.Struct]) -> str:
    return ", ".join(field.encode_name for field in msgspec.structs.fields(kind)[:3])
