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


def test_it_leaves_out_what_this_version_refuses() -> None:
    assert "filters[].scopes" not in reference()
    assert "listen.public" not in reference()


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
