"""What an image file says of itself before it is decoded: size, orientation, completeness, loss.

OpenCV turns some formats by their orientation, in some versions, and TIFF whatever it is told; it
scales packed grey values and expands palettes. So all of that is read here, once, from the file's
own structure.
"""

import io
import re
import struct
import zlib
from dataclasses import dataclass, field, replace

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXIF = b"Exif\0\0"
_XMP = re.compile(rb'tiff:Orientation(?:="|>)\s*([1-8])')
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
# More than any camera has: a broken file, or one that is made to fill the memory.
MOST_PIXELS = 1 << 28
# Of text in a PNG: more than any EXIF or XMP needs.
_MOST_TEXT = 1 << 24

_ORIENTATION, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _PACKET = (
    *(274, 256, 257, 258, 259),
    *(262, 700),
)
_GREY_OR_PALETTE = (0, 1, 3)
_WHITE_IS_ZERO = 0
# CCITT, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard and none give back what went in.
_LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
_NO_FRAME = (0xC4, 0xC8, 0xCC)
# With a length behind it; the others stand alone.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd9]")
_START_OF_SCAN, _APP1 = 0xDA, 0xE1


@dataclass(frozen=True)
class Header:
    """What a file says.

    Attributes:
        kind: ``png``, ``jpeg``, ``webp``, ``tiff``, ``bmp``, ``gif``, another in Pillow's words, or
            empty: not known.
        size: (width, height) in pixels as stored, before it is turned.
        orientation: EXIF's, 1 (as stored) to 8.
        whole: whether the file goes on to its own end.
        lossy: whether decoded values may not be those that were written.
        bits: of a grey value, as far as it is known.
        packed: whether only Pillow gives the stored values: indices, or less than eight bits.
        inverted: whether its zero is white, so that decoders change the values.
        tag: where the orientation stands in a TIFF, as (offset, bytes).
    """

    kind: str = ""
    size: tuple[int, int] | None = None
    orientation: int = 1
    whole: bool = True
    lossy: bool = False
    bits: int = 8
    packed: bool = False
    inverted: bool = False
    tag: tuple[int, int] | None = None


