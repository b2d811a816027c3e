"""The label encodings of driving datasets, by name; ``encodings.yaml`` holds their classes."""

from collections.abc import Mapping
from importlib.resources import files
from itertools import product
from typing import Any

import yaml

from revt_hf.core.errors import UserError
from revt_hf.data.labels.classes import CITYSCAPES_ID, IGNORE_INDEX, NUM_CLASSES, TRAIN_ID
from revt_hf.data.labels.tables import LabelTable, Reading

MAPILLARY_VERSIONS = ("v1.2", "v2.0")
# Changing a map of Mapillary needs a new revision, so that old results keep their meaning.
_REVISION = 1

_CLASSES: dict[str, Any] = yaml.safe_load(
    files("revt_hf.data.labels").joinpath("encodings.yaml").read_text()
)
# License plates have the id -1 in Cityscapes: 34 in GTA5, 255 in 8-bit files.
_LICENSE_PLATE, _MINUS_ONE = {34: IGNORE_INDEX}, {255: IGNORE_INDEX}
_CITYSCAPES = {
    **dict.fromkeys(range(34), IGNORE_INDEX),
    **{raw: train_id for train_id, raw in CITYSCAPES_ID.items()},
}


def _listed(name: str, reading: Reading = Reading.VALUE) -> LabelTable:
    mapping = {raw: TRAIN_ID.get(same, IGNORE_INDEX) for raw, same in enumerate(_CLASSES[name])}
    return LabelTable(mapping, name, reading)


def _idd() -> LabelTable:
    polygons = {name: raw for raw, name in enumerate(_CLASSES["idd_ids"])}
    return LabelTable({**_listed("idd_ids").mapping, **_MINUS_ONE}, "idd_ids", polygons=polygons)


def _camvid_32() -> LabelTable:
    mapping = {
        colour: TRAIN_ID.get(same, IGNORE_INDEX)
        for same, classes in _CLASSES["camvid_32"].items()
        for colour in classes.values()
    }
    return LabelTable(mapping, "camvid_32", Reading.COLOUR)


def _mapillary(version: str, map_name: str) -> LabelTable:
    maps = _CLASSES["mapillary_maps"]
    classes = _by_name(maps["dg_standard"]) | _by_name(maps[map_name])
    own = _by_name(_CLASSES["mapillary_rein_v2.0"]) if map_name == "rein" else {}
    mapping = {}
    for raw, name in enumerate(_CLASSES["mapillary_names"][version]):
        origin = _origin(name)
        same = classes.get(origin, origin.lower())
        if version == "v2.0":
            same = own.get(name, same)
        mapping[raw] = TRAIN_ID.get(same, IGNORE_INDEX)
    return LabelTable(mapping, f"mapillary_{version}/{map_name}@{_REVISION}")


def _by_name(names: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: same for same, listed in names.items() for name in listed}


def _origin(name: str) -> str:
    """The v1.2 class that a class of either version stands for."""
    if name in _CLASSES["mapillary_names"]["v1.2"]:
        return name
    origins: dict[str, str] = _CLASSES["mapillary_origins"]
    return next((origin for prefix, origin in origins.items() if name.startswith(prefix)), name)


TRAIN_IDS = LabelTable({**{i: i for i in range(NUM_CLASSES)}, **_MINUS_ONE}, "train_ids")
CITYSCAPES_IDS = LabelTable({**_CITYSCAPES, **_LICENSE_PLATE, **_MINUS_ONE}, "cityscapes_ids")
_TABLES = (
    TRAIN_IDS,
    CITYSCAPES_IDS,
    LabelTable({**_CITYSCAPES, **_LICENSE_PLATE}, "gta5_ids"),
    _listed("synthia_ids", Reading.RED),
    _listed("camvid_11"),
    _camvid_32(),
    _idd(),
    *(_mapillary(*one) for one in product(MAPILLARY_VERSIONS, _CLASSES["mapillary_maps"])),
)
ENCODINGS: dict[str, LabelTable] = {table.name: table for table in _TABLES}


def label_table(encoding: str | Mapping[int, int]) -> LabelTable:
    """The look-up table of a named encoding, or of a user's own mapping.

    Raises:
        UserError: the name is unknown, or the mapping has values out of range.
    """
    if not isinstance(encoding, str):
        return LabelTable(encoding, "custom table")
    if encoding not in ENCODINGS:
        raise UserError(
            f"unknown label encoding '{encoding}': use one of {', '.join(sorted(ENCODINGS))}, "
            "or a table of raw value: train id"
        )
    return ENCODINGS[encoding]


def mapillary_table(version: str, map_name: str) -> LabelTable:
    """The table of a version of Mapillary's labels by one of its maps."""
    return ENCODINGS[f"mapillary_{version}/{map_name}@{_REVISION}"]
