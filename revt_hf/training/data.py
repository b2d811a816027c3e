"""Training samples as a function of their position: no worker or interruption changes them."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from revt_hf.config.recipe import Augmentation, Source
from revt_hf.core.errors import UserError
from revt_hf.core.resources import one_thread, worker_count
from revt_hf.data.augment import Pipeline, PipelineSpec, augment
from revt_hf.data.domains import load_spec
from revt_hf.data.domains.prepared import load_prepared
from revt_hf.data.normalisation import IMAGENET, Normalisation
from revt_hf.data.reading import fit_size
from revt_hf.evaluation.loading import sizes_of
from revt_hf.models.networks import InputLimits, batch_norms, logits_of

# Sets the draws between sources apart from all other draws of a seed.
_MIXTURE = 0x6D6978


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


class TrainingCrops(Dataset[dict[str, torch.Tensor]]):
    """Augmented crops by position in the run; every epoch of a source is in a new order."""

    def __init__(
        self,
        sources: Sequence[Any],
        weights: Sequence[float],
        pipeline: Pipeline,
        seed: int,
        positions: int,
    ) -> None:
        self._sources, self._pipeline, self._seed = sources, pipeline, seed
        self._drawn, self._count = _mixture(seed, weights, positions)

    def __len__(self) -> int:
        return len(self._drawn)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        source = int(self._drawn[position])
        images = self._sources[source]
        epoch, rank = divmod(int(self._count[position]), len(images))
        index = int(_order(self._seed, source, epoch, len(images))[rank])
        row = images[index]
        sample = augment(
            self._pipeline, row["image"], row["label"], derived_seed(self._seed, position, index)
        )
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
