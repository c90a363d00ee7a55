"""The private Valkey: it starts, keeps its data, ends with its parent, and says why when it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from sidecar.store.embedded import EmbeddedStore, EmbeddedStoreError
from tests.gates import ROOT
from tests.servers import eventually

Start = Callable[[Path], EmbeddedStore]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts stores, and ends whatever the test left running."""
    with ExitStack() as stack:

        def started(folder: Path) -> EmbeddedStore:
            store = EmbeddedStore(folder)
            stack.callback(store.stop)
            return store

        yield started


def client(store: EmbeddedStore) -> redis.Redis:
    return redis.Redis.from_url(store.url)


def ended(pid: int) -> bool:
    """Gone, or dead and waiting for whoever has inherited it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in {"Z", "X"}


def test_it_answers_when_it_is_handed_out(directory: Path, start: Start) -> None:
    with client(start(directory / "state")) as connected:
        assert connected.ping()


def test_it_listens_to_nobody_else(directory: Path, start: Start) -> None:
    store = start(directory)

    with client(store) as connected:
        assert connected.config_get("port") == {"port": "0"}
    assert (directory / "valkey.sock").stat().st_mode & 0o077 == 0


def test_it_evicts_nothing(directory: Path, start: Start) -> None:
    with client(start(directory)) as connected:
        assert connected.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_it_keeps_its_data_over_a_restart(directory: Path, start: Start) -> None:
    first = start(directory)
    with client(first) as connected:
        connected.set("kept", "yes", px=60_000)
    first.stop()

    with client(start(directory)) as connected:
        assert connected.get("kept") == b"yes"
        assert 0 < connected.pttl("kept") <= 60_000


def test_it_leaves_nothing_running_and_no_socket_behind(directory: Path, start: Start) -> None:
    store = start(directory)

    store.stop()

    assert ended(store.pid)
    assert not (directory / "valkey.sock").exists()


def test_it_starts_where_a_killed_one_left_its_socket(directory: Path, start: Start) -> None:
    first = start(directory)
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: ended(first.pid), "the killed server is gone")
    assert (directory / "valkey.sock").exists()

    with client(start(directory)) as connected:
        assert connected.ping()


def test_it_ends_with_its_parent_even_when_that_is_killed(directory: Path) -> None:
    program = (
        "import sys, signal\n"
        "from pathlib import Path\n"
        "from sidecar.store.embedded import EmbeddedStore\n"
        "print(EmbeddedStore(Path(sys.argv[1])).pid, flush=True)\n"
        "signal.pause()\n"
    )
    command = [sys.executable, "-c", program, str(directory)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not ended(pid)

        parent.kill()

    eventually(lambda: ended(pid), "the server has ended with its parent")


@pytest.mark.parametrize("name", ["x" * 120, "with space", "größe", "a?b#c%20d"])
def test_it_takes_any_folder(directory: Path, start: Start, name: str) -> None:
    folder = directory / name
    store = start(folder)

    with client(store) as connected:
        connected.set("kept", "yes")

    store.stop()
    with client(start(folder)) as connected:
        assert connected.get("kept") == b"yes"


def test_it_removes_the_short_folder_that_a_long_path_needs(directory: Path, start: Start) -> None:
    store = start(directory / ("x" * 120))
    socket = Path(store.url.removeprefix("unix://"))
    assert socket.parent != directory
    assert socket.exists()

    store.stop()

    assert not socket.parent.exists()


def test_it_says_why_it_does_not_start(directory: Path) -> None:
    broken = directory / "appendonlydir"
    broken.mkdir()
    (broken / "appendonly.aof.manifest").write_text("nonsense\n")

    with pytest.raises(EmbeddedStoreError, match=r"(?s)did not start.*valkey\.log.*manifest"):
        EmbeddedStore(directory)

    assert not (directory / "valkey.sock").exists()
