"""The house rules that a machine can hold: one test each, and each failure says where and what instead.

An exception to a rule stands in the table beside it, with its reason. What takes judgement (names,
shape, whether a comment earns its place) is not here.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Final, TypeGuard

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent
LONGEST: Final = 450
"""Lines: what one reads in a sitting."""

VAGUE_NAMES: Final = {"utils", "util", "helpers", "helper", "common", "manager", "constants", "base", "misc"}

# What turns text into bytes and back asks nobody: the core may have these.
PURE: Final = {"socket.AF_INET", "socket.AF_INET6", "socket.inet_ntop", "socket.inet_pton"}
COMPUTING: Final = {
    "re2": "matches patterns in linear time",
    "jwt": "checks signatures; the claims, and with them the time, are the core's own",
    "cryptography": "as above",
}
"""Third parties that the core may have: they compute, and ask nobody."""
NOT_IN_CORE: Final = {"asyncio", "logging", "os", "random", "redis", "socket", "threading", "time", "uvloop"}

# Who must not import what: (importer, imported), both as prefixes of dotted names.
OUTWARD: Final = (
    ("sidecar.gate", "redis"),
    ("sidecar.gate", "sidecar.store.redis"),
    ("sidecar.gate", "sidecar.fronts"),
    ("sidecar.gate", "sidecar.admin"),
    ("sidecar.gate", "sidecar.control"),
    ("sidecar.gate", "sidecar.public"),
    ("sidecar.fronts", "redis"),
    ("sidecar.fronts", "sidecar.store"),
    ("sidecar.fronts", "sidecar.control"),
    ("sidecar.fronts", "sidecar.admin"),
    ("sidecar.fronts", "sidecar.config"),
    ("sidecar.store", "sidecar.gate"),
    ("sidecar.store", "sidecar.fronts"),
    ("sidecar.store", "sidecar.admin"),
    ("sidecar.config", "asyncio"),
    ("sidecar.config", "redis"),
)

# `except Exception` belongs to the outermost task, which logs and counts. Module -> why it has one.
CATCH_ALL: Final = {
    "sidecar/admin/app.py": "the outermost handler of a request: it logs, and answers 500 without saying what",
    "sidecar/decision_log.py": "the log's own handler: a record that cannot be formatted harms nobody else",
    "sidecar/serve.py": "a reload that fails as nobody expected leaves the last good configuration in force",
    "sidecar/supervision.py": "a task that ended unseen would leave a replica deaf; it is logged and begins again",
    "sidecar/gate.py": "a lane that ended would leave everybody waiting; the outage policy decides instead",
}

# Nothing sleeps in a test except where the adversity is real. File -> why it does.
SLEEPS: Final = {
    "tests/servers.py": "polls a server until it is ready",
    "tests/test_outage_live.py": "an outage lasts for a while",
}


@cache
def files() -> tuple[str, ...]:
    """Every file of the project, relative to its root: what git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        names = listed.splitlines()
    except (
        OSError,
        subprocess.CalledProcessError,
    ):  # no git, or not a clone: everything that make did not make
        made = re.compile(r"(^|/)(\.\w+|__pycache__|dist|build|portcullis-data)/")
        paths = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
        names = [name for name in paths if not made.search(name) or name.startswith(".ci/")]
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))


def named(*endings: str, under: str = "") -> list[str]:
    return [name for name in files() if name.endswith(endings) and name.startswith(under)]


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(text(name), name)


def module(name: str) -> str:
    """`sidecar/store/__init__.py` is `sidecar.store`."""
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, wherever the import stands."""
    package = module(name).split(".") if name.endswith("__init__.py") else module(name).split(".")[:-1]
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def names(name: str) -> Iterator[tuple[int, str]]:
    """Line and text of every (dotted) name that a file uses."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Attribute | ast.Name):
            yield node.lineno, ast.unparse(node)


def report(found: Iterable[str], instead: str) -> None:
    lines = list(found)
    assert not lines, "\n".join([f"{instead}:", *lines])


def test_it_looks_at_something() -> None:
    assert len(named(".py", under="sidecar/")) > 10
    assert len(named(".py", under="tests/")) > 5
    assert named(".lua", under="lua/")


