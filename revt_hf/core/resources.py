"""Cores and memory that this process may use, and children that end with it, without torch."""

import contextlib
import os
import resource
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import subprocess

_MIB = 2**20
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")
_MEMORY = Path("/proc/meminfo")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_POLL_SECONDS = 0.1
# torchrun gives its own processes 30 seconds.
_GRACE_SECONDS = 40.0
_LINES = 200
_LINE_BYTES = 1 << 16
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


class Child:
    """A command in its own process group that ends with this process; ``log`` gets its output.

    A watcher process runs it until its own standard input ends, which the system closes even after
    a kill of this process, and then ends the whole group.
    """

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        # Imported here, since merging uses this module and starts no processes.
        import subprocess

        self._process = subprocess.Popen(
            [sys.executable, "-m", "revt_hf.core.resources", *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C goes to this process only, which then ends its children.
            start_new_session=True,
        )
        self._last: deque[str] = deque(maxlen=_LINES)
        self._reader = Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    def poll(self) -> int | None:
        """The exit code; None while the command runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(_GRACE_SECONDS)
        return code

    def stop(self) -> None:
        """Ask the command to end; then :meth:`wait`."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until the command and everything it started are gone."""
        self._process.wait()
        self._reader.join(_GRACE_SECONDS)

    def said(self) -> list[str]:
        """The last lines of the command's output."""
        return list(self._last)

    def _read(self, log: Path) -> None:
        """Keep the last lines even if the log cannot be written, as on a full disk."""
        with contextlib.ExitStack() as stack:
            file: BinaryIO | None = None
            with contextlib.suppress(OSError):
                file = stack.enter_context(log.open("wb", buffering=0))
            while self._process.stdout and (line := self._process.stdout.readline(_LINE_BYTES)):
                self._last.append(line.decode(errors="replace").rstrip())
                with contextlib.suppress(OSError):
                    if file is not None:
                        file.write(line)


def _watch(command: Sequence[str]) -> int:
    """Run a command until it or standard input ends; returns its exit code."""
    import subprocess

    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(f"error: cannot start {command[0]}: {error.strerror or error}")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while process.poll() is None and not _parent_gone():
            pass
    finally:
        _end_group(process)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _parent_gone() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """Terminate what is left of a process group; kill it if that takes too long."""
    number: int
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                return
            # Once is enough; from here on, only check whether the group still exists.
            number = 0
            time.sleep(_POLL_SECONDS / 2)


if __name__ == "__main__":
    sys.exit(_watch(sys.argv[1:]))
