"""Tables: plain text for pipes, colours for people, nothing that steers a terminal."""

from __future__ import annotations

import sys

import pytest

from sidecar.tables import aligned, printable, say, show, warn

ROWS = [["per-ip", 3, "refused"], ["a-longer-name", 10, ""]]


def test_it_aligns_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(["limit", "left", "outcome"], ROWS)

    assert capsys.readouterr().out == (
        "limit          left  outcome\nper-ip         3     refused\na-longer-name  10\n"
    )


def test_it_colours_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)

    show(["limit", "left", "outcome"], ROWS)

    out = capsys.readouterr().out
    assert "\x1b[31mrefused" in out
    assert "a-longer-name" in out


@pytest.mark.parametrize("terminal", [False, True])
def test_it_lets_nothing_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)

    show(["path"], [["/\x1b[2J\x9b\r\n[bold]"]])

    out = capsys.readouterr().out
    assert "[2J" in out
    assert "\x1b[2J" not in out
    assert "\x9b" not in out
    assert "[bold]" in out


def test_it_prints_nothing_for_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    show(["limit"], [])

    assert capsys.readouterr().out == ""


def test_it_keeps_what_people_write() -> None:
    assert printable("é 日本 €") == "é 日本 €"
    assert aligned(["a"], [["b"]]) == "a\nb\n"


def test_it_says_lines_that_steer_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say("one", "t\x1bwo")
    warn("three\n")

    said = capsys.readouterr()
    assert said.out == "one\nt\N{REPLACEMENT CHARACTER}wo\n"
    assert said.err == "three\N{REPLACEMENT CHARACTER}\n"
