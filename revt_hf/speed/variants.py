"""Ways of running a SegFormer: transformers' own and ours."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from revt_hf.core.errors import UserError
from revt_hf.evaluation.predictor import Segmenter, model_segmenter
from revt_hf.models.load import for_inference_
from revt_hf.speed.measuring import Model

# The variant that the others are compared with: transformers' default.
REFERENCE = "sdpa"


@dataclass(frozen=True)
class Variant:
    """A way of running a SegFormer."""

    text: str
    attention: str = "sdpa"
    for_inference: bool = False
    bf16: bool = False
    compiled: bool = False

    def segmenter(self, model: Model, device: torch.device) -> Segmenter:
        """A copy of a model that runs this way; it is compiled for each input size anew."""
        copied = copy.deepcopy(model).to(device).eval()
        copied.set_attn_implementation(self.attention)
        if self.for_inference:
            for_inference_(copied)
        if self.compiled:
            copied.compile(dynamic=False)
        return model_segmenter(copied, self.bf16)


VARIANTS = {
    "eager": Variant("transformers with attn_implementation='eager'", attention="eager"),
    REFERENCE: Variant("transformers' default"),
    "folded": Variant("for_inference_: folded decode head", for_inference=True),
    "bf16": Variant("folded, under bfloat16 autocast", for_inference=True, bf16=True),
    "compiled": Variant("folded, and torch.compile", for_inference=True, compiled=True),
}


def chosen_variants(names: Sequence[str]) -> dict[str, Variant]:
    """The variants of those names in the order of ``VARIANTS``; all of them for no names.

    Raises:
        UserError: there is no such variant.
    """
    for name in names:
        if name not in VARIANTS:
            raise UserError(f"--variant {name}: use {', '.join(VARIANTS)}")
    return {name: variant for name, variant in VARIANTS.items() if not names or name in names}
