"""A gate as an operator starts it: `python -m sidecar serve` in a process of its own.

It is handed out when `/readyz` says so; when the test is over it gets SIGTERM and has to end in time, with
status 0 and without ever having logged a traceback. What it answers is for the tests to judge.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.servers import (
    END_WITHIN_S,
    Answer,
    Headers,
    Server,
    ServerFailed,
    accepts,
    ask,
    free_port,
    pairs,
    short_directory,
)

ROOT: Final = Path(__file__).resolve().parent.parent
TOKEN: Final = "a-token-for-the-tests-of-more-than-enough-length"
GRACE_S: Final = 2
"""What the gate gets for its last answers, unless the test says otherwise."""
PATIENT_MS: Final = 2_000
"""A deadline that a starved machine keeps, too: only a silent store misses it. A silent store is
disconnected after ten of them, so a test that silences one takes a shorter deadline of its own."""


@dataclass(frozen=True)
class Gate:
    """A running gate, as its proxies and its operator see it."""

    server: Server
    check_port: int
    admin_port: int
    socket: Path
    """The check plane's unix socket."""
    document: Path
    """Its configuration; write it and send SIGHUP (or wait) to reload."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.check_port}"

    def ask(
        self, target: str, *, method: str = "GET", headers: Headers = (), body: bytes | None = None
    ) -> Answer:
        """One request to the check plane, on a connection of its own."""
        return ask(self.check_port, target, method=method, headers=headers, body=body)

    def check(self, address: str, **members: object) -> dict[str, Any]:
        """What `/v1/check` says; `members` are those of its document: method, path, headers, cost."""
        body = json.dumps({"address": address, **members}).encode()
        answer = self.ask("/v1/check", method="POST", headers={"Content-Type": "application/json"}, body=body)
        assert answer.status == 200, answer
        verdict: dict[str, Any] = json.loads(answer.body)
        return verdict

    def forward(self, address: str, path: str = "/", *, method: str = "GET", headers: Headers = ()) -> Answer:
        """What `/auth/forward` answers for a client at `address`."""
        given = pairs(headers)
        proxy = (("X-Forwarded-For", address), ("X-Forwarded-Method", method), ("X-Forwarded-Uri", path))
        return self.ask("/auth/forward", headers=(*proxy, *given))

    def admin(
        self,
        target: str,
        *,
        method: str = "GET",
        token: str | None = TOKEN,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Answer:
        """One request to the admin plane, with the token unless told otherwise."""
        given = pairs(headers)
        if token is not None:
            given = (("Authorization", f"Bearer {token}"), *given)
        return ask(self.admin_port, target, method=method, headers=given, body=body)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels; 0.0 when there are none."""
        text = self.admin("/metrics", token=None).body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def events(self) -> list[dict[str, Any]]:
        """The lines of its log that are JSON objects: the decision log and its own words."""
        return [json.loads(line) for line in self.server.lines() if line[:1] + line[-1:] == "{}"]


def patient(document: str, deadline_ms: int | None = PATIENT_MS) -> str:
    """The document with this `store.deadline_ms`, unless it says something of the store itself."""
    if deadline_ms is None or re.search(r"(?m)^store:", document):
        return document
    return f"store: {{deadline_ms: {deadline_ms}}}\n{document}"


@contextmanager
def gate(
    document: str = "",
    *,
    store_url: str | None = None,
    listen: str = "",
    workers: int = 1,
    deadline_ms: int | None = PATIENT_MS,
    env: Mapping[str, str] | None = None,
    state_dir: Path | None = None,
    files: Mapping[str, str] | None = None,
    end_status: int = 0,
    tracebacks: bool = False,
) -> Iterator[Gate]:
    """A gate with `document` as its configuration, but for `listen`, `workers` and `state_dir`.

    Without `store_url` it starts its own Valkey. `deadline_ms` is the store's, unless the document has a
    `store` section of its own; None leaves it to the gate. `listen` is added to the flow mapping of that name
    (`idle_s: 1, max_connections: 10`). `files` are written beside the document. `tracebacks` says
    that the test provokes one.
    """
    check_port, admin_port = free_port(), free_port()
    with short_directory() as directory:
        socket = directory / "check"
        endpoints = f'check: ["127.0.0.1:{check_port}", "unix:{socket}"], admin: "127.0.0.1:{admin_port}"'
        grace = "" if "grace_s" in listen else f", grace_s: {GRACE_S}"
        path = directory / "portcullis.yaml"
        path.write_text(
            f"listen: {{{endpoints}{grace}{', ' if listen else ''}{listen}}}\n"
            f"workers: {workers}\n"
            f"state_dir: {json.dumps(str(state_dir or directory / 'state'))}\n"
            f"{patient(document, deadline_ms)}\n"
        )
        for name, text in (files or {}).items():
            (directory / name).write_text(text)
        own = {name: value for name, value in os.environ.items() if not name.startswith("PORTCULLIS_")}
        own |= {"PYTHONPATH": str(ROOT), "PORTCULLIS_ADMIN_TOKEN": TOKEN}
        if store_url is not None:
            own["PORTCULLIS_STORE_URL"] = store_url
        own |= env or {}

        server = Server(
            "gate",
            (sys.executable, "-m", "sidecar", "serve", "--config", str(path)),
            directory=directory,
            ready=lambda: accepts(admin_port) and ask(admin_port, "/readyz").status == 200,
            env=own,
            end_within_s=GRACE_S + END_WITHIN_S,
        )
        with server:
            yield Gate(server, check_port, admin_port, socket, path)
            ended = server.stop()
        if ended not in {None, end_status}:
            raise ServerFailed(f"the gate ended with status {ended}:\n{server.tail()}")
        if not tracebacks and any("Traceback (most recent call last)" in line for line in server.lines()):
            raise ServerFailed(f"the gate logged a traceback:\n{server.tail(200)}")
