"""A first description of labels without a table: their values or colours, to be named."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError, counted
from revt_hf.core.outputs import check_output_file, write_text
from revt_hf.data.decoding import decode_raw, open_image
from revt_hf.data.domains import dataset_of
from revt_hf.data.domains.opening import checked_domain
from revt_hf.data.label_space import IGNORE_INDEX, MOST_CLASSES
from revt_hf.data.labels import LabelTable, Reading

_MOST_IMAGES = 200


def write_starter(
    spec: DomainSpec, output: Path, overwrite: bool = False, quiet: bool = False
) -> int:
    """Write a recipe's ``source`` section with a class for each value of the labels; their number.

    At most 200 images of all splits are read. 255 is ignored, and the user names the rest.
    """
    check_output_file(output, overwrite, [spec.data_dir])
    if spec.domain != "folder":
        raise UserError(f"{spec.domain} has its own table of labels: --starter is for folder")
    domain, folder, config, options = checked_domain(
        spec.domain, spec.data_dir, spec.config, spec.options
    )
    cells: list[Any] = []
    for split in domain.splits(folder, config, options):
        try:
            opened = domain.open(split, folder, config, options)
        except UserError:
            # Of images without labels, such as a test split.
            continue
        rows = dataset_of(opened.builder, opened.decode, split).with_format(None)
        cells += rows["label"]
    if not cells:
        raise UserError(f"{spec.data_dir}: no split has images with labels")
    chosen = np.unique(np.linspace(0, len(cells) - 1, _MOST_IMAGES).round().astype(int))
    pixels: Counter[int] = Counter()
    table = LabelTable({}, "starter")
    for number in tqdm(chosen.tolist(), desc="labels", unit="image", disable=quiet):
        file = open_image(cells[number])
        try:
            values = decode_raw(file, table, 1)
        except UserError:
            # A label of three channels holds colours; then all labels have to.
            if pixels:
                raise
            table = LabelTable({}, "starter", Reading.COLOUR)
            values = decode_raw(file, table, 1)
        found, counts = np.unique(values, return_counts=True)
        pixels.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if len(pixels) > MOST_CLASSES + 2:
            raise UserError(
                f"{file.name}: more than {MOST_CLASSES} values so far: these are no classes; were "
                "the labels saved as JPEG, or scaled with interpolation?"
            )
    if len(pixels) < 2:
        raise UserError(
            f"{spec.data_dir}: all labels have one value, and a model has 2 classes or more"
        )
    write_text(output, _text(spec, pixels, table.reading, len(chosen), len(cells)))
    return len(pixels)


def _text(spec: DomainSpec, pixels: Counter[int], reading: Reading, read: int, images: int) -> str:
    colours, total = reading is Reading.COLOUR, sum(pixels.values())
    lines = [
        f"# Labels of {counted(read, 'image')} of {images:,}: values, and shares of the pixels.",
        "# Name every class, under classes and under encoding. Map a value that is no class to",
        "# ignored, and remove its line under classes. Recipes can extend this file.",
        "source:",
        f"  domain: {spec.domain}",
        f"  data_dir: {json.dumps(str(spec.data_dir))}",
        "  options:",
        *(
            f"    {key}: {json.dumps(value)}"
            for key, value in spec.options.items()
            if key not in ("classes", "encoding")
        ),
        "    classes:",
    ]
    encoding = ["    encoding:"]
    for number, value in enumerate(sorted(pixels)):
        key = f"'#{value:06x}'" if colours else str(value)
        ignored = value == IGNORE_INDEX and not colours
        name = "ignored" if ignored else f"class {number}"
        if not ignored:
            lines.append(f"      {name}: {key}" if colours else f"      - {name}")
        encoding.append(f"      {key}: {name}  # {100 * pixels[value] / total:.2f} %")
    return "\n".join([*lines, *encoding, ""])
