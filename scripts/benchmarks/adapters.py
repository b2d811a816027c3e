"""Rows of merging three LoRA adapters of a DINOv2-S into one adapter, from files to a file."""

import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation, Dinov2Config, UperNetConfig

from benchmarks.runner import Pair, row
from revt_hf.checkpoints.adapters import read_adapter
from revt_hf.merging.average import MergeOptions, merge

_NAMES = ("a", "b", "c")


@cache
def _folder() -> Path:
    """A folder that lasts as long as the process; the base and three adapters of it are inside."""
    import peft

    place = tempfile.TemporaryDirectory()
    root = Path(place.name)
    _KEPT.append(place)
    encoder = Dinov2Config(hidden_size=384, num_attention_heads=6)
    encoder.out_indices = [3, 6, 9, 12]
    config = UperNetConfig(backbone_config=encoder, hidden_size=64, use_auxiliary_head=False)
    torch.manual_seed(0)
    AutoModelForSemanticSegmentation.from_config(config).save_pretrained(root / "base")
    for name in _NAMES:
        lora = peft.LoraConfig(r=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
        model: Any = peft.get_peft_model(_base(root), lora)
        with torch.no_grad():
            for parameter in filter(lambda one: one.requires_grad, model.parameters()):
                parameter.normal_(0.0, 0.05)
        model.peft_config["default"].base_model_name_or_path = str(root / "base")
        model.save_pretrained(root / name)
    return root


_KEPT: list[Any] = []


def _base(root: Path) -> Any:
    return AutoModelForSemanticSegmentation.from_pretrained(root / "base")


def _ours() -> Path:
    members, output = [_folder() / name for name in _NAMES], _folder() / "ours"
    return merge(members, output, MergeOptions(overwrite=True, as_adapter=True))


def _peft(kind: str) -> Path:
    import peft

    root = _folder()
    model: Any = peft.PeftModel.from_pretrained(_base(root), root / "a", adapter_name="a")
    for name in _NAMES[1:]:
        model.load_adapter(root / name, name)
    model.add_weighted_adapter(list(_NAMES), [1 / 3] * 3, "mean", combination_type=kind)
    model.save_pretrained(root / kind, selected_adapters=["mean"])
    return root / kind / "mean"


def _error(folder: Path) -> float:
    """The distance of an adapter's updates from the mean of the members', as a part of that."""
    weights = load_file(_folder() / "base" / "model.safetensors")
    members = [read_adapter(_folder() / name).updates for name in _NAMES]
    off = size = 0.0
    for name, update in read_adapter(folder).updates.items():
        base = weights[name].double()
        mean = sum(one[name].apply(base) - base for one in members) / len(members)
        off += float((update.apply(base) - base - mean).square().sum())
        size += float(mean.square().sum())  # type: ignore[union-attr]
    return (off / size) ** 0.5


def _errors(kind: str, peer: Path, ours: Path) -> float:
    """Ours from the exact mean; both are printed, since a peer may be another network."""
    theirs, own = _error(peer), _error(ours)
    print(f"  off the exact mean: PEFT's {kind} {theirs:.2g}, ours {own:.2g}")
    return own


def _against(kind: str) -> Pair:
    _folder()
    return Pair(partial(_peft, kind), _ours, partial(_errors, kind))


@row("merge-adapters", peer="PEFT's add_weighted_adapter, cat", goal=0.1, tolerance=1e-6)
def against_cat() -> Pair:
    """PEFT's exact way: quicker, since ours checks, hashes and folds every member on the way."""
    return _against("cat")


@row("merge-adapters-linear", peer="PEFT's add_weighted_adapter, linear", goal=0.1, tolerance=1e-6)
def against_linear() -> Pair:
    """PEFT's usual way, which averages the factors apart."""
    return _against("linear")
