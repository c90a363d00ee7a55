"""The options that commands share, each written once; a decorator gives them to a command.

    @asks      --admin … --json: for what only reads
    @changes   the same, and --wait, --wait-s, --if-epoch

The command itself declares what is its own, and gets a `Gate` first. What an option means is the business
of who uses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, ParamSpec

import typer

from sidecar.commands.arguments import epoch
from sidecar.commands.gate import Gate
from sidecar.commands.reach import Named

P = ParamSpec("P")

WAIT_S: Final = 10.0
LONGEST_WAIT_S: Final = 60.0

AdminOption = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="URL",
        help="The gate's admin plane (http://, https:// or unix:); else PORTCULLIS_ADMIN_URL, else cli.yaml's, "
        "else the document's, else http://127.0.0.1:8081.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="Holds the admin token; else PORTCULLIS_ADMIN_TOKEN, else cli.yaml's file, else the gate's own.",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", metavar="FILE", help="PEM: the authority to trust for https://; else PORTCULLIS_ADMIN_CA."
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option("--cert", metavar="FILE", help="PEM: the client certificate; else PORTCULLIS_ADMIN_CERT."),
]
CertKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--cert-key", metavar="FILE", help="PEM: the client certificate's key; else PORTCULLIS_ADMIN_KEY."
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The gate's document, which tells its address and token; else PORTCULLIS_CONFIG, "
        "else ./portcullis.yaml.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the gate's answer as JSON, for scripts.")]
WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait",
        help="Return when every replica has the change; exit 1 and name those that have not in time.",
    ),
]
WaitSOption = Annotated[
    float | None,
    typer.Option(
        "--wait-s",
        metavar="SECONDS",
        min=0.0,
        max=LONGEST_WAIT_S,
        help=f"Wait at most so long, 0 to {LONGEST_WAIT_S:g}; {WAIT_S:g} by default. Implies --wait.",
    ),
]
IfEpochOption = Annotated[
    str | None,
    typer.Option(
        "--if-epoch",
        metavar="EPOCH",
        help="Change only if this is still the current epoch (as status and --json tell it).",
    ),
]

ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why: for the audit, and for who looks next.")
]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="Undone by itself after this: 90s, 10m, 1h, 7d."),
]
TenantOption = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        help="About this tenant only.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="ID",
        help="About this key only: the id that `key list`, the log, `top` and X-Portcullis-Key show.",
    ),
]
LimitOption = Annotated[
    str, typer.Option("--limit", metavar="NAME", help="The limit, by its configured name.")
]
MostOption = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, help="How many to show at most; see --all.")
]
AllOption = Annotated[bool, typer.Option("--all", help="Show all, however many.")]


def group(name: str, about: str) -> typer.Typer:
    """A group of commands: plain help, as the command line has it everywhere."""
    return typer.Typer(
        name=name, help=about, no_args_is_help=True, add_completion=False, rich_markup_mode=None
    )


def single(name: str) -> typer.Typer:
    """A command of its own; its docstring is its help."""
    return typer.Typer(name=name, add_completion=False, rich_markup_mode=None)


Command = Callable[Concatenate[Gate, P], None]


def asks(command: Command[P]) -> Callable[..., None]:
    """Give a command the options that name the gate, and --json."""
    return _joined(command, _asked)


def changes(command: Command[P]) -> Callable[..., None]:
    """Give a command the options of `asks`, and those of every change."""
    return _joined(command, _changed)


def _asked(
    *,
    admin: AdminOption = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    cert_key: CertKeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> Gate:
    return Gate(Named(admin, token_file, ca, cert, cert_key, config), as_json)


def _changed(
    *,
    wait: WaitOption = False,
    wait_s: WaitSOption = None,
    if_epoch: IfEpochOption = None,
    admin: AdminOption = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    cert_key: CertKeyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> Gate:
    if wait and wait_s is None:
        wait_s = WAIT_S
    named = Named(admin, token_file, ca, cert, cert_key, config)
    return Gate(named, as_json, wait_s, None if if_epoch is None else epoch(if_epoch))


def _joined(command: Command[P], gate_of: Callable[..., Gate]) -> Callable[..., None]:
    """A function with the parameters of both, but for the command's first; typer reads its signature."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(gate_of, eval_str=True).parameters.values())

    called: Callable[..., None] = command

    def run(**given: Any) -> None:
        gate = gate_of(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        called(gate, **given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    joined = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
    run.__dict__["__signature__"] = inspect.Signature(joined)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in joined}
    return run