def read_header(data: bytes) -> Header:
    """The header of an encoded image; never raises, whatever the bytes are."""
    readers = {_PNG: _png, _JPEG: _jpeg, b"BM": _bmp, b"GIF8": _gif, **dict.fromkeys(_TIFF, _tiff)}
    for magic, reader in readers.items():
        if data.startswith(magic):
            return reader(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return _other(data)


@dataclass
class _Tags:
    """Where an orientation may stand; EXIF goes before XMP, as in Pillow's ``exif_transpose``."""

    exif: list[bytes] = field(default_factory=list)
    xmp: list[bytes] = field(default_factory=list)

    def orientation(self) -> int:
        for block in self.exif:
            found = _tiff_tags(block.removeprefix(_EXIF)).get(_ORIENTATION)
            if found is not None:
                return _valid(found[0])
        for text in self.xmp:
            match = _XMP.search(text)
            if match:
                return int(match[1])
        return 1


def _valid(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


def _png(data: bytes) -> Header:
    tags, size, depth, packed, whole = _Tags(), None, 8, False, False
    position = len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        body = slice(position + 8, position + 8 + length)
        position += 12 + length
        if position > len(data):
            break
        if kind == b"IHDR" and length >= 13:
            width, height, bits, colours = struct.unpack_from(">IIBB", data, body.start)
            size, depth = (width, height), bits
            packed = colours == 3 or (colours == 0 and bits < 8)
        elif kind == b"eXIf":
            tags.exif.insert(0, data[body])
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            _png_text(kind, data[body], tags)
        elif kind == b"IEND":
            whole = True
            break
    return Header("png", size, tags.orientation(), whole, bits=depth, packed=packed)


def _png_text(kind: bytes, body: bytes, tags: _Tags) -> None:
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
            text = zlib.decompressobj().decompress(text, _MOST_TEXT)
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


def _jpeg(data: bytes) -> Header:
    tags, size, position = _Tags(), None, 2
    while found := _MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end() - 2
        if position + 4 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == _APP1 and body.startswith(_EXIF):
            tags.exif.append(body)
        elif marker == _APP1 and body.startswith(b"http://ns.adobe.com/xap/"):
            tags.xmp.append(body)
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and len(body) >= 5:
            height, width = struct.unpack_from(">HH", body, 1)
            size = size or (width, height)
        elif marker == _START_OF_SCAN:
            break
    # In what follows, two such bytes are the end and nothing else; data of its own may come after.
    whole = data.rfind(b"\xff\xd9", position) >= 0
    return Header("jpeg", size, tags.orientation(), whole, lossy=True)


def _webp(data: bytes) -> Header:
    tags, size, lossy = _Tags(), None, False
    position = 12
    whole = len(data) >= 8 + struct.unpack_from("<I", data, 4)[0]
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        if kind == b"VP8X" and len(body) >= 10:
            canvas = (int.from_bytes(body[4:7], "little"), int.from_bytes(body[7:10], "little"))
            size = (canvas[0] + 1, canvas[1] + 1)
        elif kind == b"VP8 " and len(body) >= 10:
            lossy = True
            width, height = struct.unpack_from("<HH", body, 6)
            size = size or (width & 0x3FFF, height & 0x3FFF)
        elif kind == b"VP8L" and len(body) >= 5:
            (packed,) = struct.unpack_from("<I", body, 1)
            size = size or ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
        elif kind == b"ANMF":
            lossy |= b"VP8 " in body[16:]
        elif kind == b"EXIF":
            tags.exif.append(body)
        elif kind == b"XMP ":
            tags.xmp.append(body)
    return Header("webp", size, tags.orientation(), whole, lossy=lossy)


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)

    def value(tag: int, default: int) -> int:
        return tags[tag][0] if tag in tags else default

    size = (value(_WIDTH, 0), value(_HEIGHT, 0))
    tag = None
    if _ORIENTATION in tags:
        orientation, *tag_at = tags[_ORIENTATION]
        orientation, tag = _valid(orientation), (tag_at[0], tag_at[1])
    else:
        packet = tags.get(_PACKET)
        text = data[packet[0] :] if packet else b""
        orientation = _Tags(xmp=[text[:_MOST_TEXT]]).orientation()
    photometric = value(_PHOTOMETRIC, 1)
    bits = value(_BITS, 1)
    return Header(
        "tiff",
        size if all(size) else None,
        orientation,
        lossy=value(_COMPRESSION, 1) not in _LOSSLESS,
        bits=bits,
        packed=photometric == 3 or (photometric in _GREY_OR_PALETTE and bits < 8),
        inverted=photometric == _WHITE_IS_ZERO,
        tag=tag,
    )


def _tiff_tags(data: bytes) -> dict[int, tuple[int, int, int]]:
    """Tags of the first directory: value (an offset, where it does not fit), its place and size."""
    order = ">" if data[:1] == b"M" else "<"
    if data[:4] not in _TIFF:
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


def _bmp(data: bytes) -> Header:
    if len(data) < 30:
        return Header("bmp", whole=False)
    width, height, bits = struct.unpack_from("<ii2xH", data, 18)
    return Header("bmp", (abs(width), abs(height)), packed=bits <= 8)


def _gif(data: bytes) -> Header:
    if len(data) < 10:
        return Header("gif", whole=False)
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("gif", (width, height), packed=True)


def _other(data: bytes) -> Header:
    """Formats that few data sets have: what Pillow knows of them."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            header = Header(str(image.format).lower(), image.size)
            if header.kind == "avif":
                return replace(header, orientation=_valid(image.getexif().get(_ORIENTATION, 1)))
    except Image.DecompressionBombError:
        return Header(size=(MOST_PIXELS, 2), lossy=True)
    # What a foreign file raises is up to Pillow; whether it can be decoded shows later.
    except Exception:
        return Header(lossy=True)
    # The Netpbm formats are plain values; of all others it is not known.
    return replace(header, lossy=header.kind != "ppm")
