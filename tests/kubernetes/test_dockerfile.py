"""The image, as far as it can be judged without an engine: hadolint's opinion, and what we promise about it.

`k8s/image/prove.sh` builds and runs it in a root of its own; that takes buildah and minutes.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sidecar.config import TcpEndpoint, load
from tests.servers import executable

ROOT: Final = Path(__file__).resolve().parent.parent.parent
DOCKERFILE: Final = ROOT / "Dockerfile"


class Step(NamedTuple):
    stage: int
    word: str
    rest: str


def steps(*words: str) -> list[Step]:
    """The instructions in order, each line joined; the stage begins at 1 with the first FROM."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    stage, found = 0, []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        if not words or word in words:
            found.append(Step(stage, word, re.sub(r"\s+", " ", rest)))
    return found


def last(word: str) -> str:
    """The one instruction of that word in the last stage."""
    stages = steps("FROM")[-1].stage
    (found,) = (step for step in steps(word) if step.stage == stages)
    return found.rest


def exec_form(rest: str) -> Sequence[str]:
    """The arguments of an instruction in exec form. Raises ValueError for a shell's."""
    parsed = json.loads(rest)
    assert isinstance(parsed, list)
    return parsed


def test_hadolint_has_nothing_to_say() -> None:
    # DL3059, several RUN in a row: in a stage that is thrown away, each is a step that need not be done again.
    command = (executable("hadolint"), "--no-color", "--ignore", "DL3059", str(DOCKERFILE))
    ran = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout) == (0, "")


def test_it_is_built_on_what_never_changes() -> None:
    (base,) = (step.rest for step in steps("ARG") if step.rest.startswith("PYTHON="))

    assert re.fullmatch(r"PYTHON=[\w./-]+:\d+\.\d+\.\d+-[\w-]+@sha256:[0-9a-f]{64}", base)
    assert [step.rest.split(" ")[0] for step in steps("FROM")] == ["${PYTHON}", "${PYTHON}"]


def test_it_installs_what_is_locked_and_nothing_else() -> None:
    installs = [step.rest for step in steps("RUN") if " install " in step.rest]

    for install in installs:
        assert ("--require-hashes" in install) != ("--no-index" in install), install
    assert any("-r requirements.lock" in install for install in installs)


def test_the_last_stage_runs_nothing_and_needs_no_shell() -> None:
    stages = steps("FROM")[-1].stage

    assert not [step for step in steps("RUN", "ADD", "VOLUME", "SHELL") if step.stage == stages]
    assert exec_form(last("ENTRYPOINT")) == ["portcullis"]
    assert exec_form(last("CMD")) == ["serve"]
    assert last("STOPSIGNAL") == "SIGTERM"


def test_it_runs_as_a_number_that_is_not_roots() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))
    owned = [step.rest for step in steps("COPY") if "--chown=" in step.rest]
    assert all(f"--chown={last('USER')} " in rest for rest in owned)


def test_its_labels_are_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = dict(re.findall(r'([\w.]+)="([^"]*)"', last("LABEL")))

    assert labels["org.opencontainers.image.title"] == project["name"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    for kustomization in (ROOT / "k8s" / "overlays").glob("*/kustomization.yaml"):
        assert f'newTag: "{project["version"]}"' in kustomization.read_text()


def test_its_document_is_good_and_its_ports_and_health_check_agree() -> None:
    config = load(ROOT / "k8s" / "image" / "portcullis.yaml", {})
    health = config.listen.health
    ports = [
        endpoint.port for endpoint in (*config.listen.check, health) if isinstance(endpoint, TcpEndpoint)
    ]
    options, _, command = last("HEALTHCHECK").partition("CMD ")
    program, *arguments = exec_form(command)

    assert last("EXPOSE") == " ".join(map(str, ports))
    assert isinstance(health, TcpEndpoint)
    assert "--interval=" in options
    assert program == "python"
    assert f"'127.0.0.1', {health.port}," in arguments[-1]
    assert str(config.state_dir) == last("WORKDIR")


def test_nothing_comes_into_the_build_but_what_is_copied() -> None:
    listed = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in listed if line.startswith("!")}
    copied = {
        name.removeprefix("./")
        for step in steps("COPY")
        if "--from=" not in step.rest
        for name in step.rest.split(" ")[:-1]
    }

    assert "*" in listed
    assert {name for name in copied if not name.startswith("k8s/image/")} | {"k8s/image"} == let_in
