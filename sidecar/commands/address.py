"""`address add|remove|list|import|export`: the run-time address lists.

What the configuration lists is shown beside, and changed in the document only.
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sidecar.client import AdminFailed
from sidecar.commands import arguments
from sidecar.commands.gate import Gate, fail, listed
from sidecar.commands.list_files import BATCH, Batch, ListFile, read_list, write_whole, written
from sidecar.commands.options import AllOption, ForOption, MostOption, ReasonOption, asks, changes, group
from sidecar.commands.telling import counted, moments, say_json, tell, tell_change
from sidecar.tables import say, show, warn

app = group(
    "address", "Address lists at run time: deny, allow, exempt (from limits), pass (through attack mode)."
)


class ListName(Enum):
    """The address lists."""

    DENY = "deny"
    ALLOW = "allow"
    EXEMPT = "exempt"
    PASS = "pass"


ListArgument = Annotated[
    ListName,
    typer.Argument(
        metavar="LIST",
        help="deny: refused; allow: what filters with `require: allow` let in; exempt: not limited; "
        "pass: let through in attack mode.",
    ),
]
CidrsArgument = Annotated[
    list[str], typer.Argument(metavar="CIDR...", help="Networks or addresses: 192.0.2.0/24, 2001:db8::1.")
]


@app.command("add")
@changes
def add(
    gate: Gate,
    *,
    name: ListArgument,
    cidrs: CidrsArgument,
    reason: ReasonOption = "",
    duration: ForOption = None,
) -> None:
    """Put networks on a list. What is there already gets the new reason and expiry."""
    given = arguments.cidrs(cidrs, "CIDR...")
    document = {"add": given, "reason": arguments.reason(reason), **arguments.duration(duration, "--for")}
    answer = gate.change("POST", _resource(name), document)
    known = len(given) - answer["added"]
    again = f", {known} there already: renewed" if known else ""
    tell_change(gate, answer, f"{name.value}: {answer['added']} added{again}")


@app.command("remove")
@changes
def remove(gate: Gate, *, name: ListArgument, cidrs: CidrsArgument, reason: ReasonOption = "") -> None:
    """Take networks off a list: exactly these, not what lies inside them."""
    given = arguments.cidrs(cidrs, "CIDR...")
    answer = gate.change("POST", _resource(name), {"remove": given, "reason": arguments.reason(reason)})
    missing = len(given) - answer["removed"]
    more = []
    if missing:
        more = [
            (
                f"{missing} of {len(given)} not there: see `portcullis address list {name.value}`; "
                "what the configuration lists is removed in the document"
            )
        ]
    tell_change(gate, answer, f"{name.value}: {answer['removed']} removed", *more)


@app.command("list")
@asks
def list_(gate: Gate, *, name: ListArgument, limit: MostOption = 100, everything: AllOption = False) -> None:
    """Show a list: those of the configuration first, then those of run time."""
    pages = gate.pages(_resource(name), "entries", most=None if everything else limit)
    answer = listed(pages, "entries", ("cidr", "source"))
    tell(gate, answer, _show)


@app.command("import")
@changes
def import_(
    gate: Gate,
    *,
    name: ListArgument,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="One network a line, # begins a comment; - reads standard input.",
        ),
    ],
    reason: ReasonOption = "",
    duration: ForOption = None,
) -> None:
    """Put all networks of a file on a list.

    The file is checked as a whole before anything is changed. A long one becomes several changes of 5000
    entries each; the first that is refused ends it, and what was done is told. Adding twice does no harm.
    """
    if str(file) != "-" and (file.is_dir() or not file.exists()):
        what = "is a directory" if file.is_dir() else "does not exist"
        raise typer.BadParameter(f"{str(file)!r} {what}", param_hint="FILE")
    document: dict[str, object] = {
        "reason": arguments.reason(reason),
        **arguments.duration(duration, "--for"),
    }
    shown = "standard input" if str(file) == "-" else str(file)
    try:
        read = read_list(_text(file), shown)
    except OSError as exc:
        fail(f"{shown}: cannot be read: {exc.strerror or exc}")
    except UnicodeDecodeError:
        fail(f"{shown}: is not UTF-8; nothing was changed")
    except ValueError as exc:
        fail(f"{exc}\nnothing was changed")
    if not read.lines:
        fail(f"{shown}: holds no network; nothing was changed")
    answer = _imported(gate, name, read, document)
    repeated = f", {counted(read.repeated, 'line')} repeated" if read.repeated else ""
    known = len(read.lines) - answer["added"]
    again = f", {known} there already: renewed" if known else ""
    tell_change(gate, answer, f"{name.value}: {answer['added']} added{again}{repeated}")


@app.command("export")
@asks
def export(
    gate: Gate,
    *,
    name: ListArgument,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Where to; else, or with -, to standard output.", dir_okay=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The configuration's entries, too.")] = False,
) -> None:
    """Write a list's run-time entries as a file that `import` takes, with their reasons as comments."""
    answer = listed(gate.pages(_resource(name), "entries"), "entries", ("cidr", "source"))
    if not everything:
        answer["entries"] = [entry for entry in answer["entries"] if entry["source"] == "run_time"]
    entries = answer["entries"]
    to_file = file is not None and str(file) != "-"
    if gate.as_json and not to_file:
        say_json(answer)
        return
    kind = "entry" if everything else "run-time entry"
    kinds = "entries" if everything else "run-time entries"
    headline = f"{name.value}: {counted(len(entries), kind, kinds)}, epoch {answer['epoch']}"
    text = written(entries, headline)
    if not to_file:
        sys.stdout.write(text)
    else:
        assert file is not None, "it is to a file"
        try:
            write_whole(file, text)
        except OSError as exc:
            fail(f"{file}: cannot be written: {exc.strerror or exc}; it is as it was")
        summary = {"list": name.value, "epoch": answer["epoch"], "entries": len(entries), "file": str(file)}
        tell(gate, summary, lambda _: say(f"{headline}: written to {file}"))
    if expiring := sum(entry["until"] is not None for entry in entries):
        warn(
            f"{counted(expiring, 'of them expires', 'of them expire')}; an import without --for keeps them for good"
        )


