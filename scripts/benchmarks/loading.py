"""Rows of loading: from files to normalised crops, and through a whole dataset."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image as PILImage

from benchmarks.augment import RGB
from benchmarks.runner import Pair, row
from revt_hf.config.recipe import DomainSpec, Source
from revt_hf.core.errors import DataWarning
from revt_hf.core.resources import core_count
from revt_hf.data.augment import PipelineSpec, augment, build_pipeline
from revt_hf.data.domains import load_domain
from revt_hf.data.domains.prepared import Format, load_prepared
from revt_hf.data.label_space import IGNORE_INDEX
from revt_hf.data.labels import label_table
from revt_hf.data.normalisation import MEAN, STD
from revt_hf.data.reading import read_image, read_label
from revt_hf.data_tools.inspection import verify
from revt_hf.data_tools.prepare import prepare

HEIGHT, WIDTH = 1052, 1914
BOUND = (1280, 720)
CROP = 512
IMAGES = 4
VERIFIED = 1000


def _scene(seed: int, height: int, width: int) -> tuple[RGB, RGB]:
    """A noisy image (H, W, 3) and a label (H, W) of Cityscapes ids in patches, both uint8.

    The PNG of the large one takes about 2.5 MB, as GTA5's do.
    """
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (20, 36, 3), dtype=np.uint8)
    image = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image += rng.integers(-2, 3, image.shape, dtype=np.int16)
    ids = rng.integers(0, 34, (20, 36), dtype=np.uint8)
    label = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.clip(image, 0, 255).astype(np.uint8), np.asarray(label, dtype=np.uint8)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that lasts as long as the process."""
    return tempfile.TemporaryDirectory()


@cache
def _gta5(count: int, height: int, width: int) -> Path:
    """A small GTA5: colour PNGs, palette labels."""
    root = Path(_folder().name) / f"gta5-{count}-{width}"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    distinct = min(count, 20)
    for number in range(count):
        name = f"{number + 1:05d}.png"
        if number >= distinct:
            for folder in ("images", "labels"):
                os.link(root / folder / f"{number % distinct + 1:05d}.png", root / folder / name)
            continue
        image, label = _scene(number, height, width)
        # With adaptive filters, as nearly all PNG writers do; OpenCV's own are faster to decode.
        PILImage.fromarray(image).save(root / "images" / name)
        indexed = PILImage.fromarray(label, mode="P")
        indexed.putpalette([value for value in range(256) for _ in range(3)])
        indexed.save(root / "labels" / name)
    return root


def _source(prepared: str | None = None) -> Source:
    root = _gta5(IMAGES, HEIGHT, WIDTH)
    return Source(domain="gta5", data_dir=str(root), train="full", prepared=prepared)


def _rows() -> Any:
    with _expected_warnings():
        return load_domain("gta5", "full", _source().data_dir)


@contextlib.contextmanager
def _expected_warnings() -> Iterator[None]:
    """Four images are not all of GTA5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        yield


def _crops(rows: Any) -> list[RGB]:
    pipeline = build_pipeline(PipelineSpec(method=3, max_size=BOUND, crop=CROP))
    decoded = (rows[index] for index in range(IMAGES))
    return [
        augment(pipeline, row["image"], row["label"], index)["image"]
        for index, row in enumerate(decoded)
    ]


def _difference(first: list[Any], second: list[Any]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


def _by_pillow() -> list[RGB]:
    """The usual way: Pillow, a map by ids, ``np.unique`` for the crop, numpy for the rest.

    The windows are drawn as ours are, so that the crops can be compared.
    """
    root = Path(str(_source().data_dir))
    mapping = label_table("gta5_ids").mapping
    pipeline = build_pipeline(PipelineSpec(method=3, max_size=BOUND, crop=CROP))
    crop = pipeline.transforms[1]
    crops = []
    for index in range(IMAGES):
        name = f"{index + 1:05d}.png"
        image = np.asarray(PILImage.open(root / "images" / name).convert("RGB"))
        raw = np.asarray(PILImage.open(root / "labels" / name))
        label = np.full_like(raw, IGNORE_INDEX)
        for value, train_id in mapping.items():
            label[raw == value] = train_id
        size = (BOUND[0], 704)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        pipeline.set_random_seed(index)
        crop.py_random.random()  # a Compose draws whether it is applied
        for _ in range(crop.tries):
            window = crop._draw(*label.shape)
            classes, counts = np.unique(label[window], return_counts=True)
            counts = counts[classes != IGNORE_INDEX]
            if len(counts) > 1 and counts.max() / counts.sum() < crop.cat_max_ratio:
                break
        crops.append((image[window].astype(np.float32) - np.array(MEAN)) / np.array(STD))
    return crops


@row("load-png", peer="Pillow, np.unique, numpy: 1914x1052 to a 512 crop", goal=1.3, tolerance=1e-4)
def load_png() -> Pair:
    """From PNG files to normalised crops."""
    rows = _rows()
    return Pair(_by_pillow, lambda: _crops(rows), _difference)


def _prepared(format: Format) -> Pair:
    output = Path(_folder().name) / format
    spec = DomainSpec(domain="gta5", data_dir=_source().data_dir)
    with _expected_warnings():
        prepare(spec, "full", output, BOUND, format, overwrite=True, quiet=True)
    small, rows = load_prepared(_source(str(output)), BOUND), _rows()
    return Pair(lambda: _crops(rows), lambda: _crops(small), _difference)


@row("prepared-webp", peer="ours from PNG", goal=3.0)
def prepared_webp() -> Pair:
    """The same crops from lossless WebP files of the resized images."""
    return _prepared("webp")


@row("prepared-raw", peer="ours from PNG", goal=10.0)
def prepared_raw() -> Pair:
    """The same crops from raw arrays, of which only the crop is read."""
    return _prepared("raw")


@row("label-share", peer="decoding the image", goal=12.5)
def label_share() -> Pair:
    """Decoding a palette label and mapping it, against decoding its image (8 % wanted)."""
    root = Path(str(_source().data_dir))
    image, label = (
        {"path": str(root / kind / "00001.png"), "bytes": None} for kind in ("images", "labels")
    )
    table = label_table("gta5_ids")
    return Pair(
        lambda: read_image(image), lambda: read_label(label, table), lambda _first, _second: 0.0
    )


@row(
    "verify",
    peer="one thread, 1000 images of 480x264",
    goal=0.8 * core_count(),
    seconds=30.0,
)
def verify_in_threads() -> Pair:
    """Reading a whole dataset with all cores."""
    spec = DomainSpec(domain="gta5", data_dir=str(_gta5(VERIFIED, 264, 480)))

    def read(workers: int | None) -> Any:
        return verify(spec, workers, quiet=True).pixels

    return Pair(
        lambda: read(1), lambda: read(None), lambda one, all_: float(np.abs(one - all_).max())
    )
