"""Look-up tables from the raw values of a label encoding to train ids."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from revt_hf.core.errors import UserError
from revt_hf.data.labels.classes import IGNORE_INDEX, NUM_CLASSES

# Marks raw values outside the encoding; no train id is that high.
_UNKNOWN = 254
# A table has an entry for every value that a pixel can hold.
_ENTRIES = {np.dtype(np.uint8): 1 << 8, np.dtype(np.uint16): 1 << 16, np.dtype(np.uint32): 1 << 24}


class Reading(Enum):
    """Where in a label image a pixel's raw value is stored."""

    VALUE = "value"  # the one channel, or the palette index; 8 or 16 bit
    RED = "red"  # the first channel of 16-bit colours; the others hold something else
    COLOUR = "colour"  # all of an 8-bit RGB colour, as 0xRRGGBB


class LabelTable:
    """A look-up table from the raw values of one label encoding to train ids.

    Args:
        mapping: raw value (0..65535, or 0xRRGGBB for colours) -> train id (0..18) or 255
            (ignored). A label file with any other value is refused.
        name: the encoding's name in error messages and results.
        reading: where the raw value is stored.
        polygons: class name -> raw value, for encodings whose labels come as polygons.

    Raises:
        UserError: a raw value or train id is out of range.
    """

    def __init__(
        self,
        mapping: Mapping[int, int],
        name: str,
        reading: Reading = Reading.VALUE,
        polygons: Mapping[str, int] | None = None,
    ) -> None:
        self.mapping = dict(mapping)
        self.name = name
        self.reading = reading
        self.polygons = dict(polygons or {})
        self._tables: dict[int, NDArray[np.uint8]] = {}
        largest = (1 << 24 if reading is Reading.COLOUR else 1 << 16) - 1
        for raw, train_id in mapping.items():
            if not 0 <= raw <= largest:
                raise UserError(f"label table '{name}': raw value {raw} is not in 0..{largest}")
            if train_id != IGNORE_INDEX and not 0 <= train_id < NUM_CLASSES:
                raise UserError(
                    f"label table '{name}': {raw} maps to {train_id}, which is neither a train id "
                    f"(0..{NUM_CLASSES - 1}) nor {IGNORE_INDEX} (ignored)"
                )

    def __reduce__(self) -> Any:
        # Workers rebuild the arrays: the one for colours takes 16 MiB.
        return LabelTable, (self.mapping, self.name, self.reading, self.polygons)

    def __call__(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Map raw labels (H, W), uint8, uint16 or uint32, to train ids (H, W), uint8.

        Raises:
            UserError: a value is not in the encoding.
        """
        labels, unknown = self.lenient(raw)
        if unknown:
            value, count = next(iter(unknown.items()))
            raise UserError(
                f"{self.described({value: count})} is not in the encoding '{self.name}'"
            )
        return labels

    def lenient(self, raw: NDArray[Any]) -> tuple[NDArray[np.uint8], dict[int, int]]:
        """Train ids with unknown values ignored, and the unknown values with their pixel counts."""
        table = self._table(_ENTRIES[raw.dtype])
        labels: NDArray[np.uint8] = cv2.LUT(raw, table) if raw.dtype == np.uint8 else table[raw]
        unknown = labels == _UNKNOWN
        if not unknown.any():
            return labels, {}
        values, counts = np.unique(raw[unknown], return_counts=True)
        labels[unknown] = IGNORE_INDEX
        return labels, dict(zip(values.tolist(), counts.tolist(), strict=True))

    def described(self, unknown: Mapping[int, int]) -> str:
        """``label value 77 (48 pixels)``, or the colour, for one or several values."""
        colours = self.reading is Reading.COLOUR
        listed = ", ".join(
            f"{(raw >> 16, raw >> 8 & 255, raw & 255) if colours else raw} ({count} pixels)"
            for raw, count in unknown.items()
        )
        return f"label {'colour' if colours else 'value'} {listed}"

    def _table(self, entries: int) -> NDArray[np.uint8]:
        if entries not in self._tables:
            table = np.full(entries, _UNKNOWN, dtype=np.uint8)
            for raw, train_id in self.mapping.items():
                if raw < entries:
                    table[raw] = train_id
            self._tables[entries] = table
        return self._tables[entries]
