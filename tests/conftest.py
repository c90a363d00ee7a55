"""What every test may ask for: stores, proxies, an application, gates; all real.

A store is started once for the session and emptied for each test. Proxies and gates are started by
the test, as many as it likes, and end with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests import proxies, stores
from tests.application import Application, application
from tests.certificates import Certificates, make_certificates
from tests.gates import Gate, gate
from tests.proxies import Proxy
from tests.servers import short_directory
from tests.stores import StoreServer

# Two busy cores say nothing about an example; the suite's own timeout ends what hangs.
settings.register_profile("portcullis", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("portcullis")

P = ParamSpec("P")
T = TypeVar("T")


@pytest.fixture
def directory() -> Iterator[Path]:
    """An empty directory with room for the names of unix sockets."""
    with short_directory() as path:
        yield path


# --- stores -------------------------------------------------------------------


@pytest.fixture(scope="session")
def _session_valkey() -> Iterator[StoreServer]:
    with stores.valkey() as server:
        yield server


@pytest.fixture(scope="session")
def _session_redis7() -> Iterator[StoreServer]:
    with stores.redis7() as server:
        yield server


@pytest.fixture
def valkey(_session_valkey: StoreServer) -> StoreServer:
    """An empty Valkey 9; start one of your own (`start_valkey`) to stop or to break."""
    _session_valkey.flush()
    return _session_valkey


@pytest.fixture
def redis7(_session_redis7: StoreServer) -> StoreServer:
    """An empty redis-server, 7 or newer; start one of your own (`start_redis7`) to stop or to break."""
    _session_redis7.flush()
    return _session_redis7


@pytest.fixture(params=["valkey", "redis7"])
def any_store(request: pytest.FixtureRequest) -> StoreServer:
    """Each kind of server in turn, empty."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, StoreServer)
    return server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


# --- what a test starts itself ------------------------------------------------


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """Ends, in reverse order, whatever the test has entered here."""
    with ExitStack() as stack:
        yield stack


def _starter(stack: ExitStack, kind: Callable[P, AbstractContextManager[T]]) -> Callable[P, T]:
    def start(*args: P.args, **kwargs: P.kwargs) -> T:
        return stack.enter_context(kind(*args, **kwargs))

    return start


@pytest.fixture
def start_valkey(running: ExitStack) -> Callable[..., StoreServer]:
    return _starter(running, stores.valkey)


@pytest.fixture
def start_redis7(running: ExitStack) -> Callable[..., StoreServer]:
    return _starter(running, stores.redis7)


@pytest.fixture
def start_nginx(running: ExitStack) -> Callable[..., Proxy]:
    return _starter(running, proxies.nginx)


@pytest.fixture
def start_envoy(running: ExitStack) -> Callable[..., Proxy]:
    return _starter(running, proxies.envoy)


@pytest.fixture
def start_caddy(running: ExitStack) -> Callable[..., Proxy]:
    return _starter(running, proxies.caddy)


@pytest.fixture
def start_gate(running: ExitStack) -> Callable[..., Gate]:
    return _starter(running, gate)


@pytest.fixture(scope="session")
def _session_application() -> Iterator[Application]:
    with application() as running_application:
        yield running_application


@pytest.fixture
def backend(_session_application: Application) -> Application:
    """The application behind the proxies, with nothing seen yet."""
    _session_application.forget()
    return _session_application


# --- what tests measured, shown below their outcome: numbers that no test judges ---


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line for the end of the run. Properties reach it from other processes of pytest, too."""
    return lambda line: request.node.user_properties.append(("measured", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{report.nodeid}: {line}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, line in report.user_properties
        if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured on this machine just now")
        for line in lines:
            terminalreporter.line(line)
