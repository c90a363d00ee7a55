"""config_reference: README's copy is what the schema says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar import config_reference
from sidecar.config_reference import BEGIN, END, reference

README = Path(__file__).parents[1] / "README.md"


def test_it_is_what_readme_shows() -> None:
    text = README.read_text(encoding="utf-8")
    _, begin, rest = text.partition(BEGIN)
    shown, end, _ = rest.partition(END)

    assert begin
    assert end
    assert shown.strip() == reference().strip(), "run `python -m sidecar config reference` and paste it"


def test_it_has_a_row_of_four_cells_for_each_key() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]

    assert len(rows) > 50
    assert all(row.count("|") == 5 for row in rows)
    assert len({row.split("|")[1] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    "row",
    [
        "| `credentials.tokens.ttl` | a duration from 1m to 1d | `15m` |",
        "| `credentials.tenants.<name>.cidrs` | a list: a network or an address | required |",
        "| `credentials.jwt` | a list of mappings, below | none |",
        "| `patterns` | a mapping: a name -> a list of mappings, below | none |",
        "| `patterns.<name>[].in` | a list: one of `path`, `query`, `values`, `headers` | required |",
        "| `filters[].threshold` | a whole number from 1 to 1000 | `5` |",
    ],
)
def test_it_says_what_nested_keys_take(row: str) -> None:
    assert row in reference()


@pytest.mark.parametrize("change", ["workers", "no.such.key"])
def test_it_refuses_to_tell_of_other_keys_than_there_are(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = {key: says for key, says in config_reference._SENTENCES.items() if key != change}
    if change not in config_reference._SENTENCES:
        sentences[change] = "?"
    monkeypatch.setattr(config_reference, "_SENTENCES", sentences)

    with pytest.raises(KeyError, match=change):
        reference()
