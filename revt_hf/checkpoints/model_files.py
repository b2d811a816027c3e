"""What is written beside weights: ``config.json`` and ``preprocessor_config.json``. No torch.

Only what is known of the network and its images is carried from a folder to the next: code that
a file names (``auto_map``) is not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from revt_hf.checkpoints.description import PROCESSOR_FILE, Description, read_normalisation
from revt_hf.checkpoints.headers import FLOATS
from revt_hf.checkpoints.json_fields import JsonFields
from revt_hf.data.normalisation import Normalisation

# The original's test protocol brings a Cityscapes image, 2048x1024, to this size.
TEST_SIZE = {"height": 512, "width": 1024}
_KIND = "SegformerImageProcessor"
_LARGEST = 65_536
_BILINEAR = 2
_FILTERS = 5
_SIDES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


def read_processor(folder: Path) -> dict[str, Any] | None:
    """The fields of a folder's image processor, with transformers' defaults; None without one.

    Raises:
        UserError: the file cannot be read, or holds a value that no SegFormer's processor has.
    """
    path = folder / PROCESSOR_FILE
    if not path.exists() and not path.is_symlink():
        return None
    normalisation = read_normalisation(folder)
    fields = JsonFields(path)
    # Older files call it reduce_labels.
    reduces = fields.flag("do_reduce_labels", fields.flag("reduce_labels", False))
    return {
        **processor(normalisation),
        "do_resize": fields.flag("do_resize", True),
        "size": _size(fields),
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
        **{
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(normalisation).items()
        },
        "do_reduce_labels": False,
    }


def _size(fields: JsonFields) -> dict[str, int]:
    size = fields.values.get("size")
    if size is None:
        return {"height": 512, "width": 512}
    if type(size) is int:
        size = {"height": size, "width": size}
    if (
        not isinstance(size, dict)
        or set(size) not in _SIDES
        or not all(type(side) is int and 1 <= side <= _LARGEST for side in size.values())
    ):
        raise fields.wrong("size", "it has to have height and width")
    return dict(size)


def common_dtype(dtypes: Iterable[str]) -> str:
    """The dtype that ``config.json`` names: it holds every tensor as it is.

    Args:
        dtypes: of a model's tensors, safetensors' names; those of whole numbers do not count.
    """
    found = {FLOATS[dtype] for dtype in dtypes if dtype in FLOATS}
    if len(found) == 1:
        return found.pop()
    return "float64" if "float64" in found else "float32"


def model_config(description: Description, dtype: str) -> dict[str, Any]:
    """The content of a ``config.json``: what is known of the network, and nothing else.

    Args:
        description: of a whole SegFormer.
        dtype: of its tensors: ``float32``, ...
    """
    config = description.config()
    return {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "dtype": dtype,
        "num_channels": 3,
        "reshape_last_stage": True,
        **config,
        "id2label": {str(number): name for number, name in config["id2label"].items()},
    }
