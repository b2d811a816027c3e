"""What ``revt recalibrate`` does: new statistics, and what they do on source-val."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset
from tqdm import tqdm

from revt_hf.config.domain_spec import Source
from revt_hf.config.protocol import Protocol
from revt_hf.core.outputs import check_output
from revt_hf.data.domains import load_spec
from revt_hf.evaluation.command import load_for_evaluation
from revt_hf.evaluation.confusion import scores_from
from revt_hf.evaluation.loading import load_labelled
from revt_hf.evaluation.scoring import confusion_of
from revt_hf.evaluation.splits import source_splits
from revt_hf.merging.recalibration import recalibrate
from revt_hf.models.recorded import recorded_protocol


@dataclass(frozen=True)
class ValScore:
    """mIoU (percent) on a source's val before and after."""

    label: str
    before: float
    after: float


@dataclass(frozen=True)
class Recalibrated:
    """The new folder, and how it does on source-val (empty where that was not asked for)."""

    output: Path
    val: tuple[ValScore, ...]

    def to_json(self) -> dict[str, Any]:
        """What ``--json`` writes."""
        return {"output": str(self.output), "val": [asdict(score) for score in self.val]}


def recalibrate_command(
    model: Path,
    sources: Sequence[Source],
    output: Path,
    images: int,
    overwrite: bool,
    quiet: bool,
    score_val: bool = True,
) -> Recalibrated:
    """Recalibrate a model folder on images spread over the sources' training splits.

    Args:
        model: the folder.
        sources: training domains; never targets.
        output: the new folder.
        images: about so many are used, of a mixture by the sources' weights.
        overwrite: replace ``output`` if it exists.
        quiet: no progress bars.
        score_val: also score both on each source's val.

    Raises:
        UserError: the model, a source or its data cannot be used, or ``output`` exists.
    """
    inputs = [model, *(path for source in sources for path in source.inputs)]
    check_output(output, overwrite, inputs)
    labels = [split.label for split in source_splits(sources)] if score_val else []
    rows = spread_images(sources, images)
    held_out = [load_labelled(source, source.val) for source in sources] if score_val else []
    protocol = recorded_protocol([model])
    before = _scores(model, held_out, protocol, quiet)
    with tqdm(total=len(rows), unit="image", desc="recalibrate", disable=quiet) as progress:
        named = [source.model_dump(mode="json", exclude={"val"}) for source in sources]
        done = recalibrate(model, output, rows, protocol, overwrite, progress.update, named)
    after = _scores(done, held_out, protocol, quiet)
    return Recalibrated(done, tuple(map(ValScore, labels, before, after)))


def spread_images(sources: Sequence[Source], images: int) -> Any:
    """About so many training images, spread over the sources by their weights.

    Raises:
        UserError: a source's data cannot be used.
    """
    # Neighbours in a split are often frames of one drive: the first ones would show one street.
    weights = sum(source.weight for source in sources)
    parts = []
    for source in sources:
        rows = load_spec(source, source.train)
        share = min(max(1, round(images * source.weight / weights)), len(rows))
        parts.append(rows.select(np.linspace(0, len(rows) - 1, share).round().astype(int)))
    return ConcatDataset(parts)


def _scores(folder: Path, held_out: Sequence[Any], protocol: Protocol, quiet: bool) -> list[float]:
    if not held_out:
        return []
    network = load_for_evaluation(folder)
    scores = []
    for rows in held_out:
        indices = tqdm(range(len(rows)), unit="image", desc="source-val", disable=quiet)
        scores.append(scores_from(confusion_of(network, rows, indices, protocol)).miou)
    return scores
