"""Cores and memory that this process may use; torch is not imported."""

import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

_MIB = 2**20
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")
_MEMORY = Path("/proc/meminfo")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


# By controller, the files and the keys of page cache of each version of control groups.
_VERSIONS = {
    "": ("memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": (
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def core_count() -> int:
    """CPU cores in this process's affinity mask, capped by its Slurm allocation; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS and Windows
        cores = os.cpu_count() or 1
    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cores, int(allocated)) if allocated.isdecimal() and int(allocated) else cores


def worker_count(requested: int, items: int) -> int:
    """Number of loader processes: no more than requested, images or cores."""
    return min(requested, items, core_count())


def one_thread(_: int = 0) -> None:
    """Limit OpenCV to one thread in this process; a ``worker_init_fn`` for a DataLoader."""
    import cv2

    cv2.setNumThreads(0)


def peak_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    if _STATUS.exists():
        # ru_maxrss would include the peak of the process that started this one.
        line = next(line for line in _STATUS.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) / 1024
    # macOS reports bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB


def growth_mib(work: Callable[[], Any]) -> float:
    """How far resident memory (outside Linux, its peak) rises while ``work`` runs, in MiB."""
    if _RESET_PEAK.exists():
        _RESET_PEAK.write_text("5")
    before = peak_mib()
    work()
    return peak_mib() - before


def available_mib() -> float:
    """Memory that this process may still allocate, in MiB, within the machine and its container."""
    if _MEMORY.exists():
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) / 1024
    else:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MIB
    return max(0.0, min([available, *_left_in_groups()]))


def _left_in_groups() -> Iterator[float]:
    own = {"": "/", "memory": "/"}
    if _OWN_GROUPS.exists():
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update({name: path for name in controllers.split(",") if name in own})
    for name, (limit, used, page_cache) in _VERSIONS.items():
        # Outer groups limit as well. In a container the path may not exist, but the root is the
        # container's.
        inner = PurePosixPath(own[name].strip("/"))
        for group in (inner, *inner.parents):
            folder = _CONTROL_GROUPS / name / group
            try:
                most = (folder / limit).read_text().strip()
                taken = int((folder / used).read_text())
                lines = [line.split() for line in (folder / "memory.stat").read_text().splitlines()]
            except OSError:
                continue
            if most != "max":
                cached = sum(int(count) for key, count in lines if key in page_cache)
                yield (int(most) - taken + cached) / _MIB
