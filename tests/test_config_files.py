"""config_files: files are read whole and bounded, and what cannot be read is a problem at its key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar import config_files
from sidecar.config_files import Folder, read_text
from sidecar.document.walk import Problem


def test_it_watches_what_it_reads_whether_or_not_it_is_there(tmp_path: Path) -> None:
    problems: list[Problem] = []
    folder = Folder(tmp_path, problems)
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfyes")
    (tmp_path / "b").write_bytes(b"\xff")

    assert folder.text(Path("a"), "x.a", "the list") == "yes"
    assert folder.content(Path("b"), "x.b", "the key") == b"\xff"
    assert folder.text(Path("c"), "x.c", "the list") is None
    assert folder.content(Path("c"), "x.d", "the key") is None
    assert folder.watched == [tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "c"]
    assert [(problem.path, problem.message[-15:]) for problem in problems] == [
        ("x.c", " does not exist"),
        ("x.d", " does not exist"),
    ]


def test_it_watches_no_file_that_somebody_else_reads(tmp_path: Path) -> None:
    problems: list[Problem] = []
    folder = Folder(tmp_path, problems)
    (tmp_path / "a").touch()

    assert folder.existing(Path("a"), "x.a") == tmp_path / "a"
    assert problems == []
    assert folder.watched == []


def test_it_takes_names_that_no_file_can_have_for_missing(tmp_path: Path) -> None:
    problems: list[Problem] = []

    Folder(tmp_path, problems).existing(Path("x" * 5000), "x.a")

    assert [problem.path for problem in problems] == ["x.a"]
    assert "there is no such file" in problems[0].message


def test_it_says_what_is_wrong_with_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    (tmp_path / "large").write_bytes(b"x" * 11)
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(config_files, "MAX_FILE_BYTES", 10)

    for name, says in [
        ("missing", "does not exist"),
        (".", "is not a file"),
        ("pipe", "is not a file"),
        ("latin", "is not UTF-8 text (byte 3)"),
        ("large", "is larger than"),
        ("a\0b", "does not exist"),
        ("x" * 5000, "cannot be read: File name too long"),
    ]:
        text, problem = read_text(tmp_path / name)
        assert text == ""
        assert problem.startswith(says), (name, problem)
