"""``run.json``: on what a run was trained, and how large its optimizer steps are."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from revt_hf.config.recipe import Training
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import read_json_object, write_json
from revt_hf.training.batch_norm import Statistics

RUN_FILE = "run.json"
_log = logging.getLogger("revt_hf")


@dataclass(frozen=True)
class RunRecord:
    """What a recipe does not decide alone.

    Attributes:
        processes: how many trained together.
        effective_batch: images per optimizer step, over all processes.
        device: its name; of the main process.
        precision: ``fp32`` or ``bf16``.
        batch_norm: whose statistics the decode head's BatchNorm used.
    """

    processes: int
    effective_batch: int
    device: str
    precision: str
    batch_norm: Statistics

    def write(self, run: Path) -> None:
        """Put it beside the run's result."""
        write_json(run / RUN_FILE, asdict(self))


def effective_batch(settings: Training, processes: int) -> int:
    """Images per optimizer step.

    Raises:
        UserError: the recipe expects another number.
    """
    images = settings.batch_size * settings.gradient_accumulation * processes
    if settings.effective_batch not in (None, images):
        raise UserError(
            f"train.effective_batch is {settings.effective_batch}, but this run's is {images}: "
            f"{_product(settings, processes)}"
        )
    return images


def device_name(accelerator: Accelerator) -> str:
    """The GPU's name, or the type of another device."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    return accelerator.device.type


def announce(record: RunRecord, settings: Training, quiet: bool) -> None:
    """Log the effective batch, unless ``quiet``, and what differs between processes."""
    if not quiet:
        _log.info(
            "effective batch %d (%s) on %s, %s",
            record.effective_batch,
            _product(settings, record.processes),
            record.device,
            record.precision,
        )
    if record.batch_norm == "process" and record.processes > 1:
        _log.warning(
            "the decode head's BatchNorm sees the images of one process only: SyncBatchNorm "
            "exists on GPUs (model.batch_norm: frozen does without batch statistics)"
        )


def check_same_processes(run: Path, processes: int) -> None:
    """Refuse to go on with another number of processes: other images would come next.

    Raises:
        UserError: the run was started with another number.
    """
    path = run / RUN_FILE
    if not path.exists():
        return
    before = read_json_object(path).get("processes")
    if not isinstance(before, int):
        raise UserError(
            f"{path} does not say how many processes trained together: delete it to resume anyway"
        )
    if before != processes:
        raise UserError(f"{run} was started with --num_processes {before}: resume with as many")


def _product(settings: Training, processes: int) -> str:
    return (
        f"batch_size {settings.batch_size} x gradient_accumulation "
        f"{settings.gradient_accumulation} x {processes} process{'es' if processes > 1 else ''}"
    )
