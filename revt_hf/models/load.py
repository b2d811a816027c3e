"""The one door for models: load a segmenter of transformers, or build one for training."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from revt_hf.checkpoints.architecture import (
    COLOURS,
    Architecture,
    Description,
    computing,
    fitting_tensors,
)
from revt_hf.checkpoints.built import config_from, model_class, new_model
from revt_hf.checkpoints.description import NOT_THE_NETWORK, read_description
from revt_hf.checkpoints.families import SEGFORMER, counter_of, is_counter, is_variance
from revt_hf.checkpoints.fields import without
from revt_hf.checkpoints.headers import common_dtype, tensors_hash
from revt_hf.checkpoints.names import listed, standard_name
from revt_hf.checkpoints.tensors import CONFIG_FILE, PROCESSOR_FILE, Checkpoint, open_checkpoint
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.config.network import Model
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
from revt_hf.models.building import apply_settings, around_encoder, name_classes, new_network
from revt_hf.models.folded_head import fold_
from revt_hf.models.networks import check_filled, family_of_model, filled_model
from revt_hf.models.onnx_file import OnnxNetwork

_log = logging.getLogger(__name__)


def build_model(spec: Model, seed: int, space: LabelSpace = CITYSCAPES) -> PreTrainedModel:
    """Build the network of a recipe's ``model`` section; ``seed`` determines all random weights."""
    torch.manual_seed(seed)
    if spec.init is None:
        return new_network(spec, space)
    with _opened(spec.init) as (checkpoint, description):
        if spec.head == "init":
            config = config_from(_config_values(description), description.file)
            apply_settings(config, spec)
            model = _whole(checkpoint, description, config, space)
        else:
            tensors = _tensors(checkpoint, description, with_head=False)
            model = around_encoder(spec, description, tensors, space)
            model.normalisation = description.normalisation  # type: ignore[assignment]
    return model


def load_model(source: str | Path, space: LabelSpace | None = None) -> PreTrainedModel:
    """Load a trained segmenter in float32 and eval mode, on the CPU.

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
        config = config_from(_config_values(description), description.file)
        return _whole(checkpoint, description, config, space)


def label_space(model: PreTrainedModel) -> LabelSpace:
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


def for_inference_(model: PreTrainedModel) -> PreTrainedModel:
    """Speed up predictions in place, on the final device; logits and saved files stay the same."""
    if family_of_model(model) is not SEGFORMER:
        return model
    fold_(model)
    if model.device.type == "cpu":
        # Depth-wise convolutions need not copy their inputs then.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    return model


def network_sha256(model: PreTrainedModel) -> str:
    """sha256 of all that determines predictions: tensors, architecture, normalisation.

    That of an ONNX file is the file's.
    """
    if isinstance(model, OnnxNetwork):
        return model.sha256
    config, normalisation = model.config, normalisation_of(model)
    rest: list[Any] = [normalisation.mean, normalisation.std]
    if family_of_model(model) is SEGFORMER:
        fields = [getattr(config, each.name) for each in dataclasses.fields(Architecture)]
        rest = [fields, config.layer_norm_eps, *rest]
    else:
        rest += [
            computing(without(config.to_dict(), NOT_THE_NETWORK)),
            normalisation.do_flip_channel_order,
        ]
    tensors = sorted(model.state_dict().items())
    digest = tensors_hash((name, str(value.dtype), tuple(value.shape)) for name, value in tensors)
    for _, value in tensors:
        # Bytes, since numpy has no bfloat16; contiguous, since weights may be channels last.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(json.dumps(rest).encode())
    return digest.hexdigest()


def _config_values(description: Description) -> dict[str, Any]:
    return {"model_type": "segformer", **description.config()}


@contextmanager
def _opened(source: str | Path) -> Iterator[tuple[Checkpoint, Description]]:
    with open_checkpoint(source, quiet=True) as checkpoint:
        # Even with a config.json beside it: the protocol is looked up in the folder.
        if checkpoint.folder is None or Path(source).is_file():
            raise UserError(f"{source} is a single file: give a folder with {CONFIG_FILE}")
        checkpoint.stamps.add(checkpoint.folder / CONFIG_FILE, checkpoint.folder / PROCESSOR_FILE)
        yield checkpoint, read_description(checkpoint.folder, str(source), checkpoint.family)
        # A model replaced while it was read would be a mixture of two.
        checkpoint.stamps.check()


def _whole(
    checkpoint: Checkpoint,
    description: Description,
    config: PretrainedConfig,
    space: LabelSpace | None,
) -> PreTrainedModel:
    """The network with its decode head, rows in the order of the space (None: its own)."""
    label = description.label
    kind = model_class(description.family, label)
    if space is None:
        own = _space(description.classes, description.colours, description.label)
        # Names that say nothing may only stand for Cityscapes', and are refused below.
        space = CITYSCAPES if is_nameless(description.classes) else standard_order(own)
    rows = list(space.rows(description.classes, f"{description.label}: its {CONFIG_FILE}"))
    tensors = _tensors(checkpoint, description, with_head=True)
    if rows != sorted(rows):
        if description.family.generic:
            raise UserError(
                f"{label}: its classes are in another order, and which tensors of a "
                f"{description.family.title} have a row for each class is not known here"
            )
        for name in filter(description.family.has_class_rows, tensors):
            # A last row for no class stays where it is.
            last = range(len(rows), len(tensors[name]))
            tensors[name] = tensors[name][[*rows, *last]]
    name_classes(config, space)
    if description.family is SEGFORMER:
        with torch.device("meta"):
            model = new_model(config, label)
        model.load_state_dict(
            {name: tensors[standard_name(name)] for name in model.state_dict()}, assign=True
        )
    else:
        model, missing, left = filled_model(kind, config, tensors, label)
        check_filled(missing, left, label)
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
    # Old files have no counters, and nothing reads them: BatchNorm's momentum is fixed.
    counters = map(counter_of, filter(is_variance, infos))
    tensors = {counter: torch.tensor(0) for counter in counters}
    for name, info in infos.items():
        tensor = read_tensor(info)
        if is_counter(name):
            tensors[name] = tensor.to(torch.int64)
            continue
        tensors[name] = tensor = tensor.to(torch.float32)
        if not tensor.isfinite().all():
            why = "holds NaN or infinity"
        elif is_variance(name) and bool((tensor < 0).any()):
            why = "is a variance and holds a negative number"
        else:
            continue
        file = checkpoint.original(info)
        raise UserError(f"{file}: {info.name} {why}: train or export the model again")
    return tensors
