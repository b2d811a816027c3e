"""How much memory a process takes, and how much is left; torch is not imported."""

import ctypes
import gc
import json
import os
import resource
import signal
import subprocess
import sys
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


def can_forget_peaks() -> bool:
    """Whether the peak can be set back to what is resident now (Linux)."""
    return _RESET_PEAK.exists()


def growth_mib(work: Callable[[], Any]) -> float:
    """How far resident memory rises above what it is now while ``work`` runs, in MiB.

    Where peaks cannot be forgotten, it is how far the peak so far rises.
    """
    if can_forget_peaks():
        _RESET_PEAK.write_text("5")
    before = peak_mib()
    work()
    return peak_mib() - before


def give_back_free_memory() -> None:
    """Let what was freed leave this process's resident memory, as far as the C library can."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def measured_in_own_process(module: str, order: dict[str, Any]) -> float:
    """What ``python -m module`` makes of an order.

    Args:
        module: reads the order (JSON) from standard input, and writes a number into the last line
            of standard output.
        order: of JSON values.

    Raises:
        MemoryError: the system ended the process, as it does when memory is short.
    """
    # Not multiprocessing: it would run the caller's script again where that has no main guard.
    done = subprocess.run(
        [sys.executable, "-m", module], input=json.dumps(order), capture_output=True, text=True
    )
    if done.returncode == -signal.SIGKILL:
        raise MemoryError(f"the system ended the process that measures memory ({module})")
    done.check_returncode()
    return float(done.stdout.splitlines()[-1])


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
