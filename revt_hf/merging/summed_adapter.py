"""A merge of adapters as one adapter: a mean of low-rank updates is an update of summed rank."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from revt_hf.checkpoints.adapters import Adapter, Update, read_adapter
from revt_hf.checkpoints.headers import TensorInfo, read_header
from revt_hf.checkpoints.tensors import ADAPTER_WEIGHTS_FILE, open_checkpoint
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import real_path
from revt_hf.core.outputs import ADAPTER_CONFIG_FILE, named_base
from revt_hf.merging.merge_plan import MergeItem, MergePlan

_MEANS = ("mean", "weighted_mean")


def write_summed(plan: MergePlan, adapters: list[Adapter], merged: Path, folder: Path) -> None:
    """Write a merge as PEFT's adapter of the members' base.

    Tensors that a member has in place of the base's are taken from the ``merged`` weights.
    """
    whole = {info.name: info for info in read_header(merged)}
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    with open_checkpoint(adapters[0].base, quiet=True) as base:
        held = adapters[0].base_tensors(base)
        for item in plan.items:
            shares = list(_shares(plan, item, adapters))
            replaced = [one.replaced[item.name] for one, _ in shares if item.name in one.replaced]
            updates = [(a.updates[item.name], w) for a, w in shares if item.name in a.updates]
            if replaced:
                tensors[replaced[0].name] = read_tensor(whole[item.name])
            elif updates:
                first = updates[0][0]
                up, down = _summed(updates, held[item.name])
                # In half precision the sum would be another network.
                tensors[first.up.name] = up.reshape(*up.shape, *first.up.shape[2:]).float()
                tensors[first.down.name] = down.reshape(-1, *first.down.shape[1:]).float()
                ranks[first.module] = len(down)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UserError(f"the adapter's {name} is too large for float32: merge into a model")
    save_file(tensors, folder / ADAPTER_WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.dumps(_config(plan, adapters, ranks, tensors), indent=2)
    (folder / ADAPTER_CONFIG_FILE).write_text(f"{config}\n")


def adapters_of(plan: MergePlan) -> list[Adapter]:
    """The members, refused where their merge is no low-rank update of one base."""
    for rule in plan.spec.rules:
        if rule.method not in _MEANS:
            raise UserError(
                f"the {rule.method} of adapters is no adapter: merge them into a whole model"
            )
    found: list[Adapter] = []
    for source in plan.sources:
        if source.originals[0].name != ADAPTER_WEIGHTS_FILE:
            raise UserError(f"{source.label} is no adapter: merge it into a whole model")
        adapter = read_adapter(source.originals[0].parent)
        if any(update.magnitude for update in adapter.updates.values()):
            raise UserError(
                f"{source.label} is a DoRA, whose magnitudes are no low-rank update: merge it "
                "into a whole model"
            )
        if found and real_path(adapter.base) != real_path(found[0].base):
            raise UserError(
                f"{source.label} was trained on {adapter.base}, {plan.sources[0].label} on "
                f"{found[0].base}: merge them into a whole model"
            )
        if found and adapter.config.get("bias") != found[0].config.get("bias"):
            raise UserError(
                f"{source.label} has other biases than {plan.sources[0].label}: "
                "merge them into a whole model"
            )
        found.append(adapter)
    return found


def _shares(
    plan: MergePlan, item: MergeItem, adapters: list[Adapter]
) -> Iterator[tuple[Adapter, float]]:
    """The adapters that make a tensor, and their shares of it."""
    if item.rule is None:
        yield adapters[plan.spec.head - 1], 1.0
        return
    weights = item.weights or (1.0,) * len(adapters)
    for adapter, weight in zip(adapters, weights, strict=True):
        yield adapter, weight / sum(weights)


def _summed(
    updates: list[tuple[Update, float]], base: TensorInfo
) -> tuple[torch.Tensor, torch.Tensor]:
    weight = read_tensor(base)
    factors = [(update.factors(weight), share) for update, share in updates]
    return (
        torch.cat([share * up for (up, _), share in factors], 1),
        torch.cat([down for (_, down), _ in factors]),
    )


def _config(
    plan: MergePlan, adapters: list[Adapter], ranks: dict[str, int], written: Iterable[str]
) -> dict[str, Any]:
    """That of the head's member, with ranks and scales of 1."""
    configs = [adapter.config for adapter in adapters]
    saved = [name for config in configs for name in config.get("modules_to_save") or ()]
    most = max(ranks.values(), default=1)
    others = {re.escape(module): rank for module, rank in ranks.items() if rank != most}
    head = adapters[plan.spec.head - 1]
    return head.config | {
        # A path from the member's folder leads elsewhere from the merge's.
        "base_model_name_or_path": str(
            named_base(head.folder) or head.config["base_model_name_or_path"]
        ),
        "r": most,
        "lora_alpha": most,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "init_lora_weights": True,
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": sorted({one for one in saved if _is_written(one, written)}) or None,
    }


def _is_written(module: str, names: Iterable[str]) -> bool:
    """Whether a tensor lies in a module that PEFT finds by the end of its name."""
    return any(f".{module}." in name and ".lora_" not in name for name in names)
