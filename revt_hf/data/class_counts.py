"""Pixels of each class in every image of a split, counted once and then kept."""

import hashlib
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from revt_hf import __version__
from revt_hf.core.errors import DataWarning, UserError, readable
from revt_hf.core.outputs import atomic_file
from revt_hf.data.decoding import ImageFile, decode_image, image_header, open_image
from revt_hf.data.domains.base import fingerprint
from revt_hf.data.domains.opening import TO_DO, decode_of
from revt_hf.data.parallel import in_threads
from revt_hf.data.reading import Decode, class_pixels, resize_label_to_fit

_FOLDER = "revt_hf_class_counts"


def class_counts(
    images: Any, max_size: tuple[int, int] | None, name: str, quiet: bool = False
) -> NDArray[np.int64]:
    """Pixels (images, classes) of a loaded split's labels, resized as a training resizes them.

    They are kept in the cache of ``datasets``, under a hash of everything they depend on: each
    file's path, size and time (or bytes), the label encoding, the classes and the max size.

    Args:
        images: the split, as ``load_domain`` gives it; image files are not decoded.
        max_size: (width, height) that images are resized to fit; None: as stored.
        name: of the split, in the progress bar and in warnings.
        quiet: no progress bar.

    Raises:
        UserError: a label that cannot be read.
    """
    decode = decode_of(images)
    assert decode is not None  # noqa: S101 - every domain's images are decoded by one
    cells = images.with_format(None)
    path = Path(datasets.config.HF_DATASETS_CACHE, _FOLDER, f"{_key(cells, decode, max_size)}.npz")
    classes = len(decode.table.space)
    kept = _kept(path, (len(cells), classes))
    if kept is not None:
        return kept
    counts = np.zeros((len(cells), classes), dtype=np.int64)
    progress = tqdm(total=len(cells), unit="image", desc=f"count classes of {name}", disable=quiet)
    with progress:
        for row, pixels in enumerate(in_threads(partial(_count, decode, max_size), cells)):
            counts[row] = pixels[:classes]
            progress.update()
    try:
        with atomic_file(path) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, counts=counts)
    except UserError as error:
        warnings.warn(
            f"{name}: its classes are counted again by the next run ({error}): {TO_DO}",
            DataWarning,
            stacklevel=2,
        )
    return counts


def _kept(path: Path, shape: tuple[int, int]) -> NDArray[np.int64] | None:
    """Counts of an earlier run; None if there are none, or not of this shape, or damaged ones."""
    try:
        with np.load(path, allow_pickle=False) as file:
            counts: NDArray[np.int64] = file["counts"]
    # numpy, zipfile and zlib raise anything for a damaged file, which has a checksum.
    except Exception:  # noqa: BLE001
        return None
    whole = counts.shape == shape and counts.dtype == np.int64 and (counts >= 0).all()
    return counts if whole else None


def _key(cells: Any, decode: Decode, max_size: tuple[int, int] | None) -> str:
    table = decode.table
    how = [sorted(table.mapping.items()), sorted(table.polygons.items()), table.reading.value]
    how += [table.space.classes, decode.fit_labels, decode.follow_exif, sorted(max_size or ())]
    stamps = in_threads(_stamps, cells)
    return fingerprint([__version__, how, *stamps])


def _stamps(row: dict[str, Any]) -> list[Any]:
    """What changes when an image or its label does."""
    return [row["name"], *(_stamp(row[kind]) for kind in ("image", "label"))]


def _stamp(cell: dict[str, Any]) -> list[Any]:
    if cell["bytes"] is not None:
        return [hashlib.sha256(cell["bytes"]).hexdigest()]
    with readable(cell["path"]):
        status = Path(cell["path"]).stat()
    return [cell["path"], status.st_size, status.st_mtime_ns]


def _count(
    decode: Decode, max_size: tuple[int, int] | None, row: dict[str, Any]
) -> NDArray[np.int64]:
    """Pixels of each of the 256 train ids in one label; of its image, only the header is read."""
    header = image_header(row["image"])
    image = None if header is None else ImageFile(row["name"], b"", header)
    size = None if header is None else header.displayed
    if size is None:
        image = open_image(row["image"])
        pixels = decode_image(image)
        size = (pixels.shape[0], pixels.shape[1])
    ids = decode.train_ids(open_image(row["label"]), image, size)
    return class_pixels(ids if max_size is None else resize_label_to_fit(ids, size, max_size))
