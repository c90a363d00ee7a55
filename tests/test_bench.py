"""The benchmarks run and tell what they found in the shape that their files promise; how fast is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import credentials
from bench.load import Load
from bench.plot import svg
from bench.rounds import Alternated
from bench.rows import Curve, Goal, Latency, Row, table
from sidecar.config import parse

ROOT = Path(__file__).resolve().parent.parent


def load(answers: int, cpu_s: float = 1.0, p99: float = 2.0) -> Load:
    return Load(answers, 1.0, Latency(1.0, p99, 3.0), cpu_s, 0.5)


def test_it_runs_and_writes_what_it_found(tmp_path: Path) -> None:
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench",
            "--quick",
            "--only",
            "micro",
            "patterns",
            "start",
            "--out",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    assert ran.returncode == 0, ran.stderr
    (written,) = tmp_path.glob("*.json")
    found: dict[str, Any] = json.loads(written.read_text())
    assert {"date", "commit", "machine", "versions", "disturbed", "seconds", "curves"} <= found.keys()
    assert found["effort"]["quick"] is True
    assert {"portcullis", "python"} <= found["versions"].keys()
    rows = {row["name"]: row for row in found["rows"]}
    ready = rows["start to ready, with the embedded store"]
    assert ready["unit"] == "s"
    assert ready["goal"] == {"bound": 1.0, "most": True}
    assert ready["outcome"] in {"ok", "missed"}
    assert sum(name.startswith("micro: ") for name in rows) == 16
    for verb in ("prove", "known"):
        for credential in ("a key", "a token, EdDSA", "a token, ES256", "a token, RS256"):
            assert rows[f"micro: {verb}: {credential}"]["unit"] == "µs"
    assert rows["patterns: no query, no header"]["goal"] == {"bound": 2.0, "most": True}
    assert sum(name.startswith("patterns: 8 KiB of ") for name in rows) == 4
    for name, row in rows.items():
        assert row["measured"] > 0, name
        assert name in ran.stdout


def test_it_says_which_questions_there_are() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "nonsense"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 2
    assert "auth_request" in ran.stderr
    assert "control" in ran.stderr
    assert "credentials" in ran.stderr


@pytest.mark.parametrize(("name", "filters"), [("limits", 0), ("registry", 3), ("patterns", 4)])
def test_its_gates_with_credentials_differ_in_filters_alone(tmp_path: Path, name: str, filters: int) -> None:
    key = tmp_path / "sign.pem"
    key.write_bytes(credentials.private_key())

    config = parse(credentials.document(name, credentials.CASES[0]), name="bench", folder=tmp_path)

    assert [(limit.name, [kind for kind, _ in limit.per]) for limit in config.limits] == [
        ("minute", ["ip"]),
        ("hour", ["key"]),
    ]
    assert len(config.filters) == filters
    assert (config.credentials.mode == "registry") is (filters > 0)
    assert [rule.name for rule in config.filters if rule.detecting] == (["waf"] if filters == 4 else [])


def test_it_asks_with_a_credential_and_a_body_and_never_the_same_twice() -> None:
    lines = (("X-Api-Key", "k.secret"),)
    for case in credentials.CASES:
        heads = credentials.asked(case, credentials.ORDERS, lines)

        headers = dict(heads.headers)
        assert headers["X-Api-Key"] == "k.secret"
        assert (headers["X-Original-Method"], headers["Content-Type"]) == ("POST", "application/json")
        assert headers["X-Original-URI"] == f"{credentials.ORDERS}?n={{n}}"
        assert (headers["X-Real-IP"] == "{ip}") is (heads.subjects > 1)


@pytest.mark.parametrize(
    ("goal", "measured", "outcome"),
    [
        (Goal(0.6), 0.6, "ok"),
        (Goal(0.6), 0.59, "missed"),
        (Goal(6.0, most=True), 6.0, "ok"),
        (Goal(6.0, most=True), 6.1, "missed"),
        (Goal(0.6), None, "missing"),
        (None, 3.0, ""),
    ],
)
def test_it_judges_a_row_by_its_goal(goal: Goal | None, measured: float | None, outcome: str) -> None:
    assert Row("a row", measured, goal=goal).outcome == outcome


def test_it_names_what_is_missing_in_the_row_that_needs_it() -> None:
    shown = table(
        [Row("a row", None, goal=Goal(1.0), note="needs wrk: apt-get install wrk"), Row("another", 1.5)]
    )

    assert [line.split()[:2] for line in shown.splitlines()[1:]] == [["a", "row"], ["another", "1.5"]]
    assert "missing" in shown
    assert "apt-get install wrk" in shown


def test_it_takes_each_round_against_the_floors_around_it() -> None:
    # The machine gets slower all the time; what is measured is always half as fast as the floor would be then.
    taken = Alternated(
        floors=[load(1000), load(800), load(600), load(400)],
        loads={"half": [load(450), load(350), load(250)], "twice": [load(900), load(700), load(500)]},
    )

    assert taken.ratio("half") == 0.5
    assert taken.against("twice", "half") == 2.0


def test_it_compares_the_cost_of_an_answer() -> None:
    taken = Alternated(
        floors=[load(1000, cpu_s=0.5), load(1000, cpu_s=0.5)], loads={"gate": [load(500, cpu_s=0.5)]}
    )

    row = taken.row("a row", "gate", Goal(0.6))

    assert taken.cpu_ratio("gate") == 0.5
    assert row.cpu_us == pytest.approx(1000)
    assert "only 50% busy" in row.note


def test_it_takes_the_median_of_each_percentile() -> None:
    taken = Alternated(floors=[], loads={"gate": [load(1, p99=9.0), load(1, p99=4.0), load(1, p99=5.0)]})

    assert taken.latency("gate") == Latency(1.0, 5.0, 3.0)


def test_it_draws_every_curve() -> None:
    curves = [
        Curve("Rising", "limits", "µs & more", {"a < b": [(1, 2.0), (8, 9.0)]}, log_x=False),
        Curve("Wide", "connections", "ms", {"one": [(1, 0.1), (256, 90.0)], "two": [(16, 3.0)]}, log_y=True),
        Curve("Flat", "prefixes", "ns", {"one": [(100, 7.0)]}),
        Curve("Empty", "prefixes", "ns", {"none": []}),
    ]

    drawing = ElementTree.fromstring(svg(curves, "a <caption>"))

    texts = "".join(drawing.itertext())
    assert all(curve.title in texts for curve in curves)
    assert "a < b" in texts
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
