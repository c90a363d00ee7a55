"""The command line: `portcullis`, also `python -m sidecar`.

`serve` runs a gate; everything else talks to a running one through its admin API, or reads
a configuration. Exit status: 0 done, 1 refused or failed, 2 wrong usage.

Modules that only one command needs are loaded by that command: `serve` should not wait for
what prints tables, nor `config check` for what serves.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="portcullis",
    help="A gate for HTTP traffic: rate limits and filters, asked by your reverse proxy.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Check and describe the configuration.", no_args_is_help=True)
app.add_typer(config_app, name="config")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="The document; else PORTCULLIS_CONFIG, else ./portcullis.yaml, else defaults."),
]


def main() -> None:
    """Run the command line; exits."""
    app()


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the gate until SIGTERM."""
    from sidecar.serve import serve as run

    sys.exit(run(config, os.environ))


@config_app.command("check")
def config_check(document: Annotated[Path, typer.Argument(help="The document to check.")]) -> None:
    """Check a document and the files it names; tells every problem at once."""
    from sidecar.config import ConfigError, load

    try:
        config = load(document, os.environ)
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        sys.exit(1)
    print(
        f"{document}: good ({len(config.limits)} limits, {len(config.filters)} filters, "
        f"digest {config.digest})"
    )


@config_app.command("reference")
def config_reference() -> None:
    """Print the reference of all keys, as Markdown."""
    from sidecar.config_reference import reference

    print(reference())
