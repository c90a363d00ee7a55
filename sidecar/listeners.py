"""Sockets for the check plane: opened before anything else runs, so that a bad address is an early error."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from typing import Final

from sidecar.document.notations import Endpoint, TcpEndpoint, UnixEndpoint

BACKLOG: Final = 4_096


def open_check(endpoint: Endpoint, *, shared: bool = False) -> socket.socket:
    """A listening socket; with `shared` other sockets may take the same port (SO_REUSEPORT).

    Raises OSError, `EADDRINUSE` if somebody listens there.
    """
    if isinstance(endpoint, TcpEndpoint):
        return _tcp(endpoint, shared=shared)
    return _unix(endpoint)


def _tcp(endpoint: TcpEndpoint, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _unix(endpoint: UnixEndpoint) -> socket.socket:
    """A bound socket that never was more open than the endpoint says; a dead one's is replaced."""
    path = str(endpoint.path)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            if endpoint.path.is_socket():
                endpoint.path.unlink()
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o777)
    try:
        listener.bind(path)
        if endpoint.group is not None:
            shutil.chown(path, group=endpoint.group)
        endpoint.path.chmod(endpoint.mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener
