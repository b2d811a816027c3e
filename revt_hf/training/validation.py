"""Validation: loss and confusion matrix of one encoder under one or several decode heads."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe
from revt_hf.data.domains import domain_label
from revt_hf.evaluation.evaluate import Sums, score_images
from revt_hf.evaluation.metric import scores_from
from revt_hf.evaluation.predictor import heads_segmenter
from revt_hf.models.folded_head import folded
from revt_hf.training.loss import segmentation_loss


def validation_scores(
    accelerator: Accelerator,
    model: SegformerForSemanticSegmentation,
    held_out: Sequence[Any],
    recipe: Recipe,
) -> dict[str, float]:
    """Loss and scores on each source's val split, all processes together; leaves eval mode on.

    Args:
        accelerator: of the run.
        model: the network, unwrapped; its running statistics are set to the main process's, which
            are the ones that are saved.
        held_out: rows of each source's val split.
        recipe: of the run.

    Returns:
        ``val_loss``, ``val_mIoU`` and ``val_aAcc``, averaged over the sources; with several
        sources also the mIoU on each.
    """
    broadcast(list(model.buffers()))
    model.eval()
    scores, losses = [], []
    for images in held_out:
        indices = range(accelerator.process_index, len(images), accelerator.num_processes)
        with folded(model), _uncompiled(recipe.train.compile):
            (own,) = sums_of(
                model,
                [model.decode_head],
                images,
                indices,
                recipe.evaluation,
                recipe.train.workers,
            )
        shares = (torch.from_numpy(own.matrix), torch.tensor(own.loss), torch.tensor(own.pixels))
        matrix, loss, pixels = (
            accelerator.reduce(share.to(accelerator.device), reduction="sum") for share in shares
        )
        scores.append(scores_from(matrix.cpu().numpy()))
        losses.append(float(loss) / max(int(pixels), 1))
    values = {
        "val_loss": sum(losses) / len(losses),
        "val_mIoU": sum(score.miou for score in scores) / len(scores),
        "val_aAcc": sum(score.aacc for score in scores) / len(scores),
    }
    if len(scores) > 1:
        for source, score in zip(recipe.sources, scores, strict=True):
            values[f"val_mIoU of {domain_label(source, source.val)}"] = score.miou
    return values


def _uncompiled(compiled: bool) -> AbstractContextManager[Any]:
    """Validation images come in many sizes, which are not worth compiling for."""
    if not compiled:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def sums_of(
    model: SegformerForSemanticSegmentation,
    heads: Sequence[nn.Module],
    images: Any,
    indices: Sequence[int],
    protocol: Protocol,
    workers: int = 0,
    on_image: Callable[[], object] = lambda: None,
) -> list[Sums]:
    """Loss and confusion matrix of a model's encoder with each of several decode heads.

    The encoder sees each image once; see :func:`revt_hf.evaluation.evaluate.score_images`.

    Args:
        model: in eval mode; its own head counts only if it is among ``heads``.
        heads: decode heads in eval mode, on the model's device.
        images: rows with ``image`` and ``label``, as from :func:`revt_hf.data.domains.load_domain`.
        indices: the rows to use.
        protocol: the test protocol.
        workers: processes that decode images while the network runs; 0 decodes in this process.
        on_image: called after each image, for a progress bar.

    Raises:
        UserError: an image cannot be read.
    """
    (sums,) = score_images(
        [heads_segmenter(model, heads)],
        images,
        protocol,
        indices=indices,
        workers=workers,
        on_image=on_image,
        loss=partial(segmentation_loss, averaging="valid"),
    )
    return sums
