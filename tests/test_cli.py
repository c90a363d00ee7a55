"""The command line: what goes to which stream, and the exit status: 0 done, 1 refused or failed, 2 usage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sidecar.cli import LATER, app
from tests.gates import ROOT, TOKEN, Gate
from tests.servers import free_port
from tests.stores import StoreServer


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("PORTCULLIS_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(app, arguments, env=env)


# --- config -----------------------------------------------------------------------


GOOD = "limits: [{name: a, per: [ip], permits: 1, window: 1m}]\nfilters: []"
BAD = "limits: [{name: a, per: [ip], permits: no, window: 1m}]\nworker: 2"


def test_it_says_that_a_document_is_good(elsewhere: Path) -> None:
    (elsewhere / "good.yaml").write_text(GOOD)

    result = run("config", "check", "good.yaml")

    assert result.exit_code == 0
    assert result.stdout.startswith("good.yaml: good (1 limit, 0 filters, digest ")
    assert result.stderr == ""


def test_it_tells_every_problem_of_a_bad_one(elsewhere: Path) -> None:
    (elsewhere / "bad.yaml").write_text(BAD)

    result = run("config", "check", "bad.yaml")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert "bad.yaml: 2 problems" in result.stderr
    assert "limits[0].permits" in result.stderr
    assert "worker" in result.stderr


def test_it_tells_scripts_in_json(elsewhere: Path) -> None:
    (elsewhere / "good.yaml").write_text(GOOD)
    (elsewhere / "bad.yaml").write_text(BAD)

    good, bad = run("config", "check", "good.yaml", "--json"), run("config", "check", "bad.yaml", "--json")

    told = json.loads(good.stdout)
    assert (good.exit_code, told["good"], told["limits"], told["problems"]) == (0, True, 1, [])
    told = json.loads(bad.stdout)
    assert (bad.exit_code, told["good"]) == (1, False)
    assert {problem["path"] for problem in told["problems"]} == {"limits[0].permits", "worker"}
    assert all(problem["line"] and problem["message"] for problem in told["problems"])


def test_it_says_that_a_document_is_missing() -> None:
    result = run("config", "check", "none.yaml")

    assert result.exit_code == 1
    assert "none.yaml" in result.stderr
    assert "does not exist" in result.stderr


def test_it_prints_the_reference() -> None:
    result = run("config", "reference")

    assert result.exit_code == 0
    assert "| `listen.check` |" in result.stdout


# --- usage ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["exlpain"],
        ["config", "check"],
        ["explain"],
        ["explain", "--address", "192.0.2.1", "--front", "apache"],
        ["explain", "--address", "192.0.2.1", "--header", "no colon"],
        ["explain", "--address", "192.0.2.1", "--header", ": no name"],
        ["explain", "--address", "192.0.2.1", "--header", "A: 1", "--header", "A: 2"],
        ["explain", "--address", "192.0.2.1", "--admin", "gate"],
        ["serve", "--port", "1"],
    ],
)
def test_it_exits_with_2_for_wrong_usage(arguments: list[str]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert "Traceback" not in result.stderr


def test_it_names_the_commands_without_arguments() -> None:
    result = run()

    for command in ("serve", "config", *LATER):
        assert f"  {command} " in result.output
    assert "--install-completion" in result.output


@pytest.mark.parametrize("command", LATER)
def test_it_describes_every_command(command: str) -> None:
    result = run(command, "--help")

    assert (result.exit_code, result.stderr) == (0, "")
    assert f"Usage: portcullis {command} " in result.stdout


def test_it_names_no_header_that_may_hold_a_secret_in_an_error() -> None:
    result = run("explain", "--address", "192.0.2.1", "--header", "s3cret")

    assert result.exit_code == 2
    assert "s3cret" not in result.output


# --- explain ---------------------------------------------------------------------------


RULES = """
limits:
  - {name: per-ip, per: [ip], permits: 1, window: 1h}
  - {name: would, per: [global], permits: 0, window: 1h, mode: shadow}
filters:
  - {name: office, match: {paths: ["/admin/*"]}, require: allow}
