"""The command line: `portcullis`, also `python -m sidecar`.

`serve` runs a gate; everything else talks to a running one through its admin API (`commands`), or reads
a configuration. Exit status: 0 done, 1 refused or failed, 2 wrong usage. What was asked for goes to stdout,
what went wrong to stderr.

Modules that only one command needs are loaded by that command: `serve` should not wait for
what prints tables, nor `config check` for what serves. The commands that talk to a gate are even made when
they are used: making all of them takes longer than running one.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

LATER: Final = (
    "attack",
    "address",
    "key",
    "override",
    "reset",
    "fleet",
    "top",
    "audit",
    "decision",
    "explain",
)
"""Commands that are modules of `sidecar.commands`, in the order of --help."""


class Commands(TyperGroup):
    """The commands here, and those of LATER, each loaded when somebody wants it.

    To be overridden is typer's own way to do so; a context's type is private to it.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *LATER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in LATER and cmd_name not in self.commands:
            self.commands[cmd_name] = typer.main.get_command(
                import_module(f"sidecar.commands.{cmd_name}").app
            )
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="portcullis",
    cls=Commands,
    help="A gate for HTTP traffic: rate limits and filters, asked by your reverse proxy.",
    epilog="`portcullis --install-completion` lets the shell complete commands, options and list names. "
    "Commands find the gate by --admin, PORTCULLIS_ADMIN_URL, ~/.config/portcullis/cli.yaml (keys admin, "
    "token_file, ca, cert, key) or the gate's document, in this order. "
    "Exit status: 0 done, 1 refused or failed, 2 wrong usage.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Check and describe the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="The document; else PORTCULLIS_CONFIG, else ./portcullis.yaml, else defaults."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def main() -> None:
    """Run the command line; exits."""
    app()


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the gate until SIGTERM."""
    from sidecar.serve import serve as run

    sys.exit(run(config, os.environ))


@config_app.command("check")
def config_check(
    document: Annotated[Path, typer.Argument(help="The document to check.")], as_json: JsonOption = False
) -> None:
    """Check a document and the files it names; tells every problem at once."""
    from sidecar.config import ConfigError, load

    try:
        config = load(document, os.environ)
    except ConfigError as exc:
        if as_json:
            problems = [
                {"path": problem.path, "line": problem.line or None, "message": problem.message}
                for problem in exc.problems
            ]
            print(json.dumps({"document": str(document), "good": False, "problems": problems}))
        else:
            print(exc, file=sys.stderr)
        sys.exit(1)
    limits, filters = len(config.limits), len(config.filters)
    if as_json:
        good = {"limits": limits, "filters": filters, "digest": config.digest}
        print(json.dumps({"document": str(document), "good": True, "problems": [], **good}))
    else:
        counted = f"{_counted(limits, 'limit')}, {_counted(filters, 'filter')}"
        print(f"{document}: good ({counted}, digest {config.digest})")


@config_app.command("reference")
def config_reference() -> None:
    """Print the reference of all keys, as Markdown."""
    from sidecar.config_reference import reference

    print(reference())


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
