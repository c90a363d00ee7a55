"""Costs of the parts, without sockets: the least of many timings, in nanoseconds for one call.

    judge                    the decision, an allow from memory under two limits
    bind                     what concerns a request of a client never seen before, under two limits
    ledger                   collect, apply and settle, for one counter in batches of 128
    contains                 address look-up among 10 000 prefixes
    canonical_path           a plain path, and one with an escape and a dot segment
    front.read               nginx's headers into a Request
    answers.allow            the bytes of an allow with two quotas
    prove                    a key whose record is known, or a token: nobody has proved it before
    known                    one that was proved, known again

The least, because everything that disturbs a timing makes it longer. Each includes some 15 ns of the loop around it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from bench.cast import CLIENT, TWO_LIMITS, asked_by_nginx
from bench.prefixes import listed
from bench.rounds import Effort
from bench.rows import Findings, Row
from sidecar.config import parse
from sidecar.core.addresses import AddressSet
from sidecar.core.bound import Bound
from sidecar.core.decide import judge
from sidecar.core.ledger import GrantRow, Ledger
from sidecar.core.model import Request, Source
from sidecar.core.paths import canonical_path
from sidecar.core.policy import Policy
from sidecar.core.principals import Principal
from sidecar.core.proofs import Proofs
from sidecar.core.tokens import KeySet, Trust
from sidecar.fronts import Head, answers
from sidecar.fronts.credentials import opaque
from sidecar.fronts.nginx import NginxFront
from tests import issuers
from tests.doubles import presented, registered
from tests.issuers import Foreign, claims, eddsa, es256, jwks, rs256

CALLS: Final = 1_000
BATCH: Final = 128
PROVED: Final = 50
"""Proofs in a row: so many still fit between two disturbances."""
HASH_KEY: Final = b"k" * 32
NOW_MS, FAR_MS = 1_000.0, 1e12
WALL_MS: Final = issuers.NOW_MS

T = TypeVar("T")


class _Nobody:
    """Waits for counters as a request does, and does nothing when they are answered."""

    missing = 0


def measure(effort: Effort) -> Findings:
    for_s = 0.1 if effort.quick else 1.0
    prefixes = AddressSet(listed(10_000))
    chance = random.Random(3)
    addresses = [".".join(str(chance.randrange(256)) for _ in range(4)) for _ in range(CALLS)]
    front = NginxFront(credentials=opaque((b"x-api-key",)), legacy_headers=False)
    head = _head()
    bound = _leased()
    verdict = judge(bound, False, NOW_MS, Source.MEMORY)
    assert verdict is not None
    calls = range(CALLS)

    def judging(_: None) -> None:
        for _call in calls:
            judge(bound, False, NOW_MS, Source.MEMORY)

    def binding(made: tuple[Policy, list[Request]]) -> None:
        bind = made[0].bind
        for request in made[1]:
            bind(request)

    def looking_up(_: None) -> None:
        for address in addresses:
            prefixes.contains(address)

    def plain_path(_: None) -> None:
        for _call in calls:
            canonical_path(b"/orders/2026/07/18734")

    def escaped_path(_: None) -> None:
        for _call in calls:
            canonical_path(b"/orders//caf%C3%A9/./x/../18734")

    def reading(_: None) -> None:
        for _call in calls:
            front.read(head)

    def answering(_: None) -> None:
        for _call in calls:
            answers.allow(verdict, b"0123456789abcdef", True, legacy=False)

    costs = {
        "judge: allow from memory, two limits": least_ns(_nothing, judging, CALLS, for_s),
        "bind: a new client, two limits": least_ns(_strangers, binding, CALLS, for_s),
        "ledger: collect, apply, settle, each counter": least_ns(_wanted, _one_batch, BATCH, for_s),
        "contains: 10 000 prefixes": least_ns(_nothing, looking_up, CALLS, for_s),
        "canonical_path: plain": least_ns(_nothing, plain_path, CALLS, for_s),
        "canonical_path: escapes and dots": least_ns(_nothing, escaped_path, CALLS, for_s),
        "front.read: nginx": least_ns(_nothing, reading, CALLS, for_s),
        "answers.allow: two quotas": least_ns(_nothing, answering, CALLS, for_s),
    }
    rows = [Row(f"micro: {name}", cost, unit="ns") for name, cost in costs.items()]
    return Findings(rows + _proving(for_s))


def _proving(for_s: float) -> list[Row]:
    signers = (eddsa(), es256(), rs256())
    issuer = Foreign(algorithms=tuple(signer.algorithm for signer in signers))
    trust = Trust(None, (issuer,), {issuer.name: KeySet.parse(jwks(*signers), issuer.algorithms)})
    proofs = Proofs(digest_key=HASH_KEY, hash_key=HASH_KEY, roles={}, trust=trust)
    proofs.ask(["k_a"])
    proofs.answer({"k_a": registered("k_a", scopes=["orders.write"], hash_key=HASH_KEY)})
    credentials = {"a key": presented("k_a")}
    credentials |= {f"a token, {signer.algorithm}": b"b" + signer.token(claims()) for signer in signers}
    rows = []
    for name, credential in credentials.items():
        for verb, ask in (("prove", proofs.prove), ("known", proofs.known)):
            assert isinstance(ask(credential, WALL_MS), Principal), name
            cost = least_ns(_nothing, partial(_asking, ask, credential), PROVED, for_s)
            rows.append(Row(f"micro: {verb}: {name}", cost / 1_000, unit="µs"))
    return rows


def _asking(ask: Callable[[bytes, int], object], credential: bytes, _: None) -> None:
    for _call in range(PROVED):
        ask(credential, WALL_MS)


def least_ns(prepare: Callable[[], T], work: Callable[[T], None], calls: int, for_s: float) -> float:
    """Nanoseconds for each of the `calls` that `work` makes: the least of as many timings as fit into `for_s`.

    `prepare` runs before each and is not timed; the garbage collector rests.
    """
    until_s = time.perf_counter() + for_s
    least = 0
    gc.disable()
    try:
        while not least or time.perf_counter() < until_s:
            prepared = prepare()
            begun_ns = time.perf_counter_ns()
            work(prepared)
            taken_ns = time.perf_counter_ns() - begun_ns
            least = min(least, taken_ns) if least else taken_ns
    finally:
        gc.enable()
    return least / calls


def _nothing() -> None:
    return None


def _policy() -> tuple[Policy, Ledger]:
    config = parse(TWO_LIMITS, name="bench", folder=Path())
    ledger = Ledger()
    none = AddressSet()
    policy = Policy(
        ledger=ledger,
        limits=config.limits,
        deny=none,
        allow=none,
        exempt=none,
        passes=none,
        hash_key=HASH_KEY,
    )
    return policy, ledger


def _head() -> Head:
    asked = asked_by_nginx("/orders/18734?page=2")
    headers = {name.lower().encode(): text.encode() for name, text in asked.headers}
    return Head(b"GET", asked.target.encode(), {b"host": b"127.0.0.1", **headers})


def _request(address: str) -> Request:
    return Request(address=address, method="GET", host="shop.example", path="/orders/18734", headers={})


def _leased() -> Bound:
    """A client with more permits in hand than will be spent here."""
    policy, _ = _policy()
    bound = policy.bind(_request(CLIENT))
    for counter, _ in bound.charges:
        counter.in_hand, counter.lapse_ms = 10**12, FAR_MS
        counter.room, counter.grows_at_ms = 10**8, NOW_MS + 30_000
    return bound


def _strangers() -> tuple[Policy, list[Request]]:
    policy, _ = _policy()
    return policy, [_request(f"10.0.{k >> 8}.{k & 255}") for k in range(CALLS)]


def _wanted() -> Ledger:
    """A ledger of which `BATCH` counters are wanted, each by somebody."""
    policy, ledger = _policy()
    for k in range(BATCH // 2):
        for counter, cost in policy.bind(_request(f"10.0.0.{k}")).charges:
            ledger.want(counter, cost, _Nobody())
    return ledger


_GRANTED: Final[GrantRow] = (1, 99, 5, 900, 0, 1_000, 7)


def _one_batch(ledger: Ledger) -> None:
    batch = ledger.collect(0, NOW_MS)
    ledger.apply(batch, [_GRANTED] * BATCH, NOW_MS, NOW_MS + 1)
    ledger.settle(batch)
