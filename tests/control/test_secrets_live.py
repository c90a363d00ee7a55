"""Nothing that is kept, told or shown holds a secret: everything is searched for every secret of a busy day.

The day has right and wrong admin tokens, keys that are made, rotated and presented, and mistakes that people make
with secrets. Searched are the store (what lies there, and every command that reached it), logs, metrics, audit, all
that the admin plane shows, the command lines of all processes, and the files of the gates.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import redis

from tests.control.operators import ask, command, switch
from tests.gates import TOKEN, Gate
from tests.servers import eventually
from tests.stores import StoreServer

StartGate = Callable[..., Gate]
StartStore = Callable[..., StoreServer]

RULES = """
store: {deadline_ms: 2000}
log: {refusals_per_s: 1000}
addresses: {deny: {cidrs: [203.0.113.66]}}
limits: [{name: per-key, per: [key], permits: 2, window: 1h}]
"""
VIEWER, OPERATOR = "a-viewer-s-token-31b2ac5b9e29e1b1", "an-operator-s-token-5c1fa7425e7304"
WRONG = ("a-guess-that-is-wrong-0f1e2d3c4b5a", "another-guess-9182736455463728")
CLIENT = "203.0.113.9"


class Overheard:
    """Every command that reaches a store, and every command line of this machine, while it listens."""

    def __init__(self, store: StoreServer) -> None:
        self.commands = bytearray()
        self.lines: set[bytes] = set()
        self._over = threading.Event()
        self._wire = socket.socket(socket.AF_UNIX)
        self._wire.connect(str(store.socket))
        self._wire.sendall(b"MONITOR\r\n")
        self._threads = [threading.Thread(target=each) for each in (self._listen, self._look)]

    @contextmanager
    def listening(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._wire.shutdown(socket.SHUT_RDWR)
            for thread in self._threads:
                thread.join()
            self._wire.close()

    def _listen(self) -> None:
        while data := self._wire.recv(1 << 16):
            self.commands += data

    def _look(self) -> None:
        while not self._over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):  # it has ended
                    self.lines.add(path.read_bytes())


def in_store(client: redis.Redis) -> dict[str, bytes]:
    """Every key of a store with all that it holds."""
    names = cast("Iterator[bytes]", client.scan_iter())
    return {name.decode(): repr(_held(client, name)).encode() for name in names}


def _held(client: redis.Redis, name: bytes) -> object:
    match client.type(name):
        case b"string":
            return client.get(name)
        case b"hash":
            return client.hgetall(name)
        case b"zset":
            return client.zrange(name, 0, -1, withscores=True)
        case b"stream":
            return client.xrange(name)
        case other:
            raise AssertionError(f"{name!r} is of a type that the gate has no use for: {other!r}")


def written_as(secret: str) -> list[bytes]:
    """A secret as it might be written: plain, hashed without a key, encoded; and most of it."""
    raw = secret.encode()
    hashes = [hashlib.new(kind, raw).hexdigest() for kind in ("sha256", "sha1", "md5", "blake2b")]
    hashes += [hashlib.blake2b(raw, digest_size=size).hexdigest() for size in (16, 32)]
    return [
        raw,
        raw[: len(raw) * 3 // 4],
        raw.hex().encode(),
        b64encode(raw).rstrip(b"="),
        *map(str.encode, hashes),
    ]


def a_busy_day(gate: Gate, other: Gate, made_token: str) -> list[str]:
    """What operators and clients do with secrets; returns those of the keys."""
    server = ("--label", "shop", "--kind", "server", "--tenant", "acme", "--id", "shop", "--wait")
    client = ("--label", "app", "--kind", "client", "--origin", "https://app.example", "--json")
    made, made_json = command(gate, "key", "create", *server), command(gate, "key", "create", *client)
    rotated = command(gate, "key", "rotate", "shop", "--grace", "1h")
    again = ask(other, "POST", "/v1/keys/shop/rotate", {"grace": "0s"}, token=made_token)[1]
    assert (made.status, made_json.status, rotated.status) == (0, 0, 0), (made, made_json, rotated)
    secrets = [*re.findall(r"pcs_[A-Za-z0-9_-]{48}", made.out + rotated.out)]
    secrets += [json.loads(made_json.out)["secret"], again["secret"]]
    assert len(set(secrets)) == 4, "each is shown once"

    for secret in secrets:
        for path in (f"/orders?api_key={secret}", "/orders", "/orders"):
            for sent in (
                {"X-Api-Key": f"shop.{secret}"},
                {"X-Api-Key": secret},
                {"Authorization": f"Bearer {secret}"},
            ):
                gate.forward(CLIENT, path, headers=sent)
                gate.forward("203.0.113.66", path, headers=sent)
        asked = {"address": CLIENT, "path": "/orders", "headers": {"X-Api-Key": f"shop.{secret}"}}
        assert ask(gate, "POST", "/v1/explain", asked)[0] == 200
        # What people mistake for something else.
        assert ask(gate, "GET", "/v1/attack", token=secret)[0] in {401, 429}
        ask(gate, "PUT", "/v1/attack", {"on": True, "key": f"shop.{secret}"})
        ask(gate, "PUT", "/v1/attack", {"on": True, secret: secret})
        ask(gate, "POST", "/v1/keys", {"label": secret, "kind": "server", "id": secret})
    for token in (f"shop.{secrets[0]}", *WRONG):
        assert ask(gate, "GET", "/v1/attack", token=token)[0] in {401, 429}
    eventually(lambda: ask(gate, "GET", "/v1/attack", token=VIEWER)[0] == 200, "guesses slow others only")
    assert ask(gate, "PUT", "/v1/attack", {"on": True}, token=VIEWER)[0] == 403
    assert ask(gate, "PUT", "/v1/attack", {"on": True}, token=OPERATOR)[0] == 200
    switch(gate, False)
    for words in (("key", "list"), ("audit",)):
        ran = command(gate, *words)
        assert ran.status == 0, ran
        assert not any(secret in ran.out + ran.err for secret in secrets)
    return secrets


def test_it_shows_no_secret_anywhere(
    start_gate: StartGate, start_valkey: StartStore, directory: Path
) -> None:
    store = start_valkey()
    tokens = directory / "tokens"
    tokens.write_text(
        f"grafana viewer sha256:{hashlib.sha256(VIEWER.encode()).hexdigest()}\nalice operator {OPERATOR}\n"
    )
    tokens.chmod(0o600)
    overheard = Overheard(store)
    with overheard.listening():
        gate = start_gate(
            RULES,
            store_url=store.url(),
            workers=2,
            state_dir=directory / "one",
            env={"PORTCULLIS_ADMIN_TOKENS_FILE": str(tokens)},
        )
        # It makes its own token.
        other = start_gate(
            RULES, store_url=store.url(), state_dir=directory / "two", env={"PORTCULLIS_ADMIN_TOKEN": ""}
        )
        made = (directory / "two" / "admin-token").read_text().strip()
        secrets = a_busy_day(gate, other, made)
        with store.client() as client:
            eventually(lambda: bool(client.exists("pc:{control}:top")), "who asks most is told")
        shown = {path: gate.admin(path).body for path in SHOWN}
        gate.server.signal(signal.SIGHUP)
        eventually(lambda: gate.metric("portcullis_config_reloads_total") >= 1, "it is read again")
        with store.client() as client:
            kept = in_store(client)

    logs = {f"log of {each.server.pid}": each.server.log.read_bytes() for each in (gate, other)}
    files = {
        str(path): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in {"admin-token", "tokens"}
    }
    everywhere = {
        **kept,
        **{f"the name {name}": name.encode() for name in kept},
        "commands": bytes(overheard.commands),
        "command lines": b"\n".join(overheard.lines),
        "the store's log": store.server.log.read_bytes(),
        **logs,
        **shown,
        **files,
    }
    tokens_of_all = [TOKEN, VIEWER, OPERATOR, made, *WRONG]
    found = [
        f"{number} as {form[:12]!r} in {place}"
        for place, text in everywhere.items()
        for number, secret in enumerate((*secrets, *tokens_of_all))
        for form in written_as(secret)
        if form in text
    ]
    assert not found, found

    # Keyed hashes of secrets, and the key, are in the store and nowhere else.
    hashes = set(re.findall(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", bytes(overheard.commands)))
    assert len(hashes) > len(secrets)
    beyond = {
        name: text
        for name, text in everywhere.items()
        if name in {*logs, *shown, *files} or name.endswith(":audit")
    }
    assert not [place for place, text in beyond.items() if any(each in text for each in hashes)]


SHOWN = (
    "/metrics",
    "/readyz",
    "/v1/audit?limit=1000",
    "/v1/keys?limit=1000",
    "/v1/keys/shop",
    "/v1/attack",
    "/v1/fleet",
    "/v1/top",
    "/v1/overrides",
    "/v1/openapi.json",
)


MISTAKES: list[tuple[str, str, dict[str, object]]] = [
    ("GET", "/v1/keys/SECRET", {}),
    ("PATCH", "/v1/keys/SECRET", {"enabled": False}),
    ("DELETE", "/v1/keys/SECRET", {}),
    ("POST", "/v1/keys/SECRET/rotate", {}),
    ("PUT", "/v1/attack", {"on": True, "key": "SECRET"}),
    ("PUT", "/v1/attack", {"on": True, "reason": "revoked SECRET"}),
    ("PUT", "/v1/overrides", {"limit": "per-key", "key": "SECRET", "permits": 3}),
    ("POST", "/v1/overrides/unset", {"limit": "per-key", "key": "SECRET"}),
    ("POST", "/v1/reset", {"limit": "per-key", "key": "SECRET"}),
    ("POST", "/v1/addresses/deny", {"add": ["192.0.2.1"], "reason": "SECRET"}),
]


def test_it_takes_no_secret_for_an_id_or_a_reason(start_gate: StartGate, start_valkey: StartStore) -> None:
    store = start_valkey()
    gate = start_gate(RULES, store_url=store.url())
    secret = ask(gate, "POST", "/v1/keys", {"label": "shop", "kind": "server"})[1]["secret"]
    overheard = Overheard(store)
    with overheard.listening():
        answers = []
        for method, target, document in MISTAKES:
            body = json.loads(json.dumps(document).replace("SECRET", secret)) if document else None
            answers.append(ask(gate, method, target.replace("SECRET", secret), body))

    assert [status in {400, 404} for status, _ in answers] == [True] * len(MISTAKES), [
        each[0] for each in answers
    ]
    assert not any(secret in json.dumps(document) for _, document in answers), "it is not told back"
    assert secret.encode() not in overheard.commands
    assert secret not in gate.server.log.read_text()
