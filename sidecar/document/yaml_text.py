"""YAML text -> mappings, lists and leaves, with none of YAML's surprises.

Reads the events of libyaml (or of PyYAML's own parser, where that is missing) and builds the
tree itself, so that every rule is visible here:

    plain scalar             becomes
    true, false              a boolean; every other spelling (yes, on, True) stays text
    null, ~, nothing         None
    17, -3                   an integer; 017, 0x11, 1:30, 1_000 stay text
    1.5, 2e3                 a float; .inf and .nan stay text
    anything else, quoted    text; a date is text

Anchors, aliases, tags, merge keys, duplicate keys, keys that are not text, a second document and
nesting deeper than `MAX_DEPTH` are refused with line and column.

Does not know what a configuration is: `walk` holds the tree against the schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

import yaml

Tree: TypeAlias = "bool | int | float | str | list[Tree] | dict[str, Tree] | None"

MAX_DEPTH: Final = 16
"""Levels of nesting; the schema needs six."""

MAX_CHARS: Final = 1 << 20
"""Characters of one document; long address lists belong into files of their own."""

# libyaml is some ten times faster; both give the same events.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_FLOAT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?(?:[eE][-+]?[0-9]{1,2})?")
_PLAIN: Final[dict[str, Tree]] = {"true": True, "false": False, "null": None, "~": None, "": None}
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,62}")


class YamlRefused(Exception):
    """The text is not the YAML that is read here; str() says what and what to do instead.

    `line` and `column` count from 1; 0 where the place is not known.
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class Located(NamedTuple):
    """A tree, and for each path in it (`limits[1].window`) the line on which it starts."""

    tree: Tree
    lines: dict[str, int]


class _Open:
    """A mapping or a list that is being filled; `key` is the mapping's key that waits for its value."""

    __slots__ = ("content", "key", "path")

    def __init__(self, content: list[Tree] | dict[str, Tree], path: str) -> None:
        self.content = content
        self.path = path
        self.key: str | None = None


def read_yaml(text: str) -> Located:
    """The one document in `text`; an empty text is None.

    >>> read_yaml("a: {b: [on, 1]}").tree
    {'a': {'b': ['on', 1]}}

    Raises YamlRefused.
    """
    if len(text) > MAX_CHARS:
        raise YamlRefused(f"longer than {MAX_CHARS} characters: move long address lists into files")
    try:
        return _build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        # From None: PyYAML's own messages may quote the text, in which a secret can stand.
        raise YamlRefused(f"not YAML: {exc.problem or exc.context}", line, column) from None
    except (yaml.YAMLError, UnicodeError):
        raise YamlRefused("not YAML: it holds characters that YAML does not allow") from None


def child_path(path: str, key: str | int) -> str:
    """How messages name what stands under `key` in `path`.

    >>> child_path(child_path("limits", 1), "window")
    'limits[1].window'
    """
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _IDENTIFIER.fullmatch(key):
        return f"{path}[{key[:40]!r}]"
    return f"{path}.{key}" if path else key


def _build(events: Iterator[yaml.Event]) -> Located:
    root: Tree = None
    lines: dict[str, int] = {}
    stack: list[_Open] = []
    documents = 0
    for event in events:
        match event:
            case yaml.DocumentStartEvent():
                documents += 1
                if documents > 1:
                    raise _refused("a second document: one file is one document", event)
            case yaml.AliasEvent():
                raise _refused("an alias (*): write the value out", event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                stack.pop()
            case yaml.ScalarEvent() | yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                _refuse_marks(event)
                parent = stack[-1] if stack else None
                if parent is not None and isinstance(parent.content, dict) and parent.key is None:
                    parent.key = _key(event, parent.content)
                    continue
                path = _path_of(parent)
                lines[path] = _place(event)[0]
                value = _value(event)
                if parent is None:
                    root = value
                elif isinstance(parent.content, list):
                    parent.content.append(value)
                elif parent.key is not None:
                    parent.content[parent.key] = value
                    parent.key = None
                if isinstance(value, list | dict):
                    if len(stack) == MAX_DEPTH:
                        raise _refused(f"nested deeper than {MAX_DEPTH} levels", event)
                    stack.append(_Open(value, path))
    return Located(root, lines)


def _path_of(parent: _Open | None) -> str:
    if parent is None:
        return ""
    key = len(parent.content) if parent.key is None else parent.key
    return child_path(parent.path, key)


def _refuse_marks(event: yaml.NodeEvent) -> None:
    if event.anchor is not None:
        raise _refused("an anchor (&): write the value out where it is used", event)
    if getattr(event, "tag", None) is not None:
        raise _refused("a tag (!): remove it", event)


def _key(event: yaml.Event, siblings: dict[str, Tree]) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        raise _refused("a key that is a mapping or a list: keys are text", event)
    key = event.value
    if event.implicit[0]:
        if key == "<<":
            raise _refused("a merge key (<<): write the keys out", event)
        if not isinstance(_plain(key), str):
            raise _refused(f'the key {key[:40]!r} is not text: write it in quotes, "{key[:40]}"', event)
    if key in siblings:
        raise _refused(f"the key {key[:40]!r} stands here twice: remove one", event)
    return key


def _value(event: yaml.Event) -> Tree:
    if isinstance(event, yaml.MappingStartEvent):
        return {}
    if isinstance(event, yaml.SequenceStartEvent):
        return []
    assert isinstance(event, yaml.ScalarEvent)
    return _plain(event.value) if event.implicit[0] else event.value


def _plain(text: str) -> Tree:
    if text in _PLAIN:
        return _PLAIN[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _refused(message: str, event: yaml.Event) -> YamlRefused:
    return YamlRefused(message, *_place(event))


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)
