"""What a command asks the gate: one answer, one change, all pages of a list.

When there is no answer the program ends here, with the reason on stderr and status 1; a command reads
as if the gate always answered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NoReturn

import typer

from sidecar.client import AdminClient, AdminFailed
from sidecar.commands.reach import Named, UsageWrong, client_for
from sidecar.config import ConfigError
from sidecar.tables import warn

PAGE: Final = 1000
"""The most entries that the API gives at once."""


@dataclass(frozen=True)
class Gate:
    """The gate that the options name, and how they want it asked.

    wait_s    how long to wait for all replicas; None: not at all
    if_epoch  change only what is still at this epoch
    """

    named: Named
    as_json: bool = False
    wait_s: float | None = None
    if_epoch: str | None = None

    @cached_property
    def client(self) -> AdminClient:
        """Found when it is first needed: what is wrong with a command's own arguments is told before."""
        try:
            return client_for(self.named, os.environ)
        except UsageWrong as exc:
            raise typer.BadParameter(str(exc), param_hint=exc.where) from exc
        except (AdminFailed, ConfigError) as exc:
            fail(str(exc))

    def get(
        self, resource: str, query: Mapping[str, object] | None = None, *, hint: str = ""
    ) -> dict[str, Any]:
        """The gate's answer. `hint` says what to do when there is no such thing."""
        try:
            return self.client.get(resource, query)
        except AdminFailed as exc:
            fail(str(exc), hint if exc.status == 404 else "")

    def post(self, resource: str, document: Mapping[str, object]) -> dict[str, Any]:
        """The gate's answer to what changes nothing."""
        try:
            return self.client.post(resource, document)
        except AdminFailed as exc:
            fail(str(exc))

    def change(
        self,
        method: str,
        resource: str,
        document: Mapping[str, object] | None = None,
        *,
        hints: Mapping[int, str] | None = None,
    ) -> dict[str, Any]:
        """The gate's answer to a change. `hints` say what to do about a status."""
        try:
            return self.try_change(method, resource, document, wait_s=self.wait_s, if_epoch=self.if_epoch)
        except AdminFailed as exc:
            fail(str(exc), (hints or {}).get(exc.status or 0, ""))

    def try_change(
        self,
        method: str,
        resource: str,
        document: Mapping[str, object] | None,
        *,
        wait_s: float | None,
        if_epoch: str | None,
    ) -> dict[str, Any]:
        """As `change`, for a command that has more to say when it fails. Raises AdminFailed."""
        query = {} if wait_s is None else {"wait": f"{wait_s:g}"}
        return self.client.ask(
            method, resource, query=query, document=document, if_epoch=if_epoch, patience_s=wait_s or 0.0
        )

    def pages(
        self,
        resource: str,
        member: str,
        query: Mapping[str, object] | None = None,
        *,
        most: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The gate's answers page by page, until there are no more, or `most` entries in `member`.

        A page may hold fewer entries than asked for, even none, and an entry may come twice.
        """
        cursor: str | None = None
        left = most
        while True:
            limit = PAGE if left is None else min(left, PAGE)
            page = self.get(resource, {**(query or {}), "limit": limit, "cursor": cursor})
            yield page
            cursor = page["cursor"]
            if left is not None:
                left -= len(page[member])
            if cursor is None or (left is not None and left <= 0):
                return


def listed(pages: Iterator[dict[str, Any]], member: str, identity: tuple[str, ...]) -> dict[str, Any]:
    """One answer of all pages: `member` has every entry once, by its members `identity`.

    The epoch is the first page's: who changes something on that condition is told of changes since.
    """
    whole: dict[str, Any] = {}
    unreadable: list[str] = []
    entries: dict[tuple[object, ...], object] = {}
    for page in pages:
        whole = whole or page
        entries.update((tuple(entry.get(name) for name in identity), entry) for entry in page[member])
        unreadable += page.get("unreadable", [])
        whole["cursor"] = page["cursor"]
    told = {"unreadable": unreadable} if "unreadable" in whole else {}
    return {**whole, **told, member: list(entries.values())}


def fail(message: str, hint: str = "") -> NoReturn:
    """End the program: it was refused, or failed."""
    lines = [*message.splitlines(), *([hint] if hint else [])]
    warn(*(f"portcullis: {line}" if at == 0 else line for at, line in enumerate(lines)))
    sys.exit(1)
