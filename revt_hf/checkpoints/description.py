"""``config.json``: read and written without torch, and only what a SegFormer consists of.

Code that a file names (``auto_map``) and unknown fields are neither used nor carried along.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.architecture import (
    Architecture,
    has_head,
    infer_architecture,
    tensor_problems,
    tensor_shapes,
)
from revt_hf.checkpoints.headers import TensorInfo, is_storable
from revt_hf.checkpoints.image_processor import read_normalisation
from revt_hf.checkpoints.json_fields import JsonFields, is_whole, json_values
from revt_hf.checkpoints.names import HEAD_PREFIX, IMAGENET_CLASSIFIER
from revt_hf.checkpoints.tensors import CONFIG_FILE
from revt_hf.core.errors import UserError
from revt_hf.data.normalisation import IMAGENET, Normalisation

_NUMBERED = re.compile(r"label\d+")
# Limits far beyond every SegFormer, small enough that everything within them can be tried.
_MOST_STAGES, _MOST_CLASSES, _WIDEST = 9, 65_536, 65_536
_LARGEST = {"depths": 1000, "hidden_sizes": _WIDEST, "num_attention_heads": _WIDEST}
_LONGEST_NAME = 200
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
_DTYPES = ("float16", "bfloat16", "float32", "float64")
# Defaults of transformers.
_NUMBERS = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.1,
    "drop_path_rate": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-6,
}
_IGNORED = "semantic_loss_ignore_index"


@dataclass(frozen=True)
class Description:
    """The network that a model folder describes.

    ``classes`` are names by row of the decode head, ``numbers`` the config's other numbers (dropout
    and the like) by key. ``dtype`` is None where the file has none.
    """

    label: str
    file: Path
    architecture: Architecture
    classes: tuple[str, ...]
    dtype: str | None
    numbers: Mapping[str, float]
    normalisation: Normalisation

    def config(self) -> dict[str, Any]:
        """Arguments of a ``SegformerConfig`` of this network; nothing else of the file."""
        return {
            **json_values(self.architecture),
            **self.numbers,
            "num_encoder_blocks": len(self.architecture.depths),
            "id2label": dict(enumerate(self.classes)),
            "label2id": {name: number for number, name in enumerate(self.classes)},
        }


def read_description(folder: Path, label: str | None = None) -> Description:
    """Read and check ``config.json`` and, if there is one, ``preprocessor_config.json``.

    Only values that a SegFormer of this package has are accepted.
    """
    fields = JsonFields(folder / CONFIG_FILE)
    if fields.values.get("model_type") != "segformer":
        raise fields.wrong("model_type", "only a 'segformer' is used here")
    fields.equal("num_channels", 3)
    # The decode head of transformers cannot read the last stage otherwise.
    fields.equal("reshape_last_stage", True)
    numbers = {key: fields.number(key, value, 0.0, 1.0) for key, value in _NUMBERS.items()}
    return Description(
        label=label or str(folder),
        file=fields.path,
        architecture=_architecture(fields),
        classes=_classes(fields),
        dtype=_dtype(fields),
        numbers={**numbers, _IGNORED: fields.whole(_IGNORED, 255, -1000, 65_536)},
        normalisation=read_normalisation(folder),
    )


def _architecture(fields: JsonFields) -> Architecture:
    default = Architecture()
    stages = fields.whole("num_encoder_blocks", 4, 1, _MOST_STAGES)
    found: dict[str, Any] = {}
    for key, value in asdict(default).items():
        if not isinstance(value, tuple):
            continue
        most = _LARGEST.get(key, 64)
        given = fields.values.get(key)
        given = list(value) if given is None else given
        if not isinstance(given, list) or not all(is_whole(one, 1, most) for one in given):
            raise fields.wrong(key, f"it has to be a list of whole numbers from 1 to {most}")
        found[key] = tuple(given)
        if len(given) != stages:
            raise fields.wrong(key, f"it has to have one number for each of the {stages} stages")
    for width, heads in zip(found["hidden_sizes"], found["num_attention_heads"], strict=True):
        if width % heads:
            raise fields.wrong("hidden_sizes", f"{width} is not a multiple of {heads} heads")
    return Architecture(
        decoder_hidden_size=fields.whole("decoder_hidden_size", 256, 1, _WIDEST),
        hidden_act=fields.one_of("hidden_act", default.hidden_act, _ACTIVATIONS),
        **found,
    )


def _classes(fields: JsonFields) -> tuple[str, ...]:
    # Two classes are transformers' default.
    count = fields.whole("num_labels", 2, 1, _MOST_CLASSES)
    names = fields.values.get("id2label")
    if names is None:
        return tuple(f"LABEL_{number}" for number in range(count))
    if not isinstance(names, dict) or not 1 <= len(names) <= _MOST_CLASSES:
        raise fields.wrong("id2label", "it needs an object of number to class name")
    numbers = [str(number) for number in range(len(names))]
    if set(names) != set(numbers):
        raise fields.wrong("id2label", f"its keys have to be the numbers 0 to {len(names) - 1}")
    if not all(
        isinstance(name, str) and name.strip() and len(name) <= _LONGEST_NAME and is_storable(name)
        for name in names.values()
    ):
        raise fields.wrong("id2label", f"names have 1 to {_LONGEST_NAME} characters")
    if fields.values.get("num_labels") not in (None, len(names)):
        raise fields.wrong("num_labels", f"id2label has {len(names)} classes")
    return tuple(names[number] for number in numbers)


def _dtype(fields: JsonFields) -> str | None:
    # Older files call it torch_dtype.
    keys = [key for key in ("dtype", "torch_dtype") if fields.values.get(key) is not None]
    known = (*_DTYPES, *(f"torch.{name}" for name in _DTYPES))
    found = {fields.one_of(key, "", known).removeprefix("torch.") for key in keys}
    if len(found) > 1:
        raise fields.wrong("dtype", "torch_dtype is another one")
    return found.pop() if found else None


def infer_description(
    label: str, shapes: Mapping[str, tuple[int, ...]], classes: Sequence[str] | None = None
) -> Description:
    """Describe one of the original's networks by its tensors' shapes (by on-disk name).

    ``classes`` are used if there is one for each row of the head. By default 19 classes are
    Cityscapes', and others are numbered.
    """
    from revt_hf.data.labels import CLASSES

    architecture, count = infer_architecture(label, shapes)
    if classes is None and count == len(CLASSES):
        classes = CLASSES
    if classes is None or len(classes) != count:
        classes = [f"LABEL_{number}" for number in range(count or 2)]
    numbers = {**_NUMBERS, _IGNORED: 255}
    return Description(label, Path(label), architecture, tuple(classes), None, numbers, IMAGENET)


def model_config(description: Description, dtype: str, with_head: bool = True) -> dict[str, Any]:
    """The content of a ``config.json``: the described network, or its encoder, and nothing else."""
    config = description.config()
    return {
        "architectures": ["SegformerForSemanticSegmentation" if with_head else "SegformerModel"],
        "model_type": "segformer",
        "dtype": dtype,
        "num_channels": 3,
        "reshape_last_stage": True,
        **config,
        "id2label": {str(number): name for number, name in config["id2label"].items()},
    }


def fitting_tensors(
    description: Description, tensors: Mapping[str, TensorInfo], with_head: bool = True
) -> dict[str, TensorInfo]:
    """The described network's tensors by on-disk name; the first few that do not fit are named.

    Without ``with_head`` the encoder's: a decode head or ImageNet's classifier may be any.
    """
    held = dict(tensors)
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


def rows_by_train_id(description: Description) -> tuple[int, ...]:
    """The row of the decode head's classifier for each train id, found by class name."""
    # Here, since the tables of classes take longer to import than most merges' comparisons.
    from revt_hf.data.labels import CLASSES

    found = [plain(name) for name in description.classes]
    wanted = [plain(name) for name in CLASSES]
    where = f"{description.label}: its {CONFIG_FILE}"
    if len(found) != len(wanted):
        raise UserError(f"{where} names {len(found)} classes, the domains have {len(wanted)}")
    if all(_NUMBERED.fullmatch(name) for name in found):
        raise UserError(
            f"{where} does not name its classes ({description.classes[0]}, ...): write the "
            "names of its rows into id2label"
        )
    unknown = [name for name in description.classes if plain(name) not in wanted]
    missing = [name for name in CLASSES if plain(name) not in found]
    if unknown or missing:
        also = f" {unknown[0]!a}, which the domains do not have, and" if unknown else ""
        raise UserError(f"{where} names{also} no {missing[0]!a}: other classes than the domains'")
    return tuple(found.index(name) for name in wanted)


def plain(name: str) -> str:
    """A class name for comparison: without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", "", name).casefold()


def is_train_id_order(names: Sequence[str]) -> bool:
    """Whether names of a head's rows are Cityscapes' 19 in the order of the train ids."""
    from revt_hf.data.labels import CLASSES

    return [plain(name) for name in names] == [plain(name) for name in CLASSES]
