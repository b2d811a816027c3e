"""How much memory a process takes, and how much is left; torch is not imported."""

import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

_MIB = 2**20
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")
_MEMORY = Path("/proc/meminfo")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class _Version:
    """Where one of the two versions of control groups says what may be taken and what is."""

    root: str
    limit: str
    used: str
    page_cache: tuple[str, str]


_VERSIONS = {
    "": _Version("", "memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": _Version(
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}


def peak_mib() -> float:
    """The peak of this process's resident memory, in MiB."""
    if _STATUS.exists():
        # A process started from a large one inherits that one's ``ru_maxrss``.
        line = next(line for line in _STATUS.read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) / 1024
    # Of macOS, in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB


def growth_mib(work: Callable[[], Any]) -> float:
    """How far resident memory rises above its current level while ``work`` runs, in MiB.

    Where the peak cannot be reset (outside Linux), how far ``work`` raises the peak.
    """
    if _RESET_PEAK.exists():
        _RESET_PEAK.write_text("5")
    before = peak_mib()
    work()
    return peak_mib() - before


def available_mib() -> float:
    """How much memory this process may still take, in MiB: of the machine and its container.

    Page cache counts as free: the system gives it up when memory is asked for.
    """
    if _MEMORY.exists():
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) / 1024
    else:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MIB
    return max(0.0, min([available, *_left_in_groups()]))


def _left_in_groups() -> Iterator[float]:
    """What each limited control group of this process leaves, in MiB."""
    own = {"": "/", "memory": "/"}
    if _OWN_GROUPS.exists():
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            own.update({name: path for name in controllers.split(",") if name in own})
    for name, version in _VERSIONS.items():
        # A group may take no more than those that it lies in; in a container its path may not
        # exist, but the root is the container's.
        inner = PurePosixPath(own[name].strip("/"))
        for group in (inner, *inner.parents):
            left = _left(_CONTROL_GROUPS / version.root / group, version)
            if left is not None:
                yield left


def _left(folder: Path, version: _Version) -> float | None:
    try:
        limit = (folder / version.limit).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / version.used).read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return None
    cached = sum(int(line.split()[1]) for line in lines if line.split()[0] in version.page_cache)
    return (int(limit) - used + cached) / _MIB
