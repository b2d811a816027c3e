"""The image processor that a trained model is saved with."""

from typing import Any

from transformers.models.mobilevit.image_processing_pil_mobilevit import (
    MobileViTImageProcessorPil,
)
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.data.normalisation import IMAGENET, Normalisation
from revt_hf.data.reading import fit_size


def image_processor(
    max_size: tuple[int, int] | None, size: tuple[int, int], normalisation: Normalisation = IMAGENET
) -> Any:
    """Prepares images like a test protocol's max size, exactly for one (height, width)."""
    height, width = size if max_size is None else fit_size(*size, max_size)
    fields = {
        "do_resize": max_size is not None,
        "size": {"height": height, "width": width},
        "do_reduce_labels": False,
        **normalisation.fields(),
    }
    if normalisation.do_flip_channel_order:
        # SegFormer's cannot flip channels.
        return MobileViTImageProcessorPil(**fields, do_center_crop=False, resample=2)
    return SegformerImageProcessorPil(**fields)
