"""`key …`: the registry's commands, and secrets, which come out once and only where they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.commands.double import Asked, Double, Refused

SECRET = f"pcs_{1:048d}"


def make(run: Run, *more: str) -> None:
    assert run("key", "create", "--label", "billing", "--kind", "server", *more).exit_code == 0


def test_it_makes_a_key_and_shows_its_secret_once(double: Double, run: Run) -> None:
    result = run(
        *(
            "key",
            "create",
            "--label",
            "Billing, Inc.",
            "--kind",
            "server",
            "--tenant",
            "acme",
            "--plan",
            "gold",
        ),
        *("--scope", "orders.read", "--scope", "orders.write", "--cidr", "192.0.2.1", "--expires", "90d"),
        *("--id", "k_billing", "--wait"),
    )

    assert result.stdout == (
        "key k_billing is made (epoch 58): 8 of 8 replicas have it\n"
        f"  id      k_billing\n  secret  {SECRET}\n"
        "The secret is shown this once and kept nowhere: store it now. If it is lost, "
        "`portcullis key rotate k_billing` makes another.\n"
    )
    assert double.asked[-1].body == {
        "label": "Billing, Inc.",
        "kind": "server",
        "tenant": "acme",
        "plan": "gold",
        "scopes": ["orders.read", "orders.write"],
        "cidrs": ["192.0.2.1/32"],
        "origins": [],
        "expires": "90d",
        "id": "k_billing",
    }


def test_it_tells_scripts_id_and_secret(run: Run) -> None:
    told = json.loads(
        run(
            "key", "create", "--label", "app", "--kind", "client", "--origin", "https://a.example", "--json"
        ).stdout
    )

    assert (told["id"], told["secret"]) == ("k_0", SECRET)


def test_it_shows_the_secret_even_if_replicas_lack_the_key(double: Double, run: Run) -> None:
    double.lagging = [{"replica": "g/0", "state": "lost", "epoch": double.epoch, "silent_s": 9.0}]

    result = run("key", "create", "--label", "a", "--kind", "server", "--wait")

    assert result.exit_code == 1
    assert SECRET in result.stdout
    assert SECRET not in result.stderr


def test_it_rotates(double: Double, run: Run) -> None:
    make(run)

    result = run("key", "rotate", "k_0", "--grace", "2h")
    run("key", "rotate", "k_0", "--grace", "0s")

    assert f"secret  pcs_{2:048d}" in result.stdout
    assert "the old secret is good until 2026-11-22 06:00:00 UTC" in result.stdout
    assert [asked.body for asked in double.asked[1:]] == [{"grace": "2h"}, {"grace": "0s"}]


def test_it_lists_and_shows_without_secrets(run: Run) -> None:
    make(run, "--tenant", "acme", "--scope", "a", "--scope", "b")
    make(run, "--tenant", "other")

    listed = run("key", "list", "--tenant", "acme")
    shown = run("key", "show", "k_0")
    as_json = run("key", "list", "--json")

    assert listed.stdout.splitlines()[0] == "1 key (epoch 59-000000000000003b)"
    assert listed.stdout.splitlines()[2].split()[:5] == ["k_0", "billing", "server", "acme", "yes"]
    assert "networks  from anywhere\n" in shown.stdout
    assert "secret    made 2026-11-22 05:00:00 UTC" in shown.stdout
    assert [key["id"] for key in json.loads(as_json.stdout)["keys"]] == ["k_0", "k_1"]
    assert "pcs_" not in listed.stdout + shown.stdout + as_json.stdout


def test_it_updates_what_is_named(double: Double, run: Run) -> None:
    make(run, "--plan", "gold", "--expires", "1d")

    result = run(
        *(
            "key",
            "update",
            "k_0",
            "--label",
            "new",
            "--cidr",
            "10.0.0.0/8",
            "--clear",
            "plan",
            "--clear",
            "expires",
        )
    )

    assert result.stdout == "key k_0 is changed: label, cidrs, plan, expires (epoch 59)\n"
    assert double.asked[-1].body == {"label": "new", "cidrs": ["10.0.0.0/8"], "plan": "", "expires": None}


def test_it_disables_enables_and_deletes(double: Double, run: Run) -> None:
    make(run)

    disabled = run("key", "disable", "k_0")
    was_enabled = double.keys["k_0"]["enabled"]
    enabled = run("key", "enable", "k_0")
    deleted = run("key", "delete", "k_0")

    assert (disabled.stdout, was_enabled) == ("key k_0 is disabled (epoch 59)\n", False)
    assert enabled.stdout == "key k_0 is enabled (epoch 60)\n"
    assert deleted.stdout == "key k_0 is deleted (epoch 61)\n"
    assert double.keys == {}


def test_it_exports_a_key_a_line(run: Run, tmp_path: Path) -> None:
    make(run)
    make(run)

    shown = run("key", "export")
    document = json.loads(run("key", "export", "--json").stdout)
    written = run("key", "export", "keys.jsonl")

    assert [json.loads(line)["id"] for line in shown.stdout.splitlines()] == ["k_0", "k_1"]
    assert [key["id"] for key in document["keys"]] == ["k_0", "k_1"]
    assert written.stdout == "2 keys written to keys.jsonl\n"
    assert (tmp_path / "keys.jsonl").read_text() == shown.stdout
    assert "pcs_" not in shown.stdout


@pytest.mark.parametrize(
    "arguments",
    [["show"], ["update", "--label", "x"], ["disable"], ["enable"], ["rotate"], ["delete"]],
    ids=lambda arguments: arguments[0],
)
def test_it_says_which_keys_there_are_when_there_is_none(
    double: Double, run: Run, arguments: list[str]
) -> None:
    result = run("key", arguments[0], "k_none", *arguments[1:])

    assert (result.exit_code, result.stdout) == (1, "")
    assert "refused (404): There is no key k_none." in result.stderr
    assert "portcullis key list" in result.stderr
    assert double.number == 57, "nothing was changed"


def test_it_refuses_a_second_key_of_one_id(double: Double, run: Run) -> None:
    make(run, "--id", "mine")

    result = run("key", "create", "--label", "b", "--kind", "server", "--id", "mine")

    assert result.exit_code == 1
    assert "refused (409)" in result.stderr
    assert "another --id" in result.stderr
    assert len(double.keys) == 1


def test_it_says_what_to_do_about_a_secret_that_got_lost(double: Double, run: Run) -> None:
    def silent(_: Asked) -> None:
        raise Refused(504, "The store did not answer in time: look whether the change was made.")

    double.broken = silent
    result = run("key", "create", "--label", "b", "--kind", "server")

    assert result.exit_code == 1
    assert "look before you repeat it" in result.stderr.lower()
    assert "nobody has its secret" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["key", "create", "--kind", "server"], "--label"),
        (["key", "create", "--label", "a"], "--kind"),
        (["key", "create", "--label", "a", "--kind", "robot"], "server"),
        (["key", "create", "--label", "\x1b", "--kind", "server"], "printable"),
        (["key", "create", "--label", "a", "--kind", "server", "--cidr", "here"], "'here'"),
        (
            ["key", "create", "--label", "a", "--kind", "server", "--expires", "soon"],
            "a duration such as 30d",
        ),
        (["key", "create", "--label", "a", "--kind", "server", "--expires", "2027-01-31"], "time zone"),
        (["key", "create", "--label", "a", "--kind", "server", "--id", "a/b"], "no id of a key"),
        (["key", "show", "../attack"], "no id of a key"),
        (["key", "show"], "Missing argument"),
        (["key", "update", "k_0"], "name what to change"),
        (["key", "update", "k_0", "--plan", "a", "--clear", "plan"], "which of both"),
        (["key", "update", "k_0", "--clear", "id"], "tenant"),
        (["key", "rotate", "k_0", "--grace", "soon"], "a whole number"),
    ],
)
def test_it_refuses_wrong_usage_before_it_asks(
    double: Double, run: Run, arguments: list[str], says: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert double.asked == []
