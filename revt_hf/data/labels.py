"""The label encodings of driving datasets by name, and tables of a user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError, plain
from revt_hf.data.label_space import (
    CITYSCAPES,
    CITYSCAPES_ID,
    IGNORE_INDEX,
    IGNORED,
    LABELS_YAML,
    TRAIN_ID,
    LabelSpace,
    parse_colour,
)

MAPILLARY_VERSIONS = ("v1.2", "v2.0")
# Changing a map of Mapillary needs a new revision, so that old results keep their meaning.
_REVISION = 1

# Marks raw values outside the encoding; no train id is that high.
_UNKNOWN = 254
# A table has an entry for every value that a pixel can hold.
_ENTRIES = {np.dtype(np.uint8): 1 << 8, np.dtype(np.uint16): 1 << 16, np.dtype(np.uint32): 1 << 24}


class Reading(Enum):
    """Where in a label image a pixel's raw value is stored."""

    VALUE = "value"  # the one channel, or the palette index; 8 or 16 bit
    GREY = "grey"  # the same, or any of three or four channels that are equal, but for alpha
    RED = "red"  # the first channel of 16-bit colours; the others hold something else
    COLOUR = "colour"  # all of an 8-bit RGB colour, as 0xRRGGBB


@dataclass(eq=False, repr=False)
class LabelTable:
    """A look-up table from an encoding's raw values to a space's ids; other values are refused."""

    mapping: Mapping[int, int]  # raw value (0..65535, or 0xRRGGBB) -> class id or 255
    name: str
    reading: Reading = Reading.VALUE
    polygons: Mapping[str, int] = field(default_factory=dict)  # class name -> raw value
    space: LabelSpace = CITYSCAPES

    def __post_init__(self) -> None:
        self.mapping = dict(self.mapping)
        self._tables: dict[int, NDArray[np.uint8]] = {}
        where = f"label table '{self.name}'"
        largest = (1 << 24 if self.reading is Reading.COLOUR else 1 << 16) - 1
        for raw, train_id in self.mapping.items():
            if not 0 <= raw <= largest:
                raise UserError(f"{where}: raw value {raw} is not in 0..{largest}")
            if train_id != IGNORE_INDEX and not 0 <= train_id < len(self.space):
                kind = "a train id" if self.space == CITYSCAPES else "a class id"
                raise UserError(
                    f"{where}: {raw} maps to {train_id}, which is neither {kind} "
                    f"(0..{len(self.space) - 1}) nor {IGNORE_INDEX} (ignored)"
                )

    def __reduce__(self) -> Any:
        # Workers rebuild the arrays: the one for colours takes 16 MiB.
        return LabelTable, (self.mapping, self.name, self.reading, self.polygons, self.space)

    def in_space(self, space: LabelSpace) -> "LabelTable":
        """The same classes by the ids of another space; refused if they are other ones."""
        rows = space.rows(self.space.classes, f"the label encoding {self.name}")
        if (space, space.colours) == (self.space, self.space.colours):
            return self
        new_ids = {old: new for new, old in enumerate(rows)} | {IGNORE_INDEX: IGNORE_INDEX}
        mapping = {raw: new_ids[old] for raw, old in self.mapping.items()}
        return LabelTable(mapping, self.name, self.reading, self.polygons, space)

    def __call__(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Map raw labels (H, W), uint8, uint16 or uint32, to train ids (H, W), uint8."""
        labels, unknown = self.lenient(raw)
        for value, count in unknown.items():
            raise UserError(self.problem({value: count}))
        return labels

    def lenient(self, raw: NDArray[Any]) -> tuple[NDArray[np.uint8], dict[int, int]]:
        """Train ids with unknown values ignored, and the unknown values with their pixel counts."""
        entries = _ENTRIES[raw.dtype]
        if entries not in self._tables:
            table = np.full(entries, _UNKNOWN, dtype=np.uint8)
            for value, train_id in self.mapping.items():
                if value < entries:
                    table[value] = train_id
            self._tables[entries] = table
        table = self._tables[entries]
        labels: NDArray[np.uint8] = cv2.LUT(raw, table) if raw.dtype == np.uint8 else table[raw]
        unknown = labels == _UNKNOWN
        if not unknown.any():
            return labels, {}
        values, counts = np.unique(raw[unknown], return_counts=True)
        labels[unknown] = IGNORE_INDEX
        return labels, dict(zip(values.tolist(), counts.tolist(), strict=True))

    def problem(self, unknown: Mapping[int, int]) -> str:
        """A sentence on values outside the encoding, given with their pixel counts."""
        colours = self.reading is Reading.COLOUR
        listed = ", ".join(
            f"{tuple(raw.to_bytes(3)) if colours else raw} ({count} pixels)"
            for raw, count in unknown.items()
        )
        kind = "colour" if colours else "value"
        return f"label {kind} {listed} is not in the encoding '{self.name}'"


def _train_ids(names: Mapping[int, str]) -> dict[int, int]:
    """Raw value -> train id of the Cityscapes class of that name; others are ignored."""
    return {raw: TRAIN_ID.get(name, IGNORE_INDEX) for raw, name in names.items()}


def _by_member(groups: Mapping[str, Any]) -> dict[Any, str]:
    """The members of groups, each with its group's name."""
    return {member: name for name, members in groups.items() for member in members}


def _mapillary(version: str, map_name: str) -> LabelTable:
    names, maps = LABELS_YAML["mapillary_names"], LABELS_YAML["mapillary_maps"]
    classes = _by_member(maps["dg_standard"]) | _by_member(maps[map_name])
    is_rein = (version, map_name) == ("v2.0", "rein")
    own = _by_member(LABELS_YAML["mapillary_rein_v2.0"]) if is_rein else {}
    found = {}
    for raw, name in enumerate(names[version]):
        origin = name  # the v1.2 class that a class of either version stands for
        if name not in names["v1.2"]:
            prefixes = LABELS_YAML["mapillary_origins"].items()
            origin = next((old for prefix, old in prefixes if name.startswith(prefix)), name)
        found[raw] = own.get(name, classes.get(origin, origin.lower()))
    return LabelTable(_train_ids(found), f"mapillary_{version}/{map_name}@{_REVISION}")


_LISTED = {
    name: dict(enumerate(LABELS_YAML[name])) for name in ("synthia_ids", "camvid_11", "idd_ids")
}
_CAMVID_32 = {
    colour: name
    for name, classes in LABELS_YAML["camvid_32"].items()
    for colour in classes.values()
}
# License plates have the id -1 in Cityscapes: 34 in GTA5, 255 in 8-bit files.
_MINUS_ONE = {255: IGNORE_INDEX}
_GTA5 = dict.fromkeys(range(35), IGNORE_INDEX) | {raw: i for i, raw in CITYSCAPES_ID.items()}


def id_table(space: LabelSpace, name: str = "class_ids") -> LabelTable:
    """The table of labels that hold a space's own ids, and 255."""
    return LabelTable({**{i: i for i in range(len(space))}, **_MINUS_ONE}, name, space=space)


TRAIN_IDS = id_table(CITYSCAPES, "train_ids")
CITYSCAPES_IDS = LabelTable({**_GTA5, **_MINUS_ONE}, "cityscapes_ids")
_TABLES = (
    TRAIN_IDS,
    CITYSCAPES_IDS,
    LabelTable(_GTA5, "gta5_ids"),
    LabelTable(_train_ids(_LISTED["synthia_ids"]), "synthia_ids", Reading.RED),
    # Loaders take 19 for unlabelled; its own page lists 0..18 only.
    LabelTable({**TRAIN_IDS.mapping, 19: IGNORE_INDEX}, "urbansyn_ids", Reading.GREY),
    LabelTable(_train_ids(_LISTED["camvid_11"]), "camvid_11"),
    LabelTable(_train_ids(_CAMVID_32), "camvid_32", Reading.COLOUR),
    LabelTable(
        {**_train_ids(_LISTED["idd_ids"]), **_MINUS_ONE},
        "idd_ids",
        polygons={name: raw for raw, name in _LISTED["idd_ids"].items()},
    ),
    *(_mapillary(*one) for one in product(MAPILLARY_VERSIONS, LABELS_YAML["mapillary_maps"])),
)
ENCODINGS: dict[str, LabelTable] = {table.name: table for table in _TABLES}


def label_table(
    encoding: str | Mapping[int | str, int | str], space: LabelSpace = CITYSCAPES
) -> LabelTable:
    """The look-up table of a named encoding, or of a table of your own.

    Args:
        encoding: the name of an encoding of Cityscapes' classes; or raw values (0..65535), or
            colours (``#rrggbb``), to ids or names of classes. 255 and ``ignored`` are ignored.
        space: the classes, in the order of their ids.

    Raises:
        UserError: the name is unknown, or a key or value of the table is.
    """
    if isinstance(encoding, str):
        if encoding not in ENCODINGS:
            raise UserError(
                f"unknown label encoding '{encoding}': use one of {', '.join(sorted(ENCODINGS))}, "
                "or a table of raw value: train id"
            )
        return ENCODINGS[encoding].in_space(space)
    where, known = "label table 'custom table'", {plain(n): i for n, i in space.ids.items()}
    known[IGNORED] = IGNORE_INDEX
    colours = [isinstance(raw, str) for raw in encoding]
    if any(colours) and not all(colours):
        raise UserError(f"{where}: its keys are values and colours: use one kind")
    mapping = {}
    for raw, found in encoding.items():
        if isinstance(found, str) and plain(found) not in known:
            raise UserError(f"{where}: {raw} maps to {found!a}, which is no class of {space.name}")
        key = parse_colour(raw, where) if isinstance(raw, str) else raw
        mapping[key] = known[plain(found)] if isinstance(found, str) else found
    reading = Reading.COLOUR if any(colours) else Reading.VALUE
    return LabelTable(mapping, "custom table", reading, space=space)


def mapillary_table(version: str, map_name: str) -> LabelTable:
    return ENCODINGS[f"mapillary_{version}/{map_name}@{_REVISION}"]
