"""`override …` and `reset`: other permits for one subject, and a new beginning for one."""

from __future__ import annotations

import json

import pytest

from tests.commands.conftest import Run
from tests.commands.double import Double


def test_it_sets_lists_and_unsets(double: Double, run: Run) -> None:
    made = run(
        *("override", "set", "--limit", "per-key", "--key", "k_1", "--permits", "5000", "--reason", "sale"),
        *("--for", "1d"),
    )
    listed = run("override", "list")
    gone = run("override", "unset", "--limit", "per-key", "--key", "k_1")

    assert made.stdout == (
        "per-key: 5000 permits for key k_1 until 2026-11-22 06:00:00 UTC (in 60 min) (epoch 58)\n"
    )
    assert double.asked[0].body == {
        "limit": "per-key",
        "key": "k_1",
        "permits": 5000,
        "reason": "sale",
        "for": "1d",
    }
    assert listed.stdout.splitlines()[0] == "1 override (epoch 58-000000000000003a)"
    assert listed.stdout.splitlines()[2].startswith("per-key  key k_1  5000     sale  alice  2026-11-22")
    assert gone.stdout == "per-key: the configured permits again for key k_1 (epoch 59)\n"
    assert double.overrides == {}


def test_it_writes_networks_in_one_way(double: Double, run: Run) -> None:
    run("override", "set", "--limit", "per-ip", "--address", "192.0.2.1", "--permits", "0")

    assert double.asked[0].body["address"] == "192.0.2.1/32"


def test_it_lists_page_by_page(double: Double, run: Run) -> None:
    for key in ("a", "b", "c"):
        run("override", "set", "--limit", "l", "--key", key, "--permits", "1")
    double.page = 1

    told = json.loads(run("override", "list", "--json").stdout)
    some = run("override", "list", "--limit", "2")

    assert [entry["key"] for entry in told["overrides"]] == ["a", "b", "c"]
    assert some.stdout.endswith("there are more: --all shows them\n")


def test_it_says_that_there_is_no_override(double: Double, run: Run) -> None:
    result = run("override", "unset", "--limit", "per-key", "--tenant", "acme")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "There is no such override." in result.stderr
    assert "portcullis override list" in result.stderr
    assert double.number == 57


def test_it_resets(double: Double, run: Run) -> None:
    key = run("reset", "--limit", "per-key", "--key", "k_1", "--reason", "customer called", "--wait")
    address = run("reset", "--limit", "per-ip", "--address", "2001:DB8::1", "--json")

    assert key.stdout == (
        "per-key: key k_1 begins anew, 3 counters deleted (epoch 58): 8 of 8 replicas have it\n"
    )
    assert json.loads(address.stdout)["counters"] == 3
    assert double.asked[-1].body == {"limit": "per-ip", "address": "2001:db8::1", "reason": ""}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["override", "set", "--limit", "l", "--permits", "1"], "name whom it is about"),
        (["override", "set", "--limit", "l", "--permits", "1", "--key", "a", "--tenant", "b"], "one subject"),
        (["override", "set", "--key", "a", "--permits", "1"], "--limit"),
        (["override", "set", "--limit", "l", "--key", "a"], "--permits"),
        (["override", "set", "--limit", "l", "--key", "a", "--permits", "-1"], "greater than or equal to 0"),
        (["override", "set", "--limit", "l", "--key", "a", "--permits", "many"], "a valid integer"),
        (["override", "set", "--limit", "", "--key", "a", "--permits", "1"], "nothing was named"),
        (["override", "set", "--limit", "l", "--address", "here", "--permits", "1"], "'here'"),
        (["override", "unset", "--limit", "l"], "name whom it is about"),
        (["reset", "--limit", "l"], "name whom it is about"),
        (["reset", "--limit", "l", "--address", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (["reset", "--key", "a"], "--limit"),
    ],
)
def test_it_refuses_wrong_usage_before_it_asks(
    double: Double, run: Run, arguments: list[str], says: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert double.asked == []
