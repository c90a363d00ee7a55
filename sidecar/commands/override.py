"""`override set|unset|list`: other permits for one key, tenant or network on a limit.

They take effect on the counts that stand: what was used stays used. `reset` forgets it.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sidecar.commands import arguments
from sidecar.commands.gate import Gate, listed
from sidecar.commands.options import (
    AllOption,
    ForOption,
    KeyOption,
    LimitOption,
    MostOption,
    ReasonOption,
    TenantOption,
    asks,
    changes,
    group,
)
from sidecar.commands.telling import counted, moments, tell, tell_change
from sidecar.tables import say, show

app = group(
    "override",
    "Other permits for one key, tenant or network on a limit. A key's beats its tenant's, and that the "
    "most specific network's.",
)

NetworkOption = Annotated[
    str | None, typer.Option("--address", metavar="CIDR", help="About this network or address only.")
]


@app.command("set")
@changes
def set_(
    gate: Gate,
    *,
    limit: LimitOption,
    permits: Annotated[
        int, typer.Option("--permits", metavar="N", min=0, help="How many instead; 0 refuses.")
    ],
    key: KeyOption = None,
    tenant: TenantOption = None,
    address: NetworkOption = None,
    reason: ReasonOption = "",
    duration: ForOption = None,
) -> None:
    """Give one subject other permits, effective at once."""
    whom = _whom(limit, key, tenant, address)
    document = {
        **whom,
        "permits": permits,
        "reason": arguments.reason(reason),
        **arguments.duration(duration, "--for"),
    }
    answer = gate.change("PUT", "/v1/overrides", document)
    tell_change(gate, answer, f"{limit}: {counted(permits, 'permit')} for {_subject(whom)}")


@app.command("unset")
@changes
def unset(
    gate: Gate,
    *,
    limit: LimitOption,
    key: KeyOption = None,
    tenant: TenantOption = None,
    address: NetworkOption = None,
) -> None:
    """Give one subject the limit's own permits again."""
    whom = _whom(limit, key, tenant, address)
    hints = {404: "`portcullis override list` shows which there are."}
    answer = gate.change("POST", "/v1/overrides/unset", whom, hints=hints)
    tell_change(gate, answer, f"{limit}: the configured permits again for {_subject(whom)}")


@app.command("list")
@asks
def list_(gate: Gate, *, limit: MostOption = 100, everything: AllOption = False) -> None:
    """Show all overrides."""
    pages = gate.pages("/v1/overrides", "overrides", most=None if everything else limit)
    answer = listed(pages, "overrides", ("limit", "key", "tenant", "address"))
    tell(gate, answer, _show)


def _whom(limit: str, key: str | None, tenant: str | None, address: str | None) -> dict[str, str]:
    whom = arguments.subject(key=key, tenant=tenant, address=address)
    if address is not None:
        whom = {"address": arguments.network(address)}
    return {"limit": arguments.name(limit, "--limit"), **whom}


def _subject(entry: dict[str, Any]) -> str:
    kind = next(kind for kind in ("key", "tenant", "address") if entry.get(kind) is not None)
    return f"{kind} {entry[kind]}"


def _show(answer: dict[str, Any]) -> None:
    entries = answer["overrides"]
    say(f"{counted(len(entries), 'override')} (epoch {answer['epoch']})")
    show(
        ["limit", "subject", "permits", "why", "by", "since", "until"],
        [
            [
                entry["limit"],
                _subject(entry),
                entry["permits"],
                entry["reason"],
                entry["actor"],
                *moments([entry["at"], entry["until"]]),
            ]
            for entry in entries
        ],
    )
    if answer["cursor"] is not None:
        say("there are more: --all shows them")
