"""SegFormer: sizes B0..B5, build from scratch or from a start, load, save.

Plain transformers classes throughout: what is saved here loads anywhere.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.utils import logging as transformers_logging

from revt_hf.checkpoints.class_order import rows_by_train_id
from revt_hf.checkpoints.description import PROCESSOR_FILE, Description, read_description
from revt_hf.checkpoints.fitting import VARIANCE, fitting_places
from revt_hf.checkpoints.headers import tensors_hash
from revt_hf.checkpoints.model_files import common_dtype
from revt_hf.checkpoints.names import COUNTER
from revt_hf.checkpoints.shapes import CLASSIFIER, Architecture
from revt_hf.checkpoints.tensors import CONFIG_FILE, Checkpoint, open_checkpoint, standard_name
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.checkpoints.wrapping import listed
from revt_hf.config.recipe import Model
from revt_hf.core.errors import UserError
from revt_hf.data.labels import CLASSES
from revt_hf.data.normalisation import normalisation_of
from revt_hf.models.folded_head import fold_

_log = logging.getLogger(__name__)


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

    With a start, :func:`revt_hf.data.normalisation.normalisation_of` the network is the start's.

    Args:
        spec: the recipe's ``model`` section.
        seed: decides every randomly initialised weight.

    Raises:
        UserError: the start cannot be used (as :func:`load_model` says; with ``head: fresh`` its
            head and classes may be any), or sizes that do not fit together.
    """
    torch.manual_seed(seed)
    if spec.init is None:
        model = _new_model(_config_from_size(spec))
        _initialise_convolutions(model)
        return model
    with _opened(spec.init) as (checkpoint, description):
        config = SegformerConfig(**description.config())
        _apply_common(config, spec)
        if spec.head == "init":
            return _whole(checkpoint, description, config)
        if spec.decoder_hidden_size:
            config.decoder_hidden_size = spec.decoder_hidden_size
        model = _new_model(config)
        tensors = _tensors(checkpoint, description, with_head=False)
    model.segformer.load_state_dict(
        {name: tensors[standard_name(name)] for name in model.segformer.state_dict()}
    )
    return _normalised_by(model, description)


def load_model(source: str | Path) -> SegformerForSemanticSegmentation:
    """A trained SegFormer from a folder or Hub id (``repo@revision``): float32, eval mode.

    Every tensor of its files is used, and every one of the network is there and finite. The rows
    of its head are brought to the order of the train ids by the names of its classes, and
    :func:`revt_hf.data.normalisation.normalisation_of` it is what its ``preprocessor_config.json``
    says. Nothing that its files hold is run.

    Raises:
        UserError: it cannot be read, changes meanwhile, its tensors are not those of its
            ``config.json``, one is not finite, or its classes are not the domains' 19; file, key
            or tensor is named.
    """
    with _opened(source) as (checkpoint, description):
        return _whole(checkpoint, description, SegformerConfig(**description.config()))


def for_inference_(model: SegformerForSemanticSegmentation) -> SegformerForSemanticSegmentation:
    """Make a model's predictions faster, in place; logits, names and saved files stay the same.

    The decode head is folded (:func:`revt_hf.models.folded_head.fold_`). On a CPU, the weights of
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


def network_sha256(model: SegformerForSemanticSegmentation) -> str:
    """sha256 of the function that a SegFormer is: tensors, architecture, normalisation.

    It is the same whatever files :func:`load_model` reads it from, on every device, and after
    :func:`for_inference_`; what changes no prediction (dropout, metadata) is left out.

    Args:
        model: as :func:`load_model` gives it, its classes in the order of the train ids.
    """
    config = model.config
    fields = [getattr(config, each.name) for each in dataclasses.fields(Architecture)]
    normalisation = normalisation_of(model)
    says = [fields, config.layer_norm_eps, normalisation.mean, normalisation.std]
    tensors = sorted(model.state_dict().items())
    digest = tensors_hash((name, str(value.dtype), tuple(value.shape)) for name, value in tensors)
    for _, value in tensors:
        # Bytes, since numpy has no bfloat16; contiguous, since weights may lie channels last.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(json.dumps(says).encode())
    return digest.hexdigest()


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
    _apply_common(config, spec)
    return config


def _apply_common(config: SegformerConfig, spec: Model) -> None:
    if spec.head == "fresh":
        _name_classes(config)
    config.drop_path_rate = spec.drop_path
    config.classifier_dropout_prob = spec.dropout


def _name_classes(config: SegformerConfig) -> None:
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: train_id for train_id, name in enumerate(CLASSES)}


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
def _opened(source: str | Path) -> Iterator[tuple[Checkpoint, Description]]:
    with open_checkpoint(source, quiet=True) as checkpoint:
        # Also where a config.json lies beside it: the protocol is looked for in the folder.
        if checkpoint.folder is None or Path(source).is_file():
            raise UserError(f"{source} is a single file: give a folder with {CONFIG_FILE}")
        checkpoint.stamps.add(checkpoint.folder / CONFIG_FILE, checkpoint.folder / PROCESSOR_FILE)
        yield checkpoint, read_description(checkpoint.folder, str(source))
        # A model that was replaced while it was read would be a mixture of two.
        checkpoint.stamps.check()


def _whole(
    checkpoint: Checkpoint, description: Description, config: SegformerConfig
) -> SegformerForSemanticSegmentation:
    """The network with its decode head, whose rows become the train ids."""
    rows = list(rows_by_train_id(description))
    tensors = _tensors(checkpoint, description, with_head=True)
    if rows != sorted(rows):
        for name in (f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias"):
            tensors[name] = tensors[name][rows]
    _name_classes(config)
    with torch.device("meta"):
        model = _new_model(config)
    model.load_state_dict(
        {name: tensors[standard_name(name)] for name in model.state_dict()}, assign=True
    )
    return _normalised_by(model.eval(), description)


def _tensors(
    checkpoint: Checkpoint, description: Description, with_head: bool
) -> dict[str, torch.Tensor]:
    """On-disk name -> tensor of the network: float32, finite, on the CPU; the counter int64."""
    places = fitting_places(checkpoint, description, with_head)
    dtype = common_dtype(place.dtype for place in places.values())
    if description.dtype not in (None, dtype):
        # Whoever wrote one of the two forgot the other; the values are those of the tensors.
        _log.warning(
            "%s: %s says %s, the tensors are %s: read as what they are",
            *(description.label, CONFIG_FILE, description.dtype, dtype),
        )
    if checkpoint.dropped:
        _log.warning(
            "%s: no SegFormer has %s: left out", description.label, listed(checkpoint.dropped)
        )
    # Files of old have none, and nothing reads it: BatchNorm's momentum is fixed.
    tensors = {COUNTER: torch.tensor(0)} if with_head else {}
    for name, place in places.items():
        tensor = read_tensor(place)
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
        file = checkpoint.original(place)
        raise UserError(f"{file}: {place.name} {why}: train or export the model again")
    return tensors


def _normalised_by(
    model: SegformerForSemanticSegmentation, description: Description
) -> SegformerForSemanticSegmentation:
    model.normalisation = description.normalisation
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
