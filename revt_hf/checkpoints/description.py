"""What ``config.json`` and ``preprocessor_config.json`` describe: read without torch.

Only what a SegFormer of this package consists of is accepted: code that a file names (``auto_map``)
and unknown fields are neither used nor carried along. By hand: importing pydantic takes longer than
a small merge.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from revt_hf.checkpoints.architecture import (
    COLOURS,
    IGNORED,
    NUMBERS,
    Architecture,
    Description,
    json_values,
)
from revt_hf.checkpoints.headers import is_storable
from revt_hf.checkpoints.tensors import CONFIG_FILE, PROCESSOR_FILE, adapter_base
from revt_hf.core.errors import UserError, plain, shortened
from revt_hf.core.outputs import read_json_object
from revt_hf.data.normalisation import IMAGENET, Channels, Normalisation

# The original's test protocol resizes a Cityscapes image, 2048x1024, to this size.
TEST_SIZE = {"height": 512, "width": 1024}
# Limits far beyond every SegFormer, small enough that everything within them can be tried.
_MOST_STAGES, _MOST_CLASSES, _WIDEST = 9, 65_536, 65_536
_LARGEST = {"depths": 1000, "hidden_sizes": _WIDEST, "num_attention_heads": _WIDEST}
_LONGEST_NAME = 200
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_KIND = "SegformerImageProcessor"
_LARGEST_SIDE = 65_536
_BILINEAR = 2
_FILTERS = 5
_SIDES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})
_SHOWN = 60
T = TypeVar("T")


class _Fields:
    """The top-level keys of a JSON file; null is a missing key, as in transformers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json_object(path)

    def wrong(self, key: str, why: str) -> UserError:
        shown = shortened(ascii(self.values.get(key)), _SHOWN)
        return UserError(f"{self.path}: {key} is {shown}, and {why}")

    def get(self, key: str, default: T, valid: Callable[[Any], bool], why: str) -> T:
        """A value that is ``valid``, of the default's type; the default if it is missing."""
        value = self.values.get(key)
        if value is None:
            return default
        if not valid(value):
            raise self.wrong(key, why)
        return type(default)(value)  # type: ignore[call-arg]

    def equal(self, key: str, needed: Any) -> None:
        why = f"only {json.dumps(needed)} is known here"
        self.get(key, needed, lambda v: type(v) is type(needed) and v == needed, why)

    def flag(self, key: str, default: bool) -> bool:
        return self.get(key, default, lambda value: isinstance(value, bool), "it has to be a bool")

    def one_of(self, key: str, default: str, known: tuple[str, ...]) -> str:
        why = f"known are {', '.join(known)}"
        return self.get(key, default, lambda v: isinstance(v, str) and v in known, why)

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        why = f"it has to be a whole number from {least} to {most}"
        return self.get(key, default, lambda value: _is_whole(value, least, most), why)

    def number(self, key: str, default: float, least: float, most: float) -> float:
        why = f"it has to be a number from {least:g} to {most:g}"
        return self.get(key, default, lambda v: _is_number(v) and least <= v <= most, why)


def _is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is an integer within limits; in Python true is an int, too."""
    return type(value) is int and least <= value <= most


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def read_description(folder: Path, label: str | None = None) -> Description:
    """Read and check ``config.json`` and, if there is one, ``preprocessor_config.json``."""
    fields = _Fields(folder / CONFIG_FILE)
    if fields.values.get("model_type") != "segformer":
        raise fields.wrong("model_type", "only a 'segformer' is used here")
    fields.equal("num_channels", 3)
    # The decode head of transformers cannot read the last stage otherwise.
    fields.equal("reshape_last_stage", True)
    numbers = {key: fields.number(key, value, 0.0, 1.0) for key, value in NUMBERS.items()}
    return Description(
        label=label or str(folder),
        file=fields.path,
        architecture=_architecture(fields),
        classes=_classes(fields),
        dtype=_dtype(fields),
        numbers={**numbers, IGNORED: fields.whole(IGNORED, 255, -1000, 65_536)},
        normalisation=read_normalisation(folder),
        colours=_colours(fields),
    )


def _architecture(fields: _Fields) -> Architecture:
    default = Architecture()
    stages = fields.whole("num_encoder_blocks", 4, 1, _MOST_STAGES)
    found: dict[str, Any] = {}
    for key, value in asdict(default).items():
        if not isinstance(value, tuple):
            continue
        most = _LARGEST.get(key, 64)
        given = fields.values.get(key)
        given = list(value) if given is None else given
        if not isinstance(given, list) or not all(_is_whole(one, 1, most) for one in given):
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


def _classes(fields: _Fields) -> tuple[str, ...]:
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


def _colours(fields: _Fields) -> tuple[str, ...] | None:
    given, count = fields.values.get(COLOURS), len(_classes(fields))
    if given is None:
        return None
    if (
        not isinstance(given, list)
        or len(given) != count
        or not all(isinstance(one, str) and re.fullmatch("#[0-9a-fA-F]{6}", one) for one in given)
    ):
        raise fields.wrong(COLOURS, f"it has to be a list of {count} colours such as '#804080'")
    return tuple(given)


def _dtype(fields: _Fields) -> str | None:
    # Older files call it torch_dtype.
    keys = [key for key in ("dtype", "torch_dtype") if fields.values.get(key) is not None]
    known = (*_DTYPES, *(f"torch.{name}" for name in _DTYPES))
    found = {fields.one_of(key, "", known).removeprefix("torch.") for key in keys}
    if len(found) > 1:
        raise fields.wrong("dtype", "torch_dtype is another one")
    return found.pop() if found else None


def read_normalisation(folder: Path) -> Normalisation:
    """How a model folder's images are normalised; ImageNet's constants without the file."""
    fields = _fields(folder)
    return IMAGENET if fields is None else _normalisation(fields)


def read_processor(folder: Path) -> dict[str, Any] | None:
    """The fields of a folder's image processor, with transformers' defaults; None without one."""
    fields = _fields(folder)
    if fields is None:
        return None
    # Older files call it reduce_labels.
    reduces = fields.flag("do_reduce_labels", fields.flag("reduce_labels", False))
    return {
        **processor(_normalisation(fields), _size(fields)),
        "do_resize": fields.flag("do_resize", True),
        "resample": fields.whole("resample", _BILINEAR, 0, _FILTERS),
        "do_reduce_labels": reduces,
    }


def processor(normalisation: Normalisation, size: Mapping[str, int] = TEST_SIZE) -> dict[str, Any]:
    """The content of a ``preprocessor_config.json``."""
    return {
        "image_processor_type": _KIND,
        "do_resize": True,
        "size": dict(size),
        "resample": _BILINEAR,
        **json_values(normalisation),
        "do_reduce_labels": False,
    }


def _fields(folder: Path) -> _Fields | None:
    path = folder / PROCESSOR_FILE
    base = None if path.exists() else adapter_base(folder)
    if base is not None:
        path = base / PROCESSOR_FILE
    return _Fields(path) if path.exists() or path.is_symlink() else None


def _normalisation(fields: _Fields) -> Normalisation:
    for key in ("image_processor_type", "feature_extractor_type"):
        kind = fields.values.get(key, _KIND)
        if kind is not None and not (isinstance(kind, str) and kind.startswith("Segformer")):
            raise fields.wrong(key, "only SegFormer's image processor is known here")
    for key in ("do_flip_channel_order", "do_grayscale"):
        fields.equal(key, False)
    return Normalisation(
        image_mean=_channels(fields, "image_mean", IMAGENET.image_mean, -1e9),
        image_std=_channels(fields, "image_std", IMAGENET.image_std, 1e-9),
        do_rescale=fields.flag("do_rescale", True),
        rescale_factor=fields.number("rescale_factor", IMAGENET.rescale_factor, 1e-9, 1e9),
        do_normalize=fields.flag("do_normalize", True),
    )


def _channels(fields: _Fields, key: str, default: Channels, above: float) -> Channels:
    """Three numbers; one stands for all channels."""
    value = fields.values.get(key)
    if value is None:
        return default
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 3) or not all(_is_number(n) and above < n < 1e9 for n in numbers):
        raise fields.wrong(key, f"it has to be three numbers, or one, above {above:g}")
    red, green, blue = map(float, numbers * (3 // len(numbers)))
    return red, green, blue


def _size(fields: _Fields) -> dict[str, int]:
    size = fields.values.get("size")
    if size is None:
        return {"height": 512, "width": 512}
    sides = {"height": size, "width": size} if type(size) is int else size
    if (
        not isinstance(sides, dict)
        or set(sides) not in _SIDES
        or not all(_is_whole(side, 1, _LARGEST_SIDE) for side in sides.values())
    ):
        raise fields.wrong("size", "it has to have height and width")
    return dict(sides)


def is_train_id_order(names: Sequence[str]) -> bool:
    """Whether names of a head's rows are Cityscapes' 19 in the order of the train ids."""
    from revt_hf.data.label_space import CLASSES

    return [plain(name) for name in names] == [plain(name) for name in CLASSES]
