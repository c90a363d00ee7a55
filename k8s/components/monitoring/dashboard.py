"""Writes `dashboard.json`, Grafana's form of what `panels` defines: `python -m k8s.components.monitoring.dashboard`.

The layout follows from the widths: panels stand side by side while they fit into Grafana's 24 columns. Ids are
numbered in the order of the definition, so that the same definition gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from k8s.components.monitoring.panels import ROWS, Panel, Query, Row, Shape

PATH: Final = Path(__file__).with_name("dashboard.json")
GATES: Final = 'job=~"$job", namespace=~"$namespace", instance=~"$instance"'
"""What `$gates` stands for in a query."""

COLUMNS: Final = 24
HEIGHTS: Final = {Shape.NUMBER: 4, Shape.HEAT: 9}
HEIGHT: Final = 8
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

Json = dict[str, Any]


def dashboard() -> Json:
    """The whole dashboard, as Grafana 10 and later import it."""
    return {
        "uid": "portcullis",
        "title": "Portcullis",
        "description": "Requests, verdicts, latency, store, control state and fleet of the gates.",
        "tags": ["portcullis"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {"list": _variables()},
        "annotations": {"list": [_attack_mode_times()]},
        "panels": [{"id": at, **panel} for at, panel in enumerate(_placed(), 1)],
    }


def query(expr: str) -> str:
    """An expression as it stands in the JSON."""
    return expr.replace("$gates", GATES)


def _variables() -> list[Json]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    chosen = [
        ("job", "Fleet", "portcullis_build_info", ".+"),
        ("namespace", "Namespace", 'portcullis_build_info{job=~"$job"}', ".*"),
        ("instance", "Gate", 'portcullis_build_info{job=~"$job", namespace=~"$namespace"}', ".+"),
    ]
    return [source, *(_variable(*each) for each in chosen)]


def _variable(name: str, label: str, series: str, everything: str) -> Json:
    """One that is chosen among the values of a label; all of them, to begin with."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({series}, {name})", "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": everything,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _attack_mode_times() -> Json:
    return {
        "name": "Attack mode",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": query("max(portcullis_attack_mode{$gates}) == 1"),
        "titleFormat": "Attack mode is on",
    }


def _placed() -> Iterator[Json]:
    """The titles of rows and the panels, each with its place."""
    y = 0
    for row in ROWS:
        yield {
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": _grid(COLUMNS, 1, 0, y),
        }
        y += 1
        for line in _lines(row):
            x, height = 0, max(HEIGHTS.get(panel.shape, HEIGHT) for panel in line)
            for panel in line:
                yield {**_panel(panel), "gridPos": _grid(panel.width, height, x, y)}
                x += panel.width
            y += height


def _lines(row: Row) -> Iterator[list[Panel]]:
    """The panels of a row, as many in a line as fit."""
    line: list[Panel] = []
    for panel in row.panels:
        if sum(each.width for each in line) + panel.width > COLUMNS:
            yield line
            line = []
        line.append(panel)
    yield line


def _grid(width: int, height: int, x: int, y: int) -> Json:
    return {"w": width, "h": height, "x": x, "y": y}


def _panel(panel: Panel) -> Json:
    return {
        "type": panel.shape.value,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "targets": [_target(at, each, panel.shape) for at, each in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _target(at: int, of: Query, shape: Shape) -> Json:
    instant = shape in {Shape.BARS, Shape.TABLE}
    return {
        "refId": chr(ord("A") + at),
        "datasource": _SOURCE,
        "expr": query(of.expr),
        "legendFormat": of.legend or "__auto",
        "range": not instant,
        "instant": instant,
        "format": {Shape.HEAT: "heatmap", Shape.TABLE: "table"}.get(shape, "time_series"),
    }


def _defaults(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.shape is Shape.LINES:
        stacking = {"mode": "normal" if panel.stacked else "none"}
        defaults["custom"] = {"fillOpacity": 40 if panel.stacked else 8, "lineWidth": 1, "stacking": stacking}
    if panel.warn is not None and panel.bad is not None:
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel.warn, panel.bad)}
        defaults["color"] = {"mode": "thresholds"}
    return defaults


def _steps(warn: float, bad: float) -> list[Json]:
    if bad < warn:
        colours = [("red", None), ("yellow", bad), ("green", warn)]
    else:
        colours = [("green", None), ("yellow", warn), ("red", bad)]
    return [{"color": colour, "value": value} for colour, value in colours]


def _options(panel: Panel) -> Json:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.shape:
        case Shape.LINES:
            legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case Shape.NUMBER:
            return {
                "reduceOptions": last,
                "colorMode": "background",
                "graphMode": "area",
                "textMode": "value",
            }
        case Shape.BARS:
            return {"reduceOptions": last, "orientation": "horizontal", "displayMode": "basic"}
        case Shape.HEAT:
            axis = {"unit": panel.unit}
            return {
                "calculate": False,
                "yAxis": axis,
                "cellGap": 0,
                "color": {"mode": "scheme", "scheme": "Oranges"},
            }
        case Shape.TABLE:
            return {"showHeader": True}


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
