"""Training samples as a function of their position in the run.

Position ``n`` of a run decides picture, crop and every other draw, so neither the number of
workers or processes nor an interruption changes what the network sees.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from revt_hf.augment import Pipeline, augment


class TrainingCrops(Dataset[dict[str, torch.Tensor]]):
    """Augmented crops of ``pictures``, indexed by position in the run.

    Every epoch goes through all pictures in another order. Items: ``pixel_values``
    (3, H, W) float32, normalised; ``labels`` (H, W) int64, 0..18 and 255.
    """

    def __init__(self, pictures: Any, pipeline: Pipeline, seed: int, positions: int) -> None:
        self._pictures = pictures
        self._pipeline = pipeline
        self._seed = seed
        self._positions = positions

    def __len__(self) -> int:
        return self._positions

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        epoch, place = divmod(position, len(self._pictures))
        index = int(_order(self._seed, epoch, len(self._pictures))[place])
        row = self._pictures[index]
        sample = augment(
            self._pipeline, row["image"], row["label"], derived_seed(self._seed, position, index)
        )
        pixels = np.ascontiguousarray(sample["image"].transpose(2, 0, 1))
        return {
            "pixel_values": torch.from_numpy(pixels),
            "labels": torch.from_numpy(sample["mask"].astype(np.int64)),
        }


class _FromPosition(Sampler[int]):
    """All positions from the first one on."""

    def __init__(self, first: int, end: int) -> None:
        self._range = range(first, end)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)


def training_loader(
    crops: TrainingCrops, batch_size: int, workers: int, first_position: int
) -> DataLoader[dict[str, torch.Tensor]]:
    """Batches from ``first_position`` to the end of the run, in order."""
    return DataLoader(
        crops,
        batch_size=batch_size,
        sampler=_FromPosition(first_position, len(crops)),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def derived_seed(*parts: int) -> int:
    """A 32-bit seed that depends on all parts, statistically independent of its neighbours'."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)
