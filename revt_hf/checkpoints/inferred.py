"""A SegFormer's description from the shapes of its tensors, where no ``config.json`` tells."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from revt_hf.checkpoints.architecture import (
    CLASSIFIER,
    ENCODER,
    IGNORED,
    NUMBERS,
    SIZES,
    Architecture,
    Description,
    has_head,
)
from revt_hf.checkpoints.names import HEAD_PREFIX, original_name
from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import IMAGENET


def infer_description(
    label: str, shapes: Mapping[str, tuple[int, ...]], classes: Sequence[str] | None = None
) -> Description:
    """Describe one of the original's networks; without ``classes`` 19 are Cityscapes'."""
    from revt_hf.data.label_space import CLASSES

    architecture, count = infer_architecture(label, shapes)
    if classes is None and count == len(CLASSES):
        classes = CLASSES
    if classes is None or len(classes) != count:
        classes = [f"LABEL_{number}" for number in range(count or 2)]
    numbers = {**NUMBERS, IGNORED: 255}
    return Description(label, Path(label), architecture, tuple(classes), None, numbers, IMAGENET)


def infer_architecture(
    label: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Architecture, int | None]:
    """One of the original's networks, and its number of classes (None for an encoder alone)."""

    def rows(name: str) -> int:
        if not shapes.get(name):
            hint = ""
            if any(".layers.0.0." in f".{other}" for other in shapes):
                hint = " (it looks like mmsegmentation's own SegFormer, whose decode head differs)"
            raise UserError(
                f"{label} is not a SegFormer as the original builds it: {original_name(name)} "
                f"(in transformers {name}) is missing{hint}"
            )
        return shapes[name][0]

    widths = tuple(rows(f"{ENCODER}patch_embeddings.{stage}.proj.weight") for stage in range(4))
    # No shape shows the number of attention heads.
    if widths not in [size.hidden_sizes for size in SIZES.values()]:
        raise UserError(
            f"{label} has widths {list(widths)}, which no SegFormer B0..B5 has: its number of "
            "attention heads is not known"
        )
    depths = []
    for stage in range(4):
        prefix = f"{ENCODER}block.{stage}."
        rows(f"{prefix}0.layer_norm_1.weight")
        blocks = {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
        depths.append(len(blocks))
    found = Architecture(depths=tuple(depths), hidden_sizes=widths)
    if not has_head(shapes):
        return found, None
    width = rows(f"{HEAD_PREFIX}linear_c.0.proj.weight")
    return replace(found, decoder_hidden_size=width), rows(f"{CLASSIFIER}.weight")
