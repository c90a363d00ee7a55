"""Random credentials, headers and tokens on all four fronts of a running gate: only what is good passes.

For long: `make soak ARGS='--only credentials'`.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.credentials.guesses import FRONTS, OPENED, Held, asker, besieged, question
from tests.servers import ask

GUESSES = 1_000
SEEDS = range(4)
HELD = Held((b"s-1", b"pcs_a"), (b"c-1", b"pcs_b"), b"a.b.c")


def test_it_lets_in_none_but_who_shows_what_is_good(measured: Callable[[str], None]) -> None:
    with besieged() as gate:
        guessed = [gate.guess(seed, GUESSES) for seed in SEEDS]
        complaints = gate.complaints()
        well = ask(gate.gate.admin_port, "/readyz").status

    measured("; ".join(f"{sorted(each.statuses.items())}, {each.proved} proved" for each in guessed))
    assert all(each.proved > GUESSES // 100 for each in guessed), (
        "it would not notice a gate that refuses all"
    )
    assert all(each.statuses[401] > GUESSES // 5 for each in guessed)
    assert (complaints, well) == ([], 200)


# --- the oracle and what it is asked about ------------------------------------


@given(
    st.binary(max_size=60), st.sampled_from([b"X-Api-Key", b"X-App-Id", b"X-Client-Token", b"Authorization"])
)
@settings(max_examples=200)
def test_it_takes_nothing_else_for_good(value: bytes, name: bytes) -> None:
    assert asker([(name, value)], HELD) in {None, "anonymous"} or value.strip(b" \t") == b"s-1.pcs_a"


def test_it_knows_what_is_good() -> None:
    assert asker([], HELD) == "anonymous"
    assert asker([(b"X-Api-Key", b" s-1.pcs_a\t")], HELD) == "server"
    assert asker([(b"Authorization", b"bearer   a.b.c")], HELD) == "server"
    assert asker([(b"X-App-Token", b"pcs_a"), (b"X-App-Id", b"s-1")], HELD) == "server"
    assert asker([(b"X-Client-Application-Id", b"c-1"), (b"X-Client-Token", b"pcs_b")], HELD) == "client"
    assert asker([(b"X-App-Id", b"c-1"), (b"X-App-Token", b"pcs_b")], HELD) is None
    assert asker([(b"X-Api-Key", b"s-1.pcs_a"), (b"Authorization", b"Bearer a.b.c")], HELD) is None


def test_it_asks_every_front() -> None:
    asked = {question(front, path, []) for front in FRONTS for path in OPENED}

    assert len(asked) == len(FRONTS) * len(OPENED)
