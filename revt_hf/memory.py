"""How much memory a process takes, and how much is left; torch is not imported."""

import ctypes
import gc
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MIB = 2**20
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")
_MEMORY = Path("/proc/meminfo")
# What a container may take at most; the older of the two systems comes second.
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


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
    """How much memory this process may still take, in MiB: of the machine and its container."""
    if _MEMORY.exists():
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) / 1024
    else:
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _MIB
    for limit, used in _LIMITS:
        if limit.exists() and used.exists() and limit.read_text().strip() != "max":
            left = int(limit.read_text()) - int(used.read_text())
            return min(available, left / _MIB)
    return available
