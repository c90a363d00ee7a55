"""What a policy found for one request, for as long as the policy stands.

A request that presents a credential is judged twice: first whether the credential may be tried at all
(`trial`: limits that count failures), then, when it is proved, as its principal's request.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from sidecar.core.ledger import Counter
from sidecar.core.model import ANONYMOUS, Reason, Verdict
from sidecar.core.principals import Principal
from sidecar.core.terms import NO_TERMS

if TYPE_CHECKING:  # a policy makes these
    from sidecar.core.policy import Policy


class Unproved(Enum):
    """Somebody whose credential has not been tried yet."""

    UNPROVED = "unproved"


UNPROVED = Unproved.UNPROVED

Who = Principal | Unproved | None
"""Who asks; None is nobody, or with opaque keys whoever the request names."""


class Bound:
    """What a policy found for a request: valid while `policy` is the one in force.

    refusal        the answer that lists and filters give, or None
    malformed      the refusal stands even before attack mode
    passes         attack mode lets the address through
    charges        (counter, cost) of the enforced limits, in policy order
    shadow_charges the same for shadow limits
    terms          what answers under the enforced limits share
    shadow         names of shadow filters that object
    reason         OK, or EXEMPT when the address skips limits
    key_id, tenant, plan  whom the credential names, empty when nobody
    kind           of a credential that was proved, else empty
    identity       the header lines that tell this to the application
    allow_origin   the web origin that may read a refusal, b"" for none
    trial          the charges are those of failed credentials, and an allow means: try this one
    guard          of a proved request, the trial that is closed when too many failed; None: there is none

    What does not differ from the usual stays in the class: a new client costs two assignments.
    """

    refusal: Verdict | None = None
    malformed = False
    passes = False
    charges: tuple[tuple[Counter, int], ...] = ()
    shadow_charges: tuple[tuple[Counter, int], ...] = ()
    shadow: tuple[str, ...] = ()
    reason = Reason.OK
    terms = NO_TERMS
    key_id = b""
    tenant = ""
    plan = ""
    kind = ""
    identity = ANONYMOUS
    allow_origin = b""
    trial = False
    guard: Bound | None = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
