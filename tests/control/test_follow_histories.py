"""What must hold for all histories: every replica ends with the same state, and the audit says how.

Several operators change things through several replicas, while replicas lose hints, fall behind a trimmed
log, restart from disk or from nothing, and the store fails over to a copy that lost the last changes.
The store is a real Valkey with the real verbs.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from itertools import count, pairwise
from pathlib import Path

import orjson
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.control.changes import Conflict
from sidecar.control.last_known import LastKnown
from sidecar.core.control import Epoch
from tests.control.fleet_double import Replica, dump, fail_over, shown
from tests.control.test_changes import entries
from tests.stores import StoreServer

REPLICAS = 3
CIDRS = ("192.0.2.0/24", "192.0.2.9/32", "198.51.100.0/24", "2001:db8::/32")
NUMBERS = count()


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    """One change that an operator may make: its table, and the rest."""
    table = draw(
        st.sampled_from(["attack", "deny", "allow", "exempt", "pass", "overrides", "keys", "resets"])
    )
    match table:
        case "attack":
            fields = draw(st.sets(st.sampled_from(["global", "key:a", "tenant:t"]), min_size=1))
            payload: dict[str, object] = {"on": draw(st.booleans()), "actor": draw(st.sampled_from("AB"))}
            return table, {"put": sorted(fields), "payload": payload}
        case "overrides" | "resets":
            field = draw(st.sampled_from(["per-ip address:192.0.2.0/24", "per-key key:a"]))
            if table == "overrides" and draw(st.booleans()):
                return table, {"delete": [field]}
            return table, {"put": [field], "payload": {"permits": draw(st.integers(0, 9))}}
        case "keys":
            return table, {
                "put": [draw(st.sampled_from(["a", "b"]))],
                "payload": {"label": draw(st.text(max_size=3))},
            }
        case _:
            cidrs = draw(st.sets(st.sampled_from(CIDRS), min_size=1))
            if draw(st.booleans()):
                return table, {"delete": sorted(cidrs)}
            return table, {"put": sorted(cidrs), "payload": {"reason": draw(st.sampled_from(["", "spam"]))}}


which = st.integers(0, REPLICAS - 1)
events = st.one_of(
    st.tuples(st.just("change"), which, changes()),
    st.tuples(st.just("change"), which, changes()),
    st.tuples(st.just("change_if_current"), which, changes()),
    st.tuples(st.just("follow"), which, st.none()),
    st.tuples(st.just("follow"), which, st.none()),
    st.tuples(st.just("trim"), which, st.none()),
    st.tuples(st.just("save"), which, st.none()),
    st.tuples(st.just("fail_over"), which, st.none()),
    st.tuples(st.just("lose_all"), which, st.none()),
    st.tuples(st.just("restart"), which, st.none()),
    st.tuples(st.just("restart_empty"), which, st.none()),
)


class History:
    """One history as it happens."""

    def __init__(self, server: StoreServer, client: redis.Redis, folder: Path) -> None:
        self.server = server
        self.client = client
        self.prefix = f"h{next(NUMBERS)}:"
        self.folder = folder
        self.replicas = [self.replica(number) for number in range(REPLICAS)]
        self.kept = self.dump()
        self.made: dict[str, dict[str, object]] = {}

    def replica(self, number: int) -> Replica:
        return Replica(self.server, self.prefix, f"gate/{number}")

    def key(self, name: str) -> str:
        return f"{self.prefix}{{control}}:{name}"

    def dump(self) -> dict[bytes, bytes]:
        return dump(self.client, self.prefix)

    async def happen(self, event: str, number: int, change: tuple[str, dict[str, object]] | None) -> None:
        replica = self.replicas[number]
        match event:
            case "change" | "change_if_current":
                assert change is not None
                await self.change(replica, *change, if_current=event == "change_if_current")
            case "follow":
                assert await replica.follower.once()
            case "trim":
                self.client.xtrim(self.key("log"), maxlen=number, approximate=False)
            case "save":
                self.kept = self.dump()
            case "fail_over":
                fail_over(self.client, self.kept, self.prefix)
            case "lose_all":
                fail_over(self.client, {}, self.prefix)
                self.kept = {}
            case "restart":
                last_known = LastKnown(self.folder / str(number))
                (self.folder / str(number)).mkdir(exist_ok=True)
                await last_known.write(replica.follower.book)
                await replica.close()
                self.replicas[number] = self.replica(number)
                book = await LastKnown(self.folder / str(number)).read(0)
                assert book is not None
                self.replicas[number].follower.book = book
            case "restart_empty":
                await replica.close()
                self.replicas[number] = self.replica(number)

    async def change(
        self, replica: Replica, table: str, rest: Mapping[str, object], *, if_current: bool
    ) -> None:
        epoch = replica.follower.epoch if if_current else None
        try:
            changed = await replica.changes.change(
                table,
                actor=replica.name,
                action=f"{table}.change",
                if_epoch=epoch,
                **rest,  # type: ignore[arg-type]  # drawn with the right types
            )
        except Conflict as conflict:
            assert epoch is not None
            assert conflict.why == "epoch"
            assert conflict.epoch != epoch
            return
        assert changed.epoch.number > replica.follower.epoch.number
        self.made[str(changed.epoch)] = {"table": table, "actor": replica.name, **rest}

    async def settle(self) -> None:
        """One more change, and everybody follows until nothing moves."""
        for replica in self.replicas:
            assert await replica.follower.once()
        highest = max(self.replicas, key=lambda replica: replica.follower.epoch.number)
        await self.change(highest, "deny", {"put": ["203.0.113.0/24"]}, if_current=False)
        for _ in range(2):
            for replica in self.replicas:
                assert await replica.follower.once()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(happens=st.lists(events, max_size=40))
def test_every_replica_ends_with_the_same_state(valkey: StoreServer, happens: list[object]) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            client = stack.enter_context(valkey.client())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            history = History(valkey, client, folder)
            for event in happens:
                await history.happen(*event)  # type: ignore[misc]  # a drawn triple
                for replica in history.replicas:
                    numbers = [epoch.number for epoch in replica.epochs]
                    assert numbers == sorted(numbers), "an epoch went back"
            await history.settle()
            states = [shown(replica.follower.book.control) for replica in history.replicas]
            epochs = {replica.follower.epoch for replica in history.replicas}
            audit = entries(client, history.key("audit"))
            for replica in history.replicas:
                assert replica.news, "it was told what it decides by"
                assert shown(replica.control) == shown(replica.follower.book.control)
                await replica.close()
            fail_over(client, {}, history.prefix)

            assert states[1:] == states[:-1]
            assert len(epochs) == 1
            assert _is_true(audit, history.made)

    asyncio.run(scenario())


def _is_true(audit: list[dict[str, str]], made: Mapping[str, Mapping[str, object]]) -> bool:
    """Whether each entry tells of a change as it was made, in the order of their epochs."""
    done = [members for members in audit if members["outcome"].startswith("done")]
    epochs = [Epoch.parse(members["epoch"]) for members in done]
    assert all(before.number < after.number for before, after in pairwise(epochs)), epochs
    for epoch, members in zip(epochs, done, strict=True):
        what = orjson.loads(members["what"])
        change = made.get(str(epoch))
        if what["action"] == "restore":
            continue
        assert change is not None, f"{what} was never made"
        assert what["table"] == change["table"]
        assert what["actor"] == change["actor"]
        assert what.get("put", []) == change.get("put", [])
        assert what.get("deleted", []) == change.get("delete", [])
    return True
