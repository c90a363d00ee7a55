"""The files that a document names: read whole and bounded, or a problem at the key that names them.

What is in them is not judged here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sidecar.document.walk import Problem, shown

MAX_FILE_BYTES: Final = 64 << 20
"""Of one file: a list of a million networks is some 20 MB."""


class Folder:
    """Where relative paths begin. `watched` are the files whose change is a change of the configuration."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self.watched: list[Path] = []
        self._problems = problems

    def existing(self, name: Path, place: str) -> Path:
        """The path of a file that somebody else will read."""
        path = self.path / name
        if not _is_file(path):
            self._problems.append(Problem(place, f"{shown(str(path))}: there is no such file"))
        return path

    def content(self, name: Path, place: str, what: str) -> bytes | None:
        """What is in a file, watched from now on; None when it cannot be had. `what` it is stands in messages."""
        path = self.path / name
        self.watched.append(path)
        content, problem = _read(path)
        return content if self._fine(path, place, what, problem) else None

    def text(self, name: Path, place: str, what: str) -> str | None:
        """The same for text in UTF-8."""
        path = self.path / name
        self.watched.append(path)
        text, problem = read_text(path)
        return text if self._fine(path, place, what, problem) else None

    def _fine(self, path: Path, place: str, what: str, problem: str) -> bool:
        if problem:
            self._problems.append(Problem(place, f"{shown(str(path))}: {what} {problem}"))
        return not problem


def read_text(path: Path) -> tuple[str, str]:
    """The text of a file, or ("", what is wrong with it)."""
    content, problem = _read(path)
    try:
        return content.decode("utf-8-sig"), problem
    except UnicodeDecodeError as exc:
        return "", f"is not UTF-8 text (byte {exc.start})"


def _read(path: Path) -> tuple[bytes, str]:
    try:
        if not _is_file(path):  # a pipe would keep the gate waiting for ever
            return b"", "is not a file" if path.exists() else "does not exist"
        if path.stat().st_size > MAX_FILE_BYTES:
            return b"", f"is larger than {MAX_FILE_BYTES >> 20} MiB"
        return path.read_bytes(), ""
    except OSError as exc:
        return b"", f"cannot be read: {exc.strerror}"
    except ValueError:
        return b"", "has a path that no file can have"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder that nobody may look into
        return False
