"""Draw labels that come as polygons (IDD, Cityscapes)."""

import json

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from revt_hf.core.errors import UserError
from revt_hf.data.containers import MOST_PIXELS
from revt_hf.data.labels import LabelTable

_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def draw_polygons(data: bytes, table: LabelTable, name: str) -> NDArray[np.uint8]:
    """Raw label values (H, W), uint8, of a ``_polygons.json`` file.

    Later polygons cover earlier ones, deleted ones are left out, and ``cargroup`` counts as
    ``car`` (rules: cityscapesScripts ``json2labelImg.py``).

    Args:
        data: the file's content.
        table: its ``polygons`` names the classes.
        name: the file's name in messages.

    Raises:
        UserError: not such a file, or a class that the encoding does not have.
    """
    if not table.polygons:
        raise UserError(f"{name}: the encoding '{table.name}' has no polygons")
    try:
        annotation = json.loads(data)
        size = (int(annotation["imgWidth"]), int(annotation["imgHeight"]))
        shapes = [
            (str(shape["label"]), [(float(x), float(y)) for x, y in shape["polygon"]])
            for shape in annotation["objects"]
            if not shape.get("deleted")
        ]
        if not 0 < size[0] * size[1] <= MOST_PIXELS or min(size) < 1:
            raise ValueError(f"a size of {size}")
        canvas = Image.new("L", size, table.polygons["unlabeled"])
    except _DAMAGE as error:
        raise UserError(f"{name}: not a polygon file (imgWidth, imgHeight, objects)") from error
    draw = ImageDraw.Draw(canvas)
    for label, points in shapes:
        if label not in table.polygons:
            label = label.removesuffix("group")
        if label not in table.polygons:
            raise UserError(f"{name}: the class '{label}' is not in the encoding '{table.name}'")
        if len(points) >= 3:
            draw.polygon(points, fill=table.polygons[label])
    return np.array(canvas)
