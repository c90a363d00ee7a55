"""The shipped rules as promtool and Prometheus read them, and the same with time running faster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

MONITORING: Final = Path(__file__).resolve().parents[2] / "k8s/components/monitoring"
Rule = dict[str, Any]

_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_WINDOW: Final = re.compile(r"(?<=\[)\d+(?:ms|s|m|h|d)(?=])|(?<=offset )\d+(?:ms|s|m|h|d)")
"""A duration in PromQL: of a range, or of an offset."""


def shipped() -> list[Rule]:
    """Every rule of the PrometheusRule object, in its order."""
    return rules_of(spec())


def spec() -> dict[str, Any]:
    """What stands in the object's `spec`: a rule file."""
    document: dict[str, Any] = loaded("portcullis-prometheusrule.yaml")["spec"]
    return document


def loaded(name: str) -> dict[str, Any]:
    """One of the shipped files."""
    document: dict[str, Any] = yaml.safe_load((MONITORING / name).read_text())
    return document


def rules_of(document: dict[str, Any]) -> list[Rule]:
    return [rule for group in document["groups"] for rule in group["rules"]]


def alerts() -> list[Rule]:
    return [rule for rule in shipped() if "alert" in rule]


def faster(document: dict[str, Any], times: int) -> dict[str, Any]:
    """The same rules with every duration divided: each window, each offset and each `for`."""
    return {
        "groups": [
            {**group, "rules": [_faster_rule(rule, times) for rule in group["rules"]]}
            for group in document["groups"]
        ]
    }


def _faster_rule(rule: Rule, times: int) -> Rule:
    quick = {**rule, "expr": faster_query(rule["expr"], times)}
    if "for" in rule:
        quick["for"] = f"{duration_ms(rule['for']) // times}ms"
    return quick


def faster_query(expr: str, times: int) -> str:
    """A query with every range and offset divided."""
    return _WINDOW.sub(lambda found: f"{duration_ms(found[0]) // times}ms", expr)


def durations_ms(rule: Rule) -> list[int]:
    """All durations of a rule, in their order."""
    windows = [duration_ms(found) for found in _WINDOW.findall(rule["expr"])]
    return [*windows, *([duration_ms(rule["for"])] if "for" in rule else [])]


def duration_ms(text: str) -> int:
    """`2m`, `90s` or `250ms` in milliseconds."""
    number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]  # another form is a mistake of the test
    return int(number) * _UNIT_MS[unit]
