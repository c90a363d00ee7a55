"""Several workers that decide together: started, fed, watched and replaced by their parent.

Design. What must outlive a worker is the parent's, and stays in the worker's `_Place`: its sockets,
opened before the first worker runs, and the memory that it counts in. So connections that wait when
a worker dies are served by its successor, and no count falls.

    place ── spawn ── Begin ── READY ──> at work ── ended ── retire its counts ──┐
      ^                                                                          │
      └──────────────── at once; later and later if it keeps dying ──────────────┘

A switch to another configuration has two phases: every worker prepares it, and only if all could
they are told to commit. Who starts meanwhile begins with the old one and switches when it is up, so
that after a switch nobody decides by the old one for longer than its own start.

Workers are fresh interpreters, not forks: a fork of a running loop inherits locks, timers
and connections that are not its own.

It decides nothing about requests and does not render metrics.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from sidecar.assembly import lists_of, policy_of
from sidecar.channel import Begin, Channel, Find, Found, Message, Prepare, Refused, Stop, Word, framed
from sidecar.config import Config
from sidecar.control.beats import Follows
from sidecar.control.follow import Follower, News
from sidecar.control.last_known import Keeper, LastKnown
from sidecar.core.control import NO_EPOCH, Epoch
from sidecar.core.ledger import Counter, Ledger
from sidecar.core.policy import Policy
from sidecar.core.window import Grant
from sidecar.decision_log import DecisionLog, Event
from sidecar.document.notations import Endpoint
from sidecar.exposition import Retired
from sidecar.identity import Identity
from sidecar.listeners import close_check, endpoint_of, open_shared
from sidecar.metrics import CAPACITY, Gauge, Layout, shared_cells
from sidecar.replica import CONTROL_PATIENCE_S, clock_ms, wall_ms
from sidecar.spawning import spawn
from sidecar.store.redis import RedisStore, RedisSubscription, SharedStore
from sidecar.supervision import persistently

ANSWER_S: Final = 30.0
"""A worker that has not answered its parent for so long is killed and replaced."""
STEADY_S: Final = 1.0
"""One that was at work for so long is replaced at once; else after a pause that doubles each time."""
PAUSE_S: Final = 0.1
MOST_PAUSE_S: Final = 5.0
END_S: Final = 3.0
"""What a worker gets beyond the grace to give permits back and sign off."""

_NOTHING: Final = memoryview(bytes(CAPACITY * 8)).cast("q")


class WorkersFailed(Exception):
    """The workers could not start, or could not switch; the text says why."""


class WorkerEnded(Exception):
    """The worker is gone before it answered."""


class _Worker:
    """A running worker, as its parent sees it."""

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel) -> None:
        self.process = process
        self.config: Config | None = None
        """What it decides by; None until it is at work."""
        self._channel = channel
        self._answer: asyncio.Future[Message] | None = None
        self._gone = False

    def tell(self, frame: bytes) -> None:
        if not self._gone:
            self._channel.send(frame)

    async def ask(self, frame: bytes) -> Message:
        """Its answer to a message. Raises WorkerEnded; one that keeps silent is killed."""
        if self._gone:
            raise WorkerEnded
        self._answer = asyncio.get_running_loop().create_future()
        self.tell(frame)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._answer
        except TimeoutError:
            self.process.kill()
            raise WorkerEnded from None
        finally:
            self._answer = None

    async def follow(self) -> None:
        """Take its answers until it is gone."""
        while (message := await self._channel.receive()) is not None:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(message)
        self._gone = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WorkerEnded())

    async def end(self) -> str:
        """Wait for its end, which follows at once on the channel's; how it ended."""
        self._channel.close()
        try:
            await asyncio.to_thread(self.process.wait, 1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        status = self.process.returncode
        return f"status {status}" if status >= 0 else signal.Signals(-status).name


class _Place:
    """What outlives a worker: its sockets, the memory that it counts in, and when it is due again."""

    def __init__(self, number: int, listeners: Sequence[socket.socket]) -> None:
        self.number = number
        self.listeners = listeners
        self.memory = os.memfd_create(f"portcullis-{number}", os.MFD_CLOEXEC)
        os.ftruncate(self.memory, CAPACITY * 8)
        self.cells = shared_cells(self.memory)
        self.shown = False
        """Whether the cells are those of a worker at work, gauges included."""
        self.worker: _Worker | None = None
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when a worker is at work here for the first time."""


class WorkerCrew:
    """`workers` replicas, each in a process of its own. `retired` gets the counts of those that end."""

    def __init__(
        self,
        config: Config,
        *,
        store_url: str,
        hash_key: bytes | None,
        gate_id: str,
        layout: Layout,
        retired: Retired,
        log: DecisionLog,
    ) -> None:
        self._config = config
        self._layout = layout
        self._store_url = store_url
        self._hash_key = hash_key
        self._gate_id = gate_id
        self._retired = retired
        self._log = log
        self._opened: list[Endpoint] = []
        self._listeners: list[list[socket.socket]] = []
        self._places: list[_Place] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._switching = asyncio.Lock()
        self._stopping = False
        self._policy: Policy | None = None
        self._fleet_key = hash_key or os.urandom(32)
        self._fleet_key_known = hash_key is not None
        self.identity = Identity(
            config.credentials, hash_key=hash_key, warn=lambda _: None
        )  # the workers tell
        store = config.store
        self.follower = Follower(
            store=SharedStore(
                RedisStore(
                    store_url, patience_s=CONTROL_PATIENCE_S, ca=store.ca, cert=store.cert, key=store.key
                )
            ),
            subscription=RedisSubscription(
                store_url, patience_s=CONTROL_PATIENCE_S, ca=store.ca, cert=store.cert, key=store.key
            ),
            prefix=store.prefix,
            replica="",  # only reads: the workers are the replicas
            says=lambda _epoch, _stale: b"",
            own_hash_key=hash_key is not None,
            audience=self,
            clock_ms=clock_ms,
            wall_ms=wall_ms,
            warn=self._warn,
        )
        self._last_known = LastKnown(config.state_dir)
        self._keeper = Keeper(self._last_known, book=lambda: self.follower.book, warn=self._warn)

    async def start(self) -> Sequence[Endpoint]:
        """Open the sockets, start the workers; returns where they listen when all are at work.

        Raises OSError when an endpoint cannot be opened, WorkersFailed when a worker ends instead.
        """
        for endpoint in self._config.listen.check:
            self._listeners.append(open_shared(endpoint, self._config.workers))
            self._opened.append(endpoint_of(endpoint, self._listeners[-1][0]))
        self._places = [
            _Place(number, listeners)
            for number, listeners in enumerate(zip(*self._listeners, strict=True), start=1)
        ]
        self._keepers = [asyncio.create_task(self._keep(place)) for place in self._places]
        await asyncio.gather(*(place.first for place in self._places))
        if (book := await self._last_known.read(int(wall_ms()))) is not None:
            self.follower.book = book
            self.identity.follow(News(book.control, (), {}))
        if self.checks()["store"] == "ok":  # else it is not waited for again
            await self.follower.once()
        running = {
            "following": self.follower.run,
            "keeping the control state": self._keeper.run,
            "keeping issuers' keys": self.identity.run,
        }
        self._tasks = [asyncio.create_task(persistently(name, work)) for name, work in running.items()]
        return self._opened

    async def switch(self, config: Config, layout: Layout) -> None:
        """Switch all workers, or none. Raises WorkersFailed."""
        async with self._switching:
            workers = [worker for worker in self._at_work() if worker.config is self._config]
            await self._prepare(workers, config, layout)
            self._config, self._layout, self._policy = config, layout, None
            self.identity.switch(config.credentials)
            await self._commit(workers)

    async def stop(self, grace_s: float) -> None:
        """Let the workers answer what is under way, then end; kill those that do not in time."""
        self._stopping = True
        ending = [keeper for place, keeper in zip(self._places, self._keepers, strict=True) if place.worker]
        idle = [keeper for keeper in self._keepers if keeper not in ending]
        order = framed(Stop(grace_s))
        for place in self._places:
            if place.worker is not None and place.worker.config is not None:
                place.worker.tell(order)
            elif place.worker is not None:
                place.worker.process.kill()  # it has no connections yet
        if ending:
            await asyncio.wait(ending, timeout=grace_s + END_S)
        for place in self._places:
            if place.worker is not None:
                place.worker.process.kill()
        for task in (*idle, *self._tasks):
            task.cancel()
        await asyncio.gather(*ending, *idle, *self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._keeper.finish()
        await self.follower.sign_off()
        close_check(self._opened, {listener for each in self._listeners for listener in each})

    async def decisions(self, request_id: str) -> list[bytes]:
        """What the workers know; one that ends meanwhile takes with it what it knew."""
        frame = framed(Find(request_id))
        async with self._switching:  # a worker gives one answer at a time
            asked = [worker.ask(frame) for worker in self._at_work() if worker.config is not None]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        return [line for answer in answers if isinstance(answer, Found) for line in answer.lines]

    def snapshots(self) -> list[list[int]]:
        """The cells of each worker at work, a fifth of a second old at most."""
        return [place.cells[: self._layout.size].tolist() for place in self._places if place.shown]

    def checks(self) -> dict[str, str]:
        shown = [place for place in self._places if place.shown]
        up = all(place.cells[Gauge.STORE_UP.value] for place in shown)
        return {"workers": "ok" if shown else "none", "store": "ok" if up else "outage policy"}

    def attack(self) -> bool:
        return any(place.cells[Gauge.ATTACK_MODE.value] for place in self._places if place.shown)

    def fleet_key(self) -> bytes | None:
        return self._fleet_key if self._fleet_key_known else None

    def policy(self) -> Policy:
        """The rules that the workers decide by, compiled here when somebody asks."""
        if self._policy is None:
            ledger = Ledger(shards=self._config.store.shards)
            self._policy = policy_of(
                self._config,
                lists_of(self._config),
                control=self.follower.book.control,
                ledger=ledger,
                hash_key=self._fleet_key,
            )
        return self._policy

    # --- a worker's life ---

    async def _keep(self, place: _Place) -> None:
        """See to it that a worker is at work in this place, until the crew stops."""
        pause_s = 0.0
        while True:
            pid, worked_s, how = await self._live(place)
            if self._stopping:
                return
            if not place.first.done():
                place.first.set_exception(WorkersFailed(f"worker {place.number} ended at its start: {how}"))
                return
            pause_s = 0.0 if worked_s >= STEADY_S else min(max(PAUSE_S, 2 * pause_s), MOST_PAUSE_S)
            self._log.event(
                Event.WORKER_RESTARTED, worker=place.number, pid=pid, ended=how, pause_s=round(pause_s, 3)
            )
            await asyncio.sleep(pause_s)

    async def _live(self, place: _Place) -> tuple[int, float, str]:
        """One worker from start to end: its pid, seconds at work, and how it ended."""
        clock = asyncio.get_running_loop().time
        try:
            process, control = spawn(place.memory, place.listeners)
        except OSError as exc:
            return 0, 0.0, f"not started: {exc}"
        worker = place.worker = _Worker(process, await Channel.over(control))
        following = asyncio.create_task(worker.follow())
        began_s = float("inf")
        try:
            if await self._begin(place, worker):
                began_s = clock()
            else:
                process.kill()
        except (WorkerEnded, WorkersFailed):
            process.kill()
        await following
        how = await worker.end()
        place.worker = None
        self._retire(place)
        return process.pid, max(0.0, clock() - began_s), how

    async def _begin(self, place: _Place, worker: _Worker) -> bool:
        """Bring a worker to work, by the configuration that is in force when it is up."""
        config, layout = self._config, self._layout
        replica_id = f"{self._gate_id}/{place.number}"
        begin = Begin(config, layout, replica_id, self._store_url, self._hash_key)
        if await worker.ask(await asyncio.to_thread(framed, begin)) is not Word.READY:
            return False
        place.shown = True
        async with self._switching:
            worker.config = config
            if config is not self._config:
                await self._prepare([worker], self._config, self._layout)
                await self._commit([worker])
        self._log.event(Event.WORKER_STARTED, worker=place.number, pid=worker.process.pid)
        if not place.first.done():
            place.first.set_result(None)
        return True

    def _retire(self, place: _Place) -> None:
        """Let the counts of a worker that ended go on counting, and clear its memory for the next one."""
        if self._stopping:
            return  # nobody follows: they stay where they are
        place.shown = False
        self._retired.add(place.cells[: self._layout.size].tolist())
        place.cells[:] = _NOTHING

    # --- a switch ---

    async def _prepare(self, workers: Iterable[_Worker], config: Config, layout: Layout) -> None:
        """Get all of them ready; if one cannot, none will switch. Raises WorkersFailed."""
        asked = list(workers)
        frame = await asyncio.to_thread(framed, Prepare(config, layout))
        answers = await asyncio.gather(*(worker.ask(frame) for worker in asked), return_exceptions=True)
        if all(answer is Word.PREPARED for answer in answers):
            return
        for worker in asked:
            worker.tell(framed(Word.ABORT))
        reasons = [answer.why for answer in answers if isinstance(answer, Refused)]
        raise WorkersFailed(f"not every worker can follow: {(reasons or ['one ended meanwhile'])[0]}")

    async def _commit(self, workers: Iterable[_Worker]) -> None:
        """Switch those that are ready; the successor of one that ends now begins with the new configuration."""
        asked = list(workers)
        config, frame = self._config, framed(Word.COMMIT)
        await asyncio.gather(*(worker.ask(frame) for worker in asked), return_exceptions=True)
        for worker in asked:
            worker.config = config

    def _at_work(self) -> Iterator[_Worker]:
        return (place.worker for place in self._places if place.worker is not None)

    # --- what explaining needs ---

    def look_alone(self, counter: Counter, need: int) -> Grant | None:
        """Not known here: in an outage each worker counts its own share."""
        return None

    # --- what the follower tells; the workers follow by themselves ---

    def adopt(self, news: News) -> None:
        self.identity.follow(news)
        if self._policy is not None:
            self._policy = self._policy.under(news.control)
        if news.control.epoch != NO_EPOCH:
            self._keeper.changed()

    def store_error(self, kind: str, message: str) -> None:
        """The workers tell."""

    def stale(self, why: str) -> None:
        """The workers tell."""

    def current(self) -> None:
        """The workers tell."""

    def replaced(self, before: Epoch, now: Epoch) -> None:
        """The workers tell."""

    def _warn(self, message: str) -> None:
        self._log.event(Event.WARNING, message=message)

    def counted(self, follows: Follows) -> None:
        if follows.hash_key and self._hash_key is None:
            self._fleet_key_known = True
            fleet_key = bytes.fromhex(follows.hash_key.decode("ascii", "replace"))
            if fleet_key != self._fleet_key:
                self._fleet_key, self._policy = fleet_key, None
            self.identity.tell_hash_key(fleet_key)