# --- importing ------------------------------------------------------------------------


def _imported(gate: Gate, name: ListName, read: ListFile, document: dict[str, object]) -> dict[str, Any]:
    """The last change's answer, with the sums of all. Ends the program at the first refusal."""
    total, done, added = len(read.lines), 0, 0
    epoch, last = gate.if_epoch, ""
    answer: dict[str, Any] = {}
    before: Batch | None = None
    for batch in read.batches(BATCH):
        is_last = done + len(batch.cidrs) == total
        try:
            answer = gate.try_change(
                "POST",
                _resource(name),
                {"add": batch.cidrs, **document},
                wait_s=gate.wait_s if is_last else None,
                if_epoch=epoch,
            )
        except (AdminFailed, KeyboardInterrupt) as exc:
            _progress_ends()
            _stopped(exc, batch, read, before, last)
        last = answer["epoch"]
        epoch = last if gate.if_epoch is not None else None  # between the changes nobody else's, either
        before = batch
        done += len(batch.cidrs)
        added += answer["added"]
        _progress(done, total)
    _progress_ends()
    return {**answer, "added": added}


def _stopped(
    exc: AdminFailed | KeyboardInterrupt, batch: Batch, read: ListFile, before: Batch | None, last: str
) -> NoReturn:
    first = next(iter(read.lines.values()))
    rest = f"{batch} and all after" if batch.last != max(read.lines.values()) else str(batch)
    done = (
        f"lines {first} to {before.last} are on the list (last epoch {last}), {rest} are not confirmed"
        if before is not None
        else f"no change was confirmed, from {batch} on"
    )
    why = str(exc) if isinstance(exc, AdminFailed) else "interrupted"
    fail(f"{batch}: {why}", f"{done}. Importing the file again does no harm.")


def _text(file: Path) -> str:
    read = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    return read.decode("utf-8")


def _progress(done: int, total: int) -> None:
    if total > BATCH and sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total}")
        sys.stderr.flush()


def _progress_ends() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


# --- showing --------------------------------------------------------------------------


def _show(answer: dict[str, Any]) -> None:
    entries = answer["entries"]
    say(f"{answer['list']}: {counted(len(entries), 'entry', 'entries')} (epoch {answer['epoch']})")
    show(
        ["network", "from", "why", "by", "since", "until"],
        [
            [
                entry["cidr"],
                entry["source"].replace("_", " "),
                entry["reason"] or "",
                entry["actor"] or "",
                *moments([entry["at"], entry["until"]]),
            ]
            for entry in entries
        ],
    )
    if answer["cursor"] is not None:
        say("there are more: --all shows them, `address export` writes them")


def _resource(name: ListName) -> str:
    return f"/v1/addresses/{name.value}"
