"""The decision, in order: one synchronous function, judged again when grants arrive.

    attack mode -> what lists and filters said -> limits -> allow

`judge` answers from memory, or says None: it lacks permits. The gate then wants what
`lacking` names, and calls `judge` again when the store has answered; `judge` does not know
that anybody waited. A request is charged only when all of its limits admit it.

`judge_alone` is the same while the store is silent: each limit by its own outage policy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from math import ceil
from typing import Final

from sidecar.core.access import CREDENTIALS
from sidecar.core.bound import Bound
from sidecar.core.ledger import FOREVER, Counter, closed, enough
from sidecar.core.model import Outage, Quota, Reason, Source, Verdict
from sidecar.core.window import NEVER, Grant

LONGEST_RETRY_S: Final = 31 * 24 * 3600

LocalTake = Callable[[Counter, int, int], Grant]
"""Take (counter, want, need) from this process's share in an outage."""


def judge(bound: Bound, attack: bool, now_ms: float, source: Source) -> Verdict | None:
    """The verdict, or None when permits are lacking. Spends permits in hand if it allows.

    One pass spends and writes down what is left, and takes back if a later counter lacks: most requests
    are admitted, and looking at each counter twice costs them more than taking back costs the others.
    """
    if attack and not bound.passes and not bound.malformed:
        return _under_attack(bound)
    guard = bound.guard
    if guard is not None and _any_closed(guard.charges, now_ms):
        return _refuse(guard, now_ms, source)
    if bound.refusal is not None:
        return bound.refusal
    charges = bound.charges
    if bound.shadow_charges and not _shadows_known(bound, now_ms):
        return _refuse(bound, now_ms, source) if _any_closed(charges, now_ms) else None
    left: list[int] = []
    for counter, cost in charges:
        hand = counter.in_hand - cost
        if hand < 0 or now_ms >= counter.lapse_ms:
            for spent, returned in charges[: len(left) // 2]:
                spent.in_hand += returned
            return _refuse(bound, now_ms, source) if _any_closed(charges, now_ms) else None
        counter.in_hand = hand
        wait_ms = counter.grows_at_ms - now_ms
        left += (counter.room + hand, ceil(wait_ms / 1000) if wait_ms > 0 else 0)
    numbers = tuple(left)
    limits, policy_header, ratelimit = bound.terms
    verdict = Verdict.of_limits(bound.reason, source, limits, numbers, policy_header, ratelimit % numbers)
    if bound.shadow or bound.shadow_charges:
        verdict.shadow = _charge_shadows(bound, now_ms)
    if guard is not None and guard.shadow_charges:
        verdict.shadow += tuple([c.limit.name for c, cost in guard.shadow_charges if closed(c, cost, now_ms)])
    if bound.key_id:
        verdict.key_id, verdict.identity = bound.key_id, bound.identity
    return verdict


def refused_before(trial: Bound, attack: bool, now_ms: float, source: Source) -> Verdict | None:
    """What refuses a request whatever its credential is worth: attack mode, lists, filters, too many failures."""
    if attack and not trial.passes and not trial.malformed:
        return _under_attack(trial)
    if trial.refusal is not None:
        return trial.refusal
    return _refuse(trial, now_ms, source) if _any_closed(trial.charges, now_ms) else None


def invalid(trial: Bound, tried: Verdict) -> Verdict:
    """The verdict on a credential that is not valid, after a trial that allowed to try it."""
    return _of_credential(Reason.CREDENTIAL_INVALID, trial, shadow=tried.shadow, source=tried.source)


def unprovable(trial: Bound) -> Verdict:
    """The verdict on a credential that only the store knows, while the store is silent."""
    return _of_credential(
        Reason.STORE_UNAVAILABLE, trial, shadow=trial.shadow, source=Source.OUTAGE, retry_after_s=1
    )


def _under_attack(bound: Bound) -> Verdict:
    verdict = bound.policy.attack
    if bound.allow_origin:
        verdict = copy(verdict)
        verdict.allow_origin = bound.allow_origin
    return verdict


def _of_credential(
    reason: Reason,
    trial: Bound,
    *,
    shadow: tuple[str, ...],
    source: Source,
    retry_after_s: int | None = None,
) -> Verdict:
    verdict = Verdict(reason, rule=CREDENTIALS, shadow=shadow, source=source, retry_after_s=retry_after_s)
    verdict.allow_origin = trial.allow_origin
    return verdict


def lacking(bound: Bound, now_ms: float) -> list[tuple[Counter, int]]:
    """The charges that `judge` lacks permits for; only after `judge` said None, so no limit is closed."""
    lacks = [
        charge for charge in bound.charges if charge[0].in_hand < charge[1] or now_ms >= charge[0].lapse_ms
    ]
    if bound.shadow_charges:
        lacks += [
            charge
            for charge in bound.shadow_charges
            if not enough(*charge, now_ms) and not closed(*charge, now_ms)
        ]
    return lacks


def judge_alone(bound: Bound, now_ms: float, local: LocalTake) -> Verdict:
    """The verdict while the store is silent. Permits in hand and closed counters still count."""
    takes: list[tuple[Counter, int]] = []
    answered: dict[Counter, Grant] = {}
    refused: list[Counter] = []
    for counter, cost in bound.charges:
        if enough(counter, cost, now_ms):
            continue
        if closed(counter, cost, now_ms):
            return _refuse(bound, now_ms, Source.OUTAGE)
        match counter.limit.outage:
            case Outage.OPEN:
                continue
            case Outage.CLOSED:
                return _told(
                    bound,
                    Verdict(
                        Reason.STORE_UNAVAILABLE,
                        source=Source.OUTAGE,
                        retry_after_s=1,
                        rule=counter.limit.name,
                        violated=(counter.limit.name,),
                    ),
                )
            case Outage.LOCAL:
                answered[counter] = local(counter, 0, cost)
                takes.append((counter, cost))
                if answered[counter].retry_ms != 0:
                    refused.append(counter)
    if refused:
        for counter, cost in takes:
            if counter in refused and counter.limit.block_ms:
                answered[counter] = local(counter, cost, cost)
        waits = [answered[counter].retry_ms for counter in refused]
        return _told(
            bound,
            Verdict(
                Reason.RATE_LIMITED,
                source=Source.OUTAGE,
                retry_after_s=None if NEVER in waits else max(1, ceil(max(waits) / 1000)),
                quotas=_quotas_alone(bound, now_ms, answered),
                policy_header=bound.terms.policy_header,
                rule=refused[0].limit.name,
                violated=tuple(counter.limit.name for counter in refused),
            ),
        )
    for counter, cost in bound.charges:
        if counter in answered:
            answered[counter] = local(counter, cost, cost)
        elif enough(counter, cost, now_ms):
            counter.in_hand -= cost
    return _told(
        bound,
        Verdict(
            bound.reason,
            source=Source.OUTAGE,
            quotas=_quotas_alone(bound, now_ms, answered),
            policy_header=bound.terms.policy_header,
        ),
    )


def _told(bound: Bound, verdict: Verdict) -> Verdict:
    """The verdict with what the request's case adds to any."""
    verdict.shadow, verdict.key_id = bound.shadow, bound.key_id
    if verdict.allowed:
        verdict.identity = bound.identity
    else:
        verdict.allow_origin = bound.allow_origin
    return verdict


def _charge_shadows(bound: Bound, now_ms: float) -> tuple[str, ...]:
    """Spend what shadow limits have in hand; the names of all shadow rules that would have refused."""
    shadow = bound.shadow
    for counter, cost in bound.shadow_charges:
        if enough(counter, cost, now_ms):
            counter.in_hand -= cost
        else:
            shadow = (*shadow, counter.limit.name)
    return shadow


def _any_closed(charges: Sequence[tuple[Counter, int]], now_ms: float) -> bool:
    """Whether a counter that lacks permits is known to be closed."""
    for counter, cost in charges:
        if (counter.in_hand < cost or now_ms >= counter.lapse_ms) and closed(counter, cost, now_ms):
            return True
    return False


def _shadows_known(bound: Bound, now_ms: float) -> bool:
    """Whether each shadow limit can be judged without the store."""
    return all(
        enough(counter, cost, now_ms) or closed(counter, cost, now_ms)
        for counter, cost in bound.shadow_charges
    )


def _refuse(bound: Bound, now_ms: float, source: Source) -> Verdict:
    """Refused by every limit that is known to be closed; wait for the last of those that are known to be spent."""
    violated: list[str] = []
    left: list[int] = []
    retry_at_ms = 0.0
    for counter, cost in bound.charges:
        in_hand = counter.in_hand
        left += (counter.room + in_hand, _seconds(counter.grows_at_ms - now_ms))
        if cost - in_hand >= counter.closed_cost:
            retry_at_ms = max(retry_at_ms, counter.retry_at_ms)
            if now_ms < counter.closed_until_ms:
                violated.append(counter.limit.name)
    numbers = tuple(left)
    limits, policy_header, ratelimit = bound.terms
    verdict = Verdict.of_limits(
        Reason.RATE_LIMITED, source, limits, numbers, policy_header, ratelimit % numbers
    )
    verdict.status = Reason.RATE_LIMITED.status
    if retry_at_ms != FOREVER:
        verdict.retry_after_s = max(1, _seconds(retry_at_ms - now_ms))
    verdict.rule = violated[0]
    verdict.violated = tuple(violated)
    return _told(bound, verdict)


def _quotas_alone(bound: Bound, now_ms: float, answered: dict[Counter, Grant]) -> tuple[Quota, ...]:
    told = []
    for counter, _ in bound.charges:
        grant = answered.get(counter)
        if grant is None:
            told.append(Quota(counter.limit, counter.in_hand, _seconds(counter.grows_at_ms - now_ms)))
        else:
            told.append(Quota(counter.limit, grant.room, _seconds(grant.next_ms)))
    return tuple(told)


def _seconds(ms: float) -> int:
    """Whole seconds, rounded up; 0 for what has passed, a month for never."""
    if ms <= 0:
        return 0
    return LONGEST_RETRY_S if ms == FOREVER else ceil(ms / 1000)
