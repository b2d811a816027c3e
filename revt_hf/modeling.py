"""SegFormer: sizes B0..B5, build from scratch or from a start, load, save.

Plain transformers classes throughout: what is saved here loads anywhere.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel
from transformers.utils import logging as transformers_logging

from revt_hf.checkpoints.hub import split_revision
from revt_hf.errors import UserError
from revt_hf.folded_head import fold_
from revt_hf.labels import CLASSES
from revt_hf.recipe import Model


@dataclass(frozen=True)
class Size:
    """Blocks and widths of the four encoder stages, and the decode head's width."""

    depths: tuple[int, int, int, int]
    hidden_sizes: tuple[int, int, int, int]
    decoder_hidden_size: int


_WIDE = (64, 128, 320, 512)

# SegFormer (Xie et al., 2021), tables 1 and 6; the original's local_configs/segformer.
SIZES = {
    "b0": Size((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": Size((2, 2, 2, 2), _WIDE, 256),
    "b2": Size((3, 4, 6, 3), _WIDE, 768),
    "b3": Size((3, 4, 18, 3), _WIDE, 768),
    "b4": Size((3, 8, 27, 3), _WIDE, 768),
    "b5": Size((3, 6, 40, 3), _WIDE, 768),
}


def size_of(config: SegformerConfig) -> str | None:
    """The size of that name (``b0`` to ``b5``), None for another one; whatever its head's width."""
    encoder = (tuple(config.depths), tuple(config.hidden_sizes))
    found = (name for name, size in SIZES.items() if (size.depths, size.hidden_sizes) == encoder)
    return next(found, None)


def build_model(spec: Model, seed: int) -> SegformerForSemanticSegmentation:
    """The network a recipe asks for, in float32 on the CPU, with the 19 classes.

    Args:
        spec: the recipe's ``model`` section.
        seed: decides every randomly initialised weight.

    Raises:
        UserError: the start cannot be read or lacks tensors, or sizes that do not fit together.
    """
    torch.manual_seed(seed)
    if spec.start is None:
        model = _new_model(_config_from_size(spec))
        _initialise_convolutions(model)
        return model
    config = _load_config(spec.start)
    _apply_common(config, spec)
    if spec.head == "start":
        return _load(SegformerForSemanticSegmentation, spec.start, config)
    if spec.decoder_hidden_size:
        config.decoder_hidden_size = spec.decoder_hidden_size
    model = _new_model(config)
    model.segformer.load_state_dict(_load(SegformerModel, spec.start, config).state_dict())
    return model


def load_model(source: str | Path) -> SegformerForSemanticSegmentation:
    """A trained SegFormer from a folder or Hub id (``repo@revision``): float32, eval mode.

    Raises:
        UserError: it cannot be read, lacks tensors, or does not have the 19 classes.
    """
    model = _load(SegformerForSemanticSegmentation, str(source), _load_config(str(source)))
    if model.config.num_labels != len(CLASSES):
        raise UserError(
            f"{source} has {model.config.num_labels} classes, the domains have {len(CLASSES)}"
        )
    return model.eval()


def for_inference_(model: SegformerForSemanticSegmentation) -> SegformerForSemanticSegmentation:
    """Make a model's predictions faster, in place; logits, names and saved files stay the same.

    The decode head is folded (:func:`revt_hf.folded_head.fold_`). On a CPU, the weights of
    convolutions lie channels last in memory as well, so that the encoder's depth-wise convolutions
    need not copy their inputs.

    Args:
        model: on the device where it will run.

    Returns:
        The same model.
    """
    fold_(model)
    if model.device.type == "cpu":
        model.to(memory_format=torch.channels_last)
    return model


def is_channels_last(model: SegformerForSemanticSegmentation) -> bool:
    """Whether weights of convolutions lie channels last, as :func:`for_inference_` puts them."""
    return any(
        weight.ndim == 4 and not weight.is_contiguous() for weight in model.segformer.parameters()
    )


def _config_from_size(spec: Model) -> SegformerConfig:
    size = SIZES[spec.size or "b0"]
    config = SegformerConfig(
        depths=list(spec.depths or size.depths),
        hidden_sizes=list(spec.hidden_sizes or size.hidden_sizes),
        decoder_hidden_size=spec.decoder_hidden_size or size.decoder_hidden_size,
    )
    for width, heads in zip(config.hidden_sizes, config.num_attention_heads, strict=True):
        if width % heads:
            raise UserError(
                f"model.hidden_sizes: {width} is not a multiple of its stage's {heads} "
                "attention heads"
            )
    _apply_common(config, spec)
    return config


def _apply_common(config: SegformerConfig, spec: Model) -> None:
    if spec.head == "fresh":
        config.id2label = dict(enumerate(CLASSES))
        config.label2id = {name: train_id for train_id, name in enumerate(CLASSES)}
    config.drop_path_rate = spec.drop_path
    config.classifier_dropout_prob = spec.dropout


def _new_model(config: SegformerConfig) -> SegformerForSemanticSegmentation:
    config.architectures = [SegformerForSemanticSegmentation.__name__]
    return SegformerForSemanticSegmentation(config)


@torch.no_grad()
def _initialise_convolutions(model: nn.Module) -> None:
    """He initialisation by fan-out, as the original's encoder and head have it.

    Transformers draws every weight with a standard deviation of 0.02. That all but silences the
    depth-wise convolutions (fan-out 9) and with them every MLP, and training from scratch crawls.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            module.weight.normal_(0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                module.bias.zero_()


@contextmanager
def _hub_errors(source: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        if Path(source).exists():
            reason = "it holds no readable SegFormer (config.json, model.safetensors)"
        else:
            reason = "there is no such folder, and no such model could be fetched from the Hub"
        raise UserError(f"cannot load the model '{source}': {reason}") from error


def _load_config(source: str) -> SegformerConfig:
    name, revision = split_revision(source)
    with _hub_errors(source):
        if Path(name).is_dir() and not (Path(name) / "config.json").exists():
            raise UserError(f"{name} is not a model folder: config.json is missing")
        config = SegformerConfig.from_pretrained(name, revision=revision)
    if config.model_type != "segformer":
        raise UserError(f"{source} is a {config.model_type} model, not a SegFormer")
    return config


def _load(kind: Any, source: str, config: SegformerConfig) -> Any:
    name, revision = split_revision(source)
    with _hub_errors(source), quiet_transformers():
        model, report = kind.from_pretrained(
            name, revision=revision, config=config, dtype=torch.float32, output_loading_info=True
        )
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        raise UserError(
            f"{source} does not fit its config.json: {len(missing)} tensors are missing or of "
            f"another shape, {missing[0]} first"
        )
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars or key warnings of transformers: what matters is raised by us."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
