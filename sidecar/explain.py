"""Explains what the gate would answer to a described request, step by step, and charges nothing.

    description --as its proxy would ask--> front.read --> policy.bind --> copies of the counters
                                                                               |
        the answer <--front.write-- verdict <--judge-- looked at in the store -+

The request is read by the front and judged by the functions that judge real requests, on copies
of the counters. What a copy lacks is looked up in the store with a `take` that wants nothing,
and then taken as granted. While the store is silent the outage policy decides on copies, too.

With workers, what lies in their hands counts as used here, and what each counted alone in an
outage is not known: then the limit's `admits` is null, and the answer takes it as admitted.

It reads no HTTP and words no errors of its own; that is `admin.explain`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from math import ceil
from typing import Final, NamedTuple

from sidecar.admin.explain import ExplainRequest
from sidecar.admin.problems import Problem
from sidecar.admin.times import moment, moment_or_none
from sidecar.assembly import fronts_of
from sidecar.config import Config
from sidecar.core.addresses import canonical_address, networks_around, subject_of
from sidecar.core.control import Control, Entry
from sidecar.core.decide import judge, judge_alone
from sidecar.core.ledger import FOREVER, Counter, closed, enough
from sidecar.core.model import Limit, Mode, Outage, Reason, Request, Source
from sidecar.core.policy import Bound, Policy
from sidecar.core.window import NEVER, Ask, Grant
from sidecar.fronts import Front, Unreadable
from sidecar.fronts.described import Described, asked_by
from sidecar.replica import clock_ms
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore

PATIENCE_S: Final = 1.0

Charge = tuple[Counter, int]
Part = dict[str, object]


class Look(NamedTuple):
    """What the store says of one counter. `blocked`: by its `block_for`, whatever the room."""

    grant: Grant
    blocked: bool


class Explainer:
    """Has a connection of its own.

    config, policy, attack  what is in force now
    entry                   (table, field) -> what was said with an entry of a list. May raise StoreUnavailable
    silent                  whether the gate gets no answers from the store: the outage policy decides
    look_alone              (counter, need) -> what is left of its share in an outage; None: not known here
    """

    def __init__(
        self,
        *,
        store_url: str,
        config: Callable[[], Config],
        policy: Callable[[], Policy],
        attack: Callable[[], bool],
        silent: Callable[[], bool],
        look_alone: Callable[[Counter, int], Grant | None],
        entry: Callable[[str, str], Awaitable[Entry | None]] | None = None,
    ) -> None:
        store = config().store
        self._store = RedisStore(
            store_url, patience_s=PATIENCE_S, ca=store.ca, cert=store.cert, key=store.key
        )
        self._one_at_a_time = asyncio.Lock()
        self._config = config
        self._policy = policy
        self._attack = attack
        self._silent = silent
        self._look_alone = look_alone
        self._entry = entry

    async def close(self) -> None:
        await self._store.close()

    async def explain(self, asked: ExplainRequest) -> Mapping[str, object]:
        """Each step's outcome, the counters with what is left, and the answer that a proxy would get.

        Raises Problem (400) when the description is no request.
        """
        config = self._config()
        front = next(front for front in fronts_of(config) if front.name == asked.front)
        request = _read(front, asked, forwarded=config.fronts.envoy_address == "forwarded")
        while True:
            policy = self._policy()
            bound = policy.bind(request)
            charges = [*bound.charges, *bound.shadow_charges]
            looks, error = await self._look(charges)
            listed = await self._listed(policy, request.address, ask=not error and not self._silent())
            if (
                self._policy() is policy
            ):  # else a change came meanwhile, and this one must not be asked any more
                break

        now_ms, attack = clock_ms(), self._attack()
        verdict = judge(_twin(bound), attack, now_ms, Source.MEMORY)
        twin = _twin(bound)
        copies = [*twin.charges, *twin.shadow_charges]
        for charge, look in zip(copies, looks, strict=bool(looks)):
            if not _known(*charge, now_ms):
                _take(*charge, look, now_ms)
        subject = subject_of(request.address, policy.ipv6_prefix)
        limits = [
            self._limit(*charge, now_ms) | _permits(policy, charge[0], bound, subject) for charge in copies
        ]
        if verdict is None and looks:
            verdict = judge(twin, attack, now_ms, Source.STORE)
        if verdict is None:
            verdict = judge_alone(twin, now_ms, self._take_alone)

        steps = [_request_step(request), _attack_step(bound, attack)]
        if not bound.malformed:
            steps += _rule_steps(policy, request)
            steps += _subject_steps(policy, bound)
            steps.append(_limits_step(bound, limits, error))
        written = front.write(request, verdict, request.request_id or b"explain", True)
        return {
            "allowed": verdict.allowed,
            "status": verdict.status,
            "reason": verdict.reason.code,
            "source": verdict.source.label,
            "retry_after_s": verdict.retry_after_s,
            "steps": steps,
            "addresses": listed,
            "limits": limits,
            "shadow": list(verdict.shadow),
            "answer": _answer(asked.front, written),
        }

    async def _look(self, charges: list[Charge]) -> tuple[list[Look], str]:
        """What the store says of each counter, or nothing and why."""
        if not charges:
            return [], ""
        if self._silent():
            return [], "the store is silent"
        asks: list[tuple[bytes, Ask]] = []
        for counter, cost in charges:
            limit = counter.limit
            need = max(0, cost - counter.in_hand)
            ask = Ask(counter.permits, limit.window_ms, limit.slice_ms, 0, need, block_ms=limit.block_ms)
            asks += [(counter.key, ask), (counter.key, ask._replace(need=0))]
        try:
            async with self._one_at_a_time:
                grants = [Grant(*row) for row in await self._store.take(asks)]
        except StoreUnavailable as exc:
            return [], f"the store is silent: {exc}"
        pairs = zip(grants[::2], grants[1::2], strict=True)
        return [Look(grant, blocked=of_none.retry_ms > 0) for grant, of_none in pairs], ""

    async def _listed(self, policy: Policy, address: str, *, ask: bool) -> list[Part]:
        """The most specific network around the address in each list, and who put it there.

        That is only asked if the store may answer, and no more once it did not.
        """
        found: list[Part] = []
        control = policy.control
        configured = (policy.deny, policy.allow, policy.exempt, policy.passes)
        for (table, at_run_time), in_configuration in zip(control.lists.items(), configured, strict=True):
            if (cidr := in_configuration.match(address)) is not None:
                found.append(_listing(table, cidr, "configuration", None))
            if (cidr := at_run_time.match(address)) is not None:
                entry = None
                if ask and self._entry is not None:
                    try:
                        entry = await self._entry(table, cidr)
                    except StoreUnavailable:
                        ask = False
                found.append(_listing(table, cidr, "run_time", entry))
        return found

    def _take_alone(self, counter: Counter, want: int, need: int) -> Grant:
        """As the gate takes its share in an outage, but for the taking."""
        grant = self._look_alone(counter, need)
        if grant is None:
            permits = counter.permits
            grant = Grant(0, permits, 0, 0, 0 if need <= permits else NEVER, 0, 0)
        if want and grant.retry_ms == 0:
            grows_ms = grant.next_ms or _full_window_ms(counter, grant)
            return grant._replace(granted=want, room=grant.room - want, next_ms=grows_ms)
        if want and counter.limit.block_ms:
            return grant._replace(retry_ms=max(grant.retry_ms, counter.limit.block_ms), room=0)
        return grant

    def _limit(self, counter: Counter, cost: int, now_ms: float) -> Part:
        """A limit, and what it has left before this request."""
        limit, left = counter.limit, counter.room + counter.in_hand
        part: Part = {
            "name": limit.name,
            "mode": limit.mode.value,
            "counter": counter.key.decode(),
            "window_s": limit.window_ms / 1000,
            "cost": cost,
        }
        if enough(counter, cost, now_ms):
            return part | _left(left, True, 0)
        if closed(counter, cost, now_ms):
            return part | _left(left, False, counter.retry_at_ms - now_ms)
        if limit.outage is Outage.OPEN:
            return part | _left(None, True, 0)
        if limit.outage is Outage.CLOSED:
            return part | _left(None, False, 1)
        share = self._look_alone(counter, cost)
        if share is None:
            return part | _left(None, None, 0)
        return part | _left(
            share.room, share.retry_ms == 0, FOREVER if share.retry_ms == NEVER else share.retry_ms
        )


def _read(front: Front, asked: ExplainRequest, *, forwarded: bool) -> Request:
    if canonical_address(asked.address) is None:
        raise Problem(400, "address: not an IP address (without a port).")
    described = Described(asked.address, asked.method, asked.host, asked.path, asked.headers)
    try:
        return front.read(asked_by(asked.front, described, forwarded=forwarded))
    except Unreadable as exc:
        raise Problem(400, f"{exc.detail}.") from exc
    except UnicodeEncodeError as exc:
        raise Problem(400, "method: not an HTTP method.") from exc


def _twin(bound: Bound) -> Bound:
    """The same case with counters of its own, which may be spent."""
    twin = copy(bound)
    twin.charges = tuple((copy(counter), cost) for counter, cost in bound.charges)
    twin.shadow_charges = tuple((copy(counter), cost) for counter, cost in bound.shadow_charges)
    return twin


def _known(counter: Counter, cost: int, now_ms: float) -> bool:
    return enough(counter, cost, now_ms) or closed(counter, cost, now_ms)


def _take(counter: Counter, cost: int, look: Look, now_ms: float) -> None:
    """Bring a copy to where it would be when the store has answered for this request alone."""
    limit, grant = counter.limit, look.grant
    next_ms = grant.next_ms
    counter.room = grant.room + counter.in_hand  # which goes back with the batch that would be sent
    if grant.retry_ms == 0:
        counter.in_hand, counter.lapse_ms = cost, FOREVER
        counter.room -= cost
        next_ms = next_ms or _full_window_ms(counter, grant)
    else:
        retry_ms = grant.retry_ms
        if limit.block_ms:
            if retry_ms != NEVER and not look.blocked:
                retry_ms = max(retry_ms, limit.block_ms)  # a look does not close what a refusal would
            counter.room, next_ms = 0, retry_ms
        counter.in_hand = 0
        counter.closed_cost = cost
        counter.retry_at_ms = counter.closed_until_ms = FOREVER if retry_ms == NEVER else now_ms + retry_ms
    counter.grows_at_ms = FOREVER if next_ms == NEVER else now_ms + next_ms


def _full_window_ms(counter: Counter, grant: Grant) -> int:
    """When a permit that is granted now returns."""
    limit = counter.limit
    return grant.slice_left_ms + -(-limit.window_ms // limit.slice_ms) * limit.slice_ms


# --- the parts of the answer -----------------------------------------------------


def _request_step(request: Request) -> Part:
    seen = f"{request.method} {request.host or '(any host)'} {request.path} from {request.address}"
    return _step("request", "refused" if request.malformed else "passed", request.malformed or seen)


def _attack_step(bound: Bound, attack: bool) -> Part:
    if not attack:
        return _step("attack_mode", "passed", "off")
    if bound.passes:
        return _step("attack_mode", "passed", "on, and the address is let through")
    return _step("attack_mode", "passed" if bound.malformed else "refused", "on")


def _rule_steps(policy: Policy, request: Request) -> list[Part]:
    """One step for each list and filter that objects, or one that says that none does."""
    steps = [
        _step("rules", "refused" if finding.mode is Mode.ENFORCE else "shadow", finding.reason.code)
        | {"rule": finding.rule}
        for finding in policy.objections(request)
    ]
    return steps or [_step("rules", "passed", "no list or filter objects")]


def _subject_steps(policy: Policy, bound: Bound) -> list[Part]:
    """A step for attack mode of the request's own key or tenant, where it is on."""
    field = policy.attacked(bound)
    if field is None:
        return []
    reason = str(policy.control.attack[field].members().get("reason", ""))
    detail = f"on for {field}" + (f": {reason}" if reason else "")
    if bound.passes:
        return [_step("attack_mode", "passed", f"{detail}, and the address is let through")]
    if bound.refusal is not None and bound.refusal.reason is not Reason.ATTACK_MODE:
        return [_step("attack_mode", "not asked", detail)]
    return [_step("attack_mode", "refused", detail)]


