"""A double of a network between a gate and its store: it may swallow what is published, and lets commands pass.

Unfaithful in this: it takes what arrives at once for whole messages, which on a unix socket it nearly always is.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers import short_directory
from tests.stores import StoreServer


class Between:
    """While `swallows`, nothing that the store sends reaches a connection that has subscribed."""

    def __init__(self, path: Path, store: Path) -> None:
        self.swallows = False
        self.swallowed = 0
        """Messages that nobody got."""
        self.subscribed = 0
        """Connections that ever subscribed."""
        self.url = f"unix://{path}?db=0"
        self._store = store
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()

    def run(self) -> None:
        """Serve until closed."""
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self._store))
                self._open += [client, server]
                subscribed = threading.Event()
                for pump in (self._commands, self._answers):
                    threading.Thread(target=pump, args=(client, server, subscribed), daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _commands(self, client: socket.socket, server: socket.socket, subscribed: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if b"SUBSCRIBE" in data:
                    subscribed.set()
                    self.subscribed += 1
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answers(self, client: socket.socket, server: socket.socket, subscribed: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self.swallows and subscribed.is_set():
                    self.swallowed += data.count(b"message")
                else:
                    client.sendall(data)
            client.shutdown(socket.SHUT_WR)


@contextmanager
def between(store: StoreServer) -> Iterator[Between]:
    """A way to this store for one gate or several: its `url`."""
    with short_directory() as directory:
        network = Between(directory / "n", store.socket)
        thread = threading.Thread(target=network.run, daemon=True)
        thread.start()
        try:
            yield network
        finally:
            network.close()
            thread.join()
