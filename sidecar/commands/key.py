"""`key create|list|show|update|disable|enable|rotate|delete|export`: the registry of API keys.

Secrets are made by the gate and shown once, when a key is created or rotated; nothing here keeps one.
"""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from sidecar.commands import arguments
from sidecar.commands.gate import Gate, fail, listed
from sidecar.commands.list_files import write_whole
from sidecar.commands.options import AllOption, MostOption, asks, changes, group
from sidecar.commands.telling import counted, moment, tell, tell_change
from sidecar.tables import say, show

app = group("key", "API keys: make, show, change and end them.")


class Kind(Enum):
    """What a key is for."""

    SERVER = "server"
    CLIENT = "client"


class Clearable(Enum):
    """What a key can be without."""

    TENANT = "tenant"
    PLAN = "plan"
    SCOPES = "scopes"
    CIDRS = "cidrs"
    ORIGINS = "origins"
    EXPIRES = "expires"


IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `key list` shows it.")]
LabelOption = Annotated[str | None, typer.Option("--label", metavar="TEXT", help="Whose it is, for people.")]
OwnerOption = Annotated[
    str | None, typer.Option("--tenant", metavar="NAME", help="The tenant that it belongs to.")
]
PlanOption = Annotated[str | None, typer.Option("--plan", metavar="NAME", help="The tenant's plan.")]
ScopesOption = Annotated[
    list[str] | None, typer.Option("--scope", metavar="NAME", help="What it may do; may be repeated.")
]
CidrsOption = Annotated[
    list[str] | None,
    typer.Option("--cidr", metavar="CIDR", help="From where it may be used; may be repeated."),
]
OriginsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--origin", metavar="ORIGIN", help="On which sites a client key may be used; may be repeated."
    ),
]
ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="WHEN", help="30d from now, or 2027-01-31T00:00:00Z.")
]

_EXISTS = {404: "`portcullis key list` shows which there are."}


@app.command("create")
@changes
def create(
    gate: Gate,
    *,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Whose it is, for people.")],
    kind: Annotated[
        Kind, typer.Option("--kind", help="server: kept secret; client: shipped in an app or page.")
    ],
    tenant: OwnerOption = None,
    plan: PlanOption = None,
    scope: ScopesOption = None,
    cidr: CidrsOption = None,
    origin: OriginsOption = None,
    expires: ExpiresOption = None,
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its id, if it should not be a made one.")
    ] = None,
) -> None:
    """Make a key, and show its secret: this once."""
    document: dict[str, object] = {
        "label": _label(label),
        "kind": kind.value,
        "tenant": tenant or "",
        "plan": plan or "",
        "scopes": scope or [],
        "cidrs": arguments.cidrs(cidr or [], "--cidr"),
        "origins": origin or [],
        "expires": None if expires is None else arguments.expiry(expires),
    }
    if key_id is not None:
        document["id"] = arguments.known_id(key_id, "--id")
    answer = gate.change(
        "POST",
        "/v1/keys",
        document,
        hints={
            504: "If `portcullis key list` shows it, delete it and make another: nobody has its secret.",
            409: "Choose another --id, or none.",
        },
    )
    _tell_secret(gate, answer, f"key {answer['id']} is made")


@app.command("rotate")
@changes
def rotate(
    gate: Gate,
    *,
    key_id: IdArgument,
    grace: Annotated[
        str | None,
        typer.Option(
            "--grace",
            metavar="DURATION",
            help="How long the old secret stays good: 0s ends it now; else 24h.",
        ),
    ] = None,
) -> None:
    """Give a key a new secret, shown this once; the old one stays good for a while."""
    path = arguments.key_path(key_id)
    document = arguments.duration(grace, "--grace", or_none=True)
    hints = _EXISTS | {504: "If `portcullis key show` tells a new secret, rotate again: nobody has it."}
    answer = gate.change("POST", f"{path}/rotate", document, hints=hints)
    ends = [secret["until"] for secret in answer["key"]["secrets"] if secret["until"] is not None]
    more = [f"  the old secret is good until {moment(max(ends))}"] if ends else []
    _tell_secret(gate, answer, f"key {answer['id']} has a new secret", *more)


@app.command("list")
@asks
def list_(
    gate: Gate,
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Only this tenant's.")
    ] = None,
    limit: MostOption = 100,
    everything: AllOption = False,
) -> None:
    """Show the keys."""
    answer = listed(
        gate.pages("/v1/keys", "keys", {"tenant": tenant}, most=None if everything else limit),
        "keys",
        ("id",),
    )
    tell(gate, answer, _show_list)


@app.command("show")
@asks
def show_(gate: Gate, *, key_id: IdArgument) -> None:
    """Show all of one key but its secret, which nobody has."""
    key = gate.get(arguments.key_path(key_id), hint=_EXISTS[404])
    tell(gate, key, _show_key)


