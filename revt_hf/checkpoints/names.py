"""Tensor names: original (mmsegmentation) <-> transformers in memory <-> transformers on disk.

``save_pretrained`` writes other names than ``state_dict()`` shows. Wherever tensors of several
models meet, the names on disk are used. Names as trainers wrap them (``module.``, ``model.``) are
unwrapped by :func:`unwrap`. No torch is imported.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from revt_hf.core.errors import UserError

BACKBONE_PREFIX = "segformer."
HEAD_PREFIX = "decode_head."
COUNTER = f"{HEAD_PREFIX}batch_norm.num_batches_tracked"
CLASS_ROWS = f"{HEAD_PREFIX}classifier."
IMAGENET_CLASSIFIER = "classifier."


def _rules(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


# In memory -> on disk; the order matters only where one pattern's result could match another.
_DISK_RULES = _rules(
    (r"^segformer\.stages\.(\d)\.patch_embeddings\.", r"segformer.encoder.patch_embeddings.\1."),
    (r"^segformer\.stages\.(\d)\.layer_norm\.", r"segformer.encoder.layer_norm.\1."),
    (
        r"^segformer\.stages\.(\d)\.blocks\.(\d+)\.layernorm_before\.",
        r"segformer.encoder.block.\1.\2.layer_norm_1.",
    ),
    (
        r"^segformer\.stages\.(\d)\.blocks\.(\d+)\.layernorm_after\.",
        r"segformer.encoder.block.\1.\2.layer_norm_2.",
    ),
    (r"^segformer\.stages\.(\d)\.blocks\.(\d+)\.", r"segformer.encoder.block.\1.\2."),
    (r"\.attention\.q_proj\.", ".attention.self.query."),
    (r"\.attention\.k_proj\.", ".attention.self.key."),
    (r"\.attention\.v_proj\.", ".attention.self.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.attention\.sequence_reduction\.sequence_reduction\.", ".attention.self.sr."),
    (r"\.attention\.sequence_reduction\.layer_norm\.", ".attention.self.layer_norm."),
    (r"\.mlp\.fc1\.", ".mlp.dense1."),
    (r"\.mlp\.fc2\.", ".mlp.dense2."),
    (r"^decode_head\.linear_projections\.", "decode_head.linear_c."),
)

# Original -> in memory. ``{0}`` is the stage, counted from 0 here and from 1 in the original.
# Fused key-value tensors and the unused ``conv_seg`` need more than a name and are not listed.
_ORIGINAL_RULES = _rules(
    (r"^backbone\.patch_embed(\d)\.proj\.", "segformer.stages.{0}.patch_embeddings.proj."),
    (r"^backbone\.patch_embed(\d)\.norm\.", "segformer.stages.{0}.patch_embeddings.layer_norm."),
    (r"^backbone\.norm(\d)\.", "segformer.stages.{0}.layer_norm."),
    (r"^backbone\.block(\d)\.", "segformer.stages.{0}.blocks."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.q\.", ".attention.q_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attn\.norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"^decode_head\.linear_c(\d)\.", "decode_head.linear_projections.{0}."),
    (r"^decode_head\.linear_fuse\.conv\.", "decode_head.linear_fuse."),
    (r"^decode_head\.linear_fuse\.bn\.", "decode_head.batch_norm."),
    (r"^decode_head\.linear_pred\.", "decode_head.classifier."),
)
_FUSED_KEY_VALUE = ".attn.kv."
_UNUSED = "decode_head.conv_seg."

# On disk -> original. The halves of a fused key-value tensor get the same name.
_BACK_RULES = _rules(
    (r"^segformer\.encoder\.patch_embeddings\.(\d)\.proj\.", "backbone.patch_embed{0}.proj."),
    (r"^segformer\.encoder\.patch_embeddings\.(\d)\.layer_norm\.", "backbone.patch_embed{0}.norm."),
    (r"^segformer\.encoder\.layer_norm\.(\d)\.", "backbone.norm{0}."),
    (r"^segformer\.encoder\.block\.(\d)\.", "backbone.block{0}."),
    (r"\.layer_norm_1\.", ".norm1."),
    (r"\.layer_norm_2\.", ".norm2."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.(?:key|value)\.", _FUSED_KEY_VALUE),
    (r"\.attention\.self\.sr\.", ".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense1\.", ".mlp.fc1."),
    (r"\.mlp\.dense2\.", ".mlp.fc2."),
    (r"^decode_head\.linear_c\.(\d)\.", "decode_head.linear_c{0}."),
    (r"^decode_head\.linear_fuse\.", "decode_head.linear_fuse.conv."),
    (r"^decode_head\.batch_norm\.", "decode_head.linear_fuse.bn."),
    (r"^decode_head\.classifier\.", "decode_head.linear_pred."),
)

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
    for pattern, replacement in _DISK_RULES:
        name = pattern.sub(replacement, name)
    return name


def standard_name(name: str) -> str:
    """The on-disk name, inside a whole SegFormer, of a tensor named as in memory or on disk."""
    # A SegformerModel by itself has no prefix.
    return disk_name(f"{BACKBONE_PREFIX}{name}" if name.startswith(_BARE_ENCODER) else name)


def memory_names(original: str) -> tuple[str, ...]:
    """In-memory names of a tensor of the original implementation (mmsegmentation naming).

    Two names (key, then value) for a fused ``attn.kv`` tensor, none for the unused ``conv_seg``.
    """
    if original.startswith(_UNUSED):
        return ()
    name = _renamed(original, _ORIGINAL_RULES, -1)
    if _FUSED_KEY_VALUE in name:
        return tuple(
            name.replace(_FUSED_KEY_VALUE, f".attention.{part}_proj.") for part in ("k", "v")
        )
    return (name,)


def original_name(on_disk: str) -> str:
    """The original's name of a tensor named as on disk.

    Key and value share one name: the original fuses them, key first.
    """
    return _renamed(on_disk, _BACK_RULES, 1)


def _renamed(name: str, rules: Iterable[tuple[re.Pattern[str], str]], step: int) -> str:
    for pattern, replacement in rules:
        found = pattern.search(name)
        if found:
            stage = str(int(found[1]) + step) if found.groups() else ""
            name = pattern.sub(replacement.format(stage), name)
    return name


@dataclass(frozen=True)
class Unwrapped:
    """The model's tensors among those of a file.

    Attributes:
        names: name in the file -> name within a whole SegFormer (transformers' or the original's).
        dropped: names in the file that belong to no SegFormer.
    """

    names: dict[str, str]
    dropped: tuple[str, ...]


def is_model_name(name: str) -> bool:
    """Whether a tensor's name is one of a SegFormer, possibly wrapped."""
    return _prefix(_bare(name)) is not None


