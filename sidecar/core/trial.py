"""The trial: judging a request whose credential has not been proved yet.

    failures closed for it? ---------yes--> 429, nothing was verified
        | no
        v
    somebody waits to have failed? --yes--> wait for what the store says to that, once
        | no
        v
    proved? ----yes--> judged as its principal's request; nothing was counted
        | no
        v
    a permit to fail --> 401; none --> 429

So a credential that is valid never costs a permit and never waits for one, however many come at once; of those that
fail all replicas together answer 401 to no more than the limit's permits in any window. Each replica learns that a
limit is closed by what was under way at that moment, whose outcome it does not tell to those that failed.

What is missing (a permit, a record of the registry) the caller gets, and asks again.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from sidecar.core.bound import UNPROVED, Bound
from sidecar.core.decide import LocalTake, invalid, judge, judge_alone, refused_before, unprovable
from sidecar.core.model import Request, Source, Verdict
from sidecar.core.policy import Policy
from sidecar.core.principals import Principal
from sidecar.core.proofs import INVALID, Proofs, Unproven, is_token


class Lack(Enum):
    """What a request may lack besides a record."""

    PERMITS = "permits"
    OTHERS = "others"
    """The store's answer to those who wait for permits to fail already."""


Missing = Lack | str
"""A text is the id of a record."""


class Tried(NamedTuple):
    """`verdict` is None while something is missing."""

    bound: Bound
    verdict: Verdict | None
    missing: Missing = Lack.PERMITS


def bind(request: Request, policy: Policy, proofs: Proofs, wall_ms: int) -> Bound:
    """What concerns this request, of whoever its credential was proved to name."""
    if request.key is None or not policy.registry:
        return policy.bind(request)
    return policy.bind(request, proofs.known(request.key, wall_ms) or UNPROVED)


def judge_trial(
    trial: Bound,
    request: Request,
    proofs: Proofs,
    attack: bool,
    waited: bool,
    now_ms: float,
    wall_ms: int,
    source: Source,
) -> Tried:
    """Judge a request whose bound is a trial. `waited`: for others, already; it does so once."""
    if (refusal := refused_before(trial, attack, now_ms, source)) is not None:
        return Tried(trial, refusal)
    if not waited and any(counter.waiting for counter, _ in trial.charges):
        return Tried(trial, None, Lack.OTHERS)
    found = _prove(request, proofs, wall_ms)
    if found is INVALID:
        verdict = judge(trial, attack, now_ms, source)
        failed = verdict is not None and verdict.allowed
        return Tried(trial, invalid(trial, verdict) if verdict is not None and failed else verdict)
    if isinstance(found, Unproven):
        return Tried(trial, unprovable(trial))
    if isinstance(found, str):
        return Tried(trial, None, found)
    bound = trial.policy.bind(request, found)
    return Tried(bound, judge(bound, attack, now_ms, source))


def judge_trial_alone(
    trial: Bound,
    request: Request,
    proofs: Proofs,
    *,
    attack: bool,
    now_ms: float,
    wall_ms: int,
    take: LocalTake,
    look: LocalTake,
) -> Verdict:
    """The same while the store is silent: what only the store knows is refused. `look` takes nothing."""
    if (refusal := refused_before(trial, attack, now_ms, Source.OUTAGE)) is not None:
        return refusal
    held = _held(trial)
    verdict = judge_alone(trial, now_ms, look)
    _put_back(trial, held)
    if not verdict.allowed:
        judge_alone(trial, now_ms, take)  # a look closes no limit with `block_for`
        return verdict
    found = _prove(request, proofs, wall_ms)
    if found is INVALID:
        failed = judge_alone(trial, now_ms, take)
        # As of an id that is not known here: else an outage would tell which ids are.
        return invalid(trial, failed) if is_token(request.key or b"") else unprovable(trial)
    if isinstance(found, Unproven | str):
        return unprovable(trial)
    bound = trial.policy.bind(request, found)
    return judge(bound, attack, now_ms, Source.MEMORY) or judge_alone(bound, now_ms, take)


def _prove(request: Request, proofs: Proofs, wall_ms: int) -> Principal | Unproven | str:
    assert request.key is not None, "only a request with a credential has a trial"
    return proofs.prove(request.key, wall_ms)


def _held(trial: Bound) -> list[int]:
    return [counter.in_hand for counter, _ in (*trial.charges, *trial.shadow_charges)]


def _put_back(trial: Bound, held: list[int]) -> None:
    """A look costs nothing."""
    for (counter, _), in_hand in zip((*trial.charges, *trial.shadow_charges), held, strict=True):
        counter.in_hand = in_hand
