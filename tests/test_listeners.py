"""Sockets of the check plane: who gets one, who is refused with a remedy, and what is left behind."""

from __future__ import annotations

import errno
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.document.notations import Endpoint, TcpEndpoint, UnixEndpoint
from sidecar.listeners import close_check, endpoint_of, open_check, open_shared

LOOPBACK = TcpEndpoint("127.0.0.1", 0)


def one(endpoint: Endpoint) -> list[socket.socket]:
    return [open_check(endpoint)]


def two(endpoint: Endpoint) -> list[socket.socket]:
    return open_shared(endpoint, 2)


def port_of(listener: socket.socket) -> int:
    port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def test_it_tells_the_port_that_was_chosen() -> None:
    listener = open_check(LOOPBACK)

    assert endpoint_of(LOOPBACK, listener) == TcpEndpoint("127.0.0.1", port_of(listener))

    close_check([LOOPBACK], [listener])


def test_it_opens_the_same_port_for_each_process() -> None:
    listeners = open_shared(LOOPBACK, 3)

    assert len({listener.fileno() for listener in listeners}) == 3
    assert len({port_of(listener) for listener in listeners}) == 1

    close_check([LOOPBACK], listeners)


def test_it_keeps_a_connection_that_waits_while_nobody_accepts() -> None:
    listeners = open_shared(LOOPBACK, 2)
    clients = [socket.create_connection(listeners[0].getsockname()) for _ in range(40)]

    accepted = []
    for listener in listeners:
        while True:
            try:
                accepted.append(listener.accept()[0])
            except BlockingIOError:
                break

    assert len(accepted) == len(clients)
    for end in (*clients, *accepted):
        end.close()
    close_check([LOOPBACK], listeners)


@pytest.mark.parametrize("second", [one, two])
@pytest.mark.parametrize("first", [one, two])
def test_it_refuses_a_port_where_another_gate_listens(
    first: Callable[[Endpoint], list[socket.socket]], second: Callable[[Endpoint], list[socket.socket]]
) -> None:
    theirs = first(LOOPBACK)
    taken = endpoint_of(LOOPBACK, theirs[0])

    with pytest.raises(OSError, match="already in use") as refused:
        second(taken)

    assert refused.value.errno == errno.EADDRINUSE
    close_check([LOOPBACK], theirs)


def test_it_shares_one_unix_socket(directory: Path) -> None:
    endpoint = UnixEndpoint(directory / "check", 0o600)

    listeners = open_shared(endpoint, 3)

    assert len({listener.fileno() for listener in listeners}) == 1
    assert stat.S_IMODE(endpoint.path.stat().st_mode) == 0o600
    close_check([endpoint], listeners)
    assert not endpoint.path.exists()


def test_it_replaces_the_socket_of_a_gate_that_was_killed(directory: Path) -> None:
    endpoint = UnixEndpoint(directory / "check")
    open_check(endpoint).close()
    assert endpoint.path.is_socket()

    listener = open_check(endpoint)

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(endpoint.path))
    close_check([endpoint], [listener])


def test_it_refuses_a_socket_where_another_gate_listens(directory: Path) -> None:
    endpoint = UnixEndpoint(directory / "check")
    theirs = open_check(endpoint)

    with pytest.raises(OSError, match="already in use"):
        open_check(endpoint)

    assert endpoint.path.is_socket()
    close_check([endpoint], [theirs])


def test_it_does_not_wait_for_a_gate_whose_backlog_is_full(directory: Path) -> None:
    path = directory / "check"
    with socket.socket(socket.AF_UNIX) as theirs, socket.socket(socket.AF_UNIX) as client:
        theirs.bind(str(path))
        theirs.listen(0)
        client.connect(str(path))

        with pytest.raises(OSError, match="already in use"):
            open_check(UnixEndpoint(path))


def test_it_removes_nothing_that_is_no_socket(directory: Path) -> None:
    path = directory / "check"
    path.write_text("somebody's")

    with pytest.raises(OSError, match="something that is no socket is there"):
        open_check(UnixEndpoint(path))

    assert path.read_text() == "somebody's"


def test_it_names_a_group_that_does_not_exist(directory: Path) -> None:
    path = directory / "check"

    with pytest.raises(OSError, match='there is no group "no-such-group"'):
        open_check(UnixEndpoint(path, group="no-such-group"))

    assert not path.exists()


def test_it_names_a_directory_that_does_not_exist(directory: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_check(UnixEndpoint(directory / "missing" / "check"))
