"""Augmentation methods, the paper's six and registered ones, and the pipeline around them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeAlias

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.augment.distortions import BilateralFilter, PhotoMetricDistortion
from revt_hf.data.augment.geometry import (
    PAPER_CODE_TRIES,
    TRIES,
    BoundedResize,
    RandomCropMaxRatio,
)
from revt_hf.data.augment.mixing import GENERATED, mixing_images
from revt_hf.data.augment.pixmix import PixMix
from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.data.normalisation import MEAN as IMAGENET_MEAN
from revt_hf.data.normalisation import STD as IMAGENET_STD

FLIP_PROBABILITY = 0.5
# The group of entry points in which another package names its methods.
ENTRY_POINTS = "revt_hf.augmentations"

Step: TypeAlias = str | A.BasicTransform
Steps: TypeAlias = Callable[[], Sequence[Step]]


@dataclass(frozen=True)
class Method:
    """An augmentation method.

    Attributes:
        name: what recipes call it.
        steps: makes the steps between crop and normalisation, in order: names of built-in ones
            (``flip``, ``bilateral``, ``photometric``, ``pixmix``) and albumentations transforms.
        number: of the paper's methods, 1..6.
    """

    name: str
    steps: Steps
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.number} ({self.name})" if self.number else self.name

    def is_called(self, number_or_name: int | str) -> bool:
        """Whether that is its name or, as a number or text, its number."""
        return str(number_or_name) in (self.name, str(self.number or self.name))


METHODS: dict[str, Method] = {
    found.name: found
    for found in (
        Method("base", lambda: ["flip", "photometric"], 1),
        Method("no-photometric", lambda: ["flip"], 2),
        Method("no-photometric-no-flip", list, 3),
        Method("pixmix", lambda: ["flip", "pixmix"], 4),
        Method("bilateral", lambda: ["flip", "bilateral"], 5),
        Method("pixmix-bilateral", lambda: ["flip", "bilateral", "pixmix"], 6),
    )
}


def register_augmentation(name: str) -> Callable[[Steps], Steps]:
    """Let recipes name a method of your own in ``augmentation.method``.

    The decorated function takes nothing and returns the method's steps, see :class:`Method`; it is
    called for each pipeline. The recipe's ``flip_probability``, ``flip_first`` and ``photometric``
    apply to built-in steps as they do in the paper's methods.

    The command line finds it if your package names the function under the method's name in the
    entry points ``revt_hf.augmentations``.

    Raises:
        UserError: another method has that name.
    """

    def register(steps: Steps) -> Steps:
        for taken in METHODS.values():
            # The same function may be defined again, as in a notebook.
            if taken.is_called(name) and _origin(taken.steps) != _origin(steps):
                raise UserError(f"the augmentation method '{name}' exists already: rename yours")
        METHODS[name] = Method(name, steps)
        return steps

    return register


def _origin(steps: Steps) -> tuple[str, str]:
    return steps.__module__, steps.__qualname__


def method(number_or_name: int | str) -> Method:
    """A method by its number (``4``, ``"4"``) or name (``"pixmix"``).

    Raises:
        UserError: no such method, or the package that offers it cannot be imported.
    """
    if not any(candidate.is_called(number_or_name) for candidate in METHODS.values()):
        for entry in entry_points(group=ENTRY_POINTS, name=str(number_or_name)):
            try:
                entry.load()
            except Exception as error:
                raise UserError(
                    f"cannot load the augmentation method {entry.name} from {entry.value}: {error}"
                ) from error
    for candidate in METHODS.values():
        if candidate.is_called(number_or_name):
            return candidate
    known = ", ".join(map(str, METHODS.values()))
    raise UserError(f"unknown augmentation method '{number_or_name}': use one of {known}")


@dataclass(frozen=True)
class PipelineSpec:
    """Settings of a training pipeline; the defaults are the original's.

    Attributes:
        method: number or name, see ``METHODS``.
        max_size: (width, height) to resize images to; ``None`` keeps their size.
        crop: side of the crop or (height, width); ``None`` neither crops nor pads.
        cat_max_ratio: see :class:`RandomCropMaxRatio`.
        flip_probability: ``None`` is the method's default: 0.5, or 0 without a flip.
        photometric: ``None`` is the method's default. ``True`` adds the distortion (before
            PixMix, else last), ``False`` removes it; PixMix's own copies keep it.
        pixmix_k: largest number of mixing rounds.
        pixmix_beta: shape of the mixing weights.
        mixing: ``generated``, or a folder of mixing images.
        bilateral_diameter: smallest and largest; ``None`` is 1..14, or 0..14 if ``paper_code``.
        bilateral_probability: probability of filtering.
        paper_code: follow the paper's code where it differs from the papers, see
            :mod:`~revt_hf.data.augment.pixmix`, :class:`BilateralFilter`, ``PAPER_CODE_TRIES``.
        flip_first: flip before the bilateral filter, not after it.
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
    """A ``Compose`` whose steps draw from one random stream in turn.

    ``Compose`` gives each step a generator of its own with the same seed, so that, for instance,
    exactly the flipped images would be filtered.
    """

    def set_random_seed(self, seed: int | None) -> None:
        """Restart the stream that all steps draw from."""
        self.seed = seed
        self.set_random_state(np.random.default_rng(seed), random.Random(seed))


def _ordered_steps(spec: PipelineSpec) -> list[Step]:
    """The method's steps, with those that the recipe adds, removes or moves."""
    steps = list(method(spec.method).steps())
    if spec.photometric is False:
        steps = [step for step in steps if step != "photometric"]
    elif spec.photometric and "photometric" not in steps:
        steps.insert(steps.index("pixmix") if "pixmix" in steps else len(steps), "photometric")
    if spec.flip_probability == 0:
        steps = [step for step in steps if step != "flip"]
    elif spec.flip_probability is not None and "flip" not in steps:
        steps.insert(0, "flip")
    if not spec.flip_first and "flip" in steps and "bilateral" in steps:
        steps.remove("flip")
        steps.insert(steps.index("bilateral") + 1, "flip")
    return steps


def _transform(step: Step, spec: PipelineSpec) -> A.BasicTransform:
    match step:
        case A.BasicTransform():
            return step
        case "flip":
            p = FLIP_PROBABILITY if spec.flip_probability is None else spec.flip_probability
            return A.HorizontalFlip(p=p)
        case "photometric":
            return PhotoMetricDistortion()
        case "bilateral":
            return BilateralFilter(
                spec.bilateral_diameter, p=spec.bilateral_probability, paper_code=spec.paper_code
            )
        case "pixmix":
            mixing = mixing_images(spec.mixing)
            return PixMix(mixing, spec.pixmix_k, spec.pixmix_beta, spec.paper_code)
    raise UserError(
        f"augmentation method '{spec.method}': '{step}' is neither a built-in step (flip, "
        "bilateral, photometric, pixmix) nor an albumentations transform"
    )


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
    transforms += [_transform(step, spec) for step in _ordered_steps(spec)]
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
    """Augment one sample; only the seed decides how, not what was augmented before.

    Args:
        pipeline: from :func:`build_pipeline`.
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
