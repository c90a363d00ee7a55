"""One replica: a process that decides. Gate, ledger, fronts, feed and metrics, put together.

`serve` makes one in its own process, or one in each worker. Where it listens, which signals
end it and who scrapes it is not its business.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from sidecar import VERSION
from sidecar.assembly import Lists, fronts_of, heads_of, lists_of, networks_of, policy_of, tell, tenants_of
from sidecar.config import Config
from sidecar.control.beats import Follows
from sidecar.control.fleet import says
from sidecar.control.follow import Follower, News
from sidecar.control.keys import KeyRecords
from sidecar.control.last_known import Keeper, LastKnown
from sidecar.control.top import Names, TopTeller
from sidecar.core.addresses import AddressSet
from sidecar.core.control import EMPTY, GLOBAL, NO_EPOCH, Epoch
from sidecar.core.ledger import Ledger
from sidecar.core.model import Request, Verdict
from sidecar.core.policy import Policy
from sidecar.core.sketch import Tally
from sidecar.decision_log import DecisionLog, Event
from sidecar.fronts import Front
from sidecar.fronts.heads import HeadTable
from sidecar.fronts.http import CheckProtocol
from sidecar.fronts.plane import CheckPlane, Observe
from sidecar.fronts.wire import WireLimits
from sidecar.gate import Gate
from sidecar.identity import Identity
from sidecar.listeners import BACKLOG
from sidecar.metrics import Gauge, Layout, Metrics
from sidecar.steps import in_steps
from sidecar.store.redis import RedisStore, RedisSubscription, SharedStore
from sidecar.supervision import persistently
from sidecar.tracing import Spans, sender_to

HOUSEKEEPING_S: Final = 0.5
LAST_CALL_S: Final = 0.1
"""How long kept connections stay open at a stop for a request that is on its way."""
QUIET_S: Final = 0.3
"""A stop ends early when no connection was open for this long."""
SIGN_OFF_S: Final = 2.0
"""A store that is silent at the end is waited for no longer: it will miss this replica by itself."""
PATIENCE_S: Final = 1.0
"""After this long without an answer a connection for counters is given up."""
CONTROL_PATIENCE_S: Final = 5.0
"""The same for the control state: nobody waits for it, and a stall of this process is not the store's."""


def wall_ms() -> float:
    """Milliseconds since 1970 by this machine's clock."""
    return time.time() * 1000.0


def clock_ms(
    _gettime: Callable[[int], float] = time.clock_gettime, _clock: int = time.CLOCK_BOOTTIME
) -> float:
    """Milliseconds of the clock that also runs while the machine is suspended."""
    return _gettime(_clock) * 1000.0


class Prepared(NamedTuple):
    """Another configuration, ready to be switched to."""

    config: Config
    layout: Layout
    lists: Lists
    fronts: list[Front]
    heads: HeadTable


