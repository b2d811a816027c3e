"""Groups of a SegFormer's tensors: blocks, layer types, encoder and head.

Names are those on disk; a group lists the indices of its tensors. Blocks follow the original's
pyramid from input to output: patch_embed1, block1.0, ..., norm1, patch_embed2, ..., norm4. Layer
types are the presets of ``revt merge --select``, where the LayerNorm inside an attention counts as
attention and as norm.
"""

import re
from collections.abc import Sequence

from revt_hf.checkpoints.names import BACKBONE_PREFIX, HEAD_PREFIX
from revt_hf.core.errors import UserError
from revt_hf.merging.selection import original_name, select

Group = list[int]
_LAYER_TYPES = ("attention", "mlp", "norm", "patch_embed")
_HEAD_MODULES = (
    *(f"linear_c.{stage}" for stage in range(4)),
    "linear_fuse",
    "batch_norm",
    "classifier",
)
_BLOCK = re.compile(r"backbone\.(patch_embed|block|norm)(\d+)\.(?:(\d+)\.)?")
# In the order of a stage.
_KINDS = ("patch_embed", "block", "norm")


def blocks(names: Sequence[str]) -> dict[str, Group]:
    """The blocks of the encoder, from input to output."""
    found: dict[tuple[int, int, int], Group] = {}
    for index, name in enumerate(names):
        match = _BLOCK.match(original_name(name) or "")
        if match:
            kind, stage, number = match.groups()
            block = int(number) if kind == "block" else 0
            found.setdefault((int(stage), _KINDS.index(kind), block), []).append(index)
    return {
        f"{_KINDS[kind]}{stage}{f'.{block}' if _KINDS[kind] == 'block' else ''}": found[key]
        for key in sorted(found)
        for stage, kind, block in [key]
    }


def layer_types(names: Sequence[str]) -> dict[str, Group]:
    """The layer types of the encoder, then the modules of the head."""
    index_of = {name: index for index, name in enumerate(names)}
    types = {}
    for preset in _LAYER_TYPES:
        try:
            types[preset] = [index_of[name] for name in select(preset, names)]
        except UserError:
            # Not every file has every type of layer.
            continue
    modules: dict[str, Group] = {}
    for index, name in enumerate(names):
        if name.startswith(HEAD_PREFIX):
            module = name.removeprefix(HEAD_PREFIX).rpartition(".")[0].removesuffix(".proj")
            modules.setdefault(module, []).append(index)
    order = dict.fromkeys([*(name for name in _HEAD_MODULES if name in modules), *modules])
    return {**types, **{f"head {module}": modules[module] for module in order}}


def wholes(names: Sequence[str]) -> dict[str, Group]:
    """Encoder, head, and all tensors."""
    found = {
        whole: [index for index, name in enumerate(names) if name.startswith(prefix)]
        for whole, prefix in (("encoder", BACKBONE_PREFIX), ("head", HEAD_PREFIX), ("all", ""))
    }
    return {whole: group for whole, group in found.items() if group}
