"""The dashboard as a file: made by its generator, and put together as Grafana expects."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest

from k8s.components.monitoring.dashboard import COLUMNS, PATH, dashboard, text
from k8s.components.monitoring.panels import ROWS, Shape

Json = dict[str, Any]

BOARD = dashboard()
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def test_the_file_is_what_the_generator_makes() -> None:
    again = "python -m k8s.components.monitoring.dashboard"

    assert PATH.read_text(encoding="utf-8") == text(), f"{PATH.name} is old: {again}"


def test_it_shows_every_panel_of_the_definition() -> None:
    assert [panel["title"] for panel in PANELS] == [panel.title for row in ROWS for panel in row.panels]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


def test_panels_lie_side_by_side() -> None:
    def apart(one: Json, other: Json) -> bool:
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        return bool(beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"])

    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS for panel in BOARD["panels"])
    assert all(apart(one, other) for one, other in combinations(BOARD["panels"], 2))
    assert all(one["gridPos"]["y"] <= other["gridPos"]["y"] for one, other in pairwise(BOARD["panels"]))


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_and_asks_the_chosen_gates(panel: Json) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert "$gates" not in target["expr"]
        assert 'job=~"$job"' in target["expr"] or "ALERTS" in target["expr"]
        assert target["range"] != target["instant"]


def test_lines_of_one_panel_can_be_told_apart() -> None:
    for row in ROWS:
        for panel in row.panels:
            legends = [each.legend for each in panel.queries]
            assert len(set(legends)) == len(legends)
            assert all(legends) or panel.shape in {Shape.NUMBER, Shape.TABLE}
