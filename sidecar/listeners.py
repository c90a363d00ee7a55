"""Sockets for the check plane: opened before anything else runs, so that a bad address is an early error.

Errors are OSError with the endpoint and the remedy in `strerror`. Nothing here accepts a connection.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from sidecar.document.notations import Endpoint, TcpEndpoint, UnixEndpoint

BACKLOG: Final = 4_096

TAKEN: Final = "already in use; end what listens there, or choose another"


def open_check(endpoint: Endpoint) -> socket.socket:
    """A listening socket of one process. Raises OSError, `EADDRINUSE` if somebody listens there."""
    with _naming(endpoint):
        return _tcp(endpoint, shared=False) if isinstance(endpoint, TcpEndpoint) else _unix(endpoint)


def open_shared(endpoint: Endpoint, processes: int) -> list[socket.socket]:
    """A listening socket for each of several processes.

    A TCP port gets a socket per process (SO_REUSEPORT): the kernel spreads connections over them, and
    what waits at one goes to whoever accepts from it next. A unix socket is one, and all accept from it.
    Raises OSError, `EADDRINUSE` if somebody listens there.
    """
    with _naming(endpoint):
        if isinstance(endpoint, UnixEndpoint):
            return [_unix(endpoint)] * processes
        return _shared(endpoint, processes)


def endpoint_of(endpoint: Endpoint, listener: socket.socket) -> Endpoint:
    """The endpoint with the port that was really taken."""
    if isinstance(endpoint, TcpEndpoint):
        return TcpEndpoint(endpoint.host, listener.getsockname()[1])
    return endpoint


def close_check(opened: Iterable[Endpoint], listeners: Iterable[socket.socket]) -> None:
    """Close listeners, and remove the unix sockets among the endpoints that were opened for them."""
    for listener in listeners:
        listener.close()
    for endpoint in opened:
        if isinstance(endpoint, UnixEndpoint):
            endpoint.path.unlink(missing_ok=True)


@contextmanager
def _naming(endpoint: Endpoint) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OSError(exc.errno or 0, f"{endpoint}: {exc.strerror or exc}") from exc


def _shared(endpoint: TcpEndpoint, processes: int) -> list[socket.socket]:
    if endpoint.port:
        # The kernel would let us share the port with another gate of the same user: half of the
        # requests would be decided by the wrong rules. A socket that does not share finds out.
        _tcp(endpoint, shared=False).close()
    with ExitStack() as undo:
        first = undo.enter_context(_tcp(endpoint, shared=True))
        chosen = TcpEndpoint(endpoint.host, first.getsockname()[1])
        others = [undo.enter_context(_tcp(chosen, shared=True)) for _ in range(processes - 1)]
        undo.pop_all()
    return [first, *others]


def _tcp(endpoint: TcpEndpoint, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket(family, kind, protocol))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise OSError(errno.EADDRINUSE, TAKEN) from exc
            raise
        listener.setblocking(False)
        undo.pop_all()
    return listener


def _unix(endpoint: UnixEndpoint) -> socket.socket:
    """A bound socket that never was more open than the endpoint says; a dead one's is replaced."""
    path = str(endpoint.path)
    group_id = -1 if endpoint.group is None else _group_id(endpoint.group)
    _make_way(endpoint)
    with ExitStack() as undo:
        listener = undo.enter_context(socket.socket(socket.AF_UNIX))
        mask = os.umask(0o777)
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        undo.callback(endpoint.path.unlink)
        os.chown(path, -1, group_id)
        endpoint.path.chmod(endpoint.mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        undo.pop_all()
    return listener


def _make_way(endpoint: UnixEndpoint) -> None:
    """Remove the socket of a gate that was killed; refuse to remove anything else."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one whose backlog is full would keep us waiting
        try:
            probe.connect(str(endpoint.path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError as exc:
            if not endpoint.path.is_socket():
                raise OSError(errno.EEXIST, "something that is no socket is there; move it away") from exc
            endpoint.path.unlink()
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, TAKEN)


def _group_id(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f'there is no group "{name}"; make it, or name another') from None
