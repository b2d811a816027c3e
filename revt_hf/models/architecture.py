"""What a set of tensors says of the SegFormer that they belong to."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

from revt_hf.checkpoints.names import HEAD_PREFIX, original_name
from revt_hf.checkpoints.tensors import standard_name
from revt_hf.core.errors import UserError
from revt_hf.models.load import SIZES

_ENCODER = "segformer.encoder."
_STAGES = range(4)
_PROJECTION = "decode_head.linear_c.0.proj.weight"
_CLASSIFIER = "decode_head.classifier.weight"
_DECIDED_BY_SIZE = (
    "depths",
    "hidden_sizes",
    "num_attention_heads",
    "sr_ratios",
    "mlp_ratios",
    "patch_sizes",
    "strides",
    "hidden_act",
    "layer_norm_eps",
    "reshape_last_stage",
)
_NAMED = 5


def has_head(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether tensors (on-disk names) are of a whole SegFormer, not of its encoder alone."""
    return any(name.startswith(HEAD_PREFIX) for name in tensors)


def infer_config(label: str, tensors: Mapping[str, torch.Tensor]) -> SegformerConfig:
    """The configuration of one of the original's networks, from its tensors' shapes.

    Depths may be any. Widths must be those of B0 or of B1..B5: the number of attention heads
    shows in no shape, and is known for these alone.

    Args:
        label: what the error calls the source.
        tensors: on-disk name -> tensor (of any kind of device); values are not looked at.

    Raises:
        UserError: a needed tensor is missing, or the widths are of no SegFormer.
    """

    def rows(name: str) -> int:
        tensor = tensors.get(name)
        if tensor is None or not tensor.ndim:
            raise UserError(
                f"{label} is not a SegFormer as the original builds it: {original_name(name)} "
                f"(in transformers {name}) is missing{_hint(tensors)}"
            )
        return tensor.shape[0]

    widths = [rows(f"{_ENCODER}patch_embeddings.{stage}.proj.weight") for stage in _STAGES]
    if all(list(size.hidden_sizes) != widths for size in SIZES.values()):
        raise UserError(
            f"{label} has widths {widths}, which no SegFormer B0..B5 has: its number of "
            "attention heads is not known"
        )
    for stage in _STAGES:
        rows(f"{_ENCODER}block.{stage}.0.layer_norm_1.weight")
    config = SegformerConfig(depths=[_depth(tensors, stage) for stage in _STAGES])
    config.hidden_sizes = widths
    if has_head(tensors):
        config.decoder_hidden_size = rows(_PROJECTION)
        config.num_labels = rows(_CLASSIFIER)
    return config


def size_name(config: SegformerConfig, with_head: bool) -> str | None:
    """``b0`` .. ``b5``, or None for depths or a head that are of none of them.

    Of an encoder alone, the size decides all but the head's width.
    """
    for name, size in SIZES.items():
        if (
            list(size.depths) == list(config.depths)
            and list(size.hidden_sizes) == list(config.hidden_sizes)
            and (not with_head or size.decoder_hidden_size == config.decoder_hidden_size)
        ):
            return name
    return None


def check_config(label: str, ours: SegformerConfig, theirs: Any) -> None:
    """Refuse a configuration that asks for another network than the original's.

    Raises:
        UserError: it does; the first such field is named.
    """
    for field in _DECIDED_BY_SIZE:
        given, needed = (_as_read(getattr(config, field)) for config in (theirs, ours))
        if given != needed:
            raise UserError(
                f"{label}: {field} is {given} in its config.json, the original has {needed}"
            )


def empty_model(config: SegformerConfig, with_head: bool) -> Any:
    """The network on the meta device; the encoder alone is a ``SegformerModel``."""
    with torch.device("meta"):
        kind = SegformerForSemanticSegmentation if with_head else SegformerModel
        config.architectures = [kind.__name__]
        return kind(config)


def check_fits(
    label: str,
    model: Any,
    tensors: Mapping[str, torch.Tensor],
    shown: Callable[[str], str],
) -> None:
    """Every tensor has its place in ``model``, and every place its tensor.

    Args:
        label: what the error calls the source.
        model: of :func:`empty_model`.
        tensors: on-disk name -> tensor.
        shown: an on-disk name as the source has it.

    Raises:
        UserError: tensors are left over, missing, of another shape or not of floating point; the
            first few are named.
    """
    places = {standard_name(name): tensor for name, tensor in model.state_dict().items()}
    problems = [
        *(f"{shown(name)} has no place in it" for name in tensors if name not in places),
        *(f"{shown(name)} is missing" for name in places if name not in tensors),
        *(
            f"{shown(name)} is {_kind(tensors[name])}, not {_kind(place)}"
            for name, place in places.items()
            if name in tensors and _differs(tensors[name], place)
        ),
    ]
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise UserError(
            f"{label} is not a SegFormer as the original builds it: "
            f"{'; '.join(problems[:_NAMED])}{more}"
        )


def _depth(tensors: Mapping[str, torch.Tensor], stage: int) -> int:
    prefix = f"{_ENCODER}block.{stage}."
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def _hint(tensors: Mapping[str, torch.Tensor]) -> str:
    if any(".layers.0.0." in f".{name}" for name in tensors):
        return " (it looks like mmsegmentation's own SegFormer, whose decode head is another)"
    return ""


def _as_read(value: Any) -> Any:
    # Defaults are tuples, and lists once they are read from a file.
    return list(value) if isinstance(value, tuple) else value


def _differs(tensor: torch.Tensor, place: torch.Tensor) -> bool:
    return tensor.shape != place.shape or tensor.is_floating_point() != place.is_floating_point()


def _kind(tensor: torch.Tensor) -> str:
    return f"{list(tensor.shape)} {'floats' if tensor.is_floating_point() else 'integers'}"
