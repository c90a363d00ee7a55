"""The composition root: configuration -> store, crew, planes; signals and reload.

    serve ── reads the configuration, locks the state directory, starts the embedded store
      ├── crew: the replicas that decide, in this process or in workers
      ├── admin plane, health port, public plane: aiohttp, in this process
      └── watch: SIGHUP and changed files -> another configuration, whole or not at all

A start that fails says why on stderr, in words. Once the gate is started, all it says is the decision log's.

The one file that knows all the others. It decides nothing about requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

import uvloop

from sidecar import VERSION, tracing
from sidecar.admin.app import BindingRefused, admin_app, check_binding, health_app
from sidecar.admin.health import Readiness
from sidecar.admin.resources import Controls, control_operations
from sidecar.admin.token_file import Access, access_of
from sidecar.admin.tokens import TokenUnusable
from sidecar.assembly import layout_of, refusals_per_s_of
from sidecar.config import Config, ConfigError, Endpoint, TcpEndpoint, changes_needing_restart, load
from sidecar.control.audit import Audit
from sidecar.control.changes import Changes
from sidecar.control.fleet import Fleet
from sidecar.control.follow import Follower
from sidecar.control.keys import KeyRegistry
from sidecar.control.reset import Resets
from sidecar.control.top import TopReader
from sidecar.control.trigger import TriggerWatch
from sidecar.core.ledger import Counter
from sidecar.core.policy import Policy
from sidecar.core.window import Grant
from sidecar.decision_log import DecisionLog, Event, LineWriter, capture_logging
from sidecar.explain import Explainer
from sidecar.exposition import Exposition, Retired
from sidecar.identity import Identity
from sidecar.local_crew import LocalCrew
from sidecar.metrics import Count, Layout
from sidecar.planes import Planes, PlaneUnusable
from sidecar.public.app import public_app
from sidecar.public.judging import CheckPlane
from sidecar.public.tokens import IssuedTokens
from sidecar.state import StateUnusable, hash_key_of, locked, stamps
from sidecar.store import StoreUnavailable
from sidecar.store.embedded import EmbeddedStore, EmbeddedStoreError
from sidecar.store.redis import RedisStore, SharedStore
from sidecar.supervision import persistently
from sidecar.workers import WorkerCrew, WorkersFailed

LOOK_S: Final = 0.5
"""How often the files that make up the configuration are looked at. A change that two looks in a row see
alike is taken: what somebody is still writing is not half-read."""

ADMIN_PATIENCE_S: Final = 5.0
"""How long an operator's change waits for the store."""

_log = logging.getLogger("portcullis.serve")


class ServeError(Exception):
    """The gate cannot start, or not follow; the text says why and what to do."""


class Crew(Protocol):
    """Those who decide: one replica in this process, or several workers."""

    async def start(self) -> Sequence[Endpoint]:
        """Open the check plane; returns where it really listens. Raises OSError, WorkersFailed."""

    @property
    def follower(self) -> Follower:
        """Follows the control state for this process."""

    @property
    def identity(self) -> Identity:
        """Who is who, for explaining."""

    async def switch(self, config: Config, layout: Layout) -> None:
        """Switch all to another configuration, or none. Raises WorkersFailed."""

    async def stop(self, grace_s: float) -> None:
        """Answer what is under way, then end; also after a start that failed."""

    async def decisions(self, request_id: str) -> Sequence[bytes]:
        """The log's lines of the decisions with this request id that are still known."""

    def snapshots(self) -> Sequence[Sequence[int]]:
        """The metrics' cells of each living replica."""

    def checks(self) -> Mapping[str, str]:
        """What readiness looks at; every word but "ok" and "outage policy" means not ready."""

    def attack(self) -> bool:
        """Whether attack mode is on, as last known."""

    def fleet_key(self) -> bytes | None:
        """The fleet's hash key; None while nobody has told it."""

    def policy(self) -> Policy:
        """The rules in force, for explaining."""

    def look_alone(self, counter: Counter, need: int) -> Grant | None:
        """What the share of a limit has left in an outage, taking nothing; None when that is not known here."""


def serve(path: Path | None, env: Mapping[str, str]) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    try:
        config = load(path, env)
        hash_key = hash_key_of(env)
        with locked(config.state_dir):
            access = _access(env, config)
            if config.tracing.otlp and not tracing.installed():
                raise ServeError("tracing.otlp: needs OpenTelemetry's exporter: install portcullis[tracing]")
            return uvloop.run(_serve(path, env, config, access, hash_key))
    except (ConfigError, ServeError, PlaneUnusable, StateUnusable) as exc:
        sys.stderr.write(f"portcullis: {exc}\n")
        return 1


