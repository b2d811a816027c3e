"""``preprocessor_config.json``: how a model's images are normalised and resized. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.json_fields import JsonFields, is_number, is_whole, json_values
from revt_hf.data.normalisation import IMAGENET, Channels, Normalisation

PROCESSOR_FILE = "preprocessor_config.json"
# The original's test protocol resizes a Cityscapes image, 2048x1024, to this size.
TEST_SIZE = {"height": 512, "width": 1024}
_KIND = "SegformerImageProcessor"
_LARGEST = 65_536
_BILINEAR = 2
_FILTERS = 5
_SIDES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


def read_normalisation(folder: Path) -> Normalisation:
    """How a model folder's images are normalised; ImageNet's constants without the file.

    Everything else is ignored: the test protocol or the recipe decides it.
    """
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


def _fields(folder: Path) -> JsonFields | None:
    path = folder / PROCESSOR_FILE
    return JsonFields(path) if path.exists() or path.is_symlink() else None


def _normalisation(fields: JsonFields) -> Normalisation:
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


def _channels(fields: JsonFields, key: str, default: Channels, above: float) -> Channels:
    """Three numbers; one stands for all channels."""
    value = fields.values.get(key)
    if value is None:
        return default
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 3) or not all(is_number(n) and above < n < 1e9 for n in numbers):
        raise fields.wrong(key, f"it has to be three numbers, or one, above {above:g}")
    red, green, blue = map(float, numbers * (3 // len(numbers)))
    return red, green, blue


def _size(fields: JsonFields) -> dict[str, int]:
    size = fields.values.get("size")
    if size is None:
        return {"height": 512, "width": 512}
    sides = {"height": size, "width": size} if type(size) is int else size
    if (
        not isinstance(sides, dict)
        or set(sides) not in _SIDES
        or not all(is_whole(side, 1, _LARGEST) for side in sides.values())
    ):
        raise fields.wrong("size", "it has to have height and width")
    return dict(sides)
