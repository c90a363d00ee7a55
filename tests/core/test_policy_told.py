"""What a policy leaves for the log: the patterns that were found, and the kind of a credential."""

from __future__ import annotations

from typing import Final

import pytest

from sidecar.core.bound import UNPROVED, Who
from sidecar.core.model import Detecting, Filter, Mode, Place, Severity, Suspicion
from sidecar.core.principals import Principal
from tests.doubles import policy, request


def suspicion(name: str, severity: Severity = Severity.CRITICAL) -> Suspicion:
    return Suspicion(f"own/{name}", name, (Place.PATH,), severity)


STRONG: Final = Filter("strong", detecting=Detecting((suspicion("evil"), suspicion("bad")), 5))
SHADOW: Final = Filter("shadow", mode=Mode.SHADOW, detecting=Detecting((suspicion("evil"),), 5))
WEAK: Final = Filter("weak", detecting=Detecting((suspicion("meh", Severity.NOTICE),), 5))


@pytest.mark.parametrize(
    ("filters", "path", "found"),
    [
        ([STRONG], "/evil/and/bad", ("own/evil", "own/bad")),
        ([SHADOW], "/evil", ("own/evil",)),
        ([STRONG, SHADOW], "/evil", ("own/evil",)),
        ([STRONG, WEAK], "/evil/meh", ("own/evil",)),  # below its threshold a filter found nothing
        ([STRONG, SHADOW], "/good", ()),
        ([], "/evil", ()),
    ],
)
def test_it_leaves_what_was_found_with_the_request(
    filters: list[Filter], path: str, found: tuple[str, ...]
) -> None:
    asked = request(path=path)

    policy(filters=filters).bind(asked)

    assert asked.patterns == found


def test_a_policy_that_finds_nothing_any_more_leaves_nothing() -> None:
    asked = request(path="/evil")
    policy(filters=[STRONG]).bind(asked)

    policy(filters=[WEAK]).bind(asked)

    assert asked.patterns == ()


@pytest.mark.parametrize(("who", "kind"), [(None, ""), (UNPROVED, ""), (Principal("k_a"), "server")])
def test_it_knows_the_kind_of_a_proved_credential_only(who: Who, kind: str) -> None:
    assert policy(registry=True).bind(request(), who).kind == kind
