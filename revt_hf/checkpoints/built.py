"""Models as transformers builds them from the content of a ``config.json``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from revt_hf.checkpoints.families import Family, family_of
from revt_hf.core.errors import UserError


def model_class(family: Family, label: str | Path = "the configuration") -> type[PreTrainedModel]:
    """The class of a family's whole models.

    Raises:
        UserError: transformers has no such segmenter.
    """
    known = MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.values()
    if family.generic and family.model_class not in known:
        raise UserError(
            f"{label}: '{family.model_class or family.title}' is no segmenter of transformers: "
            f"known are {', '.join(sorted(known))}"
        )
    found: type[PreTrainedModel] = getattr(transformers, family.model_class)
    return found


def config_from(values: Mapping[str, Any], label: str | Path) -> PretrainedConfig:
    """A configuration of transformers from the content of a ``config.json``."""
    values = dict(values)
    try:
        with quiet_transformers():
            config: PretrainedConfig = AutoConfig.for_model(values.pop("model_type"), **values)
    # Each configuration checks its own fields, with error classes of its own.
    except Exception as error:
        raise UserError(f"{label}: transformers refuses it: {one_line(error)}") from error
    return config


def new_model(config: PretrainedConfig, label: str | Path = "the configuration") -> PreTrainedModel:
    """A whole model with random weights, or with none on the device ``meta``."""
    family = family_of({"model_type": config.model_type, "architectures": config.architectures})
    kind = model_class(family, label)
    config.architectures = [kind.__name__]
    try:
        return kind(config)
    except Exception as error:
        raise UserError(f"{label}: transformers refuses it: {one_line(error)}") from error


def empty_model(values: Mapping[str, Any], label: str | Path) -> PreTrainedModel:
    """The whole model of a ``config.json``, without weights: on the device ``meta``."""
    config = config_from(values, label)
    config.architectures = values.get("architectures")
    with torch.device("meta"):
        return new_model(config, label)


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


def one_line(error: Exception) -> str:
    """What an error of transformers says, short enough for a sentence."""
    return " ".join(str(error).split())[:300] or type(error).__name__
