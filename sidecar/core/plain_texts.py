"""Which patterns a plain text can satisfy: letters, digits and `=&/._-`, as most of what is searched.

A pattern that needs another byte, such as a quote or `<`, need not be tried on such a text. The answer errs to one side
only: an expression that is not understood here may match.

Python's own reading of expressions is used, and where RE2 reads differently Python either refuses (then it may match)
or is broader. Only `[[:alpha:]]` is narrower to Python, so `[:` is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Final, cast

try:
    # Private to Python's `re`, and the only parser that there is.
    _constants, _parser = import_module("re._constants"), import_module("re._parser")
except ImportError:  # a Python without them: any pattern may match, which costs some microseconds
    _constants = _parser = ModuleType("absent")

PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789=&/._-"
_CODES: Final = frozenset(PLAIN)

_Items = Iterable[tuple[object, object]]
"""What Python's parser makes of an expression: opcodes with their arguments."""

_UNDERSTOOD: Final = hasattr(_parser, "parse")
_REPEATS: Final = {_constants.MAX_REPEAT, _constants.MIN_REPEAT} if _UNDERSTOOD else set()


def may_match(expression: str) -> bool:
    """Whether an expression may match (a part of) some plain text.

    >>> may_match("(?i)union select"), may_match("admin|<script"), may_match("/etc/passwd")
    (False, True, True)
    """
    if "[:" in expression or not _UNDERSTOOD:
        return True
    try:
        return _all(_parser.parse(expression.encode("ascii")))
    except (re.error, OverflowError, RecursionError):
        return True


def _all(items: _Items) -> bool:
    return all(_one(opcode, argument) for opcode, argument in items)


def _one(opcode: object, argument: object) -> bool:
    match argument:
        case int() if opcode is _constants.LITERAL:
            return argument in _CODES
        case list() if opcode is _constants.IN:
            return _any_code(argument)
        case (None, list(branches)) if opcode is _constants.BRANCH:
            return any(_all(branch) for branch in branches)
        case (_, _, _, inner) if opcode is _constants.SUBPATTERN:
            return _all(cast(_Items, inner))
        case (int(least), _, inner) if opcode in _REPEATS:
            return least == 0 or _all(cast(_Items, inner))
        case _:
            return True


def _any_code(items: list[tuple[object, object]]) -> bool:
    """Whether a class takes a plain byte; classes such as `\\w`, and those negated, are tried."""
    if len(items) == 0 or items[0][0] is _constants.NEGATE:
        return True
    for opcode, argument in items:
        match argument:
            case int() if opcode is _constants.LITERAL:
                if argument in _CODES:
                    return True
            case (int(low), int(high)) if opcode is _constants.RANGE:
                if any(low <= code <= high for code in _CODES):
                    return True
            case _ if argument is not _constants.CATEGORY_SPACE:
                return True
    return False