@app.command("update")
@changes
def update(
    gate: Gate,
    *,
    key_id: IdArgument,
    label: LabelOption = None,
    tenant: OwnerOption = None,
    plan: PlanOption = None,
    scope: ScopesOption = None,
    cidr: CidrsOption = None,
    origin: OriginsOption = None,
    expires: ExpiresOption = None,
    clear: Annotated[
        list[Clearable] | None, typer.Option("--clear", help="Leave it empty; may be repeated.")
    ] = None,
) -> None:
    """Change what is named, leave the rest. --scope, --cidr and --origin name the whole new list."""
    path = arguments.key_path(key_id)
    said: dict[str, object | None] = {
        "label": None if label is None else _label(label),
        "tenant": tenant,
        "plan": plan,
        "scopes": scope or None,
        "cidrs": arguments.cidrs(cidr, "--cidr") if cidr else None,
        "origins": origin or None,
        "expires": None if expires is None else arguments.expiry(expires),
    }
    document = {name: value for name, value in said.items() if value is not None}
    for cleared in clear or []:
        if cleared.value in document:
            raise typer.BadParameter(f"{cleared.value} is given, too: which of both?", param_hint="--clear")
    document |= {cleared.value: _NOTHING[cleared] for cleared in clear or []}
    if not document:
        raise typer.BadParameter("name what to change", param_hint="--label, --tenant, … or --clear")
    answer = gate.change("PATCH", path, document, hints=_EXISTS)
    tell_change(gate, answer, f"key {key_id} is changed: {', '.join(document)}")


@app.command("disable")
@changes
def disable(gate: Gate, *, key_id: IdArgument) -> None:
    """Refuse a key, and keep it."""
    answer = gate.change("PATCH", arguments.key_path(key_id), {"enabled": False}, hints=_EXISTS)
    tell_change(gate, answer, f"key {key_id} is disabled")


@app.command("enable")
@changes
def enable(gate: Gate, *, key_id: IdArgument) -> None:
    """Accept a disabled key again."""
    answer = gate.change("PATCH", arguments.key_path(key_id), {"enabled": True}, hints=_EXISTS)
    tell_change(gate, answer, f"key {key_id} is enabled")


@app.command("delete")
@changes
def delete(gate: Gate, *, key_id: IdArgument) -> None:
    """End a key for good. To refuse it for a while, disable it."""
    answer = gate.change("DELETE", arguments.key_path(key_id), hints=_EXISTS)
    tell_change(gate, answer, f"key {key_id} is deleted")


@app.command("export")
@asks
def export(
    gate: Gate,
    *,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Where to; else, or with -, to standard output.", dir_okay=False
        ),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="NAME", help="Only this tenant's.")
    ] = None,
) -> None:
    """Write all keys, without secrets: one JSON object a line (with --json: one document)."""
    answer = listed(gate.pages("/v1/keys", "keys", {"tenant": tenant}), "keys", ("id",))
    keys = answer["keys"]
    text = f"{json.dumps(answer)}\n" if gate.as_json else "".join(f"{json.dumps(key)}\n" for key in keys)
    if file is None or str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        write_whole(file, text)
    except OSError as exc:
        fail(f"{file}: cannot be written: {exc.strerror or exc}; it is as it was")
    summary = {"epoch": answer["epoch"], "keys": len(keys), "file": str(file)}
    tell(gate, summary, lambda _: say(f"{counted(len(keys), 'key')} written to {file}"))


# --- showing --------------------------------------------------------------------------


_NOTHING: dict[Clearable, object] = {
    Clearable.TENANT: "",
    Clearable.PLAN: "",
    Clearable.SCOPES: [],
    Clearable.CIDRS: [],
    Clearable.ORIGINS: [],
    Clearable.EXPIRES: None,
}


def _tell_secret(gate: Gate, answer: dict[str, Any], done: str, *more: str) -> None:
    """Whatever else there is to say, the secret comes out: there is no second time."""
    tell_change(
        gate,
        answer,
        done,
        f"  id      {answer['id']}",
        f"  secret  {answer['secret']}",
        *more,
        f"The secret is shown this once and kept nowhere: store it now. If it is lost, "
        f"`portcullis key rotate {answer['id']}` makes another.",
    )


def _label(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise typer.BadParameter("one line of printable text, please", param_hint="--label")
    return text


def _show_list(answer: dict[str, Any]) -> None:
    keys = answer["keys"]
    say(f"{counted(len(keys), 'key')} (epoch {answer['epoch']})")
    show(
        ["id", "label", "kind", "tenant", "plan", "enabled", "expires", "scopes"],
        [
            [
                key["id"],
                key["label"],
                key["kind"],
                key["tenant"] or "",
                key["plan"] or "",
                "yes" if key["enabled"] else "no",
                moment(key["expires"]),
                " ".join(key["scopes"]),
            ]
            for key in keys
        ],
    )
    if damaged := answer.get("unreadable"):
        say(f"damaged records, to be deleted: {' '.join(damaged)}")
    if answer["cursor"] is not None:
        say("there are more: --all shows them, `key export` writes them")


def _show_key(key: dict[str, Any]) -> None:
    lines = {
        "id": key["id"],
        "label": key["label"],
        "kind": key["kind"],
        "tenant": key["tenant"],
        "plan": key["plan"],
        "enabled": "yes" if key["enabled"] else "no",
        "scopes": " ".join(key["scopes"]),
        "networks": " ".join(key["cidrs"]) or "from anywhere",
        "origins": " ".join(key["origins"]),
        "expires": moment(key["expires"]) or "never",
        "created": moment(key["created"]),
        "changed": moment(key["changed"]),
    }
    say(*(f"{name:<8}  {text}" for name, text in lines.items() if text))
    for secret in key["secrets"]:
        until = f", good until {moment(secret['until'])}" if secret["until"] else ""
        say(f"secret    made {moment(secret['created'])}{until}")
