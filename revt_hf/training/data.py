"""Training samples as a function of their position: no worker or interruption changes them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from revt_hf.config.recipe import Augmentation, RareClasses, Recipe, Source
from revt_hf.core.errors import UserError, counted
from revt_hf.core.resources import one_thread, worker_count
from revt_hf.data.augment import Pipeline, PipelineSpec, augment
from revt_hf.data.class_counts import class_counts
from revt_hf.data.domains import domain_label, load_spec, space_of_images
from revt_hf.data.domains.prepared import load_prepared
from revt_hf.data.normalisation import IMAGENET, Normalisation
from revt_hf.data.reading import fit_size
from revt_hf.evaluation.loading import sizes_of
from revt_hf.models.networks import InputLimits, batch_norms, logits_of

# Sets the draws between sources apart from all other draws of a seed.
_MIXTURE = 0x6D6978
# And those of classes and their images.
_RARE = 0x72617265
_log = logging.getLogger("revt_hf")


def load_training(source: Source, augmentation: Augmentation) -> Any:
    if source.prepared is None:
        return load_spec(source, source.train)
    return load_prepared(source, augmentation.max_size)


def pipeline_spec(
    augmentation: Augmentation, normalisation: Normalisation = IMAGENET
) -> PipelineSpec:
    return PipelineSpec(**augmentation.model_dump(), mean=normalisation.mean, std=normalisation.std)


def check_crops(
    images: Sequence[Any], augmentation: Augmentation, batch_size: int, limits: InputLimits
) -> None:
    """Refuse crops that are too small for the network, and whole images that cannot be stacked."""
    crop, max_size, minimum = augmentation.crop, augmentation.max_size, limits.minimum
    sides = (crop, crop) if isinstance(crop, int) else crop
    fits = sides is not None and sides[0] == sides[1] == (limits.side or sides[0])
    if limits.squares and not fits:
        needed = f" of {limits.side} pixels" if limits.side else ""
        raise UserError(f"augmentation.crop is {crop}, and the network takes squares{needed} only")
    if crop is not None:
        smallest = crop if isinstance(crop, int) else min(crop)
        if smallest < minimum:
            raise UserError(
                f"augmentation.crop: the network needs at least {minimum} pixels on each side, "
                f"not {smallest}"
            )
        return
    first: tuple[str, tuple[int, int]] | None = None
    for file, size in (found for rows in images for found in sizes_of(rows)):
        size = size if max_size is None else fit_size(*size, max_size)
        if min(size) < minimum:
            raise UserError(
                f"{file}: {size[1]}x{size[0]} pixels reach the network, which needs at least "
                f"{minimum} on each side: remove the image, or set augmentation.crop"
            )
        first = first or (file, size)
        if batch_size > 1 and size != first[1]:
            raise UserError(
                f"augmentation.crop is null and images differ in size: {first[0]} "
                f"({first[1][1]}x{first[1][0]}), {file} ({size[1]}x{size[0]}): set a crop, or "
                "train.batch_size=1"
            )


@torch.inference_mode()
def check_single_images(model: PreTrainedModel, side: int) -> None:
    """Refuse one image at a time where BatchNorm would see a single value, pooled from it.

    It is looked for with a square of a ``side`` that the network takes.
    """
    pooled: list[str] = []

    def look(name: str, _: Any, given: tuple[torch.Tensor]) -> None:
        if given[0][0, 0].numel() == 1:
            pooled.append(name)

    norms = batch_norms(model).items()
    hooks = [layer.register_forward_pre_hook(partial(look, name)) for name, layer in norms]
    logits_of(model.eval(), torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    if pooled:
        raise UserError(
            f"train.batch_size is 1, and {pooled[0]} normalises one value for each image: set it "
            "to 2 or more, or model.batch_norm to frozen"
        )


@dataclass(frozen=True)
class ClassDraws:
    """Rare class sampling in one source: draws a class, and then an image that holds it."""

    classes: NDArray[np.int64]  # the ids that are drawn
    bounds: NDArray[np.float64]  # cumulative probabilities of these, the last is 1
    images: list[NDArray[np.int64]]  # indices of the images that hold each of these
    crop_pixels: float  # of the class, that a crop should hold

    def draw(self, seed: int, position: int) -> tuple[int, int]:
        """The class id and the image's index at a position of the run."""
        rng = np.random.default_rng([seed, _RARE, position])
        drawn = int(np.searchsorted(self.bounds, rng.random(), side="right"))
        images = self.images[drawn]
        return int(self.classes[drawn]), int(images[rng.integers(len(images))])

    def listed(self, names: Sequence[str]) -> str:
        """The classes, each with its probability and its images, the likeliest first."""
        shares = np.diff(self.bounds, prepend=0.0)
        return ", ".join(
            f"{names[int(self.classes[one])]} {100 * shares[one]:.1f} % "
            f"({counted(len(self.images[one]), 'image')})"
            for one in np.argsort(-shares, kind="stable").tolist()
        )


