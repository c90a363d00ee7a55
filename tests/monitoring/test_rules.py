"""The alerts, as Prometheus' own promtool sees them."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sidecar.metrics import DECISION_SECONDS
from tests.gates import ROOT, gate
from tests.monitoring.alert_cases import CASES, Case
from tests.monitoring.rules import alerts, duration_ms, durations_ms, faster, loaded, rules_of, shipped, spec
from tests.servers import executable

ALERTS = {rule["alert"]: rule for rule in alerts()}
SCALE = 60
README = (ROOT / "README.md").read_text()


def promtool(*arguments: str, stdin: bytes = b"") -> str:
    """What it prints. Raises AssertionError, with that, when it is not content."""
    ended = subprocess.run(
        [executable("promtool"), *arguments], input=stdin, capture_output=True, check=False
    )
    said = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == 0, said
    return said


@pytest.fixture
def rule_file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps(spec()))  # JSON is YAML
    return path


def test_promtool_accepts_them(rule_file: Path) -> None:
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", str(rule_file))

    assert f"{len(shipped())} rules found" in said


def test_it_tries_every_alert_both_ways() -> None:
    fires = {case.alert for case in CASES if any(case.firing.values())}
    silent = {case.alert for case in CASES if not all(case.firing.values())}

    assert fires == silent == set(ALERTS)


def test_promtool_sees_each_fire_when_it_should_and_only_then(rule_file: Path) -> None:
    unit_tests = {
        "rule_files": [rule_file.name],
        "evaluation_interval": "1m",
        "tests": [_unit_test(case) for case in CASES],
    }
    path = rule_file.with_name("unit_tests.yaml")
    path.write_text(json.dumps(unit_tests))

    assert "SUCCESS" in promtool("test", "rules", str(path))


def _unit_test(case: Case) -> dict[str, Any]:
    """One case in promtool's words."""
    which = f'alertname="{case.alert}", alertstate="firing"'
    severity = ALERTS[case.alert]["labels"]["severity"]
    return {
        "name": f"{case.alert}: {case.why}",
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f"ALERTS{{{which}}}",
                "eval_time": f"{minute}m",
                "exp_samples": [
                    {"labels": f'ALERTS{{{which}, severity="{severity}", {labels}}}', "value": 1}
                    for labels in named
                ],
            }
            for minute, named in case.firing.items()
        ],
    }


def test_promtool_notices_a_wrong_case(rule_file: Path) -> None:
    wrong = CASES[0]._replace(firing={7: ()})
    path = rule_file.with_name("unit_tests.yaml")
    path.write_text(json.dumps({"rule_files": [rule_file.name], "tests": [_unit_test(wrong)]}))

    with pytest.raises(AssertionError, match="PortcullisDown"):
        promtool("test", "rules", str(path))


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    annotations = rule["annotations"]

    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert not annotations["summary"].endswith(".")
    assert annotations["description"].endswith((".", "?"))
    assert annotations["runbook_url"] == f"README.md#{name.lower()}"
    assert re.search(rf"(?m)^#+ {name}$", README), "the runbook has a chapter of this name"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_names_only_labels_that_it_has(name: str) -> None:
    named = set(re.findall(r"\$labels\.(\w+)", str(ALERTS[name]["annotations"])))
    whole_fleet = re.search(r"by \(job, namespace\)|:ratio_rate|absent", ALERTS[name]["expr"])

    assert named <= (set() if whole_fleet else {"instance"})


def test_every_way_to_scrape_gives_the_job_that_the_rules_ask_for() -> None:
    asked_for = set(re.findall(r'\bjob="([^"]+)"', " ".join(rule["expr"] for rule in shipped())))
    plain, in_pods = (loaded(name)["scrape_configs"] for name in ("scrape.yaml", "scrape-pods.yaml"))
    endpoints = loaded("portcullis-podmonitor.yaml")["spec"]["podMetricsEndpoints"]
    given = [each["job_name"] for each in (*plain, *in_pods)]
    given += [each["relabelings"][0]["replacement"] for each in endpoints]

    assert asked_for == set(given) == {"portcullis"}
    the_rest = [{**loaded(name), "scrape_configs": []} for name in ("scrape.yaml", "scrape-pods.yaml")]
    assert the_rest[0] == the_rest[1]


def test_the_objective_is_a_bound_of_the_histogram() -> None:
    bounds = set(re.findall(r'le="([^"]+)"', " ".join(rule["expr"] for rule in shipped())))

    assert bounds <= {repr(bound) for bound in DECISION_SECONDS.bounds}


def test_running_faster_changes_nothing_but_durations() -> None:
    for rule, quick in zip(shipped(), rules_of(faster(spec(), SCALE)), strict=True):
        assert [each * SCALE for each in durations_ms(quick)] == durations_ms(rule)
        assert re.sub(r"\d+(ms|[smhd])\b", "_", quick["expr"]) == re.sub(
            r"\d+(ms|[smhd])\b", "_", rule["expr"]
        )
        assert {**quick, "expr": "", "for": ""} == {**rule, "expr": "", "for": ""}


def test_it_reads_durations_as_prometheus_does() -> None:
    numbers_and_units = product((1, 30), ((1, "ms"), (1_000, "s"), (60_000, "m"), (3_600_000, "h")))

    assert all(duration_ms(f"{number}{unit}") == number * ms for number, (ms, unit) in numbers_and_units)


def test_promtool_finds_nothing_to_say_about_a_gates_metrics() -> None:
    with gate() as running:
        running.forward("203.0.113.9")
        text = running.admin("/metrics", token=None).body

    assert promtool("check", "metrics", stdin=text).strip() == ""
