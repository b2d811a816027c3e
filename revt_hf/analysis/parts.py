"""Which part of a SegFormer a tensor belongs to; names are those on disk.

Blocks are the steps of the original's pyramid from input to output: patch_embed1, block1.0, ...,
norm1, patch_embed2, ..., norm4. Layer types are the presets of ``revt merge --select``: an
attention's own LayerNorm counts as attention and as norm.
"""

import re
from collections.abc import Sequence

from revt_hf.checkpoints.names import BACKBONE_PREFIX, HEAD_PREFIX
from revt_hf.core.errors import UserError
from revt_hf.merging.selection import original_name, select

ENCODER, HEAD, ALL = "encoder", "head", "all"
_LAYER_TYPES = ("attention", "mlp", "norm", "patch_embed")
_HEAD_MODULES = (
    *(f"linear_c.{stage}" for stage in range(4)),
    "linear_fuse",
    "batch_norm",
    "classifier",
)
_STEP = re.compile(r"backbone\.(patch_embed|block|norm)(\d+)\.(?:(\d+)\.)?")
# In the order of a stage.
_KINDS = ("patch_embed", "block", "norm")

Group = list[int]


def blocks(names: Sequence[str]) -> dict[str, Group]:
    """The encoder's steps from input to output, each with the places of its tensors."""
    found: dict[tuple[int, int, int], Group] = {}
    for place, name in enumerate(names):
        step = _STEP.match(original_name(name) or "")
        if step:
            kind = _KINDS.index(step[1])
            block = int(step[3]) if step[1] == "block" else 0
            found.setdefault((int(step[2]), kind, block), []).append(place)
    return {_label(*step): found[step] for step in sorted(found)}


def layer_types(names: Sequence[str]) -> dict[str, Group]:
    """The encoder's kinds of layer, then the head's modules, with the places of their tensors."""
    place_of = {name: place for place, name in enumerate(names)}
    types = {}
    for preset in _LAYER_TYPES:
        chosen = _select(preset, names)
        if chosen:
            types[preset] = [place_of[name] for name in chosen]
    modules: dict[str, Group] = {}
    for place, name in enumerate(names):
        if name.startswith(HEAD_PREFIX):
            module = name.removeprefix(HEAD_PREFIX).rpartition(".")[0].removesuffix(".proj")
            modules.setdefault(module, []).append(place)
    known = [module for module in _HEAD_MODULES if module in modules]
    others = [module for module in modules if module not in known]
    return {**types, **{f"head {module}": modules[module] for module in (*known, *others)}}


def wholes(names: Sequence[str]) -> dict[str, Group]:
    """Encoder, head, and both."""
    sides = {ENCODER: BACKBONE_PREFIX, HEAD: HEAD_PREFIX, ALL: ""}
    found = {
        side: [place for place, name in enumerate(names) if name.startswith(prefix)]
        for side, prefix in sides.items()
    }
    return {side: places for side, places in found.items() if places}


def _label(stage: int, kind: int, block: int) -> str:
    return f"block{stage}.{block}" if _KINDS[kind] == "block" else f"{_KINDS[kind]}{stage}"


def _select(preset: str, names: Sequence[str]) -> list[str]:
    try:
        return select(preset, names)
    except UserError:
        # Not every file has every kind of layer.
        return []
