"""A double of the admin plane, and the command line that asks it: in this process, in an empty directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sidecar.cli import app
from tests.commands.double import Double

Run = Callable[..., Result]
TOKEN = "an-admin-s-token"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that is the home, too, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PORTCULLIS_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def gate_url(double: Double) -> Iterator[str]:
    with double.serving() as url:
        yield url


@pytest.fixture
def run(gate_url: str) -> Run:
    """Runs a command against the double; `token` says who asks."""

    def run_(*arguments: str, token: str = TOKEN, input: str | None = None) -> Result:
        env = {"PORTCULLIS_ADMIN_URL": gate_url, "PORTCULLIS_ADMIN_TOKEN": token}
        return CliRunner().invoke(app, arguments, env=env, input=input)

    return run_
