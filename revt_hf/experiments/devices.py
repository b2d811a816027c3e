"""The GPUs that trainings side by side are spread over, and how many run at once."""

import os
from collections.abc import Iterable, Sequence

from revt_hf.core.resources import core_count


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process sees, for :func:`gpu_variable`; none on a CPU."""
    import torch

    if _cpu_only() or not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    listed = os.environ.get(gpu_variable())
    # What is set already (numbers, GPU-... or MIG-... names) is what may be given on.
    names = [name.strip() for name in listed.split(",")] if listed else map(str, range(count))
    return list(names)[:count]


def gpu_variable() -> str:
    """The environment variable that limits a process to some GPUs."""
    import torch

    # ROCm reads both, and its own first.
    if torch.version.hip and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return "HIP_VISIBLE_DEVICES"
    return "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in os.environ else "CUDA_VISIBLE_DEVICES"


def least_used(gpus: Sequence[str], used: Iterable[str | None]) -> str | None:
    """The GPU that the fewest trainings use, the first of several; None without GPUs."""
    busy = list(used)
    return min(gpus, key=busy.count, default=None)


def default_slots(launcher: str | None) -> int:
    """Trainings side by side: one a GPU, or one a core without any.

    With a launcher, which decides itself what a training runs on, one where there is a GPU.
    """
    import torch

    if _cpu_only() or not torch.accelerator.is_available():
        return core_count()
    return 1 if launcher else max(1, len(visible_gpus()))


def _cpu_only() -> bool:
    from accelerate.utils import parse_flag_from_env

    return bool(parse_flag_from_env("ACCELERATE_USE_CPU"))