class Replica:
    """Built from one configuration; `prepare` and `switch` change to another.

    `replica_id` is `<gate>/<worker>`; `keeps` says that this process keeps the control state on disk.
    """

    def __init__(
        self,
        config: Config,
        *,
        store_url: str,
        hash_key: bytes | None,
        replica_id: str,
        keeps: bool,
        metrics: Metrics,
        log: DecisionLog,
    ) -> None:
        store = config.store
        self._config = config
        self._control = EMPTY
        self._lists = lists_of(config)
        self._own_hash_key = hash_key is not None
        self._hash_key = hash_key or os.urandom(32)
        self._hash_key_known = self._own_hash_key
        self._metrics = metrics
        self._log = log
        self.identity = Identity(config.credentials, hash_key=hash_key, warn=self._warn)
        self._ledger = Ledger(shards=store.shards)
        self._ledger.replicas = config.workers  # at least these, until the store says how many
        self._last_known = LastKnown(config.state_dir)
        self._told_error = ""
        self._stale = False

        def connect(patience_s: float) -> RedisStore:
            return RedisStore(store_url, patience_s=patience_s, ca=store.ca, cert=store.cert, key=store.key)

        patience_s = max(PATIENCE_S, 10 * store.deadline_ms / 1000)
        self.gate = Gate(
            policy=self._policy(),
            ledger=self._ledger,
            lanes=[connect(patience_s) for _ in range(store.shards)],
            proofs=self.identity.proofs,
            records=KeyRecords(connect(patience_s), store.prefix, applied=lambda: self._control.epoch),
            clock_ms=clock_ms,
            wall_ms=self._store_ms,
            deadline_ms=store.deadline_ms,
            watch=self,
        )
        self._tally = Tally(
            names=Names(lambda: self.gate.policy), chance=random.Random().random, now_ms=clock_ms()
        )
        self._teller = TopTeller(
            store=connect(CONTROL_PATIENCE_S),
            prefix=store.prefix,
            replica=replica_id,
            tally=self._tally,
            clock_ms=clock_ms,
            failed=self.store_error,
        )
        known = self._last_known.attack_on(int(wall_ms()))
        self.gate.attack = config.attack_mode.unknown_on if known is None else known
        self.follower = Follower(
            store=SharedStore(connect(CONTROL_PATIENCE_S)),
            subscription=RedisSubscription(
                store_url, patience_s=CONTROL_PATIENCE_S, ca=store.ca, cert=store.cert, key=store.key
            ),
            prefix=store.prefix,
            replica=replica_id,
            says=says(
                replica_id,
                name=os.uname().nodename,
                version=VERSION,
                started_ms=int(wall_ms()),
                config=lambda: self._config.digest,
                totals=metrics.totals,
                clock_ms=clock_ms,
            ),
            own_hash_key=self._own_hash_key,
            audience=self,
            clock_ms=clock_ms,
            wall_ms=wall_ms,
            warn=self._warn if config.workers == 1 else None,  # else their parent does, once
        )
        self._keeper = (
            Keeper(self._last_known, book=lambda: self.follower.book, warn=self._warn) if keeps else None
        )
        self._heard_ms = clock_ms()
        fronts, heads = fronts_of(config), heads_of(config)
        self.plane = CheckPlane(
            fronts=fronts,
            heads=heads,
            check=self.gate.check,
            observe=self._observe,
            limits=WireLimits(idle_s=config.listen.idle_s, max_connections=config.listen.max_connections),
        )
        self._spans: Spans | None = None
        if config.tracing.otlp:
            sender = sender_to(config.tracing.otlp, instance=replica_id, version=VERSION)
            self._spans = Spans(sender, share=config.tracing.sample, warn=self._warn)
        self._tell_more()
        self._tasks: list[asyncio.Task[None]] = []
        self._servers: list[asyncio.Server] = []

    @property
    def fleet_key(self) -> bytes | None:
        """The fleet's hash key; None while nobody has told it."""
        return self._hash_key if self._hash_key_known else None

    def decisions(self, request_id: str) -> list[bytes]:
        """The log's lines of the decisions with this request id that are still known."""
        return self._log.kept(request_id)

    def connect(self) -> CheckProtocol:
        """The protocol of one new connection."""
        return CheckProtocol(self.plane)

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Make first contact with the store, or learn that the outage policy decides; then serve."""
        loop = asyncio.get_running_loop()
        self.plane.start(loop)
        if (book := await self._last_known.read(int(wall_ms()))) is not None:
            self.follower.book = book
            self.adopt(News(book.control, (), {}))
        await self.gate.start()
        if self.gate.store_up:  # else it is not waited for again
            await self.follower.once()
        _tame_collector()
        running = {
            "following": self.follower.run,
            "housekeeping": self._keep_house,
            "telling the heaviest": self._teller.run,
            "keeping issuers' keys": self.identity.run,
        }
        if self._keeper is not None:
            running["keeping the control state"] = self._keeper.run
        self._tasks = [asyncio.create_task(persistently(name, work)) for name, work in running.items()]
        self._servers = [
            await loop.create_server(self.connect, sock=listener, backlog=BACKLOG) for listener in sockets
        ]

    async def stop(self, grace_s: float) -> None:
        """Answer what is under way, give permits back, sign off.

        New connections are served for as long as they come, one answer each: a proxy that has not
        yet noticed gets its answer too.
        """
        self.plane.last_call()
        await asyncio.sleep(min(grace_s, LAST_CALL_S))
        self.plane.drain()
        now_s = time.monotonic()
        until_s, quiet_s = now_s + grace_s, now_s + QUIET_S
        while now_s < min(until_s, quiet_s):
            await asyncio.sleep(0.01)
            now_s = time.monotonic()
            if self.plane.connections:
                quiet_s = now_s + QUIET_S
        for server in self._servers:
            server.close()
        self.plane.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.gate.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(SIGN_OFF_S):
                if self._keeper is not None:
                    await self._keeper.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(SIGN_OFF_S):
                await self.follower.sign_off()
                await self._teller.close()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        self.keep_books()

    async def prepare(self, config: Config, layout: Layout) -> Prepared:
        """Do what takes long before a switch, while requests are answered as before."""
        known = dict(zip(networks_of(self._config), self._lists[:4], strict=True))
        deny, allow, exempt, passes = [
            known[networks] if networks in known else await in_steps(AddressSet.build_steps(networks))
            for networks in networks_of(config)
        ]
        lists = Lists(deny, allow, exempt, passes, tenants_of(config))
        return Prepared(config, layout, lists, fronts_of(config), heads_of(config))

    def switch(self, prepared: Prepared) -> None:
        """Decide by another configuration from the next request on."""
        self._config, self._lists = prepared.config, prepared.lists
        policy = self._policy()
        self.identity.switch(prepared.config.credentials)
        self._metrics.adopt(prepared.layout)
        self.gate.policy = policy
        self.plane.use(fronts=prepared.fronts, heads=prepared.heads)
        self._tell_more()

    def keep_books(self) -> None:
        """Bring the gauges up to date."""
        metrics = self._metrics
        metrics.gauge(Gauge.STORE_UP, int(self.gate.store_up))
        metrics.gauge(Gauge.ATTACK_MODE, int(self.gate.attack))
        metrics.gauge(Gauge.CONTROL_EPOCH, self._control.epoch.number)
        metrics.gauge(Gauge.CONTROL_LAG_NS, int((clock_ms() - self._heard_ms) * 1e6))
        metrics.gauge(Gauge.CONTROL_STALE, int(self._stale))
        metrics.gauge(Gauge.LEDGER_COUNTERS, self.gate.policy.counters())
        metrics.gauge(Gauge.CONNECTIONS, len(self.plane.connections))

    # --- what the gate tells ---

    def store_call(self, elapsed_s: float, counters: int) -> None:
        self._metrics.store_call(elapsed_s, counters)

    def store_error(self, kind: str, message: str) -> None:
        self._metrics.store_error(kind)
        self._told_error = f"{kind}: {message}"

    def store_up(self, up: bool) -> None:
        if up:
            self._log.event(Event.STORE_UP)
        else:
            self._log.event(Event.STORE_DOWN, error=self._told_error)

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self.keep_books()
            self._log.sweep()
            if self._spans is not None:
                self._spans.sweep(self.plane.clock())

    def _tell_more(self) -> None:
        """Let the log and the spans tell what the configuration wants told."""
        config, spans = self._config, self._spans
        tell(self._log, config)
        if spans is not None:
            spans.set_share(config.tracing.sample)
            spans.hide(config.log.hide)
        observe: Observe = self._observe
        if spans is not None or self._log.samples:
            observe = self._observe_more
        self.plane.observe = observe

    def _observe(
        self, front_index: int, request: Request, verdict: Verdict, request_id: bytes, elapsed_s: float
    ) -> None:
        self._metrics.decision(front_index, verdict, elapsed_s)
        self._tally.seen(request, verdict)
        if not verdict.reason.allowed:
            self._log.refusal(front_index, request, verdict, request_id, elapsed_s, self.plane.clock())

    def _observe_more(
        self, front_index: int, request: Request, verdict: Verdict, request_id: bytes, elapsed_s: float
    ) -> None:
        """The same where more than refusals is told; to ask that of each request would cost every gate."""
        self._observe(front_index, request, verdict, request_id, elapsed_s)
        mono_s = self.plane.clock()
        if verdict.reason.allowed:
            self._log.allowed(front_index, request, verdict, request_id, elapsed_s, mono_s)
        if self._spans is not None:
            self._spans.seen(front_index, request, verdict, request_id, elapsed_s, mono_s)

    # --- what the follower tells ---

    def counted(self, follows: Follows) -> None:
        """How many replicas there are, and the fleet's hash key."""
        self._ledger.replicas = follows.replicas
        self.gate.share.rank = follows.rank
        if follows.hash_key and not self._own_hash_key:
            hash_key = bytes.fromhex(follows.hash_key.decode("ascii", "replace"))
            self._hash_key_known = True
            self.identity.tell_hash_key(hash_key)
            if hash_key != self._hash_key:
                self._hash_key = hash_key
                self.gate.policy = self._policy()

    def current(self) -> None:
        """The store says what is in force here."""
        self._heard_ms = clock_ms()

    def adopt(self, news: News) -> None:
        """Decide by another control state from the next request on."""
        control = self._control = news.control
        self.identity.follow(news)
        if news.resets is None:
            self.gate.policy = self._policy()
        else:
            self.gate.policy = self.gate.policy.under(control)
            for field in news.resets:
                limit, _, subject = field.partition(" ")
                kind, _, value = subject.partition(":")
                self.gate.forget(limit, kind, value)
        if control.attack_on is not None and control.attack_on != self.gate.attack:
            self.gate.attack = control.attack_on
            said = control.attack[GLOBAL].members()
            self._log.event(
                Event.ATTACK_MODE,
                on=control.attack_on,
                epoch=str(control.epoch),
                actor=str(said.get("actor", "")),
                reason=str(said.get("reason", "")),
            )
        if self._keeper is not None and control.epoch != NO_EPOCH:
            self._keeper.changed()

    def replaced(self, before: Epoch, now: Epoch) -> None:
        """What the store had lost is gone."""
        self._warn(
            f"the store's control state of another history is in force now ({now}, before {before}): what the "
            "store had lost is gone, but for attack mode; compare with `portcullis audit`"
        )

    def stale(self, why: str) -> None:
        """The store's control state is not what is in force; "" when it is again."""
        self._stale = bool(why)
        if why:
            self._log.event(Event.CONTROL_STALE, error=why)
        else:
            self._log.event(Event.CONTROL_CURRENT)

    def _store_ms(self) -> int:
        return self.follower.store_ms()

    def _warn(self, message: str) -> None:
        self._log.event(Event.WARNING, message=message)

    def _policy(self) -> Policy:
        return policy_of(
            self._config, self._lists, control=self._control, ledger=self._ledger, hash_key=self._hash_key
        )


def _tame_collector() -> None:
    """Leave what was loaded at start alone, and look for cycles rarely.

    The hot path makes none; a full collection over a hundred thousand counters would stop it for tens of
    milliseconds, and the default thresholds run one every few seconds of load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