async def _serve(
    path: Path | None, env: Mapping[str, str], config: Config, access: Access, hash_key: bytes | None
) -> int:
    lines = LineWriter(sys.stderr.fileno(), wall_s=time.time)
    log = DecisionLog(lines.put, refusals_per_s=refusals_per_s_of(config), wall_s=time.time)
    capture_logging(log, mono_s=time.monotonic)
    try:
        await _Root(path, env, config, log).run(access, hash_key)
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
        self._stamps = stamps(config.files)
        self._ending = asyncio.Event()
        self._asked = asyncio.Event()
        self._serving = False
        self._layout = layout_of(config)
        self._retired = Retired(self._layout)
        self._gate_id = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"

    async def run(self, access: Access, hash_key: bytes | None) -> None:
        """Start everything, serve until told to stop, stop everything in the reverse order.

        Raises ServeError and PlaneUnusable when something does not start.
        """
        config, loop = self._config, asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._asked.set)
        async with AsyncExitStack() as stack:
            store_url = stack.enter_context(_embedded(config))
            self._crew = self._crew_of(store_url, hash_key)
            self._planes = Planes(stack)
            controls = self._controls(stack, store_url)
            explainer = Explainer(
                store_url=store_url,
                config=lambda: self._config,
                policy=self._crew.policy,
                attack=self._crew.attack,
                silent=lambda: self._crew.checks().get("store") == "outage policy",
                look_alone=self._crew.look_alone,
                entry=controls.changes.entry,
                identity=lambda: self._crew.identity,
                wall_ms=self._crew.follower.store_ms,
            )
            stack.push_async_callback(explainer.close)
            admin = await self._open_planes(access, explainer, controls)
            stack.push_async_callback(self._crew.stop, config.listen.grace_s)
            try:
                check = await self._crew.start()
            except WorkersFailed as exc:
                raise ServeError(f"{exc}; what it said is above") from exc
            except OSError as exc:
                raise ServeError(f"listen.check: {_told(exc)}") from exc
            await self._open_public(stack, check[0], controls)
            self._serving = True
            self._tell(check, admin, access)
            trigger = TriggerWatch(
                members=controls.fleet.members,
                changes=controls.changes,
                state=controls.state,
                thresholds=lambda: self._config.attack_mode.trigger,
            )
            running = {"watching the configuration": self._watch, "attack mode's trigger": trigger.run}
            tasks = [asyncio.create_task(persistently(name, work)) for name, work in running.items()]
            await self._ending.wait()
            self._log.event(Event.STOPPING)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _crew_of(self, store_url: str, hash_key: bytes | None) -> Crew:
        config, layout, log = self._config, self._layout, self._log
        if config.workers == 1:
            return LocalCrew(
                config,
                store_url=store_url,
                hash_key=hash_key,
                gate_id=self._gate_id,
                layout=layout,
                log=log,
            )
        return WorkerCrew(
            config,
            store_url=store_url,
            hash_key=hash_key,
            gate_id=self._gate_id,
            layout=layout,
            retired=self._retired,
            log=log,
        )

    def _controls(self, stack: AsyncExitStack, store_url: str) -> Controls:
        """What the admin plane changes the control state with, over a connection of its own."""
        settings, follower = self._config.store, self._crew.follower
        shared = SharedStore(
            RedisStore(
                store_url,
                patience_s=ADMIN_PATIENCE_S,
                ca=settings.ca,
                cert=settings.cert,
                key=settings.key,
            )
        )
        stack.push_async_callback(shared.close)
        prefix = settings.prefix
        changes = Changes(store=shared, prefix=prefix, applied=lambda: follower.epoch)
        return Controls(
            changes=changes,
            fleet=Fleet(store=shared, prefix=prefix, gate=self._gate_id, reached=follower.reached),
            audit=Audit(store=shared, prefix=prefix),
            keys=KeyRegistry(changes, hash_key=self._hash_key, now_ms=follower.store_ms),
            top=TopReader(store=shared, prefix=prefix).read,
            decisions=self._crew.decisions,
            resets=Resets(store=shared, changes=changes, policy=self._crew.policy),
            state=lambda: follower.book.control,
            config=lambda: self._config,
        )

    def _hash_key(self) -> bytes:
        hash_key = self._crew.fleet_key()
        if hash_key is None:
            raise StoreUnavailable("connection", "the store has not told the fleet's hash key yet")
        return hash_key

    async def _open_planes(self, access: Access, explainer: Explainer, controls: Controls) -> Endpoint:
        """Open the admin plane and the health port; where the admin plane really listens."""
        exposition = Exposition(
            version=VERSION,
            digest=lambda: self._config.digest,
            snapshots=self._crew.snapshots,
            retired=self._retired,
            mono_s=time.monotonic,
        )
        admin = admin_app(
            metrics_text=exposition.text,
            ready=self._readiness,
            explain=explainer.explain,
            tokens=access.tokens,
            operations=control_operations(controls, wall_ms=self._crew.follower.store_ms),
            refused=lambda: self._retired.count(Count.ADMIN_REFUSED),
        )
        listen = self._config.listen
        opened = await self._planes.open("listen.admin", admin, listen.admin, listen.admin_tls)
        if listen.health is not None:
            health = health_app(metrics_text=exposition.text, ready=self._readiness)
            await self._planes.open("listen.health", health, listen.health)
        return opened

    async def _open_public(self, stack: AsyncExitStack, check: Endpoint, controls: Controls) -> None:
        """Open the public plane, which puts its requests to the check plane, where it is configured."""
        listen = self._config.listen
        if listen.public is None:
            return
        judge = CheckPlane(check)
        stack.push_async_callback(judge.close)
        tokens = IssuedTokens(
            credentials=lambda: self._config.credentials,
            registry=controls.keys,
            changes=controls.changes,
            now_ms=self._crew.follower.store_ms,
        )
        app = public_app(judge=judge, tokens=tokens, config=lambda: self._config)
        await self._planes.open("listen.public", app, listen.public, listen.public_tls)

    def _tell(self, check: Sequence[Endpoint], admin: Endpoint, access: Access) -> None:
        """Say that the gate is started: to the log, and in words to whoever sits at a terminal."""
        config, token = self._config, access.token
        self._log.event(
            Event.STARTED,
            version=VERSION,
            check=[str(endpoint) for endpoint in check],
            admin=str(admin),
            admin_token=str(token.path) if token is not None and token.path is not None else "environment",
            store=config.store.shown_url,
            workers=config.workers,
            config=config.digest,
        )
        if sys.stderr.isatty():
            sys.stderr.write(_hint(check, admin, access, tls=config.listen.admin_tls is not None))

    def _readiness(self) -> Readiness:
        checks = {"configuration": "ok", **self._crew.checks()}
        if not self._serving:
            checks["check_plane"] = "starting"
        if self._ending.is_set():
            checks["check_plane"] = "stopping"
        return Readiness(all(word in {"ok", "outage policy"} for word in checks.values()), checks)

    # --- reload ---

    async def _watch(self) -> None:
        """Reload on SIGHUP and when a file that makes up the configuration has changed."""
        looked = self._stamps
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()
            except TimeoutError:
                before, looked = looked, stamps(self._config.files)
                if looked == self._stamps or looked != before:
                    continue
            self._asked.clear()
            try:
                await self._reload()
            except (ConfigError, ServeError, PlaneUnusable, WorkersFailed) as exc:
                self._rejected(str(exc))
            except Exception:
                _log.exception("the configuration could not be read again")
                self._rejected("the gate failed to read it; see the line before")

    async def _reload(self) -> None:
        """Switch to what the files say now, whole or not at all.

        Raises ConfigError, ServeError, PlaneUnusable, WorkersFailed; certificates are renewed before the last.
        """
        # Before the files are read: what changes while they are read is noticed by the next look.
        self._stamps = stamps(self._config.files)
        config = await asyncio.to_thread(load, self._path, self._env)
        if fixed := changes_needing_restart(self._config, config):
            raise ServeError(f"{', '.join(fixed)}: cannot change while running; restart the gate")
        self._planes.renew()
        layout = layout_of(config, self._layout)
        await self._crew.switch(config, layout)
        self._stamps = {**stamps(config.files), **self._stamps}
        self._stamps = {file: self._stamps[file] for file in config.files}
        self._config, self._layout = config, layout
        self._retired.adopt(layout)
        self._retired.count(Count.CONFIG_RELOADED)
        self._log.set_rate(refusals_per_s_of(config))
        self._log.event(Event.CONFIG_RELOADED, config=config.digest)

    def _rejected(self, why: str) -> None:
        self._retired.count(Count.CONFIG_REJECTED)
        self._log.event(Event.CONFIG_REJECTED, error=why)


