"""The command line: `portcullis`, also `python -m sidecar`.

`serve` runs a gate; everything else talks to a running one through its admin API, or reads
a configuration. Exit status: 0 done, 1 refused or failed, 2 wrong usage. What was asked for goes to stdout,
what went wrong to stderr.

Modules that only one command needs are loaded by that command: `serve` should not wait for
what prints tables, nor `config check` for what serves.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

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
    typer.Option(
        "--config", help="The document; else PORTCULLIS_CONFIG, else ./portcullis.yaml, else defaults."
    ),
]
AdminOption = Annotated[
    str | None,
    typer.Option(
        "--admin",
        metavar="URL",
        help="The gate's admin plane; else PORTCULLIS_ADMIN_URL, else the document's, else http://127.0.0.1:8081.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


class FrontName(Enum):
    """The kinds of proxies that a request may come through."""

    NGINX = "nginx"
    ENVOY = "envoy"
    FORWARD = "forward"
    API = "api"


def main() -> None:
    """Run the command line; exits."""
    app()


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run the gate until SIGTERM."""
    from sidecar.serve import serve as run

    sys.exit(run(config, os.environ))


@app.command()
def explain(
    address: Annotated[str, typer.Option(help="The client's IP address.")],
    method: Annotated[str, typer.Option(help="Its method.")] = "GET",
    path: Annotated[str, typer.Option(help="What it asks for: the raw path, with its query.")] = "/",
    host: Annotated[str, typer.Option(help="The host that it asks.")] = "",
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="A header that it sends; may be repeated."),
    ] = None,
    front: Annotated[FrontName, typer.Option(help="Through which kind of proxy.")] = FrontName.API,
    admin: AdminOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the gate would answer to a request, and why; charges nobody."""
    described = {
        "address": address,
        "method": method,
        "path": path,
        "host": host,
        "headers": _headers(header or []),
        "front": front.value,
    }
    explained = _post(admin, config, "/v1/explain", described)
    if as_json:
        print(json.dumps(explained))
    else:
        _show_explained(explained)


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


# --- asking a gate ------------------------------------------------------------


def _post(
    admin: str | None, config: Path | None, resource: str, document: Mapping[str, object]
) -> dict[str, Any]:
    """The gate's answer; ends the program with the reason when there is none."""
    from sidecar.client import AdminFailed, client_for
    from sidecar.config import ConfigError

    try:
        client = client_for(admin, config, os.environ)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--admin, PORTCULLIS_ADMIN_URL") from exc
    except (AdminFailed, ConfigError) as exc:
        _fail(str(exc))
    try:
        return client.post(resource, document)
    except AdminFailed as exc:
        _fail(str(exc))


def _fail(message: str) -> NoReturn:
    print(f"portcullis: {message}", file=sys.stderr)
    sys.exit(1)


def _headers(lines: Sequence[str]) -> dict[str, str]:
    """`NAME: VALUE` lines as the API takes them. Ends with a usage error that names the bad one."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter(f"{line!r}: expected 'NAME: VALUE'", param_hint="--header")
        if name.strip() in headers:
            raise typer.BadParameter(f"{name.strip()!r} comes twice", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers


# --- showing an answer --------------------------------------------------------


def _show_explained(explained: dict[str, Any]) -> None:
    """Verdict, steps, limits, and the very answer, from the outside in."""
    from sidecar.tables import printable, show

    answer = explained["answer"]
    retry_after_s = explained["retry_after_s"]
    after = "" if retry_after_s is None else f", again after {retry_after_s} s"
    allowed = "allowed" if explained["allowed"] else "refused"
    print(
        f"{allowed}: {explained['reason']}, {explained['status']}{after} (decided by {explained['source']})\n"
    )
    show(
        ["step", "outcome", "rule", "detail"],
        [
            [step["step"], step["outcome"], step.get("rule", ""), step["detail"]]
            for step in explained["steps"]
        ],
    )
    if limits := explained["limits"]:
        print()
        show(
            ["limit", "mode", "left", "of", "window", "cost", "admits", "again after", "counter"],
            [_limit_row(limit) for limit in limits],
        )
    if explained["shadow"]:
        print(f"\nin shadow, would refuse: {', '.join(explained['shadow'])}")
    print(f"\n{answer['front']} gets {answer['status']}:")
    for name, value in answer["headers"].items():
        print(printable(f"  {name}: {value}"))
    if answer["body"]:
        print(printable(f"  {answer['body']}"))


def _limit_row(limit: dict[str, Any]) -> list[object]:
    wait_s = limit["retry_after_s"]
    return [
        limit["name"],
        limit["mode"],
        "?" if limit["remaining"] is None else limit["remaining"],
        limit["permits"],
        f"{limit['window_s']:g} s",
        limit["cost"],
        {True: "yes", False: "no", None: "unknown"}[limit["admits"]],
        "never" if wait_s is None else f"{wait_s} s" if wait_s else "",
        limit["counter"],
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
