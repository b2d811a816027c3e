"""Tensor names: original (mmsegmentation) <-> transformers in memory <-> transformers on disk.

Wherever tensors of several models meet, the names on disk (``save_pretrained``) are used.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from revt_hf.checkpoints.families import SEGFORMER, Family
from revt_hf.core.errors import UserError

BACKBONE_PREFIX = SEGFORMER.prefix
HEAD_PREFIX = SEGFORMER.head
IMAGENET_CLASSIFIER = "classifier."
_UNUSED = "decode_head.conv_seg."
_BLOCK = "segformer.encoder.block.#.*"
_BLOCKS = (
    ("norm1", "layernorm_before", "layer_norm_1"),
    ("norm2", "layernorm_after", "layer_norm_2"),
    ("attn.q", "attention.q_proj", "attention.self.query"),
    # The original fuses key and value, key first.
    ("attn.kv", "attention.k_proj", "attention.self.key"),
    ("attn.kv", "attention.v_proj", "attention.self.value"),
    ("attn.proj", "attention.o_proj", "attention.output.dense"),
    ("attn.sr", "attention.sequence_reduction.sequence_reduction", "attention.self.sr"),
    ("attn.norm", "attention.sequence_reduction.layer_norm", "attention.self.layer_norm"),
    ("mlp.fc1", "mlp.fc1", "mlp.dense1"),
    ("mlp.dwconv", "mlp.dwconv", "mlp.dwconv"),
    ("mlp.fc2", "mlp.fc2", "mlp.dense2"),
)
# Original, in memory, on disk. ``#`` is the stage, counted from 1 in the original, ``*`` the block.
_MODULES = (
    *(
        (f"backbone.block#.*.{ours}", f"segformer.stages.#.blocks.*.{memory}", f"{_BLOCK}.{disk}")
        for ours, memory, disk in _BLOCKS
    ),
    *(
        (
            f"backbone.patch_embed#.{ours}",
            f"segformer.stages.#.patch_embeddings.{theirs}",
            f"segformer.encoder.patch_embeddings.#.{theirs}",
        )
        for ours, theirs in (("proj", "proj"), ("norm", "layer_norm"))
    ),
    ("backbone.norm#", "segformer.stages.#.layer_norm", "segformer.encoder.layer_norm.#"),
    ("decode_head.linear_c#", "decode_head.linear_projections.#", "decode_head.linear_c.#"),
    ("decode_head.linear_fuse.conv", "decode_head.linear_fuse", "decode_head.linear_fuse"),
    ("decode_head.linear_fuse.bn", "decode_head.batch_norm", "decode_head.batch_norm"),
    ("decode_head.linear_pred", "decode_head.classifier", "decode_head.classifier"),
)


def _renaming(source: int, target: int) -> tuple[tuple[re.Pattern[str], str, int], ...]:
    """Pattern, template and shift of the stage, for renaming one column of modules to another."""
    shift = (target == 0) - (source == 0)

    def pattern(module: str) -> re.Pattern[str]:
        text = re.escape(module).replace(r"\#", r"(?P<s>\d)").replace(r"\*", r"(?P<b>\d+)")
        return re.compile(rf"{text}\.")

    return tuple((pattern(row[source]), row[target], shift) for row in _MODULES)


_TO_DISK, _TO_MEMORY, _TO_ORIGINAL = _renaming(1, 2), _renaming(0, 1), _renaming(2, 0)

# Inserted into names by compilers and parallel wrappers; no SegFormer has such a module.
_TRANSPARENT = frozenset(
    {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
# Where a SegFormer's own names begin, transformers' (whole or encoder alone) or the original's.
_ROOT = re.compile(
    r"(?:segformer|backbone|decode_head)\."
    r"|encoder\.(?:patch_embeddings|block|layer_norm)\.\d"
    r"|stages\.\d+\.(?:patch_embeddings|blocks|layer_norm)\."
    r"|patch_embed\d\.|block\d\.\d|norm\d\.(?:weight|bias)$"
)
# Copies that trainers keep beside the model, tensors of mmengine's wrapper, and mmsegmentation's
# auxiliary head, which only training uses.
_BESIDE = re.compile(
    r"(?:model_|module_)?ema(?:_model)?[._]|data_preprocessor\.|auxiliary_head\.|n_averaged$"
)
_BARE_ENCODER = ("encoder.", "stages.")
_ORIGINAL_ENCODER = re.compile(r"(?:patch_embed\d|block\d|norm\d)\.")
_IMAGENET_HEAD = "head."
_LISTED = 8


@lru_cache(maxsize=4096)  # members of one merge have the same names
def disk_name(name: str) -> str:
    """The name that ``save_pretrained`` writes for a tensor named as in memory or on disk."""
    return next(_renamed(name, _TO_DISK), name)


def standard_name(name: str) -> str:
    """The on-disk name, inside a whole SegFormer, of a tensor named as in memory or on disk."""
    # A SegformerModel by itself has no prefix.
    return disk_name(f"{BACKBONE_PREFIX}{name}" if name.startswith(_BARE_ENCODER) else name)


def names_on_disk(model: Any) -> dict[str, str]:
    """The name on disk of each tensor of a model's state dict, by its name in memory."""
    state = model.state_dict()
    if model.config.model_type == "segformer":
        return {name: disk_name(name) for name in state}
    from transformers.core_model_loading import revert_weight_conversion

    memory = {id(tensor): name for name, tensor in state.items()}
    saved = revert_weight_conversion(model, dict(state))
    return {memory[id(tensor)]: name for name, tensor in saved.items()}


