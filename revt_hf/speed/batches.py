"""The batch at which a network sees most images a second: 1, 2, 4, 8, ... until it ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

# A batch is only faster if it is so by more than what repeated runs differ by.
RISE = 1.02
LARGEST = 1024
SLOWER, LIMIT = "not faster", "largest batch"


@dataclass
class BestBatch:
    """What a search came to.

    Attributes:
        batch: the best; 0 if there is none.
        images_per_second: at that batch.
        ended_by: why no larger one was tried: ``not faster``, ``largest batch``, or what the
            measurement said.
        tried: images/s of each batch that was measured.
    """

    batch: int = 0
    images_per_second: float = 0.0
    ended_by: str = LIMIT
    tried: dict[int, float] = field(default_factory=dict)


# Images/s by name at a batch, or why there are none, such as no memory.
Measure = Callable[[int, Sequence[str]], Mapping[str, float | str]]


def best_batches(
    names: Sequence[str], measure: Measure, largest: int = LARGEST
) -> dict[str, BestBatch]:
    """Double the batch of each until its images/s stop rising, or it cannot be measured.

    Args:
        names: what to search for; all that go on are measured together.
        measure: see ``Measure``.
        largest: the largest batch.
    """
    found = {name: BestBatch() for name in names}
    going, batch = list(names), 1
    while going and batch <= largest:
        measured = measure(batch, going)
        going = [name for name in going if _goes_on(found[name], batch, measured[name])]
        batch *= 2
    return found


def _goes_on(best: BestBatch, batch: int, measured: float | str) -> bool:
    if isinstance(measured, str):
        best.ended_by = measured
        return False
    best.tried[batch] = measured
    rises = measured > best.images_per_second * RISE
    if measured > best.images_per_second:
        best.batch, best.images_per_second = batch, measured
    if not rises:
        best.ended_by = SLOWER
    return rises
