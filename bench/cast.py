"""Who plays: a gate, nginx and Valkey, each bound to its core, and what is asked of them.

The servers are those of the tests, started in the same way and ended with their context. The server under test
gets one core, the store the other, with the load generator.

What is measured of them is the questions' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import redis

from bench.load import Heads, Missing, Target
from bench.processes import children, cores, on_core
from tests import gates, proxies, stores
from tests.gates import Gate
from tests.servers import ServerFailed, eventually, executable, free_port
from tests.stores import StoreServer

CLIENT: Final = "203.0.113.9"
DENIED: Final = "198.51.100.9"
SUBJECTS: Final = 100_000

GENEROUS_MS: Final = 1_000
"""A deadline for rounds that measure rates: at the peak a default of 20 ms may pass, and the outage policy answers."""

TWO_LIMITS: Final = """
limits:
  - {name: minute, per: [ip], permits: 1000000000, window: 1m}
  - {name: hour, per: [ip], permits: 1000000000, window: 1h}
"""

NEVER_LEASED: Final = TWO_LIMITS.replace("window: 1m", "window: 1m, lease: never").replace(
    "window: 1h", "window: 1h, lease: never"
)
"""The same without leases, so that every decision needs the store for both counters."""


def asked_by_nginx(
    path: str,
    *,
    method: str = "GET",
    address: str = CLIENT,
    novel: bool = False,
    subjects: int = 1,
    refused: bool = False,
    headers: tuple[tuple[str, str], ...] = (),
) -> Heads:
    """What nginx's auth_request sends for a browser's request; `novel` heads never come again."""
    return Heads(
        "/auth/nginx",
        (
            ("X-Real-IP", address),
            ("X-Original-Method", method),
            ("X-Original-URI", f"{path}?n={{n}}" if novel else path),
            ("X-Forwarded-Host", "shop.example"),
            ("X-Forwarded-Proto", "https"),
            (
                "User-Agent",
                "Mozilla/5.0 (X11; Linux x86_64) bench/{n}" if novel else "Mozilla/5.0 (X11; Linux x86_64)",
            ),
            ("Accept", "*/*"),
            *headers,
        ),
        subjects,
        refused,
    )


def many_clients(path: str = "/a", subjects: int = SUBJECTS) -> Heads:
    """The same question, each time for one of `subjects` addresses at random."""
    return asked_by_nginx(path, address="{ip}", subjects=subjects)


@contextmanager
def gate(
    document: str = "",
    *,
    store: StoreServer | None,
    deadline_ms: int | None = None,
    files: Mapping[str, str] | None = None,
) -> Iterator[Gate]:
    """A gate on the core of the server under test; without `store` it starts its own there."""
    url = None if store is None else store.url()
    with ExitStack() as ends:
        with on_core(cores().asked):
            running = ends.enter_context(
                gates.gate(document, store_url=url, deadline_ms=deadline_ms, files=files)
            )
        yield running


def target(running: Gate) -> Target:
    """The gate's check plane, with its own process's CPU; the store's is apart."""
    return Target(running.check_port, (running.server.pid,))


@contextmanager
def valkey(core: int | None = None) -> Iterator[StoreServer]:
    """A Valkey without persistence on a unix socket, on the load's core unless told otherwise."""
    with ExitStack() as ends:
        with on_core(cores().asking if core is None else core):
            running = ends.enter_context(stores.valkey())
        yield running


@contextmanager
def nginx(servers: str, *, port: int, core: int | None = None, main: str = "") -> Iterator[Target]:
    """One nginx worker with these `server` blocks, on the core of the server under test unless told otherwise.

    `port` is one that they listen on; `main` stands before everything else. Raises Missing.
    """
    try:
        executable("nginx")
    except ServerFailed as exc:
        raise Missing("nginx: apt-get install nginx") from exc
    text = f"""{main}
        worker_processes 1;
        error_log stderr;
        events {{ worker_connections 4096; }}
        http {{
            keepalive_requests 1000000000;
            {servers}
        }}"""
    with ExitStack() as ends:
        with on_core(cores().asked if core is None else core):
            running = ends.enter_context(proxies.nginx(text, {}, port=port))
        eventually(lambda: len(children(running.server.pid)) == 1, "nginx has its worker")
        yield Target(port, children(running.server.pid))


@contextmanager
def floor(core: int | None = None) -> Iterator[Target]:
    """nginx that answers `return 204` to everything: nothing useful on this core is faster."""
    port = free_port()
    server = f"server {{ listen 127.0.0.1:{port}; access_log off; location / {{ return 204; }} }}"
    with nginx(server, port=port, core=core) as running:
        yield running


class StoreUse(NamedTuple):
    """What the store did so far: script calls, the server time they took, and its CPU."""

    calls: int
    script_us: int
    cpu_s: float

    def since(self, before: StoreUse) -> StoreUse:
        return StoreUse(
            self.calls - before.calls, self.script_us - before.script_us, self.cpu_s - before.cpu_s
        )


def store_use(client: redis.Redis) -> StoreUse:
    """From the server's INFO: all EVALSHA together, and `used_cpu_*`."""
    commands = client.info("commandstats")
    cpu = client.info("cpu")
    script = commands.get("cmdstat_evalsha", {"calls": 0, "usec": 0})
    return StoreUse(script["calls"], script["usec"], cpu["used_cpu_sys"] + cpu["used_cpu_user"])


def module_path(name: str) -> Path:
    """Where Debian keeps nginx's module `name`. Raises Missing."""
    path = Path("/usr/lib/nginx/modules") / f"{name}.so"
    if not path.exists():
        raise Missing(f"{name}: apt-get install libnginx-mod-http-lua lua-nginx-redis")
    return path
