"""What the kernel's files say of memory, in a tree that the tests lay out."""

from __future__ import annotations

from pathlib import Path

from sidecar.footprint import Footprint, footprint

MACHINE = "MemTotal:       4096 kB\nMemFree:         512 kB\nMemAvailable:   1024 kB\nHugePages_Total:  0\n"


def laid_out(root: Path, group: str, files: dict[str, str]) -> Path:
    """A machine whose process is in the control group `group`."""
    for name, text in {"proc/self/cgroup": f"0::{group}\n", "proc/meminfo": MACHINE, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def limited(group: str, limit: str, used: int, idle: int) -> dict[str, str]:
    return {
        f"sys/fs/cgroup{group}/memory.max": f"{limit}\n",
        f"sys/fs/cgroup{group}/memory.current": f"{used}\n",
        f"sys/fs/cgroup{group}/memory.stat": f"anon 17\ninactive_file {idle}\n",
    }


def test_it_reads_the_containers_group_without_idle_file_pages(tmp_path: Path) -> None:
    root = laid_out(tmp_path, "/", limited("", "1000", 800, 300))

    assert footprint(root) == Footprint(500, 1000)


def test_it_takes_the_nearest_group_with_a_limit(tmp_path: Path) -> None:
    groups = limited("/a", "5000", 2000, 0) | limited("/a/b", "max", 1000, 0) | limited("/a/b/c", "max", 9, 0)

    assert footprint(laid_out(tmp_path, "/a/b/c", groups)) == Footprint(2000, 5000)


def test_it_tells_the_machines_memory_without_a_limit(tmp_path: Path) -> None:
    assert footprint(laid_out(tmp_path, "/", limited("", "max", 9, 0))) == Footprint(3072 * 1024, 4096 * 1024)


def test_it_looks_at_no_group_outside_its_own_view(tmp_path: Path) -> None:
    root = laid_out(tmp_path, "/../elsewhere", {})

    assert footprint(root) == Footprint(3072 * 1024, 4096 * 1024)


def test_it_says_nothing_where_the_kernel_does_not(tmp_path: Path) -> None:
    assert footprint(tmp_path) is None


def test_it_knows_something_of_this_machine() -> None:
    here = footprint()

    assert here is not None
    assert 0 < here.used_bytes <= here.limit_bytes