"""


def test_it_explains_a_request_in_words(start_gate: Callable[..., Gate], valkey: StoreServer) -> None:
    gate = start_gate(RULES, store_url=valkey.url())
    gate.forward("192.0.2.1")
    env = {"PORTCULLIS_ADMIN_URL": f"http://127.0.0.1:{gate.admin_port}", "PORTCULLIS_ADMIN_TOKEN": TOKEN}

    allowed = run("explain", "--address", "192.0.2.2", "--front", "nginx", **env)
    spent = run("explain", "--address", "192.0.2.1", "--front", "nginx", **env)
    refused = run("explain", "--address", "192.0.2.2", "--path", "/admin/x", "--method", "POST", **env)

    assert [result.exit_code for result in (allowed, spent, refused)] == [0, 0, 0], "it was explained"
    assert allowed.stdout.startswith("allowed: ok, 200 (decided by store)\n")
    assert "in shadow, would refuse: would" in allowed.stdout
    assert spent.stdout.startswith("refused: rate_limited, 429, again after ")
    assert "nginx gets 403:\n" in spent.stdout
    assert "  X-Portcullis-Status: 429\n" in spent.stdout
    assert "spent: per-ip" in spent.stdout
    assert refused.stdout.startswith("refused: address_not_allowed, 403")
    assert "office" in refused.stdout


def test_it_explains_to_scripts_in_json_what_the_options_say(
    start_gate: Callable[..., Gate], valkey: StoreServer
) -> None:
    gate = start_gate(
        "limits: [{name: per-key, per: [key], permits: 9, window: 1m, cost: {header: X-Cost, max: 5}, "
        'match: {hosts: [shop.example], methods: [PUT], paths: ["/a/*"]}}]',
        store_url=valkey.url(),
    )

    result = run(
        *(
            "explain",
            "--address",
            "192.0.2.2",
            "--method",
            "PUT",
            "--path",
            "/a/b?c",
            "--host",
            "shop.example",
        ),
        *("--header", "X-Api-Key: k:1", "--header", "X-Cost:3", "--front", "envoy", "--json"),
        *("--admin", f"http://127.0.0.1:{gate.admin_port}"),
        PORTCULLIS_ADMIN_TOKEN=TOKEN,
    )

    explained = json.loads(result.stdout)
    assert (explained["allowed"], explained["answer"]["front"]) == (True, "envoy")
    assert [(limit["name"], limit["cost"], limit["remaining"]) for limit in explained["limits"]] == [
        ("per-key", 3, 9)
    ]


def test_it_finds_gate_and_token_by_the_document(
    start_gate: Callable[..., Gate], valkey: StoreServer
) -> None:
    gate = start_gate(RULES, store_url=valkey.url(), env={"PORTCULLIS_ADMIN_TOKEN": ""})

    result = run("explain", "--address", "192.0.2.2", "--config", str(gate.document))

    assert (result.exit_code, result.stderr) == (0, "")


def test_it_says_what_is_wrong_and_what_to_do(start_gate: Callable[..., Gate], valkey: StoreServer) -> None:
    gate = start_gate(RULES, store_url=valkey.url())
    here = f"http://127.0.0.1:{gate.admin_port}"
    nowhere = f"http://127.0.0.1:{free_port()}"

    unreachable = run("explain", "--address", "192.0.2.2", "--admin", nowhere)
    unauthorized = run("explain", "--address", "192.0.2.2", "--admin", here)
    wrong = run("explain", "--address", "192.0.2.2", "--admin", here, PORTCULLIS_ADMIN_TOKEN="wrong")
    no_address = run("explain", "--address", "here", "--admin", here, PORTCULLIS_ADMIN_TOKEN=TOKEN)

    results = (unreachable, unauthorized, wrong, no_address)
    assert [(result.exit_code, result.stdout) for result in results] == [(1, "")] * 4
    assert all(result.stderr.startswith("portcullis: ") for result in results)
    assert "is it running?" in unreachable.stderr
    assert "no token was found" in unauthorized.stderr
    assert "the token is not that gate's" in wrong.stderr
    assert "not an IP address" in no_address.stderr


# --- as a process ------------------------------------------------------------------------


def test_it_is_the_same_as_a_module(elsewhere: Path) -> None:
    (elsewhere / "bad.yaml").write_text(BAD)

    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "config", "check", "bad.yaml"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert "2 problems" in done.stderr


def loaded_by(*arguments: str) -> set[str]:
    """The modules that a process has loaded when a command has run."""
    shown = "import sys; from sidecar.cli import app; app(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", shown, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_it_loads_what_a_command_needs_and_no_more(elsewhere: Path) -> None:
    (elsewhere / "good.yaml").write_text(GOOD)

    checked = loaded_by("config", "check", "good.yaml")
    described = loaded_by("attack", "--help")

    assert "sidecar.config" in checked
    assert not checked & {
        "sidecar.commands",
        "sidecar.client",
        "sidecar.serve",
        "http.client",
        "rich",
        "aiohttp",
    }
    assert "sidecar.commands.attack" in described
    assert not described & {"sidecar.commands.key", "sidecar.serve", "rich", "aiohttp", "redis", "uvloop"}


# --- completion ------------------------------------------------------------------------


def completed(words: str, count: int) -> list[str]:
    """What the shell is offered after these words, of which the last may be begun."""
    env = {"_PORTCULLIS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    done = subprocess.run(
        [sys.executable, "-c", "from sidecar.cli import app; app(prog_name='portcullis')"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_it_completes_commands_and_list_names() -> None:
    assert completed("portcullis a", 1) == ["attack", "address", "audit"]
    assert completed("portcullis attack ", 2) == ["on", "off", "status"]
    assert completed("portcullis address add ", 3) == ["deny", "allow", "exempt", "pass"]
    assert completed("portcullis key create --kind ", 4) == ["server", "client"]
    assert completed("portcullis attack on --if", 3) == ["--if-epoch"]
