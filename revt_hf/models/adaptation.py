"""LoRA adapters in an encoder, trained and saved with PEFT."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import regex
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from revt_hf.checkpoints.families import OF_BACKBONES
from revt_hf.checkpoints.names import listed
from revt_hf.checkpoints.tensors import ADAPTER_WEIGHTS_FILE
from revt_hf.config.network import Adapter
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import ADAPTER_CONFIG_FILE
from revt_hf.models.networks import family_of_model

# PEFT's name of an adapter without one of its own, and its prefix of names in files.
_NAME, _PREFIX = "default", "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Where a PiSSA keeps the factors that it took from the weights.
_FIRST_DOWN, _FIRST_UP = "revt_first_down", "revt_first_up"
_PATTERN_SECONDS = 2


def adapt_(model: PreTrainedModel, spec: Adapter) -> None:
    """Put an adapter into the encoder: it learns, and the head; all other parameters do not.

    Random numbers are drawn from torch's generator.

    Raises:
        UserError: PEFT is not installed, no layer is meant, or one is too small for the rank.
    """
    if importlib.util.find_spec("peft") is None:
        raise UserError("adapter: PEFT is not installed: pip install 'revt_hf[adapters]'")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=_whole(spec.alpha or spec.rank),  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=_targets(model, spec),
        init_lora_weights=True if spec.init == "default" else spec.init,
        use_rslora=spec.rslora,
        use_dora=spec.dora,
    )
    inject_adapter_in_model(config, model, _NAME)
    family = family_of_model(model)
    for name, parameter in model.named_parameters():
        if not family.in_encoder(name):
            parameter.requires_grad_(True)
    if spec.init == "pissa":
        # Part of every checkpoint: what was taken from the weights is not computed twice.
        for layer in _layers(model).values():
            layer.register_buffer(_FIRST_DOWN, layer.lora_A[_NAME].weight.detach().clone())
            layer.register_buffer(_FIRST_UP, layer.lora_B[_NAME].weight.detach().clone())


def write_adapter(model: PreTrainedModel, init: str, folder: Path) -> None:
    """Write the adapter and the decode head as PEFT does, for the weights ``init``.

    A PiSSA is written as the difference from ``init``, of twice its rank: nothing has to be taken
    from the weights again.
    """
    from peft import get_peft_model_state_dict

    config: Any = model.peft_config[_NAME]
    family, state = family_of_model(model), model.state_dict()
    own = {name: at for name, at in state.items() if not name.endswith((_FIRST_DOWN, _FIRST_UP))}
    tensors = get_peft_model_state_dict(model, own, adapter_name=_NAME, save_embedding_layers=False)
    fields = {**config.to_dict(), "inference_mode": True}
    if config.init_lora_weights == "pissa":
        for name, layer in _layers(model).items():
            for end, first, axis in ((_DOWN, _FIRST_DOWN, 0), (_UP, _FIRST_UP, 1)):
                start = getattr(layer, first)
                parts = [tensors[name + end], -start if axis else start]
                tensors[name + end] = torch.cat(parts, axis)
        scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        fields |= {"r": 2 * config.r, "lora_alpha": _whole(scale * 2 * config.r)}
        fields |= {"use_rslora": False, "init_lora_weights": True}
    head = {name: tensor for name, tensor in state.items() if not family.in_encoder(name)}
    base, _, revision = init.partition("@")
    if Path(init).is_dir():
        base, revision = str(Path(init).absolute()), ""
    fields |= {
        "base_model_name_or_path": base,
        "revision": revision or None,
        "modules_to_save": _modules(model, head),
        "target_modules": sorted(_layers(model)),
    }
    # An encoder's file lacks the norms that it has as a backbone.
    norms = {name: tensor for name, tensor in state.items() if OF_BACKBONES in name}
    every = {**tensors, **head, **norms}
    saved = {f"{_PREFIX}{name}": tensor.contiguous() for name, tensor in every.items()}
    save_file(saved, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    # Sets have no order of their own.
    text = json.dumps(fields, indent=2, sort_keys=True, default=sorted)
    (folder / ADAPTER_CONFIG_FILE).write_text(f"{text}\n", encoding="utf-8")


def fold_adapter_(model: PreTrainedModel) -> None:
    """Add the updates to the encoder's weights, and leave the network as it was without them."""
    for name, layer in _layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    del model.peft_config


def _targets(model: PreTrainedModel, spec: Adapter) -> list[str]:
    """The layers that are meant, by their names in memory."""
    family = family_of_model(model)
    linear = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and family.in_encoder(name)
    }
    if not linear:
        raise UserError(
            f"adapter: the encoder of this {family.title} has no linear layers: fine-tune it in "
            "full, or set model.freeze to encoder"
        )
    try:
        chosen = [
            name
            for name in linear
            if spec.targets == "auto"
            or regex.fullmatch(spec.targets, name, timeout=_PATTERN_SECONDS)
        ]
    except (regex.error, TimeoutError) as error:
        raise UserError(f"adapter.targets: '{spec.targets}' is no usable regex: {error}") from error
    if not chosen:
        raise UserError(
            f"adapter.targets: '{spec.targets}' matches no linear layer of the encoder, in full: "
            f"there are {listed(linear)}"
        )
    for name in chosen:
        shape = list(linear[name].weight.shape)
        if spec.rank > min(shape):
            raise UserError(f"adapter.rank is {spec.rank}, and {name} is only {shape}")
    return chosen


def _layers(model: nn.Module) -> dict[str, Any]:
    """The adapted layers by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {n: part for n, part in model.named_modules() if isinstance(part, BaseTunerLayer)}


def _modules(model: nn.Module, head: dict[str, torch.Tensor]) -> list[str]:
    """The modules of a head, which PEFT finds by the ends of their names."""
    found = {name.partition(".")[0] for name in head}
    every = [name for name, _ in model.named_modules()]
    if any(name.endswith(tuple(found)) and name not in found for name in every):
        found = {name.rpartition(".")[0] for name in head}
    return sorted(found)


def _whole(number: float) -> int | float:
    """PEFT writes whole numbers as such."""
    return int(number) if number == int(number) else number
