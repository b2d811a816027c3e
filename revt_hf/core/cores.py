"""How many of the processor's cores this process may use, and threads; torch is not imported."""

import os


def core_count() -> int:
    """Cores of this process's affinity, no more than Slurm allocated to its task; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        # macOS and Windows have no affinity to ask for.
        cores = os.cpu_count() or 1
    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(cores, int(allocated)) if allocated.isdecimal() and int(allocated) else cores


def worker_count(asked: int, items: int) -> int:
    """How many of the processes that were asked for load ``items`` images.

    More than there are cores or images would take memory and time to start, nothing else; torch
    warns of them.
    """
    return min(asked, items, core_count())


def one_thread(_: int = 0) -> None:
    """Keep OpenCV to one thread in this process; for ``worker_init_fn`` of a DataLoader.

    torch does so for itself. Every worker would start a thread for each core of the machine
    otherwise, and threads that exist when a process forks are missing in the child.
    """
    import cv2

    cv2.setNumThreads(0)
