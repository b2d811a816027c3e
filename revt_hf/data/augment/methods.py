"""The paper's six augmentation methods, and the training pipeline around them."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.augment.bilateral import BilateralFilter
from revt_hf.data.augment.geometry import (
    PAPER_CODE_TRIES,
    TRIES,
    BoundedResize,
    RandomCropMaxRatio,
)
from revt_hf.data.augment.mixing import GENERATED, mixing_images
from revt_hf.data.augment.photometric import PhotoMetricDistortion
from revt_hf.data.augment.pixmix import PixMix
from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.data.normalisation import MEAN as IMAGENET_MEAN
from revt_hf.data.normalisation import STD as IMAGENET_STD

FLIP_PROBABILITY = 0.5


@dataclass(frozen=True)
class Method:
    """One way of augmenting; ``steps`` between the crop and the normalisation."""

    number: int
    name: str
    steps: tuple[str, ...]


METHODS: tuple[Method, ...] = (
    Method(1, "base", ("flip", "photometric")),
    Method(2, "no-photometric", ("flip",)),
    Method(3, "no-photometric-no-flip", ()),
    Method(4, "pixmix", ("flip", "pixmix")),
    Method(5, "bilateral", ("flip", "bilateral")),
    Method(6, "pixmix-bilateral", ("flip", "bilateral", "pixmix")),
)


def method(number_or_name: int | str) -> Method:
    """A method by its number (``4``, ``"4"``) or name (``"pixmix"``).

    Raises:
        UserError: no such method.
    """
    for candidate in METHODS:
        if str(number_or_name) in (str(candidate.number), candidate.name):
            return candidate
    known = ", ".join(f"{m.number} ({m.name})" for m in METHODS)
    raise UserError(f"unknown augmentation method '{number_or_name}': use one of {known}")


@dataclass(frozen=True)
class PipelineSpec:
    """Everything a training pipeline is built from; the defaults are the original's.

    Attributes:
        method: number or name, see ``METHODS``.
        max_size: (width, height) that images are resized into; ``None`` keeps their size.
        crop: side of the crop or (height, width); ``None`` neither crops nor pads.
        cat_max_ratio: see ``RandomCropMaxRatio``.
        flip_probability: ``None`` is the method's default: 0.5, or 0 for method 3.
        photometric: ``None`` is the method's default. ``True`` adds the distortion (after the
            bilateral filter, before PixMix), ``False`` removes it; PixMix's own copies keep it.
        pixmix_k: largest number of mixing rounds.
        pixmix_beta: shape of the mixing weights.
        mixing: ``generated``, or a folder of mixing images.
        bilateral_diameter: smallest and largest; ``None`` is 1..14, or 0..14 if ``paper_code``.
        bilateral_probability: of filtering.
        paper_code: reproduce the published runs where they differ from the papers, see
            ``pixmix``, ``bilateral`` and ``PAPER_CODE_TRIES``.
        flip_first: whether the flip comes before the bilateral filter.
        mean: per channel (RGB), on 0..255.
        std: per channel (RGB), on 0..255.
    """

    method: int | str = 1
    max_size: tuple[int, int] | None = (1280, 720)
    crop: int | tuple[int, int] | None = 512
    cat_max_ratio: float = 0.75
    flip_probability: float | None = None
    photometric: bool | None = None
    pixmix_k: int = 4
    pixmix_beta: float = 3.0
    mixing: str | Path = GENERATED
    bilateral_diameter: tuple[int, int] | None = None
    bilateral_probability: float = 0.5
    paper_code: bool = False
    flip_first: bool = True
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class Pipeline(A.Compose):
    """A ``Compose`` whose seed does not tie its steps together.

    ``Compose`` gives each step a generator of its own with the same seed, so that, for instance,
    exactly the flipped images would be filtered. Here the steps draw from one stream in turn.
    """

    def set_random_seed(self, seed: int | None) -> None:
        """Restart the stream that all steps draw from."""
        self.seed = seed
        self.set_random_state(np.random.default_rng(seed), random.Random(seed))


def _steps(spec: PipelineSpec) -> list[str]:
    """The steps between crop and normalisation, in the order in which they are applied."""
    wanted = set(method(spec.method).steps)
    if spec.photometric is not None:
        wanted = wanted | {"photometric"} if spec.photometric else wanted - {"photometric"}
    if spec.flip_probability is not None:
        wanted = wanted | {"flip"} if spec.flip_probability > 0 else wanted - {"flip"}
    start = ["flip", "bilateral"] if spec.flip_first else ["bilateral", "flip"]
    return [step for step in [*start, "photometric", "pixmix"] if step in wanted]


def _transform(step: str, spec: PipelineSpec) -> A.BasicTransform:
    match step:
        case "flip":
            p = FLIP_PROBABILITY if spec.flip_probability is None else spec.flip_probability
            return A.HorizontalFlip(p=p)
        case "photometric":
            return PhotoMetricDistortion()
        case "bilateral":
            return BilateralFilter(
                spec.bilateral_diameter, p=spec.bilateral_probability, paper_code=spec.paper_code
            )
        case _:
            mixing = mixing_images(spec.mixing)
            return PixMix(mixing, spec.pixmix_k, spec.pixmix_beta, spec.paper_code)


def build_pipeline(spec: PipelineSpec) -> Pipeline:
    """The training pipeline: resize, crop, the method's steps, normalise, pad.

    It takes ``image`` (H, W, 3), uint8, RGB, and ``mask`` (H, W), uint8, train ids; it can be
    pickled. Short images are padded below and on the right: the image with 0 after
    normalisation, the label with 255.

    Raises:
        UserError: an unknown method, a folder without mixing images, or a value out of range.
    """
    transforms: list[A.BasicTransform] = []
    if spec.max_size is not None:
        transforms.append(BoundedResize(spec.max_size))
    if spec.crop is not None:
        tries = PAPER_CODE_TRIES if spec.paper_code else TRIES
        transforms.append(RandomCropMaxRatio(spec.crop, spec.cat_max_ratio, tries))
    transforms += [_transform(step, spec) for step in _steps(spec)]
    transforms.append(A.Normalize(mean=spec.mean, std=spec.std, max_pixel_value=1.0))
    if spec.crop is not None:
        height, width = (spec.crop, spec.crop) if isinstance(spec.crop, int) else spec.crop
        transforms.append(
            A.PadIfNeeded(
                min_height=height,
                min_width=width,
                position="top_left",
                border_mode=cv2.BORDER_CONSTANT,
                fill=0,
                fill_mask=IGNORE_INDEX,
            )
        )
    # The resize brings a label of another size to its image's.
    return Pipeline(transforms, is_check_shapes=spec.max_size is None)


def augment(
    pipeline: A.Compose, image: NDArray[np.uint8], label: NDArray[np.uint8], seed: int
) -> dict[str, Any]:
    """Augment one sample; the seed alone decides, whatever was augmented before.

    Args:
        pipeline: from ``build_pipeline``.
        image: (H, W, 3), uint8, RGB.
        label: (H, W), uint8, train ids and 255.
        seed: of this sample in this epoch.

    Returns:
        ``image``: (H', W', 3), float32, normalised; ``mask``: (H', W'), uint8.

    Raises:
        UserError: label and image differ in size, and the pipeline has no resize.
    """
    if pipeline.is_check_shapes and image.shape[:2] != label.shape:
        raise UserError(
            f"a label of {label.shape[1]}x{label.shape[0]} pixels for an image of "
            f"{image.shape[1]}x{image.shape[0]}: give a max size, or repair the data"
        )
    pipeline.set_random_seed(seed)
    return pipeline(image=image, mask=label)
