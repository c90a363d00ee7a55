"""`reset`: forget what one subject has used of a limit, and its block, everywhere.

It changes no permits: `override` does.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.commands import arguments
from sidecar.commands.gate import Gate
from sidecar.commands.options import KeyOption, LimitOption, ReasonOption, TenantOption, changes, single
from sidecar.commands.telling import counted, tell_change

app = single("reset")


@app.command()
@changes
def reset(
    gate: Gate,
    *,
    limit: LimitOption,
    key: KeyOption = None,
    tenant: TenantOption = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDRESS", help="About this address or network only.")
    ] = None,
    reason: ReasonOption = "",
) -> None:
    """Forget what one subject has used of a limit, and its block, on every replica."""
    whom = arguments.subject(key=key, tenant=tenant, address=address)
    if address is not None:
        whom = {"address": arguments.address_or_network(address)}
    document = {"limit": arguments.name(limit, "--limit"), **whom, "reason": arguments.reason(reason)}
    answer = gate.change("POST", "/v1/reset", document)
    ((kind, name),) = whom.items()
    forgotten = counted(answer["counters"], "counter")
    tell_change(gate, answer, f"{limit}: {kind} {name} begins anew, {forgotten} deleted")
