"""The composition root: configuration -> store, crew, planes; signals and reload.

    serve ── reads the configuration, locks the state directory, starts the embedded store
      ├── crew: the replicas that decide, in this process or in workers
      └── admin plane and health port: aiohttp, in this process

The one file that knows all the others. It decides nothing about requests.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import uvloop

from sidecar import VERSION
from sidecar.admin.app import BindingRefused, Serving, admin_app, check_binding, health_app, start
from sidecar.admin.health import Readiness
from sidecar.admin.tokens import Tokens, TokenUnusable, admin_token
from sidecar.config import Config, ConfigError, changes_needing_restart, load
from sidecar.core.policy import Policy
from sidecar.decision_log import DecisionLog, Event, LineWriter, capture_logging
from sidecar.explain import Explainer
from sidecar.exposition import Exposition, Retired
from sidecar.metrics import Count, Layout
from sidecar.replica import LocalCrew, layout_of
from sidecar.store.embedded import EmbeddedStore, EmbeddedStoreError

WATCH_S: Final = 1.0
"""How often the files that make up the configuration are looked at."""
HASH_KEY: Final = "PORTCULLIS_HASH_KEY"


class ServeError(Exception):
    """The gate cannot start; the text says why and what to do."""


class Crew(Protocol):
    """Those who decide: one replica in this process, or several workers."""

    async def start(self) -> None:
        """Open the check plane. Raises OSError when an endpoint cannot be opened."""

    async def adopt(self, config: Config, layout: Layout) -> None:
        """Switch all to another configuration, or none. Raises ConfigError."""

    async def stop(self, grace_s: float) -> None:
        """Answer what is under way, then end."""

    def snapshots(self) -> Sequence[Sequence[int]]:
        """The metrics' cells of each living replica."""

    def checks(self) -> Mapping[str, str]:
        """What readiness looks at; every word but "ok" and "outage policy" means not ready."""

    def attack(self) -> bool:
        """Whether attack mode is on, as last known."""

    def policy(self) -> Policy:
        """The rules in force, for explaining."""


