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
from typing import Final, NamedTuple

from sidecar.admin.explain import ExplainRequest
from sidecar.admin.problems import Problem
from sidecar.assembly import fronts_of
from sidecar.config import Config
from sidecar.core.addresses import canonical_address, subject_of
from sidecar.core.bound import UNPROVED, Bound
from sidecar.core.control import Entry
from sidecar.core.decide import invalid, judge, judge_alone, unprovable
from sidecar.core.keys import FieldRefused, KeyUnreadable, checked_id, read
from sidecar.core.ledger import FOREVER, Counter, closed, enough
from sidecar.core.model import Outage, Request, Source, Verdict
from sidecar.core.policy import Policy
from sidecar.core.principals import Principal
from sidecar.core.proofs import INVALID, UNKNOWABLE, Unproven
from sidecar.core.window import NEVER, Ask, Grant
from sidecar.explained import (
    Part,
    answer,
    attack_step,
    credential,
    credential_step,
    limits_step,
    listing,
    permits,
    remaining,
    request_step,
    rule_steps,
    subject_steps,
)
from sidecar.fronts import Front, Unreadable
from sidecar.fronts.described import Described, asked_by
from sidecar.identity import Identity
from sidecar.replica import clock_ms
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore

PATIENCE_S: Final = 1.0

Charge = tuple[Counter, int]


class Look(NamedTuple):
    """What the store says of one counter. `blocked`: by its `block_for`, whatever the room."""

    grant: Grant
    blocked: bool


class Explainer:
    """Has a connection of its own.

    config, policy, attack  what is in force now
    entry                   (table, field) -> what was said with an entry of a list. May raise StoreUnavailable
    identity                who is who
    wall_ms                 the store's clock
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
        entry: Callable[[str, str], Awaitable[Entry | None]],
        identity: Callable[[], Identity],
        wall_ms: Callable[[], int],
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
        self._identity = identity
        self._wall_ms = wall_ms

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
            who, unknown = await self._who(request, policy, asked.key)
            trial = policy.bind(request, UNPROVED) if policy.registry and request.key is not None else None
            bound = (
                trial
                if isinstance(who, Unproven) and trial is not None
                else policy.bind(request, _named(who))
            )
            cases = [bound] if trial is None or trial is bound else [trial, bound]
            looks, error = await self._look([charge for case in cases for charge in _charges(case)])
            listed = await self._listed(policy, request.address, ask=not error and not self._silent())
            # else a change came meanwhile, and this policy must not be asked any more
            if self._policy() is policy:
                break

        subject = subject_of(request.address, policy.ipv6_prefix)
        attack = self._attack()
        first = len(_charges(cases[0])) if len(cases) > 1 else 0
        verdict, limits = self._judged(bound, looks[first:], attack)
        if len(cases) > 1:  # who may not try is told nothing else
            tried, guards = self._judged(cases[0], looks[:first], attack)
            verdict = verdict if tried.allowed else tried
            limits = guards + limits
        if verdict.allowed and isinstance(who, Unproven):
            verdict = unprovable(bound) if unknown or who is not INVALID else invalid(bound, verdict)
        told = [part | permits(policy, counter, bound, subject) for counter, part in limits]

        steps = [request_step(request), attack_step(bound, attack)]
        if not bound.malformed:
            steps += rule_steps(policy, request, who)
            if policy.registry:
                steps.append(credential_step(request, who, unknown))
            steps += subject_steps(policy, bound)
            steps.append(limits_step(bound, told, error))
        written = front.write(request, verdict, request.request_id or b"explain", True)
        return {
            "allowed": verdict.allowed,
            "status": verdict.status,
            "reason": verdict.reason.code,
            "source": verdict.source.label,
            "retry_after_s": verdict.retry_after_s,
            "steps": steps,
            "credential": credential(who),
            "addresses": listed,
            "limits": told,
            "shadow": list(verdict.shadow),
            "answer": answer(asked.front, written),
        }

    def _judged(
        self, bound: Bound, looks: list[Look], attack: bool
    ) -> tuple[Verdict, list[tuple[Counter, Part]]]:
        """The verdict on copies of the counters, and each with what it had left before."""
        now_ms = clock_ms()
        verdict = judge(_twin(bound), attack, now_ms, Source.MEMORY)
        twin = _twin(bound)
        copies = _charges(twin)
        for charge, look in zip(copies, looks, strict=bool(looks)):
            if not _known(*charge, now_ms):
                _take(*charge, look, now_ms)
        counted = [(charge[0], self._limit(*charge, now_ms)) for charge in copies]
        if verdict is None and looks:
            verdict = judge(twin, attack, now_ms, Source.STORE)
        return verdict or judge_alone(twin, now_ms, self._take_alone), counted

    async def _who(
        self, request: Request, policy: Policy, key_id: str
    ) -> tuple[Principal | Unproven | None, str]:
        """Who asks, as the gate would find out, or as if it were this key; and why that cannot be said.

        Raises Problem (404) for a key that does not exist.
        """
        if key_id:
            if not policy.registry:
                raise Problem(400, "key: there is no registry: credentials.mode is not registry.")
            request.key = None
            return await self._as_if(key_id)
        if not policy.registry or request.key is None:
            return None, ""
        proofs, wall_ms = self._identity().apart(), self._wall_ms()
        found = proofs.prove(request.key, wall_ms)
        if isinstance(found, str):
            proofs.ask([found])
            try:
                proofs.answer({found: await self._entry("keys", found)})
            except StoreUnavailable as exc:
                return INVALID, f"the store is silent: {exc}"
            found = proofs.prove(request.key, wall_ms)
        if isinstance(found, str):
            return INVALID, "it is being changed"
        return found, "the fleet's hash key is not known yet" if found is UNKNOWABLE else ""

    async def _as_if(self, key_id: str) -> tuple[Principal | Unproven, str]:
        try:
            checked_id(key_id)  # a secret in its place would reach the store's log of commands
        except FieldRefused as exc:
            raise Problem(404, f"key: there is no such key: {exc.remedy}.") from exc
        try:
            entry = await self._entry("keys", key_id)
        except StoreUnavailable as exc:
            raise Problem(503, f"key: the store is silent: {exc}.") from exc
        if entry is None:
            raise Problem(404, f"key: there is no key {key_id}.")
        try:
            key = read(key_id, entry.at_ms, entry.payload)
        except KeyUnreadable as exc:
            raise Problem(409, f"key: {exc}.") from exc
        if key.expired(self._wall_ms()):
            return INVALID, ""
        return self._identity().principal(key), ""

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
                found.append(listing(table, cidr, "configuration", None))
            if (cidr := at_run_time.match(address)) is not None:
                entry = None
                if ask:
                    try:
                        entry = await self._entry(table, cidr)
                    except StoreUnavailable:
                        ask = False
                found.append(listing(table, cidr, "run_time", entry))
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
            return part | remaining(left, True, 0)
        if closed(counter, cost, now_ms):
            return part | remaining(left, False, counter.retry_at_ms - now_ms)
        if limit.outage is Outage.OPEN:
            return part | remaining(None, True, 0)
        if limit.outage is Outage.CLOSED:
            return part | remaining(None, False, 1)
        share = self._look_alone(counter, cost)
        if share is None:
            return part | remaining(None, None, 0)
        return part | remaining(
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


def _named(who: Principal | Unproven | None) -> Principal | None:
    return who if isinstance(who, Principal) else None


def _charges(bound: Bound) -> list[Charge]:
    return [*bound.charges, *bound.shadow_charges]


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
