"""Families of segmenters: what in a model's files is encoder and what is head. No torch.

Names are those on disk; the beginnings given here are the same in memory.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Parameters that transformers adds to encoders for their use as a backbone.
OF_BACKBONES = "hidden_states_norms."
_COUNTER, _VARIANCE, _MEAN = "num_batches_tracked", "running_var", "running_mean"


@dataclass(frozen=True)
class Family:
    """Models of one class of transformers.

    Attributes:
        title: for people.
        model_class: the class of the whole model.
        prefix: where the encoder's tensors lie in the whole model; an encoder by itself lacks it.
        head: where a whole model has tensors that an encoder by itself has not.
        class_rows: modules whose weight and bias have a row for each class.
        encoder: a regular expression for the beginning of the encoder's tensors, if they have no
            prefix of their own.
        masks: it predicts masks and their classes (and one more class, for none), not logits.
        mask_side: of the masks when it ranks classes, as its image processor has it; 0 for the
            input's own size.
        squares: it only takes square images.
        prompted: predictions need a text beside the image.
        fixed: of the size in its ``config.json``.
        generic: encoder and head are guessed from names that are usual in transformers.
    """

    title: str
    model_class: str
    prefix: str
    head: str
    class_rows: tuple[str, ...]
    encoder: str = ""
    masks: bool = False
    mask_side: int = 0
    squares: bool = False
    fixed: bool = False
    prompted: bool = False
    generic: bool = False

    @property
    def encoder_pattern(self) -> str:
        """A regular expression for the beginning of the encoder's tensors."""
        return self.encoder or re.escape(self.prefix)

    def in_encoder(self, name: str) -> bool:
        """Whether a tensor belongs to the encoder; all others belong to the head."""
        return re.match(self.encoder_pattern, name) is not None

    def has_head(self, names: Iterable[str]) -> bool:
        """Whether tensors are a whole model's, and not an encoder's alone."""
        return any(name.startswith(self.head) for name in names)

    def has_class_rows(self, name: str) -> bool:
        """Whether a tensor has a row for each class."""
        return name.rpartition(".")[0] in self.class_rows

    def in_whole_model(
        self, names: Iterable[str], own: str, whole: Container[str]
    ) -> dict[str, str]:
        """Names of an encoder, whole or by itself, by their names in a whole model.

        ``own`` is the beginning of the encoder's names in the model that they are from. Those in
        the ``whole`` model may have it, too: Swin's last norm does, and nothing else of it.
        """
        names = list(names)
        if not self.prefix or any(map(self.in_encoder, names)):
            return {name: name for name in names}
        kept = {name: f"{self.prefix}{name}" for name in names}
        bare = {name: f"{self.prefix}{name.removeprefix(own)}" for name in names}
        return {(kept if kept[name] in whole else bare)[name]: name for name in names}


SEGFORMER = Family(
    "SegFormer",
    "SegformerForSemanticSegmentation",
    "segformer.",
    "decode_head.",
    ("decode_head.classifier",),
)
_MASKS = ("class_predictor.", ("class_predictor",))
_PIXEL_ENCODER = "model.pixel_level_module.encoder."
_EOMT_HEAD = "query|mask_head|class_predictor|upscale_block|criterion|attn_mask_probs"
# By the model_type of config.json.
FAMILIES: Mapping[str, Family] = {
    "segformer": SEGFORMER,
    "upernet": Family(
        "UperNet",
        "UperNetForSemanticSegmentation",
        "backbone.",
        "decode_head.",
        ("decode_head.classifier", "auxiliary_head.classifier"),
    ),
    "beit": Family(
        "BEiT",
        "BeitForSemanticSegmentation",
        "beit.",
        "decode_head.",
        ("decode_head.classifier", "auxiliary_head.classifier"),
    ),
    "dpt": Family(
        "DPT",
        "DPTForSemanticSegmentation",
        "dpt.",
        "head.",
        ("head.head.4", "auxiliary_head.head.4"),
        squares=True,
    ),
    "mobilenet_v2": Family(
        "MobileNetV2 with DeepLabV3+",
        "MobileNetV2ForSemanticSegmentation",
        "mobilenet_v2.",
        "segmentation_head.",
        ("segmentation_head.classifier.convolution",),
    ),
    "mobilevit": Family(
        "MobileViT with DeepLabV3",
        "MobileViTForSemanticSegmentation",
        "mobilevit.",
        "segmentation_head.",
        ("segmentation_head.classifier.convolution",),
    ),
    # Its queries run through the last blocks of the encoder.
    "eomt": Family(
        "EoMT",
        "EomtForUniversalSegmentation",
        "",
        *_MASKS,
        encoder=rf"(?!(?:{_EOMT_HEAD})\b)",
        masks=True,
        squares=True,
        fixed=True,
    ),
    "eomt_dinov3": Family(
        "EoMT-DINOv3",
        "EomtDinov3ForUniversalSegmentation",
        "",
        *_MASKS,
        encoder=rf"(?!(?:{_EOMT_HEAD})\b)",
        masks=True,
        squares=True,
        fixed=True,
    ),
    "mask2former": Family(
        "Mask2Former",
        "Mask2FormerForUniversalSegmentation",
        _PIXEL_ENCODER,
        *_MASKS,
        masks=True,
        mask_side=384,
    ),
    "oneformer": Family(
        "OneFormer",
        "OneFormerForUniversalSegmentation",
        _PIXEL_ENCODER,
        "model.transformer_module.decoder.",
        ("model.transformer_module.decoder.class_embed",),
        masks=True,
        prompted=True,
    ),
}


def family_of(config: Mapping[str, Any], names: Iterable[str] = ()) -> Family:
    """The family that ``config.json`` names; one that is unknown here is told by its tensors.

    Any model of transformers whose encoder is called ``backbone`` or like its type is taken.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    names = list(names)
    name = kind.replace("-", "_") if isinstance(kind, str) else ""
    prefix = next((p for p in ("backbone.", f"{name}.") if any(n.startswith(p) for n in names)), "")
    classes = config.get("architectures")
    model_class = classes[0] if isinstance(classes, list) and classes else ""
    # An encoder by itself is no segmenter. Files have their tensors in any order.
    head = max((n.partition(".")[0] + "." for n in names if not n.startswith(prefix)), default="")
    return Family(name or "unknown", str(model_class), prefix, head, (), generic=True)


def is_counter(name: str) -> bool:
    """Whether a tensor is a BatchNorm's count of batches, the only integers that are merged."""
    return name.endswith(f".{_COUNTER}")


def is_variance(name: str) -> bool:
    """Whether a tensor is a BatchNorm's running variance, which is never negative."""
    return name.endswith(f".{_VARIANCE}")


def is_statistic(name: str) -> bool:
    """Whether a tensor is a BatchNorm's running mean or variance."""
    return name.endswith((f".{_MEAN}", f".{_VARIANCE}"))


def counter_of(variance: str) -> str:
    """The count of batches beside a running variance."""
    return variance.removesuffix(_VARIANCE) + _COUNTER


def mean_beside(name: str) -> str | None:
    """The running mean beside a BatchNorm's running variance; None for any other tensor."""
    return f"{name.removesuffix(_VARIANCE)}{_MEAN}" if is_variance(name) else None
