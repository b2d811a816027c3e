"""Networks that a recipe's ``model`` section describes, before their training."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoBackbone, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from revt_hf.checkpoints.architecture import COLOURS, SIZES, Description
from revt_hf.checkpoints.built import config_from, model_class, new_model
from revt_hf.checkpoints.description import NOT_THE_NETWORK
from revt_hf.checkpoints.families import FAMILIES, OF_BACKBONES, SEGFORMER
from revt_hf.checkpoints.names import listed, standard_name
from revt_hf.config.network import Model
from revt_hf.core.errors import UserError
from revt_hf.data.label_space import LabelSpace, space_of
from revt_hf.models.networks import filled_model

_log = logging.getLogger(__name__)
# UperNet's decode head joins so many stages.
_STAGES = 4
_ENCODER = "model.config.backbone_config"


def new_network(spec: Model, space: LabelSpace) -> PreTrainedModel:
    """A network with random weights alone, from torch's generator."""
    if spec.family == "segformer":
        size = SIZES[spec.size or "b0"]
        fields = {
            "depths": list(spec.depths or size.depths),
            "hidden_sizes": list(spec.hidden_sizes or size.hidden_sizes),
            "decoder_hidden_size": spec.decoder_hidden_size or size.decoder_hidden_size,
        }
        model = new_model(_config({"model_type": "segformer", **fields}, spec, space))
        _initialise_convolutions(model)
        return model
    fields = _known_fields(spec.family, spec.config)
    if spec.family == "upernet":
        given = fields.get("backbone_config")
        if not isinstance(given, dict) or "model_type" not in given:
            raise UserError("model.config.backbone_config has to name the encoder's model_type")
        kind = given["model_type"]
        known = {"model_type": kind, **_known_fields(kind, given, _ENCODER)}
        fields["backbone_config"] = _with_stages(config_from(known, _ENCODER), given)
    return new_model(_config({"model_type": spec.family, **fields}, spec, space), "model.config")


def around_encoder(
    spec: Model, description: Description, tensors: Mapping[str, torch.Tensor], space: LabelSpace
) -> PreTrainedModel:
    """A network with an encoder's tensors, by on-disk name, and a decode head of random weights."""
    label, own = description.label, {"model_type": "segformer", **description.config()}
    kind = own["model_type"]
    if spec.family == "segformer" and description.family is SEGFORMER:
        if spec.decoder_hidden_size:
            own["decoder_hidden_size"] = spec.decoder_hidden_size
        model = new_model(_config(own, spec, space))
        encoder: Any = model.segformer
        encoder.load_state_dict(
            {name: tensors[standard_name(name)] for name in encoder.state_dict()}
        )
        return model
    if spec.family == "upernet" and kind != "upernet":
        fields = _known_fields("upernet", spec.config)
        given = _known_fields(kind, fields.pop("backbone_config", {}), _ENCODER)
        config = _with_stages(config_from({**own, **given}, description.file), given)
        if type(config) not in AutoBackbone._model_mapping:
            raise UserError(f"{label}: transformers has no backbone of type '{kind}' for UperNet")
        backbone, missing, left = filled_model(
            AutoBackbone._model_mapping[type(config)], config, tensors, label
        )
        whole = {"model_type": "upernet", "backbone_config": config, **fields}
        model = new_model(_config(whole, spec, space), "model.config")
        encoder = model.get_submodule("backbone")
        encoder.load_state_dict(backbone.state_dict())
    elif spec.family == kind:
        family = description.family
        # Of a whole model the encoder only: its head has other classes.
        whole_model = any(map(family.in_encoder, tensors))
        if family.prefix and whole_model:
            tensors = {name: at for name, at in tensors.items() if family.in_encoder(name)}
        fields = _known_fields(kind, spec.config)
        if "backbone_config" in fields and "backbone_config" in own:
            encoder_kind = own["backbone_config"].get("model_type", kind)
            given = _known_fields(encoder_kind, fields["backbone_config"], _ENCODER)
            fields["backbone_config"] = {**own["backbone_config"], **given}
        config = _config({**own, **fields}, spec, space)
        model, missing, left = filled_model(model_class(family, label), config, tensors, label)
        missing = set(filter(family.in_encoder, missing))
        # Saved by the names of a whole model: the file of an encoder had no say in the head's.
        vars(model).pop("_weight_conversions", None)
        model.train()
    else:
        raise UserError(
            f"{label} is a '{kind}', and model.family is {spec.family}: set model.family to "
            f"{kind if kind in FAMILIES else 'upernet'}"
        )
    # What transformers adds to an encoder as a backbone is in no encoder's file.
    missing = {name for name in missing if OF_BACKBONES not in name}
    if missing:
        raise UserError(f"{label}: tensors of the encoder are missing: {listed(sorted(missing))}")
    if left:
        _log.info("%s: not used: %s", label, listed(sorted(left)))
    return model


def apply_settings(config: PretrainedConfig, spec: Model) -> None:
    """Set the recipe's dropout and drop path; refuse one that the network does not have."""
    parts = [config, getattr(config, "backbone_config", None)]
    for key, field, value in (
        ("drop_path", "drop_path_rate", spec.drop_path),
        ("dropout", "classifier_dropout_prob", spec.dropout),
    ):
        holders = [part for part in parts if hasattr(part, field)]
        for part in holders:
            setattr(part, field, value)
        if not holders and value not in (0, Model.model_fields[key].default):
            raise UserError(f"model.{key} is {value}, and a {config.model_type} has none")


def name_classes(config: PretrainedConfig, space: LabelSpace) -> None:
    """Give a configuration the names of its classes, and their colours where they are special."""
    config.id2label = dict(enumerate(space.classes))
    config.label2id = dict(space.ids)
    # Initial weights may have had colours of their own classes.
    vars(config).pop(COLOURS, None)
    if space.colours != space_of(space.classes, space.name).colours:
        setattr(config, COLOURS, [f"#{colour:06x}" for colour in space.colours])


def _config(values: Mapping[str, Any], spec: Model, space: LabelSpace) -> PretrainedConfig:
    config = config_from(values, "model.config")
    if hasattr(config, "use_auxiliary_head"):
        # Only transformers' own loss would train it.
        config.use_auxiliary_head = False
    name_classes(config, space)
    apply_settings(config, spec)
    return config


def _known_fields(kind: Any, fields: Any, where: str = "model.config") -> dict[str, Any]:
    if not isinstance(fields, Mapping) or kind not in CONFIG_MAPPING:
        raise UserError(f"{where}: it has to be the fields of a model_type of transformers")
    default = CONFIG_MAPPING[kind]()
    for key in fields:
        if key in NOT_THE_NETWORK:
            raise UserError(f"{where}.{key} is no part of a network: leave it out")
        if not hasattr(default, key) or (key == "model_type" and fields[key] != kind):
            raise UserError(f"{where}.{key}: the configuration of a {kind} has no such field")
    return {key: value for key, value in fields.items() if key != "model_type"}


def _with_stages(config: PretrainedConfig, given: Mapping[str, Any]) -> PretrainedConfig:
    """An encoder's configuration with four outputs: its stages, or blocks evenly spread."""
    if "out_features" not in given and "out_indices" not in given:
        names: list[str] = list(getattr(config, "stage_names", None) or [])[1:]
        if len(names) < _STAGES:
            raise UserError(f"a {config.model_type} has fewer than {_STAGES} stages for UperNet")
        config.out_features = [names[len(names) * (n + 1) // _STAGES - 1] for n in range(_STAGES)]
    return config


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
