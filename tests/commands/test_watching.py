"""`fleet`, `top` and `audit`: what one looks at, once or as it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.commands.conftest import TOKEN, Run
from tests.commands.double import AT, Asked, Double, Refused
from tests.gates import ROOT


def replica(name: str, state: str, epoch: int, config: str = "aaaa") -> dict[str, Any]:
    return {
        "replica": f"{name}/0",
        "gate": name,
        "worker": 0,
        "name": f"pod-{name}",
        "version": "0.1.0",
        "started": AT,
        "epoch": f"{epoch}-{epoch:016x}",
        "behind": 57 - epoch,
        "lag_s": 0.4,
        "seen": AT,
        "state": state,
        "config": config,
    }


def test_it_shows_the_fleet(double: Double, run: Run) -> None:
    double.fleet = [
        replica("g1", "current", 57),
        replica("g2", "behind", 55),
        replica("g3", "lost", 57, "bbbb"),
    ]

    lines = run("fleet").stdout.splitlines()
    told = json.loads(run("fleet", "--json").stdout)

    assert lines[0] == "3 replicas at epoch 57-0000000000000039: 1 current, 1 behind, 1 lost"
    assert lines[1] == "they run 2 different configurations: see the column config"
    assert lines[4].startswith(
        "g2/0     pod-g2  behind   55 (2 behind)  0.4 s  aaaa    0.1.0    2026-11-22 05:"
    )
    assert [one["state"] for one in told["replicas"]] == ["current", "behind", "lost"]


def test_it_shows_an_empty_fleet(run: Run) -> None:
    assert run("fleet").stdout == "0 replicas at epoch 57-0000000000000039: none told of itself\n"


TOP = {
    "since_s": 287,
    "replicas": 8,
    "heaviest": {
        "addresses": [
            {"name": "203.0.113.9", "requests": 48_210, "at_most": 48_340},
            {"name": "203.0.113.10", "requests": 9, "at_most": 9},
        ],
        "keys": [],
        "routes": [{"name": "/a/*", "requests": 90, "at_most": 90}],
    },
    "refused": {
        "addresses": [{"name": "203.0.113.9", "refused": 47_700, "at_most": 47_830}],
        "keys": [],
        "routes": [],
    },
}


def test_it_shows_who_asks_most(double: Double, run: Run) -> None:
    double.top = TOP

    result = run("top", "--limit", "5")

    assert result.stdout == (
        "the last 287 seconds of 8 replicas\n\n"
        "heaviest addresses  requests  most refused addresses  refused\n"
        "203.0.113.9         48210     203.0.113.9             47700\n"
        "203.0.113.10        9\n\n"
        "heaviest routes  requests  most refused routes  refused\n"
        "/a/*             90\n"
    )
    assert double.asked[-1].query == {"limit": "5"}
    assert json.loads(run("top", "--json").stdout) == TOP


def test_it_says_that_nobody_asked(double: Double, run: Run) -> None:
    nobody: dict[str, list[object]] = {"addresses": [], "keys": [], "routes": []}
    double.top = {"since_s": 0, "replicas": 0, "heaviest": nobody, "refused": nobody}

    assert run("top").stdout == "no replica has told of any requests in the last minutes\n"


def test_it_shows_the_audit_trail(double: Double, run: Run) -> None:
    double.did("alice", "attack.on", "flood", table="attack", put=["global"])
    double.did("bob", "addresses.change", "", list="deny", added=2)

    lines = run("audit").stdout.splitlines()
    newest = json.loads(run("audit", "--limit", "1", "--json").stdout)

    assert lines[0].split() == ["when", "who", "what", "about", "outcome", "epoch", "why", "until"]
    assert "alice  attack.on         table=attack put=global  done     57     flood" in lines[1]
    assert [entry["actor"] for entry in newest["entries"]] == ["bob"]


def test_it_shows_an_empty_trail(run: Run) -> None:
    assert run("audit").stdout == "nobody has done anything yet\n"


@pytest.mark.parametrize(
    "arguments",
    [["top", "--limit", "0"], ["top", "--limit", "101"], ["audit", "--limit", "0"], ["fleet", "now"]],
)
def test_it_refuses_wrong_usage_before_it_asks(double: Double, run: Run, arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert double.asked == []


# --- as it goes on ----------------------------------------------------------------------


@contextmanager
def started(url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command line as a process; ended by Ctrl-C at the latest."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PORTCULLIS_")}
    env = {**own, "PYTHONPATH": str(ROOT), "PORTCULLIS_ADMIN_URL": url, "PORTCULLIS_ADMIN_TOKEN": TOKEN}
    with subprocess.Popen(
        [sys.executable, "-m", "sidecar", *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(10)


def lines_of(process: subprocess.Popen[str], count: int) -> Sequence[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def test_it_follows_the_audit_trail_in_order(double: Double, gate_url: str) -> None:
    double.did("alice", "attack.on", "flood")
    with started(gate_url, "audit", "--follow") as following:
        before = lines_of(following, 1)
        double.did("bob", "attack.off")
        double.did("carol", "key.delete", subject="k_1")
        after = lines_of(following, 2)
        following.send_signal(signal.SIGINT)
        status = following.wait(10)

    assert ["alice  attack.on" in before[0], "bob  attack.off" in after[0]] == [True, True]
    assert "carol  key.delete  subject=k_1  done  57" in after[1]
    assert status == 0, "Ctrl-C is how it ends"


def test_it_follows_in_json_and_leaves_nothing_out_while_the_gate_is_away(
    double: Double, gate_url: str
) -> None:
    away = [True, True]

    def broken(asked: Asked) -> None:
        if "after" in asked.query and away:
            away.pop()
            if not away:
                double.did("bob", "attack.off")
            raise Refused(503, "The store cannot be asked.")

    double.broken = broken
    double.did("alice", "attack.on")
    with started(gate_url, "audit", "--follow", "--json") as following:
        lines = lines_of(following, 2)
        following.send_signal(signal.SIGINT)
        assert following.stderr is not None
        said = following.stderr.read()

    assert [json.loads(line)["actor"] for line in lines] == ["alice", "bob"]
    assert said.count("The store cannot be asked.") == 1
    assert "it answers again; nothing is left out" in said


def test_it_gives_up_following_when_it_may_not(double: Double, gate_url: str) -> None:
    def broken(asked: Asked) -> None:
        if "after" in asked.query:
            raise Refused(403, "This needs a token with the role viewer.")

    double.broken = broken
    with started(gate_url, "audit", "--follow") as following:
        assert following.wait(20) == 1


def test_it_watches_who_asks_most(double: Double, gate_url: str) -> None:
    double.top = TOP
    with started(gate_url, "top", "--watch", "--json") as watching:
        first, second = lines_of(watching, 2)
        watching.send_signal(signal.SIGINT)
        status = watching.wait(10)

    assert json.loads(first) == json.loads(second) == TOP
    assert status == 0
