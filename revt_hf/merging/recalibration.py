"""Re-estimate the running statistics of BatchNorm for an averaged encoder.

The head of a merge comes from one member, and its statistics are those of its features; an averaged
encoder with BatchNorm has features of its own in every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset
from tqdm import tqdm

from revt_hf.checkpoints.families import is_statistic
from revt_hf.checkpoints.names import names_on_disk
from revt_hf.checkpoints.tensors import refuse_adapter
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe, Source
from revt_hf.core.outputs import check_output
from revt_hf.core.processes import process_state
from revt_hf.data.domains import load_spec
from revt_hf.merging.changed_model import (
    SourceVal,
    ValScore,
    as_stored,
    change_sources,
    original,
    write_changed,
)
from revt_hf.merging.record import ChangeSource
from revt_hf.merging.statistics import OnImage, recalibrate_model
from revt_hf.models.load import load_model
from revt_hf.models.recorded import recorded_protocol


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
    rows = spread_images(sources, options.images)
    val = SourceVal(sources if options.score_val else [], protocol, options.quiet)
    before = val.score(model)
    used = change_sources(sources)
    with tqdm(total=len(rows), unit="image", desc="recalibrate", disable=options.quiet) as bar:
        recalibrate_on_images(model, output, rows, protocol, options.overwrite, bar.update, used)
    return val.compared(before, val.score(output))


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
    sources: Sequence[ChangeSource] = (),
) -> Path:
    """Copy a model folder with statistics of images of the *source* domain; all else stays."""
    folder, target = Path(source), Path(output)
    refuse_adapter(folder)
    check_output(target, overwrite, [source])
    with original(folder) as read:
        model = load_model(folder).to(process_state().device)
        recalibrate_model(model, images, protocol, on_image)
        tensors, measured = dict(read.tensors), model.state_dict()
        for memory, name in names_on_disk(model).items():
            if is_statistic(name):
                tensors[name] = as_stored(read, name, measured[memory])
    used = {"sources": tuple(sources), "images": len(images)}
    change = {"kind": "recalibrated", **used, "protocol": protocol.model_dump(mode="json")}
    write_changed(read, target, tensors, change, overwrite)
    return target
