"""What the tests of credentials measured, shown below their outcome: numbers that no test judges."""

from __future__ import annotations

from collections.abc import Callable

import pytest

_MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line for the end of the run."""
    lines = request.config.stash.setdefault(_MEASURED, [])
    return lambda line: lines.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(_MEASURED, []):
        terminalreporter.section("measured of credentials on this machine just now")
        for line in lines:
            terminalreporter.line(line)
