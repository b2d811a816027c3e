"""What a ``preprocessor_config.json`` says about a model's input images. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.architecture import json_values
from revt_hf.checkpoints.fields import CODE_KEYS, Fields, is_number, is_whole, without
from revt_hf.checkpoints.tensors import PROCESSOR_FILE, adapter_base
from revt_hf.data.normalisation import IMAGENET, Channels, Normalisation

# The original's test protocol resizes a Cityscapes image, 2048x1024, to this size.
TEST_SIZE = {"height": 512, "width": 1024}
_KIND = "SegformerImageProcessor"
# Older files call it a feature extractor.
_TYPE, _OLD_TYPE = "image_processor_type", "feature_extractor_type"
# The same processor on other libraries.
_BACKENDS = ("Fast", "Pil")
# Image processors of other families that scale, resize and normalise in the same way, if they do.
_OTHER_KINDS = frozenset(
    f"{name}ImageProcessor"
    for name in (
        *("Beit", "Bit", "ConvNext", "DPT", "DINOv3ViT", "Eomt", "Mask2Former", "MobileNetV2"),
        *("MobileViT", "OneFormer", "ViT"),
    )
)
_FLIP, _MOBILEVIT = "do_flip_channel_order", "MobileViTImageProcessor"
_LARGEST_SIDE = 65_536
_BILINEAR = 2
_FILTERS = 5
_SIDES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


def read_normalisation(folder: Path) -> Normalisation:
    """How a model folder's images are normalised; ImageNet's constants without the file."""
    fields = _fields(folder)
    return IMAGENET if fields is None else _normalisation(fields)


def read_processor(folder: Path) -> dict[str, Any] | None:
    """The fields of a folder's image processor, with transformers' defaults; None without one."""
    fields = _fields(folder)
    if fields is None:
        return None
    normalisation, kind = _normalisation(fields), _kind(_given_kind(fields))
    if kind != _KIND:
        kept = without(fields.values, CODE_KEYS | {_OLD_TYPE})
        return {**kept, _TYPE: kind}
    # Older files call it reduce_labels.
    reduces = fields.flag("do_reduce_labels", fields.flag("reduce_labels", False))
    crops = ("do_center_crop", "crop_size")
    return {
        **processor(normalisation, _size(fields)),
        **{key: fields.values[key] for key in crops if fields.values.get(key) is not None},
        "do_resize": fields.flag("do_resize", True),
        "resample": fields.whole("resample", _BILINEAR, 0, _FILTERS),
        "do_reduce_labels": reduces,
    }


def processor(normalisation: Normalisation, size: Mapping[str, int] = TEST_SIZE) -> dict[str, Any]:
    """The content of a ``preprocessor_config.json``."""
    return {
        _TYPE: _KIND,
        "do_resize": True,
        "size": dict(size),
        "resample": _BILINEAR,
        **json_values(normalisation.fields()),
        "do_reduce_labels": False,
    }


def _fields(folder: Path) -> Fields | None:
    path = folder / PROCESSOR_FILE
    base = None if path.exists() else adapter_base(folder)
    if base is not None:
        path = base / PROCESSOR_FILE
    return Fields(path) if path.exists() or path.is_symlink() else None


def _normalisation(fields: Fields) -> Normalisation:
    kind = _kind(_given_kind(fields))
    if kind != _KIND and kind not in _OTHER_KINDS:
        key = _TYPE if fields.values.get(_TYPE) else _OLD_TYPE
        raise fields.wrong(key, f"known are {', '.join(sorted({_KIND, *_OTHER_KINDS}))}")
    fields.equal("do_grayscale", False)
    flips = kind == _MOBILEVIT
    if kind == _KIND:
        fields.equal(_FLIP, False)
    found = Normalisation(
        image_mean=_channels(fields, "image_mean", IMAGENET.image_mean, -1e9),
        image_std=_channels(fields, "image_std", IMAGENET.image_std, 1e-9),
        do_rescale=fields.flag("do_rescale", True),
        rescale_factor=fields.number("rescale_factor", IMAGENET.rescale_factor, 1e-9, 1e9),
        do_normalize=fields.flag("do_normalize", not flips),
        do_flip_channel_order=fields.flag(_FLIP, flips),
    )
    if found.do_normalize and found.do_flip_channel_order:
        raise fields.wrong(_FLIP, "with do_normalize it is not known here")
    if kind != _KIND and found.do_normalize:
        for constant in ("image_mean", "image_std"):
            # Their defaults differ from one image processor to the next.
            if fields.values.get(constant) is None:
                raise fields.wrong(constant, f"it has to be given for a {kind}")
    return found


def _given_kind(fields: Fields) -> Any:
    return fields.values.get(_TYPE) or fields.values.get(_OLD_TYPE) or _KIND


def _kind(kind: Any) -> str:
    """The name of an image processor without its library."""
    name = str(kind).replace("FeatureExtractor", "ImageProcessor")
    return next((name.removesuffix(end) for end in _BACKENDS if name.endswith(end)), name)


def _channels(fields: Fields, key: str, default: Channels, above: float) -> Channels:
    """Three numbers; one stands for all channels."""
    value = fields.values.get(key)
    if value is None:
        return default
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) not in (1, 3) or not all(is_number(n) and above < n < 1e9 for n in numbers):
        raise fields.wrong(key, f"it has to be three numbers, or one, above {above:g}")
    red, green, blue = map(float, numbers * (3 // len(numbers)))
    return red, green, blue


def _size(fields: Fields) -> dict[str, int]:
    size = fields.values.get("size")
    if size is None:
        return {"height": 512, "width": 512}
    sides = {"height": size, "width": size} if type(size) is int else size
    if (
        not isinstance(sides, dict)
        or set(sides) not in _SIDES
        or not all(is_whole(side, 1, _LARGEST_SIDE) for side in sides.values())
    ):
        raise fields.wrong("size", "it has to have height and width")
    return dict(sides)
