"""`attack on|off|status`: what it asks for, and what it tells an operator at night."""

from __future__ import annotations

import json

import pytest

from sidecar.core.keys import secret_of
from tests.commands.conftest import Run
from tests.commands.double import Double

BEHIND = {"replica": "gate-3/0", "state": "behind", "epoch": "57-0000000000000039", "silent_s": 0.4}
LOST = {"replica": "gate-7/1", "state": "lost", "epoch": "12-000000000000000c", "silent_s": 12.3}


def test_it_turns_it_on_everywhere(double: Double, run: Run) -> None:
    result = run("attack", "on", "--reason", "flood on /login", "--for", "1h", "--wait")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "attack mode is on until 2026-11-22 06:00:00 UTC (in 60 min) (epoch 58): 8 of 8 replicas have it\n"
    )
    assert double.asked[-1].body == {"on": True, "reason": "flood on /login", "for": "1h"}
    assert double.asked[-1].query == {"wait": "10"}


def test_it_says_it_short(run: Run) -> None:
    result = run("attack", "off")

    assert result.stdout == "attack mode is off (epoch 58)\n"


def test_it_names_the_replicas_that_lack_it(double: Double, run: Run) -> None:
    double.lagging = [BEHIND, LOST]

    result = run("attack", "on", "--wait-s", "2.5")
    told = json.loads(run("attack", "on", "--wait", "--json").stdout)

    assert result.exit_code == 1, "not all have it"
    assert result.stdout == "attack mode is on (epoch 58): 6 of 8 replicas have it\n"
    assert "within 2.5 s" in result.stderr
    assert "gate-3/0: behind, at epoch 57" in result.stderr
    assert "gate-7/1: lost, silent for 12 s" in result.stderr
    assert "portcullis fleet" in result.stderr
    assert told["confirmed"]["missing"] == [BEHIND, LOST]


def test_it_exits_with_1_in_json_too_when_replicas_lack_it(double: Double, run: Run) -> None:
    double.lagging = [LOST]

    result = run("attack", "on", "--wait", "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["epoch"] == double.epoch


def test_it_is_about_one_tenant_or_key(double: Double, run: Run) -> None:
    tenant = run("attack", "on", "--tenant", "acme")
    key = run("attack", "on", "--key", "k_1")
    off = run("attack", "off", "--tenant", "acme")

    assert tenant.stdout == "attack mode is on for tenant acme (epoch 58)\n"
    assert key.stdout == "attack mode is on for key k_1 (epoch 59)\n"
    assert off.stdout == "attack mode is off for tenant acme (epoch 60)\n"
    assert [asked.body.get("tenant") for asked in double.asked] == ["acme", None, "acme"]


def test_it_changes_only_what_it_saw(double: Double, run: Run) -> None:
    epoch = double.epoch
    first = run("attack", "on", "--if-epoch", epoch)
    second = run("attack", "off", "--if-epoch", epoch)

    assert first.exit_code == 0
    assert (second.exit_code, second.stdout) == (1, "")
    assert "refused (412): Another epoch is current: 58-" in second.stderr
    assert "or without --if-epoch" in second.stderr
    assert double.attack["global"]["on"] is True, "nothing was changed"


# --- status -----------------------------------------------------------------------


def test_status_tells_who_why_since_until_and_who_passes(run: Run) -> None:
    run("attack", "on", "--reason", "flood", "--for", "1h")
    run("attack", "on", "--tenant", "acme", "--reason", "runaway script")
    run("address", "add", "pass", "10.0.0.0/8")

    lines = run("attack", "status").stdout.splitlines()

    assert lines[0] == "attack mode is on (epoch 60-000000000000003c)"
    assert lines[1:3] == ["  by      alice", "  why     flood"]
    assert lines[3].startswith("  since   2026-11-22 05:00:00 UTC (")
    assert lines[4].startswith("  until   2026-11-22 06:00:00 UTC (")
    assert lines[5] == "  passes  192.0.2.0/24, 1 network of `address list pass`"
    assert lines[7].split()[:2] == ["subject", "attack"]
    assert "tenant acme  on" in lines[8]
    assert "runaway script" in lines[8]


def test_status_says_when_nobody_has_said_anything(run: Run) -> None:
    lines = run("attack", "status").stdout.splitlines()

    assert "attack mode is off" in lines[0]
    assert "as the configuration says" in lines[0]
    assert lines[1:] == ["  passes  192.0.2.0/24"]


def test_status_tells_of_one_subject(run: Run) -> None:
    run("attack", "on", "--key", "k_1", "--reason", "leaked")
    run("attack", "on", "--tenant", "acme")

    one = run("attack", "status", "--key", "k_1")
    other = run("attack", "status", "--key", "k_2")
    told = json.loads(run("attack", "status", "--key", "k_1", "--json").stdout)

    assert one.stdout.startswith("attack mode is on for key k_1, and off for all")
    assert "leaked" in one.stdout
    assert other.stdout.startswith("attack mode is off for key k_2, and off for all")
    assert [entry["key"] for entry in told["subjects"]] == ["k_1"]


def test_status_says_when_there_are_more_than_it_shows(double: Double, run: Run) -> None:
    for number in range(3):
        run("attack", "on", "--key", f"k_{number}")
    double.page = 2

    assert "there are more: --key or --tenant shows one" in run("attack", "status").stdout
    assert "there are more" not in run("attack", "status", "--key", "k_2").stdout
    assert double.asked[-1].query == {"key": "k_2"}


# --- usage --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["attack"], "Usage:"),
        (["attack", "up"], "No such command"),
        (["attack", "on", "--for", "1 hour"], "a whole number with s, m, h or d"),
        (["attack", "on", "--for", "0s"], "a whole number"),
        (["attack", "on", "--tenant", "a", "--key", "b"], "one subject at a time"),
        (["attack", "on", "--tenant", ""], "nothing was named"),
        (["attack", "on", "--key", "a.b"], "no id of a key"),
        (["attack", "on", "--reason", "two\nlines"], "one line"),
        (["attack", "on", "--reason", "x" * 201], "at most 200"),
        (["attack", "on", "--if-epoch", "57"], "no epoch"),
        (["attack", "on", "--wait-s", "61"], "less than or equal to 60"),
        (["attack", "off", "--tenant", "acme", "--for", "1h"], "has no end"),
        (["attack", "on", "now"], "unexpected extra argument"),
    ],
)
def test_it_refuses_wrong_usage_before_it_asks(
    double: Double, run: Run, arguments: list[str], says: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
    assert double.asked == []


def test_it_does_not_repeat_a_secret_that_was_given_as_an_id(double: Double, run: Run) -> None:
    result = run("attack", "on", "--key", f"pcs_{'s3cret' * 8}")

    assert result.exit_code == 2
    assert "s3cret" not in result.output
    assert "rotate its key" in " ".join(result.output.split())
    assert double.asked == []


@pytest.mark.parametrize(
    "command",
    [
        ["attack", "on"],
        ["address", "add", "deny", "192.0.2.1"],
        ["override", "set", "--limit", "l", "--key", "k_1", "--permits", "1"],
        ["reset", "--limit", "l", "--key", "k_1"],
    ],
    ids=" ".join,
)
def test_it_takes_no_secret_for_a_reason(double: Double, run: Run, command: list[str]) -> None:
    secret = secret_of(bytes(range(32)))

    result = run(*command, "--reason", f"revoked {secret}")

    assert result.exit_code == 2
    assert secret not in result.output
    assert "rotate that key" in " ".join(result.output.split())
    assert double.asked == []
