"""Images for evaluation, decoded ahead, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Subset

from revt_hf.config.domain_spec import DomainSpec
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.core.resources import one_thread, worker_count
from revt_hf.data.domains import domain_label, load_spec
from revt_hf.data.labels import IGNORE_INDEX
from revt_hf.evaluation.predictor import network_sizes

Row = dict[str, Any]


def load_labelled(spec: DomainSpec, split: str) -> Any:
    """One split of the domain that a recipe names, if there is anything to score on it.

    Raises:
        UserError: as :func:`revt_hf.data.domains.load_spec`, or :func:`check_labelled`.
    """
    images = load_spec(spec, split)
    check_labelled(images, domain_label(spec, split))
    return images


def check_labelled(images: Any, name: str) -> None:
    """Refuse images of which no pixel has a class; reads as far as the first that has one.

    Args:
        images: rows with ``label`` (H, W) uint8, train ids and 255.
        name: what the error calls them.

    Raises:
        UserError: there is no labelled pixel, or an image before the first cannot be read.
    """
    labels = (images[index]["label"] for index in range(len(images)))
    if not any((label != IGNORE_INDEX).any() for label in labels):
        raise UserError(
            f"no labelled pixel in {name}: all labels are {IGNORE_INDEX} (ignored), look at its "
            "label encoding with revt data verify"
        )


def image_batches(
    images: Any, indices: Sequence[int], protocol: Protocol, batch_size: int, workers: int
) -> Iterator[list[Row]]:
    """Consecutive images whose network inputs have the same size, at most ``batch_size``.

    Args:
        images: rows with ``image`` (H, W, 3) uint8; decoded as they are read.
        indices: which of them, in this order.
        protocol: decides the sizes.
        batch_size: at least 1.
        workers: processes that decode ahead, at most one for each core and image; each keeps two
            images ready.
    """
    loader = DataLoader(
        Subset(images, indices),
        batch_size=None,
        num_workers=worker_count(workers, len(indices)),
        collate_fn=_as_it_is,
        worker_init_fn=one_thread,
    )
    yield from same_size_batches(loader, protocol, batch_size)


def same_size_batches(
    rows: Iterable[Row], protocol: Protocol, batch_size: int
) -> Iterator[list[Row]]:
    """Consecutive rows whose network inputs have the same size, at most ``batch_size``.

    Args:
        rows: with ``image`` (H, W, 3) uint8.
        protocol: decides the sizes.
        batch_size: at least 1; a full batch does not wait for the next row.
    """
    batch: list[Row] = []
    batch_sizes = None
    for row in rows:
        height, width = row["image"].shape[:2]
        sizes = network_sizes((height, width), protocol)
        if batch and sizes != batch_sizes:
            yield batch
            batch = []
        batch.append(row)
        batch_sizes = sizes
        if len(batch) == batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _as_it_is(row: Any) -> Any:
    return row