def test_it_keeps_the_core_pure() -> None:
    allowed = {*sys.stdlib_module_names, *COMPUTING, "sidecar"} - NOT_IN_CORE
    report(
        (
            f"{name}:{line} imports {imported}"
            for name in named(".py", under="sidecar/core/")
            for line, imported in imports(name)
            if imported not in PURE and imported.split(".")[0] not in allowed
        ),
        "the core has no clock, no I/O and no other third parties: pass it in",
    )


def test_it_keeps_the_core_to_itself() -> None:
    report(
        (
            f"{name}:{line} imports {imported}"
            for name in named(".py", under="sidecar/core/")
            for line, imported in imports(name)
            if within(imported, "sidecar") and not within(imported, "sidecar.core")
        ),
        "imports point inwards, and the core is innermost",
    )


@pytest.mark.parametrize(("importer", "imported"), OUTWARD)
def test_it_imports_inwards(importer: str, imported: str) -> None:
    report(
        (
            f"{name}:{line} imports {found}"
            for name in named(".py", under="sidecar/")
            if within(module(name), importer)
            for line, found in imports(name)
            if within(found, imported)
        ),
        f"imports point inwards: {importer} does not know {imported}",
    )


def test_it_composes_in_one_place() -> None:
    roots = {"sidecar/cli.py", "sidecar/__main__.py", "sidecar/serve.py"}
    report(
        (
            f"{name}:{line} imports {imported}"
            for name in named(".py", under="sidecar/")
            if name not in roots
            for line, imported in imports(name)
            if within(imported, "sidecar.serve") or within(imported, "sidecar.cli")
        ),
        "only the command line knows the composition root",
    )


def test_it_names_modules_for_what_they_hold() -> None:
    report(
        (name for name in named(".py", ".lua") if VAGUE_NAMES & {Path(name).stem, *Path(name).parent.parts}),
        "say what is in there",
    )


def test_it_keeps_files_readable_in_a_sitting() -> None:
    report(
        (
            f"{name}: {text(name).count(chr(10))} lines"
            for name in named(".py", ".lua")
            if text(name).count("\n") > LONGEST
        ),
        f"more than {LONGEST} lines: two names would be clearer than one",
    )


def test_it_opens_every_module_with_its_purpose() -> None:
    report(
        (
            f"{name} has no docstring"
            for name in named(".py")
            if text(name).strip() and not ast.get_docstring(tree(name))
        ),
        "the first sentence stands without the code",
    )


def test_it_keeps_docstring_sentences_first() -> None:
    report(
        (
            f"{name} begins with {first!r}"
            for name in named(".py", under="sidecar/")
            if (first := (ast.get_docstring(tree(name)) or ".").split("\n\n")[0]) and first[-1] not in ".:?"
        ),
        "a docstring's first paragraph ends as a sentence does",
    )


def test_it_skips_no_test() -> None:
    forbidden = re.compile(r"^pytest\.(mark\.)?(skip|skipif|xfail|importorskip)$")
    report(
        (
            f"{name}:{line} {called}"
            for name in named(".py", under="tests/")
            for line, called in names(name)
            if forbidden.match(called)
        ),
        "a test runs or is not there",
    )


def test_it_catches_everything_only_in_the_outermost_task() -> None:
    found = {
        name: [node.lineno for node in ast.walk(tree(name)) if _catches_all(node)]
        for name in named(".py", under="sidecar/")
    }
    report(
        (f"{name}:{line}" for name, lines in found.items() if name not in CATCH_ALL for line in lines),
        "name what is caught, or enter the module into CATCH_ALL with the reason",
    )
    report(
        (f"{name}: {reason}" for name, reason in CATCH_ALL.items() if not found.get(name)),
        "these exceptions to the rule are no longer needed",
    )


def _catches_all(node: ast.AST) -> TypeGuard[ast.ExceptHandler]:
    if not isinstance(node, ast.ExceptHandler):
        return False
    caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)


