"""Tensor names as trainers save them: the model within Lightning's ``model.``, ``module.``, ...

No torch is imported.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from revt_hf.checkpoints.names import IMAGENET_CLASSIFIER
from revt_hf.core.errors import UserError

# What compilers and parallel wrappers put into names, at any place; no SegFormer has such a module.
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
# Copies that trainers keep beside the model, what mmengine's wrapper of it holds, and
# mmsegmentation's second head, which only training runs through.
_BESIDE = re.compile(
    r"(?:model_|module_)?ema(?:_model)?[._]|data_preprocessor\.|auxiliary_head\.|n_averaged$"
)
_ORIGINAL_ENCODER = re.compile(r"(?:patch_embed\d|block\d|norm\d)\.")
_ORIGINAL = "backbone."
_IMAGENET_HEAD = "head."
_NAMED = 8


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
    """Whether a tensor is one of a SegFormer by its name, whatever it is wrapped in."""
    return _prefix(_bare(name)) is not None


def unwrap(label: str, names: Sequence[str]) -> Unwrapped:
    """Find the SegFormer among a file's tensors, and take away what it is wrapped in.

    ``module.`` and ``_orig_mod.`` go wherever they stand; any other prefix goes if it is the only
    one. What lies outside of it, averages (``ema.``), ``data_preprocessor.`` and
    ``auxiliary_head.`` are dropped.

    Args:
        label: what messages call the file.
        names: of all its tensors.

    Raises:
        UserError: the names are of several models, or of no SegFormer; what is there is listed.
    """
    bare = {name: _bare(name) for name in names}
    prefix_of = {name: _prefix(short) for name, short in bare.items()}
    prefixes = list(dict.fromkeys(prefix for prefix in prefix_of.values() if prefix is not None))
    if not prefixes:
        raise UserError(
            f"{label} holds no tensors of a SegFormer: its tensors are called {listed(names)}"
        )
    own = min(prefixes, key=len)
    if any(not _is_beside(prefix, own) for prefix in _others(bare, prefix_of, own)):
        found = listed(prefix or "segformer., decode_head. or backbone." for prefix in prefixes)
        raise UserError(
            f"{label} holds several models, whose tensors' names begin with {found}: save the one "
            "that is wanted as a file of its own"
        )
    kept = {
        name: short.removeprefix(own)
        for name, short in bare.items()
        if short.startswith(own) and not _BESIDE.match(short.removeprefix(own))
    }
    if any(_ORIGINAL_ENCODER.match(short) for short in kept.values()):
        kept = {name: _in_whole_model(short) for name, short in kept.items()}
    return Unwrapped(kept, tuple(name for name in names if name not in kept))


def listed(found: Iterable[str]) -> str:
    """Names for a message, the first few; odd characters escaped."""
    names = list(dict.fromkeys(found))
    shown = ", ".join(ascii(name)[1:-1] for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _TRANSPARENT)


def _prefix(name: str) -> str | None:
    """What stands before a SegFormer's own name; None if it is no such name."""
    start = 0
    while not _ROOT.match(name, start):
        start = name.find(".", start) + 1
        if not start:
            return None
    return name[:start]


def _others(
    bare: Mapping[str, str], prefix_of: Mapping[str, str | None], own: str
) -> Iterator[str]:
    """The prefixes of further models: without one in front, of those with the same tensors."""
    same = set(bare.values())
    for name, prefix in prefix_of.items():
        if prefix not in (None, own) and (own or bare[name].removeprefix(prefix) in same):
            yield prefix


def _is_beside(prefix: str, own: str) -> bool:
    return prefix.startswith(own) and _BESIDE.match(prefix.removeprefix(own)) is not None


def _in_whole_model(name: str) -> str:
    """The name, with its prefix, of a tensor of the original's encoder by itself."""
    if name.startswith(_IMAGENET_HEAD):
        return f"{IMAGENET_CLASSIFIER}{name.removeprefix(_IMAGENET_HEAD)}"
    return f"{_ORIGINAL}{name}"
