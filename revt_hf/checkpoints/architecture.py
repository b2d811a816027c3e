"""A network's description, and the sizes and tensors of SegFormers. No torch."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.families import SEGFORMER, Family, counter_of, family_of, is_counter
from revt_hf.checkpoints.headers import FLOATS, INTEGERS, TensorInfo
from revt_hf.checkpoints.names import (
    BACKBONE_PREFIX,
    HEAD_PREFIX,
    IMAGENET_CLASSIFIER,
)
from revt_hf.core.errors import UserError, shortened
from revt_hf.data.normalisation import Normalisation

(CLASSIFIER,) = SEGFORMER.class_rows
VARIANCE = f"{HEAD_PREFIX}batch_norm.running_var"
COUNTER = counter_of(VARIANCE)
# Defaults of transformers.
NUMBERS = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "drop_path_rate": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-6,
}
IGNORED = "semantic_loss_ignore_index"
ENCODER = f"{BACKBONE_PREFIX}encoder."
_RGB = 3
_LISTED, _LONGEST = 3, 120


@dataclass(frozen=True)
class Architecture:
    """The fields of a ``config.json`` that define the network, with transformers' defaults."""

    depths: tuple[int, ...] = (2, 2, 2, 2)
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    decoder_hidden_size: int = 256
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    hidden_act: str = "gelu"

    def differences(self, other: "Architecture") -> dict[str, tuple[Any, Any]]:
        """Field -> this one's value and the other's, where they differ."""
        ours, theirs = asdict(self), asdict(other)
        return {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}


