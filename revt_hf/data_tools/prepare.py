"""Prepare a split for training: resize images and encode labels once, lossless."""

import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from revt_hf import __version__
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import beside, locked, mark_output, real_path, replace_folder
from revt_hf.core.outputs import check_output, read_json_object, write_json
from revt_hf.data.decoding import encode_png
from revt_hf.data.domains import dataset_of, open_domain, prepared
from revt_hf.data.parallel import in_threads
from revt_hf.data.reading import Decode


def prepare(
    spec: DomainSpec,
    split: str,
    output: Path,
    max_size: tuple[int, int] | None,
    format: prepared.Format = "webp",
    overwrite: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> prepared.PreparedRecord:
    """Write a split's images resized, and its labels as train ids; go on where it stopped."""
    check_output(output, overwrite, spec.inputs)
    opened = open_domain(spec.domain, split, spec.data_dir, spec.config, spec.options)
    opened.check(f"{spec.domain}/{split}")
    record = prepared.PreparedRecord(
        **prepared.record_source(spec, split),
        max_size=max_size,
        format=format,
        label_encoding=opened.table.name,
        classes=opened.table.space.classes,
        content=opened.content,
        images=opened.images,
        revt_hf=__version__,
    )
    decode = opened.decode
    rows = dataset_of(opened.builder, decode, split).with_format(None)
    scratch = beside(real_path(output), "preparing")
    unfinished = False
    with readable_os_errors(output), locked(output):
        check_output(output, overwrite, spec.inputs)
        values = record.model_dump(mode="json")
        with suppress(UserError):
            unfinished = read_json_object(scratch / prepared.RECORD_FILE) == values
        if not unfinished:  # by the same call
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            write_json(scratch / prepared.RECORD_FILE, values)
        work = partial(_prepare_one, scratch, record, decode)
        with tqdm(total=len(rows), unit="image", desc="prepare", disable=quiet) as progress:
            for number, written in enumerate(in_threads(work, rows, workers)):
                progress.update()
                needed = written * (len(rows) - 1)
                if number == 0 and needed > (free := shutil.disk_usage(scratch).free):
                    raise UserError(
                        f"{scratch.parent} has {free / 1e9:.1f} GB left, the images need about "
                        f"{needed / 1e9:.1f} GB: choose another output, or --format webp"
                    )
        mark_output(scratch)
        replace_folder(scratch, real_path(output))
    return record


def _prepare_one(
    scratch: Path, record: prepared.PreparedRecord, decode: Decode, row: dict[str, Any]
) -> int:
    """Write one image and its label unless they are there; returns their bytes."""
    image_suffix, label_suffix = prepared.SUFFIXES[record.format]
    image_path = scratch / prepared.IMAGES / f"{row['name']}{image_suffix}"
    label_path = scratch / prepared.LABELS / f"{row['name']}{label_suffix}"
    # The label comes last, so both are complete where it is there.
    if not (label_path.is_file() and image_path.is_file()):
        image, label = decode.one(row, record.max_size)
        _write(image_path, image)
        _write(label_path, label)
    return image_path.stat().st_size + label_path.stat().st_size


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}")
    try:
        with unfinished.open("wb") as file:
            if path.suffix == ".npy":
                np.save(file, np.ascontiguousarray(image), allow_pickle=False)
            elif path.suffix == ".webp":
                # Effort 0: an eighth of the time of OpenCV's lossless mode for a tenth more bytes.
                Image.fromarray(image).save(file, "WEBP", lossless=True, quality=0, method=0)
            else:
                file.write(encode_png(image))
    except (cv2.error, ValueError) as error:
        raise UserError(f"{path.name} cannot be written as {path.suffix[1:]}: {error}") from error
    unfinished.replace(path)
