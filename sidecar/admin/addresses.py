"""`/v1/addresses/{list}`: who is denied, allowed, exempt from limits, or let through in attack mode.

A list is what the configuration says and what was added at run time; they are told apart, and only the
latter can be changed here. Up to `MOST_FIELDS` networks are added and removed in one change.

Does not look up whom a list covers: `explain` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from sidecar.admin.operations import (
    Answer,
    Call,
    EpochText,
    Fleet,
    MomentText,
    Nothing,
    Operation,
    Operations,
    Reason,
    reason_problems,
    refused,
)
from sidecar.admin.pages import NextCursor, Paged, numbered_page, page_of
from sidecar.admin.subjects import read_ms
from sidecar.admin.times import DurationText, later_ms, moment, moment_or_none, span_ms
from sidecar.admin.tokens import Role
from sidecar.config import Config
from sidecar.control.changes import MOST_FIELDS, Changes
from sidecar.core.addresses import parse_cidr
from sidecar.core.control import Control, Entry

ListName = Literal["deny", "allow", "exempt", "pass"]
MOST_BODY = 512 * 1024
"""5000 of the longest networks, and room to spare."""
AT_A_TIME = 500
"""Networks that are read before others may go on: a millisecond."""
SHOWN_AT_A_TIME = 100
"""Entries that are made ready to be told before others may go on: a millisecond."""

Cidr = Annotated[str, Meta(description="A network or an address.", examples=["203.0.113.0/24"])]


class ListPlace(Paged, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which list, and which page of it."""

    list: ListName


