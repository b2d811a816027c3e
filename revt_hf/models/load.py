"""The one door for models: load a SegFormer of transformers, or build one for training."""

import dataclasses
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.utils import logging as transformers_logging

from revt_hf.checkpoints.architecture import (
    CLASSIFIER,
    COLOURS,
    SIZES,
    VARIANCE,
    Architecture,
    Description,
    fitting_tensors,
)
from revt_hf.checkpoints.description import read_description
from revt_hf.checkpoints.headers import common_dtype, tensors_hash
from revt_hf.checkpoints.names import COUNTER, listed, standard_name
from revt_hf.checkpoints.tensors import CONFIG_FILE, PROCESSOR_FILE, Checkpoint, open_checkpoint
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.config.recipe import Model
from revt_hf.core.errors import UserError
from revt_hf.data.label_space import (
    CITYSCAPES,
    LabelSpace,
    is_nameless,
    parse_colour,
    space_of,
    standard_order,
)
from revt_hf.data.normalisation import normalisation_of
from revt_hf.models.folded_head import fold_

_log = logging.getLogger(__name__)


def build_model(
    spec: Model, seed: int, space: LabelSpace = CITYSCAPES
) -> SegformerForSemanticSegmentation:
    """Build the network of a recipe's ``model`` section; ``seed`` determines all random weights."""
    torch.manual_seed(seed)
    if spec.init is None:
        size = SIZES[spec.size or "b0"]
        config = SegformerConfig(
            depths=list(spec.depths or size.depths),
            hidden_sizes=list(spec.hidden_sizes or size.hidden_sizes),
            decoder_hidden_size=spec.decoder_hidden_size or size.decoder_hidden_size,
        )
        _apply_common(config, spec, space)
        model = _new_model(config)
        _initialise_convolutions(model)
        return model
    with _opened(spec.init) as (checkpoint, description):
        config = SegformerConfig(**description.config())
        _apply_common(config, spec, space)
        if spec.head == "init":
            return _whole(checkpoint, description, config, space)
        if spec.decoder_hidden_size:
            config.decoder_hidden_size = spec.decoder_hidden_size
        model = _new_model(config)
        tensors = _tensors(checkpoint, description, with_head=False)
    model.segformer.load_state_dict(
        {name: tensors[standard_name(name)] for name in model.segformer.state_dict()}
    )
    model.normalisation = description.normalisation  # type: ignore[assignment]
    return model


def load_model(
    source: str | Path, space: LabelSpace | None = None
) -> SegformerForSemanticSegmentation:
    """Load a trained SegFormer in float32 and eval mode, on the CPU.

    Every tensor of the files is used, and every tensor of the network is present and finite. The
    rows of the decode head are sorted into the order of the train ids by class name, and
    :func:`revt_hf.data.normalisation.normalisation_of` returns the normalisation in
    ``preprocessor_config.json``. No code in the files is run.

    Args:
        source: a folder, or a Hub id (``repo`` or ``repo@revision``).
        space: the classes, in the order of the outputs; None for the model's own, where
            Cityscapes' 19 are in the order of the train ids.

    Raises:
        UserError: it cannot be read, changes meanwhile, its tensors do not match its
            ``config.json``, or its classes are not those of ``space``; what is wrong is named.
    """
    with _opened(source) as (checkpoint, description):
        return _whole(checkpoint, description, SegformerConfig(**description.config()), space)


def label_space(model: SegformerForSemanticSegmentation) -> LabelSpace:
    """The classes that a model predicts, in the order of its outputs.

    19 classes without names are Cityscapes': networks that were built in Python have none.
    """
    names = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    if len(names) == len(CITYSCAPES) and is_nameless(names):
        return CITYSCAPES
    return _space(names, getattr(model.config, COLOURS, None), "the model")


def _space(classes: Sequence[str], colours: Sequence[str] | None, name: str) -> LabelSpace:
    given = [parse_colour(colour, name) for colour in colours] if colours else None
    return space_of(classes, name, given)


def for_inference_(model: SegformerForSemanticSegmentation) -> SegformerForSemanticSegmentation:
    """Speed up predictions in place, on the final device; logits and saved files stay the same."""
    fold_(model)
    if model.device.type == "cpu":
        # Depth-wise convolutions need not copy their inputs then.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    return model


def network_sha256(model: SegformerForSemanticSegmentation) -> str:
    """sha256 of all that determines predictions: tensors, architecture, normalisation."""
    config = model.config
    fields = [getattr(config, each.name) for each in dataclasses.fields(Architecture)]
    normalisation = normalisation_of(model)
    rest = [fields, config.layer_norm_eps, normalisation.mean, normalisation.std]
    tensors = sorted(model.state_dict().items())
    digest = tensors_hash((name, str(value.dtype), tuple(value.shape)) for name, value in tensors)
    for _, value in tensors:
        # Bytes, since numpy has no bfloat16; contiguous, since weights may be channels last.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()


