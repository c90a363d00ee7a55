"""`explain`: what the gate would answer to a request, and why."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any

import typer

from sidecar.commands.gate import Gate
from sidecar.commands.options import asks, single
from sidecar.commands.telling import moment, tell
from sidecar.tables import say, show

app = single("explain")


class FrontName(Enum):
    """The kinds of proxies that a request may come through."""

    NGINX = "nginx"
    ENVOY = "envoy"
    FORWARD = "forward"
    API = "api"


@app.command()
@asks
def explain(
    gate: Gate,
    *,
    address: Annotated[str, typer.Option(help="The client's IP address.")],
    method: Annotated[str, typer.Option(help="Its method.")] = "GET",
    path: Annotated[str, typer.Option(help="What it asks for: the raw path, with its query.")] = "/",
    host: Annotated[str, typer.Option(help="The host that it asks.")] = "",
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME: VALUE'", help="A header that it sends; may be repeated."),
    ] = None,
    key: Annotated[
        str,
        typer.Option(metavar="ID", help="As if it had presented this key, whose secret need not be known."),
    ] = "",
    front: Annotated[FrontName, typer.Option(help="Through which kind of proxy.")] = FrontName.API,
) -> None:
    """Say what the gate would answer to a request, and why; charges nobody."""
    described = {
        "address": address,
        "method": method,
        "path": path,
        "host": host,
        "headers": _headers(header or []),
        "front": front.value,
        "key": key,
    }
    explained = gate.post("/v1/explain", described)
    tell(gate, explained, _show)


def _headers(lines: Sequence[str]) -> dict[str, str]:
    """`NAME: VALUE` lines as the API takes them. Ends with a usage error that names the bad one.

    By its place, not by its text: which may be a credential.
    """
    headers: dict[str, str] = {}
    for at, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise typer.BadParameter(f"number {at} of them: expected 'NAME: VALUE'", param_hint="--header")
        if name.strip() in headers:
            raise typer.BadParameter(f"{name.strip()!r} comes twice", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers


def _show(explained: dict[str, Any]) -> None:
    """Verdict, steps, limits, and the very answer, from the outside in."""
    answer = explained["answer"]
    retry_after_s = explained["retry_after_s"]
    after = "" if retry_after_s is None else f", again after {retry_after_s} s"
    allowed = "allowed" if explained["allowed"] else "refused"
    say(
        f"{allowed}: {explained['reason']}, {explained['status']}{after} (decided by {explained['source']})",
        "",
    )
    show(
        ["step", "outcome", "rule", "detail"],
        [
            [step["step"], step["outcome"], step.get("rule", ""), step["detail"]]
            for step in explained["steps"]
        ],
    )
    if listed := explained["addresses"]:
        say("")
        show(
            ["on list", "network", "from", "why", "by", "until"],
            [
                [
                    entry["list"],
                    entry["cidr"],
                    {"run_time": "run time"}.get(entry["source"], entry["source"]),
                    entry["reason"] or "",
                    entry["actor"] or "",
                    moment(entry["until"]),
                ]
                for entry in listed
            ],
        )
    if limits := explained["limits"]:
        say("")
        show(
            ["limit", "mode", "left", "of", "window", "cost", "admits", "again after", "counter"],
            [_limit_row(limit) for limit in limits],
        )
    if explained["shadow"]:
        say("", f"in shadow, would refuse: {', '.join(explained['shadow'])}")
    say("", f"{answer['front']} gets {answer['status']}:")
    for name, value in answer["headers"].items():
        say(f"  {name}: {value}")
    if answer["body"]:
        say(f"  {answer['body']}")


def _limit_row(limit: dict[str, Any]) -> list[object]:
    wait_s = limit["retry_after_s"]
    return [
        limit["name"],
        limit["mode"],
        "?" if limit["remaining"] is None else limit["remaining"],
        _permits(limit),
        f"{limit['window_s']:g} s",
        limit["cost"],
        {True: "yes", False: "no", None: "unknown"}[limit["admits"]],
        "never" if wait_s is None else f"{wait_s} s" if wait_s else "",
        limit["counter"],
    ]


def _permits(limit: dict[str, Any]) -> str:
    """The permits in force, and what an override has replaced."""
    if override := limit.get("override"):
        return f"{limit['permits']} ({override['subject']}, else {override['configured']})"
    return str(limit["permits"])
