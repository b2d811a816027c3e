"""Images/s of loading alone: what a training cannot be faster than."""

import itertools
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.data.augment import Pipeline, build_pipeline
from revt_hf.training.data import TrainingCrops, load_training, training_loader
from revt_hf.training.result import pipeline_spec

ROUNDS = 3
# Timed batches, at least; of each worker, so that all have their share of it.
_BATCHES, _BATCHES_A_WORKER = 8, 4


@dataclass
class LoaderRow:
    """One way of loading a recipe's training crops.

    Attributes:
        prepared: from the folders that the recipe names as ``prepared``, else from the sources.
        workers: processes that decode and augment; 0: the training's own.
        images_per_second: crops of the median round.
        ratio: by the first row's.
        batches: how many were timed in each round.
        failure: why it does not run.
    """

    prepared: bool
    workers: int
    images_per_second: float | None = None
    ratio: float | None = None
    batches: int = 0
    failure: str | None = None

    @property
    def name(self) -> str:
        """It in words."""
        return "prepared images" if self.prepared else "the source's files"

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return asdict(self)


def measure_loaders(recipe: Recipe, workers: int, progress: Any) -> list[LoaderRow]:
    """A row for each way of loading: in the training's own process and in others, and with the
    recipe's prepared folders, if it names any, and without. They take turns, round by round.

    Args:
        recipe: its sources, augmentation and batch.
        workers: how many other processes; 0 for none.
        progress: a tqdm bar that is updated by 1 with every round of each.

    Raises:
        UserError: images cannot be read; only those of the source while there are prepared ones
            are a failure of their rows.
    """
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation))
    has_prepared = any(source.prepared for source in recipe.sources)
    rows, loaded = [], {}
    for prepared in (False, True) if has_prepared else (False,):
        failure = None
        try:
            loaded[prepared] = _images(recipe, prepared)
        except UserError as error:
            if not has_prepared or prepared:
                raise
            failure = str(error)
        rows += [
            LoaderRow(prepared, count, failure=failure) for count in dict.fromkeys((0, workers))
        ]
    running = [row for row in rows if row.failure is None]
    rates: list[list[float]] = [[] for _ in running]
    for _ in range(ROUNDS):
        for row, found in zip(running, rates, strict=True):
            progress.set_postfix_str(f"{row.name}, {row.workers} workers")
            row.batches = max(_BATCHES, _BATCHES_A_WORKER * row.workers)
            found.append(_round(recipe, loaded[row.prepared], pipeline, row))
            progress.update()
    for row, found in zip(running, rates, strict=True):
        row.images_per_second = statistics.median(found)
    first = rows[0].images_per_second
    for row in running:
        row.ratio = row.images_per_second / first if row.images_per_second and first else None
    return rows


def rounds_of(recipe: Recipe, workers: int) -> int:
    """How many rounds :func:`measure_loaders` does, failures aside."""
    ways = 2 if any(source.prepared for source in recipe.sources) else 1
    return ROUNDS * ways * len({0, workers})


def _images(recipe: Recipe, prepared: bool) -> list[Any]:
    sources = [
        source if prepared else source.model_copy(update={"prepared": None})
        for source in recipe.sources
    ]
    return [load_training(source, recipe.augmentation) for source in sources]


def _round(recipe: Recipe, images: list[Any], pipeline: Pipeline, row: LoaderRow) -> float:
    """Images/s of a loader that is made for it, once its workers have started."""
    batch = recipe.train.batch_size
    # Workers begin with two batches each, which come before the time.
    before = max(1, 2 * row.workers)
    crops = TrainingCrops(
        images,
        [source.weight for source in recipe.sources],
        pipeline,
        recipe.train.seed,
        (before + row.batches) * batch,
    )
    batches = iter(training_loader(crops, batch, row.workers, 0))
    for _ in itertools.islice(batches, before):
        pass
    since = time.perf_counter()
    count = sum(1 for _ in batches)
    seconds = time.perf_counter() - since
    return count * batch / seconds
