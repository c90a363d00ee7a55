"""Another configuration while the gate runs: from SIGHUP or a changed file, whole or not at all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sidecar.state import stamps
from tests.gates import Gate
from tests.servers import eventually
from tests.stores import StoreServer

TEN = "limits: [{name: ten, per: [ip], permits: 10, window: 1h}]"
TWENTY = "limits: [{name: twenty, per: [ip], permits: 20, window: 1h}]"

StartGate = Callable[..., Gate]


def limits_of(gate: Gate) -> list[str]:
    """The names of the limits that apply to a request."""
    return [quota["name"] for quota in gate.check("192.0.2.1", cost=1)["quotas"]]


def events(gate: Gate, name: str) -> list[dict[str, object]]:
    return [event for event in gate.events() if event["event"] == name]


def reloads(gate: Gate, outcome: str) -> float:
    return gate.metric("portcullis_config_reloads_total", outcome=outcome)


def replace_in(path: Path, *changes: tuple[str, str]) -> None:
    """Change a document in one step, as a careful editor does."""
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    fresh = path.with_suffix(".fresh")
    fresh.write_text(text)
    fresh.replace(path)


@pytest.mark.parametrize("workers", [1, 2])
def test_it_follows_its_file_without_being_told(
    valkey: StoreServer, start_gate: StartGate, workers: int
) -> None:
    gate = start_gate(TEN, store_url=valkey.url(), workers=workers)
    assert limits_of(gate) == ["ten"]

    replace_in(gate.document, (TEN, TWENTY))
    eventually(lambda: reloads(gate, "ok") == 1, "the change is noticed")

    with ThreadPoolExecutor(8) as pool:  # whichever worker answers
        names = set(map(tuple, pool.map(lambda _: limits_of(gate), range(16))))
    assert names == {("twenty",)}
    assert len(events(gate, "config_reloaded")) == 1


def test_it_follows_the_switch_of_a_configmap(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(TEN, store_url=valkey.url())
    mount = gate.document.parent
    old, new, data = mount / "..2026_01", mount / "..2026_02", mount / "..data"
    old.mkdir()
    gate.document.rename(old / "portcullis.yaml")
    data.symlink_to(old.name)
    gate.document.symlink_to("..data/portcullis.yaml")
    assert limits_of(gate) == ["ten"]

    new.mkdir()
    (new / "portcullis.yaml").write_text((old / "portcullis.yaml").read_text().replace(TEN, TWENTY))
    fresh = mount / "..data_tmp"
    fresh.symlink_to(new.name)
    fresh.replace(data)  # as kubelet does

    eventually(lambda: limits_of(gate) == ["twenty"], "the switch is noticed")


def test_it_stamps_what_a_link_leads_to(directory: Path) -> None:
    link = directory / "portcullis.yaml"
    for version in ("one", "two"):
        (directory / version).mkdir()
        (directory / version / "portcullis.yaml").write_text("same: length")
        os.utime(directory / version / "portcullis.yaml", (0, 0))
    (directory / "..data").symlink_to("one")
    link.symlink_to("..data/portcullis.yaml")
    before = stamps([link])

    (directory / "fresh").symlink_to("two")
    (directory / "fresh").replace(directory / "..data")

    assert stamps([link]) != before
    assert stamps([directory / "missing"]) == {directory / "missing": None}


def test_it_follows_the_address_lists_that_the_document_names(
    valkey: StoreServer, start_gate: StartGate
) -> None:
    gate = start_gate(
        "addresses: {deny: {files: [drop.txt]}}",
        store_url=valkey.url(),
        files={"drop.txt": "198.51.100.0/24\n"},
    )
    assert not gate.check("198.51.100.1")["allowed"]

    replace_in(gate.document.parent / "drop.txt", ("198.51.100.0/24", "203.0.113.0/24"))

    eventually(lambda: not gate.check("203.0.113.1")["allowed"], "the list is read again")
    assert gate.check("198.51.100.1")["allowed"]


@pytest.mark.parametrize("workers", [1, 2])
def test_it_keeps_what_serves_when_the_document_is_broken(
    valkey: StoreServer, start_gate: StartGate, workers: int
) -> None:
    gate = start_gate(TEN, store_url=valkey.url(), workers=workers)

    replace_in(gate.document, ("per: [ip]", "per: [moon]"))
    eventually(lambda: reloads(gate, "rejected") == 1, "the change is noticed")

    assert limits_of(gate) == ["ten"]
    assert "limits[0].per[0]" in str(events(gate, "config_rejected")[0]["error"])
    replace_in(gate.document, ("moon", "ip"))
    eventually(lambda: reloads(gate, "ok") == 1, "the remedy is noticed")


def test_it_keeps_what_serves_when_the_document_is_gone(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(TEN, store_url=valkey.url())

    gate.document.rename(gate.document.with_suffix(".away"))
    eventually(lambda: reloads(gate, "rejected") == 1, "it is missed")

    assert limits_of(gate) == ["ten"]
    gate.document.with_suffix(".away").rename(gate.document)
    eventually(lambda: reloads(gate, "ok") == 1, "it is found again")


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("grace_s: 2", "grace_s: 3", "listen.grace_s"),
        ("workers: 1", "workers: 2", "workers"),
        ("deadline_ms: 3000", "deadline_ms: 4000", "store.deadline_ms"),
    ],
)
def test_it_names_what_takes_a_restart(
    valkey: StoreServer, start_gate: StartGate, old: str, new: str, names: str
) -> None:
    gate = start_gate(f"{TEN}\nstore: {{deadline_ms: 3000}}", store_url=valkey.url())

    replace_in(gate.document, (TEN, TWENTY), (old, new))
    gate.server.signal(signal.SIGHUP)
    eventually(lambda: bool(events(gate, "config_rejected")), "the change is refused")

    refused = events(gate, "config_rejected")[-1]["error"]
    assert refused == f"{names}: cannot change while running; restart the gate"
    assert limits_of(gate) == ["ten"]


@pytest.mark.parametrize("workers", [1, 2])
def test_it_ends_with_the_last_word_however_often_it_is_told(
    valkey: StoreServer, start_gate: StartGate, workers: int
) -> None:
    gate = start_gate(TEN, store_url=valkey.url(), workers=workers)

    for _ in range(10):
        replace_in(gate.document, (TEN, TWENTY))
        gate.server.signal(signal.SIGHUP)
        replace_in(gate.document, (TWENTY, TEN))
        gate.server.signal(signal.SIGHUP)
    replace_in(gate.document, (TEN, TWENTY))
    gate.server.signal(signal.SIGHUP)

    eventually(lambda: limits_of(gate) == ["twenty"], "the last one is in force")
    assert not events(gate, "config_rejected")


def test_it_lets_no_counter_fall_over_a_reload(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(TEN, store_url=valkey.url(), workers=2)
    for _ in range(5):
        limits_of(gate)
    eventually(lambda: gate.metric("portcullis_limit_total", limit="ten") == 5, "all are counted")

    replace_in(gate.document, (TEN, TWENTY))
    gate.server.signal(signal.SIGHUP)
    eventually(lambda: reloads(gate, "ok") == 1, "it has switched")
    limits_of(gate)

    eventually(lambda: gate.metric("portcullis_limit_total", limit="twenty") == 1, "the new one counts")
    assert gate.metric("portcullis_limit_total", limit="ten") == 5
    assert gate.metric("portcullis_decisions_total") == 6


def test_it_switches_a_worker_that_starts_meanwhile(valkey: StoreServer, start_gate: StartGate) -> None:
    gate = start_gate(TEN, store_url=valkey.url(), workers=2)
    children = Path(f"/proc/{gate.server.pid}/task/{gate.server.pid}/children")
    for pid in children.read_text().split():
        os.kill(int(pid), signal.SIGKILL)

    eventually(lambda: len(events(gate, "worker_restarted")) == 2, "both deaths are noticed")
    replace_in(gate.document, (TEN, TWENTY))
    gate.server.signal(signal.SIGHUP)
    eventually(lambda: reloads(gate, "ok") == 1, "it has switched")
    eventually(lambda: gate.metric("portcullis_workers") == 2, "both have successors")

    # A successor shows its gauges a moment before it has caught up.
    eventually(lambda: len(events(gate, "worker_started")) == 4, "both are at work")
    with ThreadPoolExecutor(8) as pool:
        names = set(map(tuple, pool.map(lambda _: limits_of(gate), range(16))))
    assert names == {("twenty",)}
