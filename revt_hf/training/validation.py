"""Loss and confusion matrix of one encoder under several decode heads, summed over images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from transformers import SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.evaluation.evaluate import Sums, score_images
from revt_hf.evaluation.predictor import heads_segmenter
from revt_hf.training.loss import segmentation_loss


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
        images: rows with ``image`` and ``label`` as :func:`revt_hf.data.domains.load_domain` gives.
        indices: which of them.
        protocol: how they reach the network.
        workers: processes that decode images while the network runs; 0 decodes in between.
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