class ListOnly(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which list."""

    list: ListName


class ListedNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """One network. Of one in the configuration nobody knows who wrote it, or when."""

    cidr: str
    source: Literal["configuration", "run_time"]
    reason: str
    actor: str
    at: MomentText | None
    until: MomentText | None


class AddressesShown(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list: the configuration's networks first."""

    epoch: EpochText
    list: ListName
    entries: Sequence[ListedNetwork]
    cursor: NextCursor


class Relisting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Networks to add and to remove, 5000 together at most. Added ones stand `for` so long, or `until` then."""

    add: Annotated[tuple[Cidr, ...], Meta(max_length=MOST_FIELDS)] = ()
    remove: Annotated[tuple[Cidr, ...], Meta(max_length=MOST_FIELDS)] = ()
    reason: Reason = ""
    for_: DurationText | None = msgspec.field(name="for", default=None)
    until: MomentText | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from reason_problems(self.reason)
        if not self.add and not self.remove:
            yield "add", "nothing to add, and nothing to remove: name networks in one of them"
        if len(self.add) + len(self.remove) > MOST_FIELDS:
            yield "add", f"with `remove` more than {MOST_FIELDS} networks: make several changes"
        if self.for_ is not None and self.until is not None:
            yield "for", "`until` says it, too: leave out one of them"
        if not self.add and (self.for_ is not None or self.until is not None):
            yield "for" if self.for_ is not None else "until", "nothing is added that could end: leave it out"


class Relisted(msgspec.Struct, frozen=True, kw_only=True):
    """How many networks were new on the list, and how many went."""

    list: ListName
    added: int
    removed: int


def addresses(
    *,
    changes: Changes,
    fleet: Fleet,
    state: Callable[[], Control],
    config: Callable[[], Config],
    wall_ms: Callable[[], int],
) -> Operations:
    """`state` and `config` are what is in force now."""

    async def show(call: Call[Nothing, ListPlace]) -> Answer[AddressesShown]:
        name, limit, cursor, wanted = call.at.list, call.at.limit, call.at.cursor, call.at.limit
        epoch, entries = state().epoch, list[ListedNetwork]()
        numbered = numbered_page(_configured(config(), name), config().digest, cursor=cursor, limit=limit)
        if numbered is not None:
            entries += [_configuration(cidr) for cidr in numbered.entries]
            cursor, wanted = numbered.cursor, limit - len(entries)
        if not cursor.startswith("c."):
            if wanted == 0:  # the configuration's end is the page's: the next begins at the store's start
                cursor = "0"
            else:
                page = await page_of(changes, name, cursor=cursor, limit=wanted, now_ms=wall_ms())
                for start in range(0, len(page.entries), SHOWN_AT_A_TIME):
                    some = page.entries[start : start + SHOWN_AT_A_TIME]
                    entries += [_run_time(cidr, entry) for cidr, entry in some]
                    await asyncio.sleep(0)
                cursor = page.cursor
        shown = AddressesShown(epoch=str(epoch), list=name, entries=entries, cursor=cursor or None)
        return Answer(shown, epoch=epoch)

    async def change(call: Call[Relisting, ListOnly]) -> Answer[Relisted]:
        body, name = call.body, call.at.list
        problems: list[tuple[str, str]] = []
        add = await _canonical("add", body.add, problems)
        remove = await _canonical("remove", body.remove, problems)
        problems += [("remove", f"{cidr} stands in `add`, too") for cidr in remove if cidr in add]
        if problems:
            raise refused(problems)
        now_ms = wall_ms()
        for_ms = read_ms("for", body.for_, span_ms)
        until_ms = read_ms("until", body.until, lambda text: later_ms(text, now_ms))
        changed = await changes.change(
            name,
            put=list(add),
            delete=list(remove),
            payload={"reason": body.reason, "actor": call.actor},
            for_ms=for_ms,
            until_ms=until_ms,
            actor=call.actor,
            action="addresses.change",
            reason=body.reason,
            if_epoch=call.if_epoch,
        )
        return Answer(Relisted(list=name, added=changed.added, removed=changed.removed), changed=changed)

    return (
        Operation(
            "GET",
            "/v1/addresses/{list}",
            Role.VIEWER,
            "List networks",
            show,
            body=Nothing,
            at=ListPlace,
            answer=AddressesShown,
            errors={409: "The configuration has changed since the page before."},
            answer_example={
                "epoch": "58-9f86d081884c7d65",
                "list": "deny",
                "entries": [
                    {
                        "cidr": "203.0.113.0/24",
                        "source": "run_time",
                        "reason": "scraper",
                        "actor": "alice",
                        "at": "2026-11-22T05:00:00.123Z",
                        "until": None,
                    }
                ],
                "cursor": None,
            },
        ),
        Operation(
            "POST",
            "/v1/addresses/{list}",
            Role.OPERATOR,
            "Add and remove networks",
            change,
            body=Relisting,
            at=ListOnly,
            answer=Relisted,
            fleet=fleet,
            most_body=MOST_BODY,
            example={"add": ["203.0.113.0/24", "2001:db8::/48"], "reason": "scraper", "for": "7d"},
            answer_example={"list": "deny", "added": 2, "removed": 0},
        ),
    )


async def _canonical(member: str, cidrs: Sequence[str], problems: list[tuple[str, str]]) -> dict[str, None]:
    """The networks in canonical text, each once, in order; what is none is added to the problems."""
    found: dict[str, None] = {}
    for at, text in enumerate(cidrs):
        try:
            found[parse_cidr(text)] = None
        except ValueError as exc:
            problems.append((f"{member}[{at}]", str(exc)))
        if at % AT_A_TIME == AT_A_TIME - 1:
            await asyncio.sleep(0)
    return found


def _configured(config: Config, name: ListName) -> Sequence[str]:
    lists = config.addresses
    return {
        "deny": lists.deny,
        "allow": lists.allow,
        "exempt": lists.exempt,
        "pass": config.attack_mode.passes,
    }[name]


def _configuration(cidr: str) -> ListedNetwork:
    return ListedNetwork(cidr=cidr, source="configuration", reason="", actor="", at=None, until=None)


def _run_time(cidr: str, entry: Entry) -> ListedNetwork:
    members = entry.members()
    return ListedNetwork(
        cidr=cidr,
        source="run_time",
        reason=str(members.get("reason", "")),
        actor=str(members.get("actor", "")),
        at=moment(entry.at_ms),
        until=moment_or_none(entry.until_ms),
    )
