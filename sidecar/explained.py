"""The parts of an explanation: each step's outcome in words, the limits, the answer taken apart.

What would happen is `explain`'s to find out.
"""

from __future__ import annotations

from math import ceil

from sidecar.admin.times import moment, moment_or_none
from sidecar.core.addresses import networks_around
from sidecar.core.bound import UNPROVED, Bound
from sidecar.core.control import Control, Entry
from sidecar.core.detection import Found
from sidecar.core.ledger import FOREVER, Counter
from sidecar.core.model import Limit, Mode, Reason, Request
from sidecar.core.policy import Policy
from sidecar.core.principals import Principal
from sidecar.core.proofs import Unproven

Part = dict[str, object]


def request_step(request: Request) -> Part:
    seen = f"{request.method} {request.host or '(any host)'} {request.path} from {request.address}"
    return _step("request", "refused" if request.malformed else "passed", request.malformed or seen)


def attack_step(bound: Bound, attack: bool) -> Part:
    if not attack:
        return _step("attack_mode", "passed", "off")
    if bound.passes:
        return _step("attack_mode", "passed", "on, and the address is let through")
    return _step("attack_mode", "passed" if bound.malformed else "refused", "on")


def rule_steps(policy: Policy, request: Request, who: Principal | Unproven | None) -> list[Part]:
    """One step for each list, filter and term of the credential that objects, or one that says that none does."""
    suspicions = policy.suspicions(request)
    steps = [
        _step(
            "rules",
            "refused" if finding.mode is Mode.ENFORCE else "shadow",
            _suspected(suspicions[finding.rule]) if finding.reason is Reason.PATTERN else finding.reason.code,
        )
        | {"rule": finding.rule}
        for finding in policy.objections(request, UNPROVED if isinstance(who, Unproven) else who)
    ]
    return steps or [_step("rules", "passed", "no list or filter objects")]


def credential_step(request: Request, who: Principal | Unproven | None, unknown: str) -> Part:
    """What the credential proved to be."""
    if unknown:
        return _step("credential", "unknown", unknown)
    if isinstance(who, Unproven):
        return _step("credential", "refused", "not valid: no such key, a wrong secret, or ended")
    if who is None:
        return _step("credential", "passed", "none")
    of = f" of {who.tenant}" if who.tenant else ""
    return _step("credential", "passed", f"{who.kind} key {who.id.decode()}{of}")


def credential(who: Principal | Unproven | None) -> Part | None:
    """Whom a credential names and what it may; None for nobody."""
    if not isinstance(who, Principal):
        return None
    return {
        "id": who.id.decode(),
        "kind": who.kind,
        "tenant": who.tenant,
        "plan": who.plan,
        "scopes": sorted(who.scopes),
        "enabled": who.enabled,
    }


def _suspected(found: Found) -> str:
    return f"pattern: score {found.score} ({', '.join(found.names)})"


def subject_steps(policy: Policy, bound: Bound) -> list[Part]:
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


def listing(table: str, cidr: str, source: str, entry: Entry | None) -> Part:
    """A network of a list. Who, when and why are None for one of the configuration."""
    return {"list": table, "cidr": cidr, "source": source} | _said_with(entry)


def permits(policy: Policy, counter: Counter, bound: Bound, subject: str) -> Part:
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


def limits_step(bound: Bound, limits: list[Part], error: str) -> Part:
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


def remaining(permits: int | None, admits: bool | None, wait_ms: float) -> Part:
    retry_after_s = None if wait_ms == FOREVER else ceil(wait_ms / 1000)
    return {"remaining": permits, "admits": admits, "retry_after_s": retry_after_s}


def answer(front: str, written: bytes) -> Part:
    """The response that a front would send, taken apart again."""
    head, _, body = written.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return {"front": front, "status": int(status.split(" ")[1]), "headers": headers, "body": body.decode()}