def _listing(table: str, cidr: str, source: str, entry: Entry | None) -> Part:
    """A network of a list. Who, when and why are None for one of the configuration."""
    return {"list": table, "cidr": cidr, "source": source} | _said_with(entry)


def _permits(policy: Policy, counter: Counter, bound: Bound, subject: str) -> Part:
    """The permits of a counter, and the override that they come from, where one is in force."""
    limit = counter.limit
    part: Part = {"permits": counter.permits, "override": None}
    if (field := _override(policy.control, limit, bound, subject)) is not None:
        part["override"] = {
            "subject": field.removeprefix(f"{limit.name} "),
            "configured": policy.limit(limit.name).permits,
        } | _said_with(policy.control.overrides[field])
    return part


def _override(control: Control, limit: Limit, bound: Bound, subject: str) -> str | None:
    """The override in force, as `Control.permits` finds it: a key's, else its tenant's, else of the least network."""
    kinds = {kind for kind, _ in limit.per}
    fields: list[str] = []
    if "key" in kinds and bound.key_id:
        fields.append(f"key:{bound.key_id.decode()}")
    if kinds & {"key", "tenant"} and bound.tenant:
        fields.append(f"tenant:{bound.tenant}")
    if "ip" in kinds:
        fields += [f"address:{cidr}" for cidr in networks_around(subject)]
    named = (f"{limit.name} {field}" for field in fields)
    return next((field for field in named if field in control.overrides), None)


