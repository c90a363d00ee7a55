"""Explains what the gate would answer to a described request, step by step, and charges nothing.

It asks the same policy that decides, and looks at the counters in the store (a `take` that wants 0).
What lies in hand in a replica is counted as used there, so `remaining` may be a little low.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

import orjson

from sidecar.admin.explain import ExplainRequest
from sidecar.admin.problems import Problem
from sidecar.config import Config
from sidecar.core.ledger import Counter
from sidecar.core.model import Mode, Quota, Reason, Request, Verdict
from sidecar.core.policy import Bound, Policy
from sidecar.core.window import NEVER, Ask, Grant
from sidecar.fronts import Head, Unreadable, datum
from sidecar.replica import fronts_of
from sidecar.store import StoreUnavailable
from sidecar.store.redis import RedisStore

PATIENCE_S = 1.0

Step = dict[str, object]


class Explainer:
    """Has a connection of its own. `config`, `policy` and `attack` say what is in force now."""

    def __init__(
        self,
        *,
        store_url: str,
        config: Callable[[], Config],
        policy: Callable[[], Policy],
        attack: Callable[[], bool],
    ) -> None:
        store = config().store
        self._store = RedisStore(
            store_url, patience_s=PATIENCE_S, ca=store.ca, cert=store.cert, key=store.key
        )
        self._config = config
        self._policy = policy
        self._attack = attack

    async def close(self) -> None:
        await self._store.close()

    async def explain(self, asked: ExplainRequest) -> Mapping[str, object]:
        """Each step's outcome, the counters with what is left, and the answer that a proxy would get.

        Raises Problem (400) when the description is no request.
        """
        fronts = {front.name: front for front in fronts_of(self._config())}
        request = _described(asked, fronts["api"].read)
        policy, attack = self._policy(), self._attack()
        bound = policy.bind(request)
        charges = [*bound.charges, *bound.shadow_charges]
        silent = ""
        grants: list[Grant] = []
        if charges:
            try:
                rows = await self._store.take([(counter.key, _look(counter, cost)) for counter, cost in charges])
                grants = [Grant(*row) for row in rows]
            except StoreUnavailable as exc:
                silent = str(exc)
        limits = [
            _limit(counter, cost, grant) for (counter, cost), grant in zip(charges, grants, strict=bool(grants))
        ]
        verdict = _verdict(bound, attack, grants)
        steps = [_request_step(request), _attack_step(bound, attack), *_rule_steps(policy, request, bound)]
        if not bound.malformed and bound.refusal is None:
            steps.append(_limits_step(bound, limits, silent))
        written = fronts[asked.front].write(request, verdict, b"explain", True)
        return {
            "allowed": verdict.allowed,
            "status": verdict.status,
            "reason": verdict.reason.code,
            "retry_after_s": verdict.retry_after_s,
            "steps": steps,
            "limits": limits,
            "shadow": list(verdict.shadow),
            "answer": _answer(asked.front, written),
        }


def _described(asked: ExplainRequest, read: Callable[[Head], Request]) -> Request:
    question = {
        "address": asked.address,
        "method": asked.method,
        "host": asked.host,
        "path": asked.path,
        "headers": asked.headers,
    }
    try:
        request = read(Head(b"POST", b"/v1/check", {}, body=orjson.dumps(question)))
    except Unreadable as exc:
        raise Problem(400, f"{exc.detail}.") from exc
    request.tls = datum.tls_version(request.headers)
    return request


def _look(counter: Counter, cost: int) -> Ask:
    limit = counter.limit
    return Ask(counter.permits, limit.window_ms, limit.slice_ms, 0, cost, block_ms=limit.block_ms)


def _verdict(bound: Bound, attack: bool, grants: list[Grant]) -> Verdict:
    """What `decide` would say, from counters looked at instead of permits in hand."""
    if attack and not bound.passes and not bound.malformed:
        return bound.policy.attack
    if bound.refusal is not None:
        return bound.refusal
    enforced = list(zip(bound.charges, grants, strict=False))
    quotas = tuple(
        Quota(counter.limit, max(0, grant.room - cost), ceil(max(0, grant.next_ms) / 1000))
        for (counter, cost), grant in enforced
    )
    refused = [(counter, grant) for (counter, _), grant in enforced if grant.retry_ms != 0]
    shadow = tuple(
        counter.limit.name
        for (counter, _), grant in zip(bound.shadow_charges, grants[len(bound.charges) :], strict=False)
        if grant.retry_ms != 0
    )
    if not refused:
        return Verdict(
            bound.reason,
            quotas=quotas,
            policy_header=bound.terms.policy_header,
            shadow=(*bound.shadow, *shadow),
            key_id=bound.key_id,
        )
    waits = [grant.retry_ms for _, grant in refused]
    names = tuple(counter.limit.name for counter, _ in refused)
    return Verdict(
        Reason.RATE_LIMITED,
        retry_after_s=None if NEVER in waits else ceil(max(waits) / 1000),
        quotas=quotas,
        policy_header=bound.terms.policy_header,
        rule=names[0],
        violated=names,
        shadow=bound.shadow,
        key_id=bound.key_id,
    )


def _request_step(request: Request) -> Step:
    return {
        "step": "request",
        "outcome": "refused" if request.malformed else "passed",
        "detail": request.malformed
        or f"{request.method} {request.host or '-'} {request.path} from {request.address}",
    }


def _attack_step(bound: Bound, attack: bool) -> Step:
    if not attack:
        return {"step": "attack_mode", "outcome": "passed", "detail": "off"}
    if bound.passes:
        return {"step": "attack_mode", "outcome": "passed", "detail": "on, and the address is let through"}
    return {"step": "attack_mode", "outcome": "refused", "detail": "on"}


def _rule_steps(policy: Policy, request: Request, bound: Bound) -> list[Step]:
    """One step per list or filter that objects, or one that says that none does."""
    if bound.malformed:
        return []
    objections = policy.objections(request)
    steps: list[Step] = [
        {
            "step": "rules",
            "outcome": "refused" if finding.mode is Mode.ENFORCE else "shadow",
            "rule": finding.rule,
            "detail": finding.reason.code,
        }
        for finding in objections
    ]
    if not steps:
        detail = "exempt from limits" if bound.reason is Reason.EXEMPT else "no list or filter objects"
        steps.append({"step": "rules", "outcome": "passed", "detail": detail})
    return steps


def _limits_step(bound: Bound, limits: list[Step], silent: str) -> Step:
    if bound.reason is Reason.EXEMPT:
        return {"step": "limits", "outcome": "passed", "detail": "the address is exempt"}
    if silent:
        return {"step": "limits", "outcome": "unknown", "detail": f"the store is silent: {silent}"}
    refused = [limit["name"] for limit in limits if limit["mode"] == "enforce" and not limit["admits"]]
    if refused:
        return {"step": "limits", "outcome": "refused", "detail": f"spent: {', '.join(map(str, refused))}"}
    return {"step": "limits", "outcome": "passed", "detail": f"{len(limits)} apply" if limits else "none applies"}


def _limit(counter: Counter, cost: int, grant: Grant) -> Step:
    return {
        "name": counter.limit.name,
        "mode": counter.limit.mode.value,
        "counter": counter.key.decode(),
        "permits": counter.permits,
        "window_s": counter.limit.window_ms / 1000,
        "cost": cost,
        "remaining": grant.room,
        "admits": grant.retry_ms == 0,
        "retry_after_s": None if grant.retry_ms == NEVER else ceil(grant.retry_ms / 1000),
    }


def _answer(front: str, written: bytes) -> Mapping[str, object]:
    """The response that a front would send, taken apart again."""
    head, _, body = written.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return {"front": front, "status": int(status.split(" ")[1]), "headers": headers, "body": body.decode()}
