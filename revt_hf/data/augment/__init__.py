"""Augmentation methods, the paper's six and registered ones, as albumentations pipelines."""

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeAlias

# albumentations asks the network for a newer version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.config.recipe import Augmentation
from revt_hf.core.errors import UserError
from revt_hf.data.augment import transforms
from revt_hf.data.augment.mixing import mixing_images
from revt_hf.data.augment.pixmix import PixMix
from revt_hf.data.label_space import IGNORE_INDEX
from revt_hf.data.normalisation import MEAN, STD, Channels

Step: TypeAlias = str | A.BasicTransform
Steps: TypeAlias = Callable[[], Sequence[Step]]


@dataclass(frozen=True)
class Method:
    """An augmentation method; the paper's have a number, 1..6."""

    name: str
    steps: Steps
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.number} ({self.name})" if self.number else self.name


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

    The decorated function takes nothing and returns the steps between crop and normalisation: names
    of built-in ones (``flip``, ``bilateral``, ``photometric``, ``pixmix``) and albumentations
    transforms. It is called for each pipeline. The recipe's ``flip_probability``, ``flip_first``
    and ``photometric`` apply to built-in steps as they do in the paper's methods.

    The command line finds it if your package names the function under the method's name in the
    entry points ``revt_hf.augmentations``.

    Raises:
        UserError: another method has that name.
    """

    def register(steps: Steps) -> Steps:
        taken = _known().get(name)
        # The same function may be defined again, as in a notebook.
        if taken and _origin(taken.steps) != _origin(steps):
            raise UserError(f"the augmentation method '{name}' exists already: rename yours")
        METHODS[name] = Method(name, steps)
        return steps

    return register


def _known() -> dict[str, Method]:
    return {str(known.number): known for known in METHODS.values() if known.number} | METHODS


def _origin(steps: Steps) -> tuple[str, str]:
    return steps.__module__, steps.__qualname__


def method(number_or_name: int | str) -> Method:
    """A method by its number (``4``, ``"4"``) or name (``"pixmix"``), also of another package."""
    name = str(number_or_name)
    others = () if name in _known() else entry_points(group="revt_hf.augmentations", name=name)
    for entry in others:
        try:
            entry.load()
        except Exception as error:
            raise UserError(
                f"cannot load the augmentation method {entry.name} from {entry.value}: {error}"
            ) from error
    if name in _known():
        return _known()[name]
    known = ", ".join(map(str, METHODS.values()))
    raise UserError(f"unknown augmentation method '{number_or_name}': use one of {known}")


class PipelineSpec(Augmentation):
    """A recipe's augmentation, and the normalisation: mean and std (RGB), on 0..255."""

    mean: Channels = MEAN
    std: Channels = STD


class Pipeline(A.Compose):
    """A ``Compose`` whose steps draw from one random stream in turn.

    ``Compose`` gives each step a generator of its own with the same seed, so that, for instance,
    exactly the flipped images would be filtered.
    """

    def set_random_seed(self, seed: int | None) -> None:
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
            return A.HorizontalFlip(0.5 if spec.flip_probability is None else spec.flip_probability)
        case "photometric":
            return transforms.PhotoMetricDistortion()
        case "bilateral":
            probability = spec.bilateral_probability
            return transforms.BilateralFilter(spec.bilateral_diameter, probability, spec.paper_code)
        case "pixmix":
            source = mixing_images(spec.mixing)
            return PixMix(source, spec.pixmix_k, spec.pixmix_beta, spec.paper_code)
    raise UserError(
        f"augmentation method '{spec.method}': '{step}' is neither a built-in step (flip, "
        "bilateral, photometric, pixmix) nor an albumentations transform"
    )


def build_pipeline(spec: PipelineSpec) -> Pipeline:
    """The training pipeline: resize, crop, the method's steps, normalise, pad.

    It takes ``image`` (H, W, 3), uint8, RGB, and ``mask`` (H, W), uint8, train ids; it can be
    pickled. Short images are padded below and on the right: the image with 0 after
    normalisation, the label with 255.
    """
    before: list[A.BasicTransform] = []
    after = [A.Normalize(mean=spec.mean, std=spec.std, max_pixel_value=1.0)]
    if spec.max_size is not None:
        before.append(transforms.BoundedResize(spec.max_size))
    if spec.crop is not None:
        tries = transforms.PAPER_CODE_TRIES if spec.paper_code else transforms.TRIES
        crop = transforms.RandomCropMaxRatio(spec.crop, spec.cat_max_ratio, tries)
        pad = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": IGNORE_INDEX}
        before.append(crop)
        after.append(A.PadIfNeeded(*crop.size, position="top_left", **pad))
    steps = [_transform(step, spec) for step in _ordered_steps(spec)]
    # The resize brings a label of another size to its image's.
    return Pipeline([*before, *steps, *after], is_check_shapes=spec.max_size is None)


def augment(
    pipeline: A.Compose,
    image: NDArray[np.uint8],
    label: NDArray[np.uint8],
    seed: int,
    wanted: tuple[int, float] | None = None,
) -> dict[str, Any]:
    """Augment an image (H, W, 3), uint8, RGB, and its label (H, W); only the seed decides how.

    ``wanted`` is a class id and the pixels of it that a crop should hold: it is drawn again, ten
    times at most, until it does.
    """
    if pipeline.is_check_shapes and image.shape[:2] != label.shape:
        raise UserError(
            f"a label of {label.shape[1]}x{label.shape[0]} pixels for an image of "
            f"{image.shape[1]}x{image.shape[0]}: give a max size, or repair the data"
        )
    pipeline.set_random_seed(seed)
    crop = {} if wanted is None else {transforms.WANTED: wanted}
    return pipeline(image=image, mask=label, **crop)
