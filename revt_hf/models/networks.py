"""Networks of every family: built by transformers, from files that were opened and checked here."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PretrainedConfig, PreTrainedModel

from revt_hf.checkpoints.architecture import Description
from revt_hf.checkpoints.built import empty_model, one_line, quiet_transformers
from revt_hf.checkpoints.families import SEGFORMER, Family, family_of, is_counter
from revt_hf.checkpoints.names import listed, names_on_disk
from revt_hf.core.errors import UserError

_PROBE, _LARGEST_PROBE = 64, 256


def family_of_model(model: PreTrainedModel) -> Family:
    """The family of a loaded model."""
    # A network from an ONNX file brings its own.
    own = getattr(model, "family", None)
    if isinstance(own, Family):
        return own
    return family_of(
        {"model_type": model.config.model_type, "architectures": [type(model).__name__]},
        (name for name, _ in model.named_parameters()),
    )


def filled_model(
    kind: Any, config: PretrainedConfig, tensors: Mapping[str, torch.Tensor], label: str
) -> tuple[PreTrainedModel, set[str], set[str]]:
    """A model of a class of transformers with the tensors of a file, by their names there.

    Returned are also the names, in memory, that the file lacks, and those that it has in vain.
    """
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, found = kind.from_pretrained(
                None,
                config=config,
                state_dict=dict(tensors),
                output_loading_info=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:
        raise UserError(f"{label}: transformers cannot load it: {one_line(error)}") from error
    odd = [
        f"{name} is {list(held)}, not {list(wanted)}"
        for name, held, wanted in found["mismatched_keys"]
    ]
    if odd:
        raise UserError(f"{label}: its tensors are not those of its config.json: {odd[0]}")
    missing = {name for name in found["missing_keys"] if not is_counter(name)}
    return model, missing, set(found["unexpected_keys"])


def check_filled(missing: Iterable[str], left: Iterable[str], label: str) -> None:
    """Refuse a whole model with tensors that are missing or have no place in it."""
    for names, what in ((missing, "missing"), (left, "without a place in the network")):
        if names := sorted(names):
            raise UserError(
                f"{label}: its tensors are not those of its config.json: {what}: {listed(names)}"
            )


def check_shapes(description: Description, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors, by on-disk name, that are not those of the network that is described."""
    label = description.label
    values = {**description.config(), "architectures": [description.family.model_class]}
    model = empty_model(values, label)
    state = model.state_dict()
    wanted = {on_disk: tuple(state[at].shape) for at, on_disk in names_on_disk(model).items()}
    check_filled(
        (name for name in wanted if name not in shapes and not is_counter(name)),
        (name for name in shapes if name not in wanted),
        label,
    )
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise UserError(f"{label}: {name} is {list(shape)}, not {list(wanted[name])}")


def batch_norms(model: nn.Module) -> dict[str, Any]:
    """The layers with running statistics by name, in the order in which a model lists them."""
    return {name: part for name, part in model.named_modules() if isinstance(part, _BatchNorm)}


def logits_of(model: Any, pixels: torch.Tensor, bare: bool = False) -> torch.Tensor:
    """Logits (N, classes, h, w) of normalised pixels (N, 3, H, W).

    ``bare`` is without the autocast and compilation that training puts around the forward pass.

    Of a network that predicts masks, its scores: the sum over queries of class probability times
    mask probability, by which transformers' ``post_process_semantic_segmentation`` ranks classes.
    """
    family = family_of_model(model)
    if family.prompted:
        raise UserError(
            f"a {family.title} needs a text of its task beside the image, which is not built here: "
            "it can be merged and published"
        )
    call = partial(type(model).forward, model) if bare else model
    output = call(pixel_values=pixels)
    if hasattr(output, "logits"):
        logits: torch.Tensor = output.logits
        return logits
    # The last class is none.
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    side = family.mask_side
    size = (side, side) if side else pixels.shape[2:]
    masks = functional.interpolate(output.masks_queries_logits, size=size, mode="bilinear")
    return torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())


@dataclass(frozen=True)
class InputLimits:
    """What a network takes: images of at least ``minimum`` pixels on each side.

    Some take ``squares`` only, and some of these of one ``side`` only. Graphs in ONNX files may
    take ``exact`` (height, width) only; those that make class maps make them of the ``whole`` image
    from one view, and may make them of one ``image`` size (height, width) only.
    """

    minimum: int = 1
    squares: bool = False
    side: int | None = None
    exact: tuple[int, int] | None = None
    whole: bool = False
    image: tuple[int, int] | None = None

    @property
    def probe(self) -> int:
        """The side of a small square that the network takes."""
        return self.side or max(_PROBE, self.minimum)


def input_limits(models: Iterable[PreTrainedModel]) -> InputLimits:
    """What every one of the models takes; 29 pixels for SegFormers of all sizes B0..B5."""
    found = [_limits(model) for model in models]
    sides = {one.side for one in found if one.side is not None}
    if len(sides) > 1:
        raise UserError(f"the models take squares of different sizes: {sorted(sides)}")
    exact, image = {one.exact for one in found} - {None}, {one.image for one in found} - {None}
    if len(exact) > 1 or len(image) > 1:
        raise UserError("the graphs take images of different sizes: use one at a time")
    return InputLimits(
        minimum=max((one.minimum for one in found), default=1),
        squares=any(one.squares for one in found),
        side=max(sides, default=None),
        exact=next(iter(exact), None),
        whole=any(one.whole for one in found),
        image=next(iter(image), None),
    )


def _limits(model: PreTrainedModel) -> InputLimits:
    recorded = getattr(model, "limits", None)
    if isinstance(recorded, InputLimits):
        return recorded
    family, config = family_of_model(model), model.config
    if family is SEGFORMER:
        needed = 1
        stages = zip(config.patch_sizes, config.strides, config.sr_ratios, strict=True)
        # Each stage has to leave as many rows and columns as its attention reads at once.
        for patch, stride, reduction in reversed(list(stages)):
            needed = (max(needed, reduction) - 1) * stride + patch - 2 * (patch // 2)
        return InputLimits(needed)
    own: Any = getattr(config, "image_size", None)
    if family.fixed:
        return InputLimits(own, squares=True, side=own)
    squares = family.squares
    if family.generic and type(own) is int and _takes(model, own, own):
        if not _takes(model, 2 * own, 2 * own):
            return InputLimits(own, squares=True, side=own)
        squares = not _takes(model, own, 2 * own)
    return InputLimits(_smallest_side(model), squares)


@torch.inference_mode()
def _takes(model: PreTrainedModel, height: int, width: int) -> bool:
    """Whether a network takes an image of a size, found by trying."""
    training = model.training
    model.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = torch.zeros(1, 3, height, width, device=model.device)
            return math.prod(logits_of(model, pixels).shape) > 0
    except UserError:
        raise
    # A layer whose input is too small fails in its own way.
    except Exception:  # noqa: BLE001
        return False
    finally:
        model.train(training)


def _smallest_side(model: PreTrainedModel) -> int:
    """The smallest square that a network takes, found by trying."""
    side = 1
    while side <= _LARGEST_PROBE and not _takes(model, side, side):
        side *= 2
    below = side // 2
    while side - below > 1:
        middle = (below + side) // 2
        below, side = (below, middle) if _takes(model, middle, middle) else (middle, side)
    return side
