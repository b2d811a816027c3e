"""A model folder with some tensors replaced, and the record of what replaced them."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from revt_hf import __version__
from revt_hf.checkpoints.architecture import Description, fitting_tensors, model_config
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.headers import TensorInfo, common_dtype, tensors_hash, tensors_sha256
from revt_hf.checkpoints.image_processor import read_processor
from revt_hf.checkpoints.tensors import (
    CONFIG_FILE,
    PROCESSOR_FILE,
    RECIPE_FILE,
    WEIGHTS_FILE,
    open_checkpoint,
    refuse_adapter,
)
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Source
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, write_json
from revt_hf.evaluation.evaluate import as_segmenter, score_images
from revt_hf.evaluation.loading import load_labelled
from revt_hf.evaluation.metric import mean_iou
from revt_hf.evaluation.result import source_splits
from revt_hf.merging import record as records
from revt_hf.models.recorded import recorded_recipe


@dataclass(frozen=True)
class Original:
    """A model folder as it is read: its tensors by on-disk name, and the digest of these."""

    folder: Path
    description: Description
    tensors: dict[str, torch.Tensor]
    dtype: str
    record: records.Record | None
    processor: dict[str, Any] | None
    sha256: str


@contextmanager
def original(folder: Path) -> Iterator[Original]:
    """Read a folder, which must be the same at the end of the block."""
    refuse_adapter(folder)
    with open_checkpoint(folder, quiet=True) as checkpoint:
        if checkpoint.folder is None or folder.is_file():
            raise UserError(f"{folder} is a single file: give a folder with {CONFIG_FILE}")
        kept = (records.MergeRecord.file, records.ChangesRecord.file)
        read = (CONFIG_FILE, PROCESSOR_FILE, RECIPE_FILE, *kept)
        checkpoint.stamps.add(*(folder / name for name in read))
        description = read_description(folder, family=checkpoint.family)
        infos = fitting_tensors(description, checkpoint.tensors)
        record = records.checked_record(folder)
        tensors = {name: read_tensor(info) for name, info in infos.items()}
        yield Original(
            folder=folder,
            description=description,
            tensors=tensors,
            dtype=common_dtype(info.dtype for info in infos.values()),
            record=record,
            processor=read_processor(folder),
            sha256=_sha256(checkpoint.tensors, tensors),
        )
        checkpoint.stamps.check()


def as_stored(model: Original, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A new tensor in the dtype of the one it replaces; refused where it is beyond that."""
    old = model.tensors.get(name)
    kind = tensor.dtype if old is None else old.dtype
    stored = tensor.cpu().to(kind).contiguous()
    if not stored.isfinite().all():
        raise UserError(f"{model.folder}: the new {name} is beyond {str(kind).split('.')[-1]}")
    return stored


def write_changed(
    model: Original,
    target: Path,
    tensors: Mapping[str, torch.Tensor],
    change: Mapping[str, Any],
    overwrite: bool = False,
    description: Description | None = None,
) -> None:
    """Write the folder with other ``tensors``; the record gets one more change.

    ``change`` are fields of :class:`records.Change`; ``description`` is None where the
    configuration stays the same.
    """
    with atomic_folder(target, overwrite, [model.folder]) as scratch:
        save_file(dict(tensors), scratch / WEIGHTS_FILE, metadata={"format": "pt"})
        after = tensors_sha256(scratch / WEIGHTS_FILE)
        done = records.Change(**change, before=model.sha256, after=after, revt_hf=__version__)
        record = model.record or records.ChangesRecord("revt_hf.changes/1", (), None)
        record = replace(record, changes=(*record.changes, done), tensors_sha256=after)
        write_json(scratch / record.file, record.to_json())
        config = model_config(description or model.description, model.dtype)
        write_json(scratch / CONFIG_FILE, config)
        if model.processor is not None:
            write_json(scratch / PROCESSOR_FILE, model.processor)
        # A recipe of another program is not passed on as ours.
        if recorded_recipe(model.folder) is not None:
            shutil.copyfile(model.folder / RECIPE_FILE, scratch / RECIPE_FILE)


def change_sources(sources: Sequence[Source]) -> tuple[records.ChangeSource, ...]:
    """The sources as a record has them."""
    values = [source.model_dump(mode="json", exclude={"val"}) for source in sources]
    return tuple(records.ChangeSource(**fields) for fields in values)


def _sha256(infos: Mapping[str, TensorInfo], tensors: Mapping[str, torch.Tensor]) -> str:
    """As ``headers.tensors_sha256`` of the file that the tensors come from."""
    digest = tensors_hash((name, info.dtype, info.shape) for name, info in infos.items())
    for name in infos:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ValScore:
    """mIoU (percent) on a source's val before and after."""

    label: str
    before: float
    after: float


class SourceVal:
    """Held-out images of sources, on which a model is scored before and after a change."""

    def __init__(self, sources: Sequence[Source], protocol: Protocol, quiet: bool) -> None:
        self._labels = [split.label for split in source_splits(sources)]
        self._rows = [load_labelled(source, source.val) for source in sources]
        self._protocol, self._quiet = protocol, quiet

    def score(self, folder: Path) -> list[float]:
        """mIoU (percent) on each source's val."""
        scores = []
        segmenters = [as_segmenter(folder)] if self._rows else []
        for rows in self._rows:
            with tqdm(
                total=len(rows), unit="image", desc="source-val", disable=self._quiet
            ) as progress:
                ((sums,),) = score_images(
                    segmenters, rows, self._protocol, on_image=progress.update
                )
            scores.append(mean_iou(sums.matrix))
        return scores

    def compared(self, before: Sequence[float], after: Sequence[float]) -> tuple[ValScore, ...]:
        return tuple(map(ValScore, self._labels, before, after))