def test_it_sleeps_nowhere_in_the_tests() -> None:
    report(
        (
            f"{name}:{node.lineno} {ast.unparse(node)}"
            for name in named(".py", under="tests/")
            if name not in SLEEPS
            for node in ast.walk(tree(name))
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"time.sleep", "sleep", "asyncio.sleep"}
            and [ast.unparse(argument) for argument in node.args] != ["0"]
        ),
        "time is an argument or a fake clock; for real adversity enter the file into SLEEPS with the reason",
    )


def test_it_never_blocks_the_gate() -> None:
    report(
        (
            f"{name}:{line} {called}"
            for name in named(".py", under="sidecar/")
            for line, called in names(name)
            if called == "time.sleep"
        ),
        "a gate that sleeps answers nobody",
    )


def test_it_gives_a_reason_for_every_silenced_warning() -> None:
    silenced = re.compile(r"# *(noq[a]|type: *ignor[e])(?P<rest>.*)")
    reasoned = re.compile(r"(: ?[A-Z][A-Z0-9, ]+|\[[a-z, -]+\])\s+[-–#] *\w+")
    report(
        (
            f"{name}:{number} {line.strip()}"
            for name in named(".py")
            for number, line in enumerate(text(name).splitlines(), 1)
            if (found := silenced.search(line)) and not reasoned.match(found["rest"])
        ),
        "name the rule and say why, on that line: a code, a dash, the reason",
    )


def test_it_leaves_nothing_for_later() -> None:
    marks = re.compile(r"\b(TOD[O]|FIXM[E]|XX[X])\b|NotImplementedErro[r]")
    report(
        (
            f"{name}:{number} {line.strip()}"
            for name in named(".py", ".lua", ".yaml", "Makefile", ".ci/run")
            for number, line in enumerate(text(name).splitlines(), 1)
            if marks.search(line)
        ),
        "do it, or say in the documents that it is missing",
    )


@pytest.mark.parametrize("part", ["KEYS", "ARGV", "Returns", "Cost"])
def test_it_heads_every_script_with_its_signature(part: str) -> None:
    def header(name: str) -> str:
        lines = text(name).splitlines()
        if lines and lines[0].startswith("#!"):
            lines = lines[1:]
        ends = next((at for at, line in enumerate(lines) if not line.startswith("--")), len(lines))
        return "\n".join(lines[:ends])

    report(
        (
            name
            for name in named(".lua", under="lua/")
            if not re.search(rf"^-- *{part}\b", header(name), re.MULTILINE | re.IGNORECASE)
        ),
        f"a script is read by its header alone, and this one's does not say {part}",
    )


def test_it_names_no_package_index() -> None:
    # In pieces, so that this file does not contain what it looks for.
    hosts = [
        "pypi" + ".org",
        "pythonhosted" + ".org",
        "--index" + "-url",
        "--extra-index" + "-url",
        "--find" + "-links",
    ]
    report(
        (
            f"{name} names {host}"
            for name in named("")
            if _is_text(name)
            for host in hosts
            if host in text(name)
        ),
        "versions and hashes say what is installed, the operator says from where",
    )


def test_it_names_no_place_on_one_machine() -> None:
    places = re.compile(r"/(wor[k]|roo[t]|far[m])/|/tmp/(pla[n]|prob[e])\b")
    report(
        (
            f"{name}:{number} {line.strip()[:100]}"
            for name in named("")
            if _is_text(name)
            for number, line in enumerate(text(name).splitlines(), 1)
            if places.search(line)
        ),
        "a path that exists on one machine only",
    )


@cache
def _is_text(name: str) -> bool:
    try:
        text(name)
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-build.lock", "requirements-dev.lock"])
def test_it_pins_every_package_with_its_hashes(lock: str) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", text(lock)).strip())

    report(
        (
            entry.splitlines()[0]
            for entry in entries
            if not re.match(r"[\w.-]+==\S+.*\\\n +--hash=sha256:", entry)
        ),
        f"{lock} is made by `make lock`, never by hand",
    )


def test_it_pins_the_same_versions_everywhere() -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"(?m)^[\w.-]+==[^\s\\]+", text(lock)))

    assert pins("requirements.lock") <= pins("requirements-dev.lock")