def memory_names(original: str) -> tuple[str, ...]:
    """In-memory names of an original's tensor: two of a fused ``attn.kv``, none of ``conv_seg``."""
    if original.startswith(_UNUSED):
        return ()
    return tuple(_renamed(original, _TO_MEMORY)) or (original,)


def original_name(on_disk: str) -> str:
    """The original's name of a tensor named as on disk, or that name if it has no such tensor."""
    return next(_renamed(on_disk, _TO_ORIGINAL), on_disk)


def _renamed(name: str, rules: Iterable[tuple[re.Pattern[str], str, int]]) -> Iterator[str]:
    for pattern, template, shift in rules:
        found = pattern.match(name)
        if found:
            numbers = found.groupdict()
            stage = str(int(numbers["s"]) + shift) if "s" in numbers else ""
            module = template.replace("#", stage).replace("*", numbers.get("b", ""))
            yield f"{module}.{name[found.end() :]}"


def is_model_name(name: str) -> bool:
    """Whether a tensor's name is one of a SegFormer, possibly wrapped."""
    return _prefix(_bare(name)) is not None


def unwrap(label: str, names: Sequence[str]) -> dict[str, str]:
    """Name in the file -> name within a whole SegFormer, without the prefixes of wrappers.

    A prefix that is the only one is removed; tensors outside it, averages and auxiliary heads are
    left out.
    """
    bare = {name: _bare(name) for name in names}
    prefix_of = {name: _prefix(short) for name, short in bare.items()}
    prefixes = list(dict.fromkeys(prefix for prefix in prefix_of.values() if prefix is not None))
    if not prefixes:
        raise UserError(
            f"{label} holds no tensors of a SegFormer: its tensors are called {listed(names)}"
        )
    own = min(prefixes, key=len)
    same = set(bare.values())
    for name, prefix in prefix_of.items():
        if prefix in (None, own) or (prefix.startswith(own) and _BESIDE.match(prefix[len(own) :])):
            continue
        # Beside a model without a prefix, prefixed tensors are a model only if it has them, too.
        if own or bare[name].removeprefix(prefix) in same:
            found = listed(prefix or "segformer., decode_head. or backbone." for prefix in prefixes)
            raise UserError(
                f"{label} holds several models, whose tensors' names begin with {found}: save the "
                "one you want in a separate file"
            )
    kept = {
        name: short.removeprefix(own)
        for name, short in bare.items()
        if short.startswith(own) and not _BESIDE.match(short.removeprefix(own))
    }
    if any(_ORIGINAL_ENCODER.match(short) for short in kept.values()):
        kept = {name: _in_whole_model(short) for name, short in kept.items()}
    return kept


class Part(NamedTuple):
    """A tensor of a file, or one half of the original's fused key-value tensor (key first)."""

    name: str
    half: int = 0
    halves: int = 1


def standard_parts(
    label: str, shapes: Mapping[str, Sequence[int]], family: Family = SEGFORMER
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The parts of a file's tensors by on-disk name, and the names that belong to no SegFormer.

    Files of other families are only read as transformers writes them.
    """
    if not shapes:
        raise UserError(f"{label} holds no tensors")
    if family is not SEGFORMER:
        return {name: Part(name) for name in shapes}, ()
    unwrapped = unwrap(label, list(shapes))
    dropped = [name for name in shapes if name not in unwrapped]
    parts: dict[str, Part] = {}
    for name, full_name in unwrapped.items():
        targets, shape = memory_names(full_name), shapes[name]
        if not targets:
            dropped.append(name)
        if len(targets) > 1 and (not shape or shape[0] % 2 or not shape[0]):
            raise UserError(f"{label}: {name} is {list(shape)} and holds no key and value")
        for half, target in enumerate(map(standard_name, targets)):
            if target in parts:
                raise UserError(
                    f"{label} holds one tensor under two names, {parts[target].name} and {name}: "
                    "remove one"
                )
            parts[target] = Part(name, half, len(targets))
    if not parts:
        raise UserError(f"{label} holds no tensors of a SegFormer")
    return parts, tuple(dropped)


def listed(found: Iterable[str]) -> str:
    """The first few names, for a message; odd characters are escaped."""
    names = list(dict.fromkeys(found))
    shown = ", ".join(ascii(name)[1:-1] for name in names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _TRANSPARENT)


def _prefix(name: str) -> str | None:
    """The prefix of a SegFormer's own name; None if it is no such name."""
    start = 0
    while not _ROOT.match(name, start):
        start = name.find(".", start) + 1
        if not start:
            return None
    return name[:start]


def _in_whole_model(name: str) -> str:
    if name.startswith(_IMAGENET_HEAD):
        return f"{IMAGENET_CLASSIFIER}{name.removeprefix(_IMAGENET_HEAD)}"
    return f"backbone.{name}"