def _access(env: Mapping[str, str], config: Config) -> Access:
    try:
        access = access_of(env, config.state_dir)
        check_binding(config.listen.admin, has_token=access.explicit)
    except (TokenUnusable, BindingRefused) as exc:
        raise ServeError(str(exc)) from exc
    except OSError as exc:
        raise ServeError(f"state_dir: {config.state_dir}: no token can be kept there: {_told(exc)}") from exc
    return access


@contextmanager
def _embedded(config: Config) -> Iterator[str]:
    """The store's URL; for `embedded` a private Valkey that lives as long as the context."""
    if config.store.url != "embedded":
        yield config.store.url
        return
    try:
        store = EmbeddedStore(config.state_dir / "valkey")
    except (EmbeddedStoreError, OSError) as exc:
        raise ServeError(f"store.url: embedded: {exc}") from exc
    try:
        yield store.url
    finally:
        store.stop()


def _told(exc: OSError) -> str:
    return exc.strerror or str(exc)


def _hint(check: Sequence[Endpoint], admin: Endpoint, access: Access, *, tls: bool) -> str:
    """The first things that somebody who has just started a gate wants to know."""
    lines = [f"Portcullis {VERSION} answers at {', '.join(map(str, check))}; Ctrl-C ends it."]
    port = next((endpoint for endpoint in check if isinstance(endpoint, TcpEndpoint)), None)
    if port is not None:
        lines.append(f"""  ask it:  curl -d '{{"address": "203.0.113.9"}}' http://{port}/v1/check""")
    if isinstance(admin, TcpEndpoint):
        lines.append(f"  metrics: curl {'https' if tls else 'http'}://{admin}/metrics")
    token = access.token
    if token is not None and token.path is not None:
        lines.append(f"  the admin token is in {token.path}" + (f": {token.secret}" if token.made else ""))
    return "\n".join(lines) + "\n"
