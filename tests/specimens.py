"""Requests of both kinds for the patterns: what must pass, and what should not. They are in `tests/data`.

    ; a remark
    # family
    GET /path?query             target as on the wire
      User-Agent: text          headers of the request above
    ~ GET /path                 known to be judged wrongly: hostile and let through, or benign and refused

The held-out files were written before the patterns, which were never tuned to them. They are by the same hand, though,
and close to the others: of the payloads in public lists expect three of four to be stopped, not all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sidecar.core.paths import canonical_path, split_target

DATA: Final = Path(__file__).resolve().parent / "data"

HEADERS: Final = (b"user-agent", b"referer", b"x-api-version", b"x-forwarded-for")
"""Those in which the specimens have something."""


@dataclass(frozen=True)
class Specimen:
    line: str
    """Where it stands: file and number."""
    family: str
    method: str
    target: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    misjudged: bool
    """Known to be judged wrongly."""

    def __str__(self) -> str:
        shown = "".join(f" {value.decode()!r}" for value in self.headers.values())
        return f"{self.line}: {self.target}{shown}"


def specimens(name: str) -> list[Specimen]:
    """What is in `tests/data/<name>.txt`. Raises PathRefused for a path that the gate refuses unread."""
    return list(_read(DATA / f"{name}.txt"))


def _read(file: Path) -> Iterator[Specimen]:
    family = ""
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line.startswith("# "):
            family = line[2:]
        elif line and line[0] not in "; ":
            method, target = line.removeprefix("~ ").split(" ")
            path, query = split_target(target.encode())
            yield Specimen(
                line=f"{file.name}:{number}",
                family=family,
                method=method,
                target=target,
                path=canonical_path(path),
                query=query,
                headers=dict(_headers(lines[number:])),
                misjudged=line.startswith("~ "),
            )


def _headers(below: list[str]) -> Iterator[tuple[bytes, bytes]]:
    for line in below:
        if not line.startswith("  "):
            return
        name, _, value = line.strip().partition(":")
        yield name.lower().encode(), value.strip().encode()