def _said_with(entry: Entry | None) -> Part:
    """Who made an entry, why, when and until when; all None when nobody knows."""
    if entry is None:
        return dict.fromkeys(("reason", "actor", "at", "until"))
    members = entry.members()
    return {
        "reason": str(members.get("reason", "")),
        "actor": str(members.get("actor", "")),
        "at": moment(entry.at_ms),
        "until": moment_or_none(entry.until_ms),
    }


def _limits_step(bound: Bound, limits: list[Part], error: str) -> Part:
    if bound.refusal is not None:
        return _step("limits", "not asked", "already refused")
    if bound.reason is Reason.EXEMPT:
        return _step("limits", "passed", "the address is exempt")
    if not limits:
        return _step("limits", "passed", "none applies")
    enforced = [limit for limit in limits if limit["mode"] == Mode.ENFORCE.value]
    refused = [str(limit["name"]) for limit in enforced if limit["admits"] is False]
    suffix = f" ({error})" if error else ""
    if refused:
        return _step("limits", "refused", f"spent: {', '.join(refused)}{suffix}")
    if any(limit["admits"] is None for limit in enforced):
        return _step("limits", "unknown", f"each worker counts its own share{suffix}")
    return _step("limits", "passed", f"{len(limits)} apply{suffix}")


def _step(name: str, outcome: str, detail: str) -> Part:
    return {"step": name, "outcome": outcome, "detail": detail}


def _left(remaining: int | None, admits: bool | None, wait_ms: float) -> Part:
    retry_after_s = None if wait_ms == FOREVER else ceil(wait_ms / 1000)
    return {"remaining": remaining, "admits": admits, "retry_after_s": retry_after_s}


def _answer(front: str, written: bytes) -> Part:
    """The response that a front would send, taken apart again."""
    head, _, body = written.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return {"front": front, "status": int(status.split(" ")[1]), "headers": headers, "body": body.decode()}
