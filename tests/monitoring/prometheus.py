"""A real Prometheus for the tests, with the scrape configuration and the rules that operators get.

Exchanged are the addresses, and the pace: scrapes, windows and `for` run sixty times faster, so that ten minutes
of refusals are ten seconds. It is started in a directory of its own, asked over HTTP, and ended by its pid.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from tests.monitoring.rules import duration_ms, faster, loaded, spec
from tests.servers import Server, accepts, ask, eventually, executable, free_port, short_directory

TIMES_FASTER: Final = 60
STEP_S: Final = 0.25

Labels = Mapping[str, str]


class Line(NamedTuple):
    """One series of an answer: its labels, and its values, finite ones only."""

    labels: Labels
    values: tuple[float, ...]


@dataclass(frozen=True)
class Prometheus:
    server: Server
    port: int
    started_s: float
    """Wall-clock seconds, which its own data are stamped with."""

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer. Raises AssertionError with what it says of a query that it refuses."""
        answer = ask(self.port, f"/api/v1/{path}?{urlencode(parameters)}")
        said = json.loads(answer.body)
        assert said["status"] == "success", f"{parameters}: {said}"
        return said["data"]

    def now(self, expr: str) -> list[Line]:
        """The answer as of now."""
        found = self.get("query", query=expr)["result"]
        return [Line(each["metric"], _finite([each["value"]])) for each in found]

    def so_far(self, expr: str) -> list[Line]:
        """The answer at every moment since the start."""
        end_s = time.time() + STEP_S  # the last step before now would miss what is younger
        found = self.get(
            "query_range", query=expr, start=str(self.started_s), end=str(end_s), step=str(STEP_S)
        )["result"]  # fmt: skip
        return [Line(each["metric"], _finite(each["values"])) for each in found]

    def firing(self) -> dict[str, Labels]:
        """The alerts that fire now, with their annotations as an operator reads them."""
        return {
            alert["labels"]["alertname"]: alert["annotations"]
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def wait_for(self, *names: str) -> dict[str, Labels]:
        """Wait until all of them fire at once; their annotations."""
        eventually(lambda: set(names) <= set(self.firing()), f"{', '.join(names)} fire")
        return {name: notes for name, notes in self.firing().items() if name in names}

    def wait_for_end(self, *names: str) -> None:
        eventually(lambda: not set(names) & set(self.firing()), f"{', '.join(names)} end")


def _finite(samples: Iterable[tuple[float, str]]) -> tuple[float, ...]:
    return tuple(value for value in (float(text) for _, text in samples) if math.isfinite(value))


@contextmanager
def prometheus(targets: Iterable[str], pods: Iterable[Labels] = ()) -> Iterator[Prometheus]:
    """One that scrapes `targets` as `scrape.yaml` says.

    `pods` are what Kubernetes would tell of the ports of pods, `__address__` included: they are found as
    `scrape-pods.yaml` says, under the job `pods`, which no rule looks at.
    """
    port = free_port()
    with short_directory() as directory:
        (directory / "rules.yaml").write_text(json.dumps(faster(spec(), TIMES_FASTER)))
        document = directory / "scrape.yaml"
        document.write_text(json.dumps(scraping(targets, pods)))
        command = (
            executable("prometheus"),
            f"--config.file={document}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        )

        def ready() -> bool:
            return accepts(port) and ask(port, "/-/ready").status == 200

        started_s = time.time()
        with Server("prometheus", command, directory=directory, ready=ready) as server:
            yield Prometheus(server, port, started_s)


def scraping(targets: Iterable[str], pods: Iterable[Labels] = ()) -> dict[str, Any]:
    """The shipped configuration with these addresses, at the tests' pace."""
    document = loaded("scrape.yaml")
    for key, text in document["global"].items():
        document["global"][key] = f"{duration_ms(text) // TIMES_FASTER}ms"
    document["scrape_configs"][0]["static_configs"] = [{"targets": list(targets)}]
    in_pods = loaded("scrape-pods.yaml")["scrape_configs"][0]
    del in_pods["kubernetes_sd_configs"]  # Debian's Prometheus knows nothing of Kubernetes
    in_pods |= {
        "job_name": "pods",
        "static_configs": [
            {"targets": [pod["__address__"]], "labels": {k: v for k, v in pod.items() if k != "__address__"}}
            for pod in pods
        ],
    }
    return {**document, "scrape_configs": [*document["scrape_configs"], in_pods]}