def serve(path: Path | None, env: Mapping[str, str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    try:
        config = load(path, env)
        lock = _lock(config.state_dir)
    except (ConfigError, ServeError) as exc:
        print(exc, file=sys.stderr)
        return 1
    with lock:
        return uvloop.run(_serve(path, env, config))


async def _serve(path: Path | None, env: Mapping[str, str], config: Config) -> int:
    lines = LineWriter(sys.stderr.fileno(), wall_s=time.time)
    log = DecisionLog(lines.put, refusals_per_s=config.refusals_per_s, wall_s=time.time)
    capture_logging(log, mono_s=time.monotonic)
    try:
        await _Root(path, env, config, log).run()
    except (ServeError, OSError) as exc:
        log.event(Event.STOPPING, error=str(exc))
        return 1
    finally:
        log.sweep()
        lines.close(1.0)
    return 0


class _Root:
    """Everything of one running gate."""

    def __init__(self, path: Path | None, env: Mapping[str, str], config: Config, log: DecisionLog) -> None:
        self._path = path
        self._env = env
        self._config = config
        self._log = log
        self._stamp = _stamp(config)
        self._ending = asyncio.Event()
        self._changed = asyncio.Event()
        self._layout = layout_of(config)
        self._retired = Retired(self._layout)

    async def run(self) -> None:
        """Start everything, serve until told to stop, stop everything in order."""
        config, loop = self._config, asyncio.get_running_loop()
        token = self._token()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._changed.set)
        with _embedded(config) as store_url:
            self._crew: Crew = LocalCrew(
                config, store_url=store_url, hash_key=_hash_key(self._env), layout=self._layout, log=self._log
            )
            explainer = Explainer(
                store_url=store_url,
                config=lambda: self._config,
                policy=self._crew.policy,
                attack=self._crew.attack,
            )
            await self._crew.start()
            planes = await self._open_admin(token, explainer)
            self._log.event(
                Event.STARTED,
                version=VERSION,
                check=[str(endpoint) for endpoint in config.listen.check],
                admin=str(config.listen.admin),
                store=config.store.shown_url,
                workers=config.workers,
                config=config.digest,
            )
            watching = asyncio.create_task(self._watch())
            await self._ending.wait()
            self._log.event(Event.STOPPING)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._crew.stop(config.listen.grace_s)
            await explainer.close()
            for plane in planes:
                await plane.shutdown()

    def _token(self) -> str:
        try:
            token = admin_token(self._env, self._config.state_dir)
            check_binding(self._config.listen.admin, has_token=token.explicit)
        except (TokenUnusable, BindingRefused) as exc:
            raise ServeError(str(exc)) from exc
        if token.made:
            where = f"the admin token is in {token.path}"
            print(f"{where}: {token.secret}" if sys.stderr.isatty() else where, file=sys.stderr)
        return token.secret

    async def _open_admin(self, token: str, explainer: Explainer) -> list[Serving]:
        exposition = Exposition(
            version=VERSION, snapshots=self._crew.snapshots, retired=self._retired, mono_s=time.monotonic
        )
        admin = admin_app(
            metrics_text=exposition.text,
            ready=self._readiness,
            explain=explainer.explain,
            tokens=Tokens([token]),
            refused=lambda: self._retired.count(Count.ADMIN_REFUSED),
        )
        listen = self._config.listen
        planes = [await start(admin, listen.admin, grace_s=1.0)]
        if listen.health is not None:
            health = health_app(metrics_text=exposition.text, ready=self._readiness)
            planes.append(await start(health, listen.health, grace_s=1.0))
        return planes

    def _readiness(self) -> Readiness:
        checks = {"configuration": "ok", **self._crew.checks()}
        if self._ending.is_set():
            checks["stopping"] = "yes"
        return Readiness(all(word in {"ok", "outage policy"} for word in checks.values()), checks)

    async def _watch(self) -> None:
        """Reload on SIGHUP and when a file that makes up the configuration has changed."""
        while True:
            try:
                async with asyncio.timeout(WATCH_S):
                    await self._changed.wait()
            except TimeoutError:
                if _stamp(self._config) == self._stamp:
                    continue
            self._changed.clear()
            self._stamp = _stamp(self._config)
            await self._reload()

    async def _reload(self) -> None:
        """Switch to what the files say now, whole or not at all."""
        try:
            config = await asyncio.to_thread(load, self._path, self._env)
            if fixed := changes_needing_restart(self._config, config):
                raise ServeError(f"{', '.join(fixed)}: cannot change while running; restart the gate")
            layout = layout_of(config, self._layout)
            await self._crew.adopt(config, layout)
        except (ConfigError, ServeError) as exc:
            self._retired.count(Count.CONFIG_REJECTED)
            self._log.event(Event.CONFIG_REJECTED, error=str(exc))
            return
        self._config, self._layout = config, layout
        self._stamp = _stamp(config)
        self._retired.adopt(layout)
        self._retired.count(Count.CONFIG_RELOADED)
        self._log.set_rate(config.refusals_per_s)
        self._log.event(Event.CONFIG_RELOADED, config=config.digest)


@contextmanager
def _embedded(config: Config) -> Iterator[str]:
    """The store's URL; for `embedded` a private Valkey that lives as long as the context."""
    if config.store.url != "embedded":
        yield config.store.url
        return
    try:
        store = EmbeddedStore(config.state_dir / "valkey")
    except EmbeddedStoreError as exc:
        raise ServeError(str(exc)) from exc
    try:
        yield store.url
    finally:
        store.stop()


def _lock(state_dir: Path) -> IO[str]:
    """The state directory, made and locked: one gate at a time. Raises ServeError."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state_dir / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        raise ServeError(f"state_dir {state_dir}: another gate uses it; give each gate its own") from exc
    except OSError as exc:
        raise ServeError(f"state_dir {state_dir}: {exc.strerror}; choose a directory that can be written") from exc
    return lock


def _hash_key(env: Mapping[str, str]) -> bytes | None:
    """The fleet's hash key from the environment or the file it names; None: made once in the store."""
    text = env.get(HASH_KEY, "")
    if file := env.get(f"{HASH_KEY}_FILE", ""):
        if text:
            raise ServeError(f"{HASH_KEY} and {HASH_KEY}_FILE are both set; set one")
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ServeError(f"{HASH_KEY}_FILE: {file} cannot be read: {exc}") from exc
    if not text:
        return None
    key = text.encode()
    if not 16 <= len(key) <= 64:
        raise ServeError(f"{HASH_KEY}: expected 16 to 64 bytes, got {len(key)}; make one with: openssl rand -hex 32")
    return key


def _stamp(config: Config) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when a file changes, a replaced one and a ConfigMap's switched link included."""
    stamps: list[tuple[str, int, int, int]] = []
    for path in config.files:
        try:
            status = os.stat(path)
        except OSError:
            stamps.append((str(path), 0, 0, 0))
        else:
            stamps.append((str(path), status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(stamps)