def class_draws(recipe: Recipe, images: Sequence[Any], quiet: bool) -> list[ClassDraws] | None:
    """The draws of ``train.rare_classes`` from each source's loaded images; None without it.

    Counts the pixels of all labels, which takes minutes for many images unless they are kept.
    """
    rare = recipe.train.rare_classes
    if rare is None:
        return None
    found = []
    for source, rows in zip(recipe.sources, images, strict=True):
        name = domain_label(source, source.train)
        counts = class_counts(rows, recipe.augmentation.max_size, name, quiet)
        space = space_of_images(rows)
        assert space is not None  # noqa: S101 - its classes were counted
        draws = _class_draws(counts, rare, space.classes, name)
        if not quiet:
            _log.info("%s: images are drawn by class: %s", name, draws.listed(space.classes))
        found.append(draws)
    return found


def _class_draws(
    counts: NDArray[np.int64], rare: RareClasses, names: Sequence[str], source: str
) -> ClassDraws:
    """Draws from the pixels (images, classes) of a source."""
    holds = counts >= rare.min_pixels
    drawn, labelled = holds.any(axis=0), counts.sum(axis=0)
    if not drawn.any():
        most = int(counts.max())
        raise UserError(
            f"train.rare_classes.min_pixels is {rare.min_pixels}, and no image of {source} has as "
            f"many pixels of one class at the size it is trained on (the most is {most} of "
            f"{names[int(counts.max(axis=0).argmax())]}): lower it"
        )
    left_out = [names[one] for one in np.flatnonzero(~drawn & (labelled > 0)).tolist()]
    if left_out:
        _log.warning(
            "%s: no image has train.rare_classes.min_pixels (%d) pixels of %s: no image is drawn "
            "for them",
            *(source, rare.min_pixels, ", ".join(left_out)),
        )
    commonness = labelled[drawn] / labelled.sum()
    # Shifted, so that the largest is exp(0): probabilities stay the same, and nothing overflows.
    odds = np.exp((commonness.min() - commonness) / rare.temperature)
    classes = np.flatnonzero(drawn)
    bounds = np.cumsum(odds)
    return ClassDraws(
        classes,
        bounds / bounds[-1],
        [np.flatnonzero(holds[:, one]) for one in classes],
        rare.min_crop_ratio * rare.min_pixels,
    )


class TrainingCrops(Dataset[dict[str, torch.Tensor]]):
    """Augmented crops by position in the run; every epoch of a source is in a new order.

    With ``rare_classes``, the draws of each source, an image is drawn by a class in it instead.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        weights: Sequence[float],
        pipeline: Pipeline,
        seed: int,
        positions: int,
        rare_classes: Sequence[ClassDraws] | None = None,
    ) -> None:
        self._sources, self._pipeline, self._seed = sources, pipeline, seed
        self._rare = rare_classes
        self._drawn, self._count = _mixture(seed, weights, positions)

    def __len__(self) -> int:
        return len(self._drawn)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        source = int(self._drawn[position])
        images = self._sources[source]
        wanted: tuple[int, float] | None = None
        if self._rare is None:
            epoch, rank = divmod(int(self._count[position]), len(images))
            index = int(_order(self._seed, source, epoch, len(images))[rank])
        else:
            drawn, index = self._rare[source].draw(self._seed, position)
            wanted = (drawn, self._rare[source].crop_pixels)
        row = images[index]
        seed = derived_seed(self._seed, position, index)
        sample = augment(self._pipeline, row["image"], row["label"], seed, wanted)
        pixels = np.ascontiguousarray(sample["image"].transpose(2, 0, 1))
        return {
            "pixel_values": torch.from_numpy(pixels),
            "labels": torch.from_numpy(sample["mask"].astype(np.int64)),
        }


def training_loader(
    crops: TrainingCrops, batch_size: int, workers: int, first_position: int
) -> DataLoader[dict[str, torch.Tensor]]:
    workers = worker_count(workers, len(crops))
    return DataLoader(
        crops,
        batch_size=batch_size,
        sampler=range(first_position, len(crops)),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=one_thread,
        pin_memory=torch.cuda.is_available(),
    )


def derived_seed(*parts: int) -> int:
    """A 32-bit seed that depends on all parts, statistically independent of its neighbours'."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _mixture(
    seed: int, weights: Sequence[float], positions: int
) -> tuple[NDArray[np.uint8], Sequence[int] | NDArray[np.int64]]:
    """The source of each position, and how often that source was drawn before."""
    if len(weights) == 1:
        # Neither takes memory.
        return np.broadcast_to(np.uint8(0), positions), range(positions)
    bounds = np.cumsum(weights) / np.sum(weights)
    draws = np.random.default_rng([seed, _MIXTURE]).random(positions)
    drawn = np.minimum(np.searchsorted(bounds, draws, side="right"), len(weights) - 1)
    count = np.zeros(positions, dtype=np.int64)
    for source in range(len(weights)):
        mine = drawn == source
        count[mine] = np.arange(np.count_nonzero(mine))
    return drawn.astype(np.uint8), count


@lru_cache(maxsize=8)
def _order(seed: int, source: int, epoch: int, length: int) -> NDArray[np.int64]:
    # The first source's orders are those of a run without others.
    parts = [seed, epoch, source] if source else [seed, epoch]
    return np.random.default_rng(parts).permutation(length)
