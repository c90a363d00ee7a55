"""How much memory is used of how much there may be: what ends a gate when it runs out.

That is the control group that limits this process (a container's, with all its processes, the embedded store
included), or else the machine. Used is what cannot be taken back at once, as the kubelet counts a working set:
without the file pages that nobody has asked for lately.

Control groups of version 1 are not read: there the machine's numbers are told.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Footprint(NamedTuple):
    used_bytes: int
    limit_bytes: int


def footprint(root: Path = Path("/")) -> Footprint | None:
    """What is used and what may be, by the files below `root`; None where the kernel does not say."""
    try:
        return _of_group(root) or _of_machine(root)
    except (OSError, ValueError, KeyError):
        return None


def _of_group(root: Path) -> Footprint | None:
    """The nearest group with a limit, from this process's own upwards; None when there is none."""
    top = root / "sys/fs/cgroup"
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::/"):
            own = top / line.removeprefix("0::/")
            for group in (own, *own.parents):
                if not group.is_relative_to(top):
                    break
                limit = group / "memory.max"
                if limit.is_file() and (most := limit.read_text().strip()) != "max":
                    idle = _numbers(group / "memory.stat")["inactive_file"]
                    return Footprint(int((group / "memory.current").read_text()) - idle, int(most))
    return None


def _of_machine(root: Path) -> Footprint:
    kibibytes = _numbers(root / "proc/meminfo")
    total = kibibytes["MemTotal:"]
    return Footprint((total - kibibytes["MemAvailable:"]) * 1024, total * 1024)


def _numbers(path: Path) -> dict[str, int]:
    """The first word of each line, and the number after it."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
