"""`address add|remove|list|import|export`: lists at run time, and lists as files."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.commands.double import Asked, Double, Refused


def test_it_adds_and_removes(double: Double, run: Run) -> None:
    added = run(
        "address", "add", "deny", "203.0.113.9", "2001:DB8::/32", "--reason", "scraper", "--for", "7d"
    )
    again = run("address", "add", "deny", "203.0.113.9", "192.0.2.1/32")
    removed = run("address", "remove", "deny", "203.0.113.9/32")

    assert added.stdout == "deny: 2 added until 2026-11-22 06:00:00 UTC (in 60 min) (epoch 58)\n"
    assert again.stdout == "deny: 1 added, 1 there already: renewed (epoch 59)\n"
    assert removed.stdout == "deny: 1 removed (epoch 60)\n"
    assert list(double.lists["deny"]) == ["2001:db8::/32", "192.0.2.1/32"]
    assert double.asked[0].body == {
        "add": ["203.0.113.9/32", "2001:db8::/32"],
        "reason": "scraper",
        "for": "7d",
    }


def test_it_says_what_was_not_there_to_remove(run: Run) -> None:
    result = run("address", "remove", "deny", "198.51.100.0/24")

    assert result.exit_code == 0
    assert result.stdout.startswith("deny: 0 removed (epoch 58)\n1 of 1 not there")
    assert "removed in the document" in result.stdout


def test_it_tells_configuration_and_run_time_apart(run: Run) -> None:
    run("address", "add", "deny", "203.0.113.9", "--reason", "scraper")

    lines = run("address", "list", "deny").stdout.splitlines()

    assert lines[0] == "deny: 2 entries (epoch 58-000000000000003a)"
    assert lines[2].split() == ["198.51.100.0/24", "configuration"]
    assert lines[3].startswith("203.0.113.9/32   run time       scraper  alice  2026-11-22 05:00:00 UTC (")


def test_it_lists_page_by_page(double: Double, run: Run) -> None:
    double.lists["exempt"] = {
        f"10.0.{n}.0/24": {"reason": "", "actor": "a", "at": None, "until": None} for n in range(250)
    }
    double.page = 90

    some = run("address", "list", "exempt", "--limit", "100")
    everything = json.loads(run("address", "list", "exempt", "--all", "--json").stdout)

    assert "there are more: --all shows them" in some.stdout
    assert some.stdout.startswith("exempt: 100 entries")
    assert len(everything["entries"]) == 250
    assert everything["cursor"] is None


def test_it_shows_nothing_that_steers_a_terminal(double: Double, run: Run) -> None:
    double.lists["deny"]["192.0.2.1/32"] = {
        "reason": "\x1b[2J",
        "actor": "\x9bm",
        "at": None,
        "until": None,
    }

    result = run("address", "list", "deny")

    assert "\x1b" not in result.stdout
    assert "\x9b" not in result.stdout


# --- import ---------------------------------------------------------------------


def networks(count: int) -> str:
    return "".join(f"10.{n >> 8}.{n & 255}.0/24\n" for n in range(count))


def test_it_imports_a_file_in_changes_of_5000(double: Double, run: Run, tmp_path: Path) -> None:
    (tmp_path / "bots").write_text(f"# bots\n{networks(12_000)}10.0.0.0/24  # again\n")

    result = run("address", "import", "deny", "bots", "--reason", "bots", "--for", "1d", "--wait")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "deny: 12000 added, 1 line repeated until 2026-11-22 06:00:00 UTC (in 60 min) (epoch 60): "
        "8 of 8 replicas have it\n"
    )
    assert [len(asked.body["add"]) for asked in double.asked] == [5000, 5000, 2000]
    assert [asked.query for asked in double.asked] == [{}, {}, {"wait": "10"}], "waits for the last"
    assert {asked.body["reason"] for asked in double.asked} == {"bots"}


def test_it_imports_standard_input(double: Double, run: Run) -> None:
    result = run("address", "import", "allow", "-", "--json", input="192.0.2.1 # office\r\n\n2001:db8::/32\n")

    told = json.loads(result.stdout)
    assert (told["added"], told["list"], told["epoch"]) == (2, "allow", double.epoch)
    assert list(double.lists["allow"]) == ["192.0.2.1/32", "2001:db8::/32"]


def test_it_checks_the_whole_file_before_it_changes_anything(
    double: Double, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_text(f"{networks(6_000)}10.0.0.1/8\n\nnonsense # why\n")

    result = run("address", "import", "deny", "bad")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "bad:6001: '10.0.0.1/8' has bits beyond its prefix" in result.stderr
    assert "bad:6003: 'nonsense'" in result.stderr
    assert "nothing was changed" in result.stderr
    assert double.asked == []


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "holds no network"), (b"# only words\n", "holds no network"), (b"\xff\xfe1", "is not UTF-8")],
)
def test_it_refuses_a_file_that_is_none(
    double: Double, run: Run, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "list").write_bytes(content)

    result = run("address", "import", "deny", "list")

    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    assert "nothing was changed" in result.stderr
    assert double.asked == []


def test_it_stops_at_the_first_refusal_and_says_where(double: Double, run: Run, tmp_path: Path) -> None:
    (tmp_path / "bots").write_text(f"# head\n{networks(12_000)}")

    def full(asked: Asked) -> None:
        if len(double.lists["deny"]) >= 5_000:
            raise Refused(503, "The store is full.")

    double.broken = full
    result = run("address", "import", "deny", "bots")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "lines 5002 to 10001: refused (503): The store is full." in result.stderr
    assert f"lines 2 to 5001 are on the list (last epoch {double.epoch})" in result.stderr
    assert len(double.lists["deny"]) == 5_000
    assert len(double.asked) == 2


def test_it_lets_nobody_else_change_something_in_between(double: Double, run: Run, tmp_path: Path) -> None:
    (tmp_path / "bots").write_text(networks(12_000))

    def somebody_else(asked: Asked) -> None:
        double.number += len(double.asked) == 3

    double.broken = somebody_else
    result = run("address", "import", "deny", "bots", "--if-epoch", double.epoch)

    assert result.exit_code == 1
    assert "refused (412)" in result.stderr
    assert len(double.lists["deny"]) == 10_000


# --- export ---------------------------------------------------------------------


def test_it_exports_what_it_can_import(double: Double, run: Run, tmp_path: Path) -> None:
    run("address", "add", "deny", "203.0.113.9", "--reason", "a # scraper")
    run("address", "add", "deny", "192.0.2.0/24")

    exported = run("address", "export", "deny", "list.txt")
    shown = run("address", "export", "deny")
    imported = run("address", "import", "pass", "list.txt")

    headline = "deny: 2 run-time entries, epoch 59-000000000000003b"
    assert exported.stdout == f"{headline}: written to list.txt\n"
    assert (tmp_path / "list.txt").read_text() == shown.stdout
    assert shown.stdout == f"# {headline}\n203.0.113.9/32  # a # scraper\n192.0.2.0/24\n"
    assert imported.stdout.startswith("pass: 2 added")
    assert list(double.lists["pass"]) == list(double.lists["deny"])


def test_it_warns_that_a_file_keeps_no_expiry(run: Run) -> None:
    run("address", "add", "deny", "203.0.113.9", "--for", "1h")

    result = run("address", "export", "deny", "-")

    assert "1 of them expires" in result.stderr
    assert "203.0.113.9/32\n" in result.stdout


def test_it_exports_the_configuration_if_asked_to(run: Run) -> None:
    assert "198.51.100.0/24" not in run("address", "export", "deny").stdout
    assert "198.51.100.0/24" in run("address", "export", "deny", "--all").stdout


def test_it_lets_no_reason_become_an_entry(double: Double, run: Run) -> None:
    entry = {"reason": "x\n0.0.0.0/0\r\x1b[2J", "actor": "a", "at": None, "until": None}
    double.lists["deny"]["192.0.2.1/32"] = entry

    result = run("address", "export", "deny")

    assert result.stdout.splitlines()[1:] == ["192.0.2.1/32  # x 0.0.0.0/0 ?[2J"]


def test_it_leaves_the_old_file_when_it_fails(double: Double, run: Run, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("old\n")
    double.broken = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"

    result = run("address", "export", "deny", "list.txt")

    assert result.exit_code == 1
    assert (tmp_path / "list.txt").read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_it_says_that_a_file_cannot_be_written(run: Run, tmp_path: Path) -> None:
    result = run("address", "export", "deny", "none/list.txt")

    assert (result.exit_code, result.stdout) == (1, "")
    assert "none/list.txt: cannot be written" in result.stderr


def test_it_writes_through_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old\n")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")

    run("address", "export", "deny", "link")

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().startswith("# deny")
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


# --- usage ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["address", "add", "block", "192.0.2.1"], "deny"),
        (["address", "add", "deny"], "Missing argument"),
        (["address", "add", "deny", "192.0.2.1", "10.0.0.1/8", "here"], "'here'"),
        (["address", "add", "deny", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (["address", "remove", "deny", "192.0.2.1", "--for", "1h"], "No such option"),
        (["address", "list", "deny", "--limit", "0"], "greater than or equal to 1"),
        (["address", "import", "deny", "none.txt"], "does not exist"),
        (["address", "import", "deny", "."], "is a directory"),
        (["address", "export", "deny", "."], "is a directory"),
        (["address", "add", "deny", *(f"10.{n >> 8}.{n & 255}.0" for n in range(5_001))], "address import"),
    ],
)
def test_it_refuses_wrong_usage_before_it_asks(
    double: Double, run: Run, arguments: list[str], says: str
) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert says in " ".join(result.stderr.split())
    assert double.asked == []
