"""``preprocessor_config.json``: how a model's images are normalised and resized. No torch."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator

from revt_hf.config.sections import ExternalFile, validated
from revt_hf.core.outputs import read_json_object
from revt_hf.data.normalisation import IMAGENET, Normalisation

PROCESSOR_FILE = "preprocessor_config.json"
# The original's test protocol resizes a Cityscapes image, 2048x1024, to this size.
TEST_SIZE = {"height": 512, "width": 1024}
_KIND = "SegformerImageProcessor"
_BILINEAR = 2
_File = TypeVar("_File", bound=ExternalFile)
_SIDES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


def _three(value: Any) -> Any:
    """One number stands for all three channels."""
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(values) * 3 if len(values) == 1 else tuple(values)


_SegformerName = Annotated[str, Field(pattern=r"^Segformer")]
_Mean = Annotated[float, Field(gt=-1e9, lt=1e9)]
_Std = Annotated[float, Field(gt=1e-9, lt=1e9)]


class _Normalised(ExternalFile):
    """The fields that decide the network's input values."""

    image_processor_type: _SegformerName = _KIND
    feature_extractor_type: _SegformerName = _KIND
    do_flip_channel_order: Literal[False] = False
    do_grayscale: Literal[False] = False
    image_mean: Annotated[tuple[_Mean, _Mean, _Mean], BeforeValidator(_three)] = IMAGENET.image_mean
    image_std: Annotated[tuple[_Std, _Std, _Std], BeforeValidator(_three)] = IMAGENET.image_std
    do_rescale: bool = True
    rescale_factor: Annotated[float, Field(ge=1e-9, le=1e9)] = IMAGENET.rescale_factor
    do_normalize: bool = True

    @property
    def normalisation(self) -> Normalisation:
        return Normalisation(**{key: getattr(self, key) for key in asdict(IMAGENET)})


class _Processor(_Normalised):
    """Further fields, which training and publishing carry along; transformers' defaults."""

    do_resize: bool = True
    size: dict[str, Annotated[int, Field(ge=1, le=65_536)]] = Field(
        default_factory=lambda: {"height": 512, "width": 512}
    )
    resample: Annotated[int, Field(ge=0, le=5)] = _BILINEAR
    # Older files call it reduce_labels.
    reduce_labels: bool = False
    do_reduce_labels: bool | None = None

    @field_validator("size", mode="before")
    @classmethod
    def _sides(cls, value: Any) -> Any:
        if isinstance(value, int):
            return {"height": value, "width": value}
        if isinstance(value, dict) and set(value) not in _SIDES:
            raise ValueError(f"it needs height and width, not {value}")
        return value


def read_normalisation(folder: Path) -> Normalisation:
    """How a model folder's images are normalised; ImageNet's constants without the file.

    Size, resampling, cropping and padding are ignored: the test protocol or the recipe decides
    them. So is ``do_reduce_labels``: labels come as train ids.

    Raises:
        UserError: ``preprocessor_config.json`` cannot be read, or is not for RGB images.
    """
    found = _read(folder, _Normalised)
    return IMAGENET if found is None else found.normalisation


def read_processor(folder: Path) -> dict[str, Any] | None:
    """The fields of a folder's image processor, with transformers' defaults; None without one.

    Raises:
        UserError: the file cannot be read, or contains a value that no SegFormer's processor has.
    """
    found = _read(folder, _Processor)
    if found is None:
        return None
    reduces = found.reduce_labels if found.do_reduce_labels is None else found.do_reduce_labels
    return {
        **processor(found.normalisation, found.size),
        "do_resize": found.do_resize,
        "resample": found.resample,
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


def _read(folder: Path, kind: type[_File]) -> _File | None:
    path = folder / PROCESSOR_FILE
    if not path.exists() and not path.is_symlink():
        return None
    return validated(kind, read_json_object(path), str(path))