_WIDE = (64, 128, 320, 512)
# SegFormer (Xie et al., 2021), tables 1 and 6; the original's local_configs/segformer.
SIZES = {
    "b0": Architecture((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "b1": Architecture((2, 2, 2, 2), _WIDE, 256),
    "b2": Architecture((3, 4, 6, 3), _WIDE, 768),
    "b3": Architecture((3, 4, 18, 3), _WIDE, 768),
    "b4": Architecture((3, 8, 27, 3), _WIDE, 768),
    "b5": Architecture((3, 6, 40, 3), _WIDE, 768),
}


def size_name(network: Any, with_head: bool = False) -> str | None:
    """``b0`` .. ``b5`` for an Architecture or a ``SegformerConfig``; None for another network."""
    if getattr(network, "model_type", "segformer") != "segformer":
        return None
    for name, size in SIZES.items():
        if (
            size.depths == tuple(network.depths)
            and size.hidden_sizes == tuple(network.hidden_sizes)
            and not (with_head and size.decoder_hidden_size != network.decoder_hidden_size)
        ):
            return name
    return None


def network_name(config: Mapping[str, Any]) -> str:
    """What people call the network of a ``config.json``: SegFormer-B2, UperNet around dinov2."""
    family = family_of(config)
    if family is not SEGFORMER:
        encoder = (config.get("backbone_config") or {}).get("model_type")
        return f"{family.title} around {encoder}" if encoder else family.title
    depths, widths = (tuple(config.get(key) or ()) for key in ("depths", "hidden_sizes"))
    for name, size in SIZES.items():
        if (depths, widths) == (size.depths, size.hidden_sizes):
            return f"SegFormer-{name.upper()}"
    if not (depths and widths):
        return "SegFormer"
    shown = (", ".join(map(str, numbers)) for numbers in (depths, widths))
    return "SegFormer (depths {}; widths {})".format(*shown)


# Fields that only training reads.
_TRAINING = re.compile("drop|initializer|_loss|loss_|auxiliary")
# The key of classes' colours in config.json, which transformers keeps and ignores.
COLOURS = "class_colours"


@dataclass(frozen=True)
class Description:
    """The network that a model folder describes; ``classes`` are by row of the decode head.

    ``architecture`` is a SegFormer's. ``fields`` are what else of ``config.json`` defines the
    network: a few numbers of a SegFormer, everything of other families. ``colours`` (``#rrggbb``)
    are the classes', where the file has our own key for them.
    """

    label: str
    file: Path
    architecture: Architecture | None
    classes: tuple[str, ...]
    dtype: str | None
    fields: Mapping[str, Any]
    normalisation: Normalisation
    colours: tuple[str, ...] | None = None
    family: Family = SEGFORMER

    @property
    def segformer(self) -> Architecture:
        """A SegFormer's architecture; other networks are refused."""
        if self.architecture is None:
            raise UserError(f"{self.label} is a {self.family.title}: this is for SegFormers only")
        return self.architecture

    def network(self) -> dict[str, Any]:
        """What decides what the network computes, apart from its classes; nested keys by dots."""
        shape = asdict(self.architecture) if self.architecture else {}
        return computing({**json_values(shape), **self.fields})

    def config(self) -> dict[str, Any]:
        """The fields of a ``config.json`` of this network; nothing else of the file."""
        shape = asdict(self.architecture) if self.architecture else {}
        depths = {"num_encoder_blocks": len(shape["depths"])} if shape else {}
        return {
            **json_values(shape),
            **self.fields,
            **depths,
            "id2label": dict(enumerate(self.classes)),
            "label2id": {name: number for number, name in enumerate(self.classes)},
            **({COLOURS: list(self.colours)} if self.colours else {}),
        }


def computing(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that predictions depend on; nested keys by dots."""
    # Three channels are the default of every encoder, and those of an RGB image.
    return {
        key: value
        for key, value in _flat(values).items()
        if not _TRAINING.search(key)
        and not (key.rpartition(".")[2] == "num_channels" and value == _RGB)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {}
        flat |= inner or {f"{prefix}{key}": value}
    return flat


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as JSON has them: lists instead of tuples."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
    }


def model_config(description: Description, dtype: str, with_head: bool = True) -> dict[str, Any]:
    """The content of a ``config.json``: the described network, or its encoder, and nothing else."""
    fixed = {"model_type": "segformer", "num_channels": 3, "reshape_last_stage": True}
    return {
        "architectures": [description.family.model_class if with_head else "SegformerModel"],
        "dtype": dtype,
        **(fixed if description.architecture else {}),
        **description.config(),
        "id2label": {str(number): name for number, name in enumerate(description.classes)},
    }


def has_head(names: Iterable[str]) -> bool:
    """Whether tensors, by on-disk name, are a whole SegFormer and not its encoder alone."""
    return any(name.startswith(HEAD_PREFIX) for name in names)


def tensor_shapes(architecture: Architecture, classes: int | None) -> dict[str, tuple[int, ...]]:
    """On-disk name -> shape of all tensors; without ``classes`` those of the encoder alone."""
    of, shapes = architecture, dict[str, tuple[int, ...]]()

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    before = _RGB
    for stage, width in enumerate(of.hidden_sizes):
        side, ratio = of.patch_sizes[stage], of.sr_ratios[stage]
        inner = width * of.mlp_ratios[stage]
        layer(f"{ENCODER}patch_embeddings.{stage}.proj", width, before, side, side)
        layer(f"{ENCODER}patch_embeddings.{stage}.layer_norm", width)
        layer(f"{ENCODER}layer_norm.{stage}", width)
        for number in range(of.depths[stage]):
            block = f"{ENCODER}block.{stage}.{number}"
            for part in ("self.query", "self.key", "self.value", "output.dense"):
                layer(f"{block}.attention.{part}", width, width)
            if ratio > 1:
                layer(f"{block}.attention.self.sr", width, width, ratio, ratio)
                layer(f"{block}.attention.self.layer_norm", width)
            layer(f"{block}.layer_norm_1", width)
            layer(f"{block}.layer_norm_2", width)
            layer(f"{block}.mlp.dense1", inner, width)
            layer(f"{block}.mlp.dwconv.dwconv", inner, 1, 3, 3)
            layer(f"{block}.mlp.dense2", width, inner)
        before = width
    if classes is not None:
        width = of.decoder_hidden_size
        for stage, before in enumerate(of.hidden_sizes):
            layer(f"{HEAD_PREFIX}linear_c.{stage}.proj", width, before)
        shapes[f"{HEAD_PREFIX}linear_fuse.weight"] = (width, width * len(of.hidden_sizes), 1, 1)
        layer(f"{HEAD_PREFIX}batch_norm", width)
        shapes[f"{HEAD_PREFIX}batch_norm.running_mean"] = shapes[VARIANCE] = (width,)
        shapes[COUNTER] = ()
        layer(CLASSIFIER, classes, width, 1, 1)
    return shapes


def tensor_problems(
    held: Mapping[str, TensorInfo],
    shapes: Mapping[str, tuple[int, ...]],
    shown: Callable[[str], str] = str,
) -> str:
    """What is wrong with tensors by on-disk name; ``shown`` gives the names of missing ones."""
    problems = []
    for name, info in held.items():
        label = shortened(ascii(info.name), _LONGEST)
        if name not in shapes:
            problems.append(f"{label} has no place in the network")
        elif info.shape != shapes[name]:
            problems.append(f"{label} is {list(info.shape)}, not {list(shapes[name])}")
        elif info.dtype not in (INTEGERS if is_counter(name) else FLOATS):
            problems.append(f"{label} is of dtype {info.dtype}")
    missing = [name for name in shapes if name not in held and not is_counter(name)]
    problems += [f"{shown(name)} is missing" for name in missing]
    more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return "; ".join(problems[:_LISTED]) + more


def fitting_tensors(
    description: Description, tensors: Mapping[str, TensorInfo], with_head: bool = True
) -> dict[str, TensorInfo]:
    """The described network's tensors by on-disk name; the first few that do not fit are named.

    Without ``with_head`` the encoder's: a decode head or ImageNet's classifier may be any. Which
    tensors a network of another family has, only transformers knows, when it loads it.
    """
    held = dict(tensors)
    if description.architecture is None:
        problems = tensor_problems(held, {name: info.shape for name, info in held.items()})
        if problems:
            raise UserError(f"{description.label}: {problems}")
        return held
    if not with_head:
        ignored = (HEAD_PREFIX, IMAGENET_CLASSIFIER)
        held = {name: info for name, info in held.items() if not name.startswith(ignored)}
    elif not has_head(held):
        raise UserError(f"{description.label} is an encoder: it has no decode head")
    classes = len(description.classes) if with_head else None
    shapes = tensor_shapes(description.architecture, classes)
    problems = tensor_problems(held, shapes)
    if problems:
        raise UserError(
            f"{description.label}: its tensors are not those of {description.file}: {problems}"
        )
    return {name: held[name] for name in shapes if name in held}
