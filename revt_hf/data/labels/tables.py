"""Look-up tables from the raw values of a label encoding to train ids."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.labels.classes import IGNORE_INDEX, NUM_CLASSES

# Marks a value that no label file of the encoding may hold; no train id is that high.
_UNKNOWN = 254
# The table's length follows from what a pixel can hold.
_ENTRIES = {np.dtype(np.uint8): 1 << 8, np.dtype(np.uint16): 1 << 16, np.dtype(np.uint32): 1 << 24}


class Reading(Enum):
    """Where in a label image the raw value of a pixel stands."""

    VALUE = "value"  # the one channel, or the palette index; 8 or 16 bit
    RED = "red"  # the first channel of 16-bit colours; the others hold something else
    COLOUR = "colour"  # all of an 8-bit RGB colour, as 0xRRGGBB


class LabelTable:
    """A look-up table from the raw values of one label encoding to train ids.

    Args:
        mapping: raw value (0..65535, or 0xRRGGBB for colours) -> train id (0..18) or 255
            (ignored). Values that are not listed may not occur in a label file.
        name: how error messages and results call the encoding.
        reading: where the raw value stands.
        polygons: for encodings whose labels come as polygons: class name -> raw value.

    Raises:
        UserError: a raw value or train id out of range.
    """

    def __init__(
        self,
        mapping: Mapping[int, int],
        name: str,
        reading: Reading = Reading.VALUE,
        polygons: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.reading = reading
        self.polygons = dict(polygons or {})
        largest = (1 << 24 if reading is Reading.COLOUR else 1 << 16) - 1
        for raw, train_id in mapping.items():
            if not 0 <= raw <= largest:
                raise UserError(f"label table '{name}': raw value {raw} is not in 0..{largest}")
            if train_id != IGNORE_INDEX and not 0 <= train_id < NUM_CLASSES:
                raise UserError(
                    f"label table '{name}': {raw} maps to {train_id}, which is neither a train id "
                    f"(0..{NUM_CLASSES - 1}) nor {IGNORE_INDEX} (ignored)"
                )
        self.mapping = dict(mapping)
        self._tables: dict[int, NDArray[np.uint8]] = {}

    def __reduce__(self) -> Any:
        # Workers build the tables anew: the colours' takes 16 MiB.
        return LabelTable, (self.mapping, self.name, self.reading, self.polygons)

    def __call__(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Map raw labels (H, W), uint8, uint16 or uint32, to train ids (H, W), uint8.

        Raises:
            UserError: a value that the encoding does not have.
        """
        labels = self._look_up(raw)
        if (labels == _UNKNOWN).any():
            value, count = next(iter(self._counted(raw, labels).items()))
            raise UserError(
                f"{self.described({value: count})} is not in the encoding '{self.name}'"
            )
        return labels

    def lenient(self, raw: NDArray[Any]) -> tuple[NDArray[np.uint8], dict[int, int]]:
        """Train ids, unknown values ignored; and the unknown values with their pixel counts."""
        labels = self._look_up(raw)
        unknown = self._counted(raw, labels)
        labels[labels == _UNKNOWN] = IGNORE_INDEX
        return labels, unknown

    def described(self, unknown: Mapping[int, int]) -> str:
        """``label value 77 (48 pixels)``, or the colour, for one or several values."""
        listed = []
        for value, count in unknown.items():
            shown = str(value)
            if self.reading is Reading.COLOUR:
                shown = f"({value >> 16}, {value >> 8 & 255}, {value & 255})"
            listed.append(f"{shown} ({count} pixels)")
        kind = "colour" if self.reading is Reading.COLOUR else "value"
        return f"label {kind} {', '.join(listed)}"

    def _look_up(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        table = self._table(_ENTRIES[raw.dtype])
        if raw.dtype == np.uint8:
            return np.asarray(cv2.LUT(raw, table), dtype=np.uint8)
        return table.take(raw)

    @staticmethod
    def _counted(raw: NDArray[Any], labels: NDArray[np.uint8]) -> dict[int, int]:
        values, counts = np.unique(raw[labels == _UNKNOWN], return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}

    def _table(self, entries: int) -> NDArray[np.uint8]:
        if entries not in self._tables:
            table = np.full(entries, _UNKNOWN, dtype=np.uint8)
            for raw, train_id in self.mapping.items():
                if raw < entries:
                    table[raw] = train_id
            self._tables[entries] = table
        return self._tables[entries]
