"""The command line as processes against a real gate: what it says is what the gate then does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gates import ROOT, TOKEN, Gate
from tests.stores import StoreServer

RULES = "store: {deadline_ms: 2000}\nlimits: [{name: per-ip, per: [ip], permits: 1, window: 1h}]"
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def gate(start_gate: Callable[..., Gate], valkey: StoreServer) -> Gate:
    return start_gate(RULES, store_url=valkey.url())


@pytest.fixture
def command(gate: Gate, elsewhere: Path) -> Command:
    """Runs `portcullis` in a process of its own, with a cli.yaml and a token's file."""
    (elsewhere / "token").write_text(TOKEN)
    (elsewhere / "token").chmod(0o600)
    (elsewhere / "cli.yaml").write_text(f"admin: http://127.0.0.1:{gate.admin_port}\ntoken_file: token\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PORTCULLIS_CLI_CONFIG": str(elsewhere / "cli.yaml")}

    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", *arguments],
            env=env,
            cwd=elsewhere,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done
        assert TOKEN not in done.stdout + done.stderr
        return done

    return run


def test_it_drops_and_lifts_the_gate(gate: Gate, command: Command) -> None:
    command("address", "add", "pass", "192.0.2.0/24", "--wait")
    on = command("attack", "on", "--reason", "flood", "--for", "1h", "--wait")
    refused, passed = gate.check("203.0.113.1"), gate.check("192.0.2.1")
    shown = command("attack", "status")
    off = command("attack", "off", "--wait")
    again = gate.check("203.0.113.1")

    assert "1 of 1 replicas have it" in on.stdout
    assert (refused["allowed"], passed["allowed"], again["allowed"]) == (False, True, True)
    assert shown.stdout.startswith("attack mode is on (epoch 2-")
    assert "why     flood" in shown.stdout
    assert off.stdout == "attack mode is off (epoch 3): 1 of 1 replicas have it\n"


def test_it_imports_exports_and_removes(gate: Gate, command: Command, elsewhere: Path) -> None:
    (elsewhere / "bots").write_text("".join(f"10.{n >> 8}.{n & 255}.0/24\n" for n in range(5_500)))

    imported = command("address", "import", "deny", "bots", "--reason", "bots", "--wait")
    refused = gate.check("10.1.2.3")
    command("address", "export", "deny", "exported")
    command("address", "remove", "deny", "10.1.2.0/24")
    allowed = gate.check("10.1.2.3")

    assert imported.stdout == "deny: 5500 added (epoch 2): 1 of 1 replicas have it\n"
    assert (refused["allowed"], allowed["allowed"]) == (False, True)
    lines = (elsewhere / "exported").read_text().splitlines()[1:]
    assert len(lines) == 5_500
    assert "10.1.2.0/24  # bots" in lines


def test_it_raises_and_resets_one_subject(gate: Gate, command: Command) -> None:
    spent = [gate.check("203.0.113.1")["allowed"] for _ in range(2)]
    command("override", "set", "--limit", "per-ip", "--address", "203.0.113.1", "--permits", "2")
    raised = gate.check("203.0.113.1")["allowed"]
    listed = command("override", "list").stdout
    command("override", "unset", "--limit", "per-ip", "--address", "203.0.113.1")
    command("reset", "--limit", "per-ip", "--address", "203.0.113.1", "--reason", "customer called")
    anew = gate.check("203.0.113.1")["allowed"]

    assert (spent, raised, anew) == ([True, False], True, True)
    assert "per-ip  address 203.0.113.1/32  2" in listed


def test_it_keeps_keys_and_tells_what_was_done(command: Command) -> None:
    made = json.loads(command("key", "create", "--label", "a", "--kind", "server", "--json").stdout)
    command("key", "rotate", made["id"], "--grace", "0s")
    command("key", "update", made["id"], "--plan", "gold", "--scope", "a", "--expires", "30d")
    command("key", "update", made["id"], "--clear", "plan", "--clear", "scopes", "--clear", "expires")
    command("key", "disable", made["id"])
    shown = json.loads(command("key", "show", made["id"], "--json").stdout)
    told = command("audit").stdout
    exported = command("key", "export").stdout
    fleet = command("fleet").stdout
    command("key", "delete", made["id"])
    gone = command("key", "show", made["id"], status=1)

    assert (shown["plan"], shown["scopes"], shown["expires"], shown["enabled"]) == ("", [], None, False)
    assert [word in told for word in ("key.create", "key.rotate", "key.update")] == [True] * 3
    assert made["secret"] not in told + exported
    assert json.loads(exported)["id"] == made["id"]
    assert fleet.startswith("1 replica at epoch 5-")
    assert "portcullis key list" in gone.stderr


def test_it_says_what_the_gate_refuses(command: Command) -> None:
    command("attack", "on", "--for", "9999d", status=1)
    unknown = command("override", "set", "--limit", "none", "--key", "k", "--permits", "1", status=1)
    stale = command("attack", "on", "--if-epoch", "7-00c0ffee00c0ffee", status=1)

    assert "has no such limit; it has per-ip" in unknown.stderr
    assert "the epoch of now, 0-0000000000000000" in stale.stderr
    assert command("attack", "status").stdout.startswith("attack mode is off (epoch 0-")
