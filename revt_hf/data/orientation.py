"""Where a file says how it is turned: EXIF and XMP, in the places that its format has for them."""

import re
import struct
import zlib
from dataclasses import dataclass, field

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
EXIF_PREFIX = b"Exif\0\0"
_XMP = re.compile(rb'tiff:Orientation(?:="|>)\s*([1-8])')
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
# Of text in a PNG: more than any EXIF or XMP needs.
MOST_TEXT = 1 << 24
ORIENTATION = 274


@dataclass
class Tags:
    """Where an orientation may stand; EXIF goes before XMP, as in Pillow's ``exif_transpose``."""

    exif: list[bytes] = field(default_factory=list)
    xmp: list[bytes] = field(default_factory=list)

    def orientation(self) -> int:
        """The first that is found, 1 to 8; 1 if there is none."""
        for block in self.exif:
            found = tiff_tags(block.removeprefix(EXIF_PREFIX)).get(ORIENTATION)
            if found is not None:
                return valid(found[0])
        for text in self.xmp:
            match = _XMP.search(text)
            if match:
                return int(match[1])
        return 1


def valid(orientation: int) -> int:
    """An orientation that exists; for others 1, which turns nothing."""
    return orientation if 1 <= orientation <= 8 else 1


def read_png_text(kind: bytes, body: bytes, tags: Tags) -> None:
    """Add what a PNG's text chunk of that kind says of orientation, if anything."""
    keyword, _, text = body.partition(b"\0")
    if keyword not in (*_PROFILES, _XMP_KEYWORD):
        return
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed = text[:1] == b"\1"
        text = text[2:].split(b"\0", 2)[-1]
    elif compressed:
        text = text[1:]
    if compressed:
        try:
            text = zlib.decompressobj().decompress(text, MOST_TEXT)
        except zlib.error:
            return
    if keyword == _XMP_KEYWORD:
        tags.xmp.append(text)
        return
    # A line with the profile's name, one with its length, then hexadecimal digits.
    try:
        tags.exif.append(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")))
    except ValueError:
        return


def tiff_tags(data: bytes) -> dict[int, tuple[int, int, int]]:
    """Tags of the first directory: value (an offset, where it does not fit), its place and size."""
    order = ">" if data[:1] == b"M" else "<"
    if data[:4] not in TIFF:
        return {}
    big = b"+" in data[:4]
    tags: dict[int, tuple[int, int, int]] = {}
    try:
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        first = start + (8 if big else 2)
        for entry in range(
            first, first + min(count, 0xFFFF) * (20 if big else 12), 20 if big else 12
        ):
            tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, entry)
            at = entry + (12 if big else 8)
            # A short number or a byte that stands in the entry itself; everything else as it is.
            inside = number * {1: 1, 3: 2}.get(kind, 8) <= (8 if big else 4)
            letter = {1: "B", 3: "H"}.get(kind, "I") if inside else "QI"[not big]
            if kind == 3 and not inside and number <= 8:  # bits of each channel
                (offset,) = struct.unpack_from(order + "QI"[not big], data, at)
                letter, at = "H", offset
            (found,) = struct.unpack_from(order + letter, data, at)
            tags.setdefault(tag, (found, at, struct.calcsize(letter)))
    except (struct.error, OverflowError):
        return tags
    return tags