def unwrap(label: str, names: Sequence[str]) -> Unwrapped:
    """Find the SegFormer among a file's tensors and strip the prefixes of wrappers.

    ``module.`` and ``_orig_mod.`` are removed anywhere in a name; any other prefix is removed if it
    is the only one. Tensors outside it, averages (``ema.``), ``data_preprocessor.`` and
    ``auxiliary_head.`` are dropped.

    Args:
        label: the file's name in messages.
        names: of all its tensors.

    Raises:
        UserError: the names belong to several models or to none; they are listed.
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
                "one that is wanted as a file of its own"
            )
    kept = {
        name: short.removeprefix(own)
        for name, short in bare.items()
        if short.startswith(own) and not _BESIDE.match(short.removeprefix(own))
    }
    if any(_ORIGINAL_ENCODER.match(short) for short in kept.values()):
        kept = {name: _in_whole_model(short) for name, short in kept.items()}
    return Unwrapped(kept, tuple(name for name in names if name not in kept))


class Part(NamedTuple):
    """A tensor of a file, or one half of the original's fused key-value tensor (key first)."""

    name: str
    half: int = 0
    halves: int = 1


def standard_parts(
    label: str, shapes: Mapping[str, Sequence[int]]
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The parts of a file's tensors by on-disk name, and the names that belong to no SegFormer.

    Args:
        label: the file's name in messages.
        shapes: of all its tensors, by name.

    Raises:
        UserError: there is no SegFormer, or several; a tensor appears under two names; or a fused
            key-value tensor cannot be halved.
    """
    if not shapes:
        raise UserError(f"{label} holds no tensors")
    unwrapped = unwrap(label, list(shapes))
    dropped = [*unwrapped.dropped]
    parts: dict[str, Part] = {}
    for name, full_name in unwrapped.names.items():
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
    """Prefix the name of a tensor of the original's encoder by itself."""
    if name.startswith(_IMAGENET_HEAD):
        return f"{IMAGENET_CLASSIFIER}{name.removeprefix(_IMAGENET_HEAD)}"
    return f"backbone.{name}"