def _apply_common(config: SegformerConfig, spec: Model, space: LabelSpace) -> None:
    if spec.head == "fresh":
        _name_classes(config, space)
    config.drop_path_rate, config.classifier_dropout_prob = spec.drop_path, spec.dropout


def _name_classes(config: SegformerConfig, space: LabelSpace) -> None:
    config.id2label = dict(enumerate(space.classes))
    config.label2id = dict(space.ids)
    # Initial weights may have had colours of their own classes.
    vars(config).pop(COLOURS, None)
    if space.colours != space_of(space.classes, space.name).colours:
        setattr(config, COLOURS, [f"#{colour:06x}" for colour in space.colours])


def _new_model(config: SegformerConfig) -> SegformerForSemanticSegmentation:
    config.architectures = [SegformerForSemanticSegmentation.__name__]
    return SegformerForSemanticSegmentation(config)


@torch.no_grad()
def _initialise_convolutions(model: nn.Module) -> None:
    """He initialisation by fan-out, as in the original's encoder and head.

    Transformers' standard deviation of 0.02 all but silences the depth-wise convolutions (fan-out
    9) and with them every MLP, and training from scratch stalls.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            module.weight.normal_(0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                module.bias.zero_()


@contextmanager
def _opened(source: str | Path) -> Iterator[tuple[Checkpoint, Description]]:
    with open_checkpoint(source, quiet=True) as checkpoint:
        # Even with a config.json beside it: the protocol is looked up in the folder.
        if checkpoint.folder is None or Path(source).is_file():
            raise UserError(f"{source} is a single file: give a folder with {CONFIG_FILE}")
        checkpoint.stamps.add(checkpoint.folder / CONFIG_FILE, checkpoint.folder / PROCESSOR_FILE)
        yield checkpoint, read_description(checkpoint.folder, str(source))
        # A model replaced while it was read would be a mixture of two.
        checkpoint.stamps.check()


def _whole(
    checkpoint: Checkpoint,
    description: Description,
    config: SegformerConfig,
    space: LabelSpace | None,
) -> SegformerForSemanticSegmentation:
    """The network with its decode head, rows in the order of the space (None: its own)."""
    if space is None:
        own = _space(description.classes, description.colours, description.label)
        # Names that say nothing may only stand for Cityscapes', and are refused below.
        space = CITYSCAPES if is_nameless(description.classes) else standard_order(own)
    rows = list(space.rows(description.classes, f"{description.label}: its {CONFIG_FILE}"))
    tensors = _tensors(checkpoint, description, with_head=True)
    if rows != sorted(rows):
        for name in (f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"):
            tensors[name] = tensors[name][rows]
    _name_classes(config, space)
    with torch.device("meta"):
        model = _new_model(config)
    model.load_state_dict(
        {name: tensors[standard_name(name)] for name in model.state_dict()}, assign=True
    )
    model.normalisation = description.normalisation  # type: ignore[assignment]
    return model.eval()


def _tensors(
    checkpoint: Checkpoint, description: Description, with_head: bool
) -> dict[str, torch.Tensor]:
    """On-disk name -> tensor of the network: float32, finite, on the CPU; the counter int64."""
    infos = fitting_tensors(description, checkpoint.tensors, with_head)
    dtype = common_dtype(info.dtype for info in infos.values())
    if description.dtype not in (None, dtype):
        _log.warning(
            "%s: %s says %s, but the tensors are %s: the tensors' dtype is used",
            *(description.label, CONFIG_FILE, description.dtype, dtype),
        )
    if checkpoint.dropped:
        _log.warning(
            "%s: no SegFormer has %s: left out", description.label, listed(checkpoint.dropped)
        )
    # Old files have none, and nothing reads it: BatchNorm's momentum is fixed.
    tensors = {COUNTER: torch.tensor(0)} if with_head else {}
    for name, info in infos.items():
        tensor = read_tensor(info)
        if name == COUNTER:
            tensors[name] = tensor.to(torch.int64)
            continue
        tensors[name] = tensor = tensor.to(torch.float32)
        if not tensor.isfinite().all():
            why = "holds NaN or infinity"
        elif name == VARIANCE and bool((tensor < 0).any()):
            why = "is a variance and holds a negative number"
        else:
            continue
        file = checkpoint.original(info)
        raise UserError(f"{file}: {info.name} {why}: train or export the model again")
    return tensors


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and key warnings: we raise what matters."""
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
