"""Re-estimate the running statistics of BatchNorm for an averaged encoder.

The head of a merge comes from one member, and its statistics are those of its features; an averaged
encoder with BatchNorm has features of its own in every layer.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import ConcatDataset
from tqdm import tqdm

from revt_hf import __version__
from revt_hf.checkpoints.architecture import fitting_tensors, model_config
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.families import is_statistic
from revt_hf.checkpoints.headers import TensorInfo, common_dtype, tensors_hash, tensors_sha256
from revt_hf.checkpoints.image_processor import read_processor
from revt_hf.checkpoints.names import names_on_disk
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
from revt_hf.config.recipe import Recipe, Source
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import atomic_folder, check_output, write_json
from revt_hf.core.processes import process_state
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.evaluate import as_segmenter, score_images
from revt_hf.evaluation.loading import load_labelled
from revt_hf.evaluation.metric import mean_iou
from revt_hf.evaluation.result import source_splits
from revt_hf.merging import record as records
from revt_hf.merging.statistics import OnImage, recalibrate_model
from revt_hf.models.load import load_model
from revt_hf.models.recorded import recorded_protocol, recorded_recipe


@dataclass(frozen=True)
class ValScore:
    """mIoU (percent) on a source's val before and after."""

    label: str
    before: float
    after: float


@dataclass(frozen=True)
class RecalibrateOptions:
    """Options of :func:`recalibrate`; ``images`` is approximate.

    ``score_val`` also scores the model before and after on each source's val.
    """

    images: int = 100
    score_val: bool = True
    overwrite: bool = False
    quiet: bool = True


def recalibrate(
    model: str | Path,
    output: str | Path,
    sources: Recipe | Sequence[Source],
    protocol: Protocol | None = None,
    options: RecalibrateOptions | None = None,
) -> tuple[ValScore, ...]:
    """Re-estimate all BatchNorm statistics on training images of the source domains.

    All other tensors keep their bits; the record beside the weights gets another change.

    Args:
        model: a model folder, such as a merge.
        output: the new folder.
        sources: a recipe or its sources: training domains, never targets. Images are spread over
            their training splits.
        protocol: how images reach the network; None for the one the folder records.
        options: see :class:`RecalibrateOptions`.

    Returns:
        mIoU (percent) on each source's val before and after.

    Raises:
        UserError: the model, a source or its data cannot be used, or ``output`` exists.
    """
    model, output = Path(model), Path(output)
    refuse_adapter(model)
    sources = sources.sources if isinstance(sources, Recipe) else sources
    protocol = protocol or recorded_protocol([model])
    options = options or RecalibrateOptions()
    inputs = [model, *(path for source in sources for path in source.inputs)]
    check_output(output, options.overwrite, inputs)
    scored = sources if options.score_val else []
    labels = [split.label for split in source_splits(scored)]
    rows = spread_images(sources, options.images)
    held_out = [load_labelled(source, source.val) for source in scored]
    before = _scores(model, held_out, protocol, options.quiet)
    values = [source.model_dump(mode="json", exclude={"val"}) for source in sources]
    used = [records.ChangeSource(**fields) for fields in values]
    with tqdm(total=len(rows), unit="image", desc="recalibrate", disable=options.quiet) as bar:
        recalibrate_on_images(model, output, rows, protocol, options.overwrite, bar.update, used)
    after = _scores(output, held_out, protocol, options.quiet)
    return tuple(map(ValScore, labels, before, after))


def _scores(folder: Path, held_out: Sequence[Any], protocol: Protocol, quiet: bool) -> list[float]:
    scores = []
    segmenters = [as_segmenter(folder)] if held_out else []
    for rows in held_out:
        with tqdm(total=len(rows), unit="image", desc="source-val", disable=quiet) as progress:
            ((sums,),) = score_images(segmenters, rows, protocol, on_image=progress.update)
        scores.append(mean_iou(sums.matrix))
    return scores


def spread_images(sources: Sequence[Source], images: int) -> Any:
    """Training images, about so many, spread over the sources by their weights."""
    weights = sum(source.weight for source in sources)
    shares = [max(1, round(images * source.weight / weights)) for source in sources]
    loaded = [load_spec(source, source.train) for source in sources]
    return ConcatDataset([*map(spread, loaded, shares)])


def spread(rows: Any, images: int | None) -> Any:
    """At most so many of the rows; the first ones of a split would often show one street."""
    if images is None or images >= len(rows):
        return rows
    return rows.select(np.linspace(0, len(rows) - 1, images).round().astype(int))


def recalibrate_on_images(
    source: str | Path,
    output: str | Path,
    images: Sequence[dict[str, Any]],
    protocol: Protocol,
    overwrite: bool = False,
    on_image: OnImage = lambda: None,
    sources: Sequence[records.ChangeSource] = (),
) -> Path:
    """Copy a model folder with statistics of images of the *source* domain; all else stays."""
    folder, target = Path(source), Path(output)
    refuse_adapter(folder)
    check_output(target, overwrite, [source])
    with open_checkpoint(folder, quiet=True) as checkpoint:
        if checkpoint.folder is None or folder.is_file():
            raise UserError(f"{folder} is a single file: give a folder with {CONFIG_FILE}")
        kept = (records.MergeRecord.file, records.RecalibrationRecord.file)
        read = (CONFIG_FILE, PROCESSOR_FILE, RECIPE_FILE, *kept)
        checkpoint.stamps.add(*(folder / name for name in read))
        description = read_description(folder, family=checkpoint.family)
        infos = fitting_tensors(description, checkpoint.tensors)
        record = records.checked_record(folder)
        model = load_model(folder).to(process_state().device)
        recalibrate_model(model, images, protocol, on_image)
        tensors = {name: read_tensor(info) for name, info in infos.items()}
        before = _sha256(checkpoint.tensors, tensors)
        measured = model.state_dict()
        for memory, name in names_on_disk(model).items():
            if not is_statistic(name):
                continue
            dtype = tensors[name].dtype
            tensors[name] = measured[memory].cpu().to(dtype).contiguous()
            if not tensors[name].isfinite().all():
                kind = str(dtype).removeprefix("torch.")
                raise UserError(f"{folder}: the new statistics are beyond {kind}")
        processor = read_processor(folder)
        checkpoint.stamps.check()
    with atomic_folder(target, overwrite, [source]) as scratch:
        save_file(tensors, scratch / WEIGHTS_FILE, metadata={"format": "pt"})
        after = tensors_sha256(scratch / WEIGHTS_FILE)
        made = (tuple(sources), len(images), protocol.model_dump(mode="json"))
        change = records.Change("recalibrated", *made, before, after, __version__)
        record = record or records.RecalibrationRecord("revt_hf.recalibration/1", (), None)
        record = replace(record, changes=(*record.changes, change), tensors_sha256=after)
        write_json(scratch / record.file, record.to_json())
        stored = common_dtype(info.dtype for info in infos.values())
        write_json(scratch / CONFIG_FILE, model_config(description, stored))
        if processor is not None:
            write_json(scratch / PROCESSOR_FILE, processor)
        # A recipe of another program is not passed on as ours.
        if recorded_recipe(folder) is not None:
            shutil.copyfile(folder / RECIPE_FILE, scratch / RECIPE_FILE)
    return target


def _sha256(infos: Mapping[str, TensorInfo], tensors: Mapping[str, torch.Tensor]) -> str:
    """As ``headers.tensors_sha256`` of the file that the tensors come from."""
    digest = tensors_hash((name, info.dtype, info.shape) for name, info in infos.items())
    for name in infos:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
