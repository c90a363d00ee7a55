"""The crew in this process, its workers in theirs: how it starts, and how it switches all of them or none."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest

from sidecar.assembly import layout_of
from sidecar.config import Config, parse
from sidecar.decision_log import DecisionLog
from sidecar.exposition import Retired
from sidecar.metrics import Layout
from sidecar.workers import WorkerCrew, WorkersFailed
from tests.gates import patient
from tests.servers import WITHIN_S
from tests.stores import StoreServer

FIFTY = "limits: [{name: fifty, per: [ip], permits: 50, window: 1h}]"


def configuration(directory: Path) -> Config:
    return parse(
        f'listen: {{check: ["127.0.0.1:0", "unix:{directory}/check"]}}\nworkers: 2\n{patient(FIFTY)}\n',
        name="test",
        folder=directory,
    )


def crew_of(config: Config, store: StoreServer) -> WorkerCrew:
    layout = layout_of(config)
    return WorkerCrew(
        config,
        store_url=store.url(),
        hash_key=b"0123456789abcdef",
        gate_id="gate",
        layout=layout,
        retired=Retired(layout),
        log=DecisionLog(lambda _line: None, refusals_per_s=0, wall_s=lambda: 0.0),
    )


def test_it_says_so_when_workers_do_not_start(
    directory: Path, valkey: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    async def scenario() -> None:
        crew = crew_of(configuration(directory), valkey)
        with pytest.raises(WorkersFailed, match=r"worker [12] ended at its start: status 1"):
            await crew.start()
        await crew.stop(0.1)

    asyncio.run(scenario())
    assert not (directory / "check").exists()


def test_it_says_so_when_there_is_no_interpreter(
    directory: Path, valkey: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(directory / "missing"))

    async def scenario() -> None:
        crew = crew_of(configuration(directory), valkey)
        with pytest.raises(WorkersFailed, match=r"not started: .*No such file"):
            await crew.start()
        await crew.stop(0.1)

    asyncio.run(scenario())


def test_it_switches_all_workers_or_none(directory: Path, valkey: StoreServer) -> None:
    config = configuration(directory)
    impossible = replace(config, addresses=replace(config.addresses, deny=("no network",)))
    layout = layout_of(config)

    async def scenario() -> None:
        crew = crew_of(config, valkey)
        await crew.start()
        with pytest.raises(WorkersFailed, match=r"not every worker can follow: .*no network"):
            await crew.switch(impossible, layout)
        assert crew.policy().limits == config.limits

        await crew.switch(replace(config, limits=()), layout)
        assert crew.policy().limits == ()
        await crew.stop(0.1)

    asyncio.run(scenario())


def test_it_switches_nobody_when_a_worker_dies_on_the_way(directory: Path, valkey: StoreServer) -> None:
    config = configuration(directory)

    async def scenario() -> None:
        crew = crew_of(config, valkey)
        await crew.start()
        stuck = pids_of(crew)[0]
        os.kill(stuck, signal.SIGSTOP)
        switching = asyncio.create_task(crew.switch(replace(config, limits=()), layout_of(config)))
        await until(crew._switching.locked)
        os.kill(stuck, signal.SIGKILL)

        with pytest.raises(WorkersFailed, match="one ended meanwhile"):
            await switching
        assert crew.policy().limits == config.limits
        await until(lambda: stuck not in pids_of(crew) and len(crew.snapshots()) == 2)
        await crew.switch(replace(config, limits=()), layout_of(config))
        assert crew.policy().limits == ()
        await crew.stop(0.1)

    asyncio.run(scenario())


def test_it_brings_late_workers_to_the_configuration_in_force(
    directory: Path, valkey: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(directory)
    other = parse(FIFTY.replace("fifty", "other"), name="test", folder=directory)
    changed = replace(config, limits=other.limits)
    layout = layout_of(changed, layout_of(config))

    async def scenario() -> list[str]:
        crew = crew_of(config, valkey)
        tcp = (await crew.start())[0]
        for pid in pids_of(crew):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: crew.checks()["workers"] == "none")
        await until(lambda: len(pids_of(crew)) == 2)
        await crew.switch(changed, layout)  # the successors have begun with the old one
        await until(lambda: len(crew.snapshots()) == 2)
        async with crew._switching:
            names = [await asyncio.to_thread(limit_named_by, str(tcp)) for _ in range(8)]
        await crew.stop(0.1)
        return names

    assert set(asyncio.run(scenario())) == {"other"}


def pids_of(crew: WorkerCrew) -> list[int]:
    return [place.worker.process.pid for place in crew._places if place.worker is not None]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - it is another process's turn, and no event tells
            await asyncio.sleep(0)


def limit_named_by(endpoint: str) -> str:
    connection = HTTPConnection(endpoint, timeout=WITHIN_S)
    connection.request("POST", "/v1/check", json.dumps({"address": "203.0.113.77"}))
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["quotas"][0]["name"])


def test_its_snapshots_follow_the_layout(directory: Path, valkey: StoreServer) -> None:
    config = configuration(directory)
    wider = Layout(["fifty"], []).extended(["another"], [])

    async def scenario() -> list[int]:
        crew = crew_of(config, valkey)
        await crew.start()
        before = [len(cells) for cells in crew.snapshots()]
        await crew.switch(config, wider)
        after = [len(cells) for cells in crew.snapshots()]
        await crew.stop(0.1)
        return before + after

    assert asyncio.run(scenario()) == [layout_of(config).size] * 2 + [wider.size] * 2
