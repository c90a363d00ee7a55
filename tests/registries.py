"""A gate with a registry for the tests, in virtual time."""

from __future__ import annotations

from sidecar.core.control import Entry
from sidecar.core.model import Counts, Filter, Limit
from tests.doubles import presented, registered
from tests.lanes import Bench, Client, limit, turns

BAD = presented(number=9)
ON = Entry(1, 0, b'{"on": true}')
OPEN = Filter("open", kinds=("anonymous", "client", "server"))


def guessing(permits: int = 3, **others: object) -> Limit:
    return limit(permits, name="guessing", counts=Counts.CREDENTIAL_FAILURES, **others)  # type: ignore[arg-type]  # of it


async def started(*limits: Limit, **others: object) -> Bench:
    """A gate whose registry has k_a, k_b and k_off."""
    bench = Bench(*limits, registry=True, **others)  # type: ignore[arg-type]  # of a bench
    bench.records.table |= {
        "k_a": registered("k_a", scopes=["a"]),
        "k_b": registered("k_b", secrets=[(1, 0)]),
        "k_off": registered("k_off", enabled=False),
    }
    await bench.gate.start()
    return bench


async def asked(bench: Bench, key: bytes | None = None, address: str = "192.0.2.1") -> Client:
    client = bench.ask(address, key=key)
    await turns(10)
    return client


async def codes(bench: Bench, *credentials: bytes | None, address: str = "192.0.2.1") -> list[str]:
    return [(await asked(bench, key, address)).code for key in credentials]
