"""What an image file says of itself before it is decoded: size, orientation, completeness, loss.

OpenCV turns some formats by their orientation, in some versions, and TIFF whatever it is told; it
scales packed grey values and expands palettes. So all of that is read here, once, from the file's
own structure.
"""

import io
import re
import struct
from dataclasses import dataclass

from PIL import Image

from revt_hf.data.orientation import (
    EXIF_PREFIX,
    MOST_TEXT,
    ORIENTATION,
    TIFF,
    Tags,
    read_png_text,
    tiff_tags,
    valid,
)

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_NETPBM = re.compile(rb"P([1-6])" + 2 * rb"(?:\s|#[^\n]*\n)+(\d{1,9})")
_NETPBM_PEAK = re.compile(rb"(?:\s|#[^\n]*\n)+(\d{1,5})\s")
# More than any camera has: a broken file, or one that is made to fill the memory.
MOST_PIXELS = 1 << 28

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _PACKET, _SAMPLES = (
    *(256, 257, 258, 259),
    *(262, 700, 339),
)
_UNSIGNED, _SAMPLE_KINDS = 1, {2: "signed", 3: "floating-point"}
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
        kind: ``png``, ``jpeg``, ``webp``, ``tiff``, ``bmp``, ``gif``, ``netpbm``, another in
            Pillow's words, or empty: not known.
        size: (width, height) in pixels as stored, before it is turned.
        orientation: EXIF's, 1 (as stored) to 8.
        whole: whether the file goes on to its own end.
        lossy: whether decoded values may not be those that were written; so it is of whatever is
            not known to keep them.
        bits: of a grey value, as far as it is known.
        packed: whether only Pillow gives the stored values: indices, or less than eight bits.
        inverted: whether its zero is white, so that decoders change the values.
        tag: where the orientation stands in a TIFF, as (offset, bytes).
        peak: the value of white in a Netpbm file.
        unusual: what its values are, if neither whole numbers from 0 nor of 8 or 16 bits.
    """

    kind: str = ""
    size: tuple[int, int] | None = None
    orientation: int = 1
    whole: bool = True
    lossy: bool = True
    bits: int = 8
    packed: bool = False
    inverted: bool = False
    tag: tuple[int, int] | None = None
    peak: int | None = None
    unusual: str = ""


def read_header(data: bytes) -> Header:
    """The header of an encoded image; never raises, whatever the bytes are."""
    readers = {_PNG: _png, _JPEG: _jpeg, b"BM": _bmp, b"GIF8": _gif, **dict.fromkeys(TIFF, _tiff)}
    for magic, reader in readers.items():
        if data.startswith(magic):
            return reader(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return _netpbm(data) or _other(data)


def _png(data: bytes) -> Header:
    tags, size, depth, packed, whole = Tags(), None, 8, False, False
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
            read_png_text(kind, data[body], tags)
        elif kind == b"IEND":
            whole = True
            break
    return Header("png", size, tags.orientation(), whole, lossy=False, bits=depth, packed=packed)


def _jpeg(data: bytes) -> Header:
    tags, size, position = Tags(), None, 2
    while found := _MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end() - 2
        if position + 4 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == _APP1 and body.startswith(EXIF_PREFIX):
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
    return Header("jpeg", size, tags.orientation(), whole)


def _webp(data: bytes) -> Header:
    tags, size, kinds = Tags(), None, set()
    position = 12
    whole = len(data) >= 8 + struct.unpack_from("<I", data, 4)[0]
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        kinds.add(kind)
        if kind == b"VP8X" and len(body) >= 10:
            canvas = (int.from_bytes(body[4:7], "little"), int.from_bytes(body[7:10], "little"))
            size = (canvas[0] + 1, canvas[1] + 1)
        elif kind == b"VP8 " and len(body) >= 10:
            width, height = struct.unpack_from("<HH", body, 6)
            size = size or (width & 0x3FFF, height & 0x3FFF)
        elif kind == b"VP8L" and len(body) >= 5:
            (packed,) = struct.unpack_from("<I", body, 1)
            size = size or ((packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1)
        elif kind == b"EXIF":
            tags.exif.append(body)
        elif kind == b"XMP ":
            tags.xmp.append(body)
    # Moving ones may hold both kinds.
    lossy = b"VP8L" not in kinds or not kinds.isdisjoint((b"VP8 ", b"ANMF"))
    return Header("webp", size, tags.orientation(), whole, lossy)


def _tiff(data: bytes) -> Header:
    tags = tiff_tags(data)

    def value(tag: int, default: int) -> int:
        return tags[tag][0] if tag in tags else default

    size = (value(_WIDTH, 0), value(_HEIGHT, 0))
    tag = None
    if ORIENTATION in tags:
        orientation, *tag_at = tags[ORIENTATION]
        orientation, tag = valid(orientation), (tag_at[0], tag_at[1])
    else:
        packet = tags.get(_PACKET)
        text = data[packet[0] :] if packet else b""
        orientation = Tags(xmp=[text[:MOST_TEXT]]).orientation()
    photometric = value(_PHOTOMETRIC, 1)
    bits = value(_BITS, 1)
    samples = value(_SAMPLES, _UNSIGNED)
    unusual = bits > 16 or samples in _SAMPLE_KINDS
    return Header(
        "tiff",
        size if all(size) else None,
        orientation,
        lossy=value(_COMPRESSION, 1) not in _LOSSLESS,
        bits=bits,
        packed=photometric == 3 or (photometric in _GREY_OR_PALETTE and bits < 8),
        inverted=photometric == _WHITE_IS_ZERO,
        tag=tag,
        unusual=f"{bits}-bit {_SAMPLE_KINDS.get(samples, 'unsigned')}" if unusual else "",
    )


def _bmp(data: bytes) -> Header:
    if len(data) < 30:
        return Header("bmp", whole=False)
    old = bmp_palette(data) == 26
    width, height, bits = struct.unpack_from("<HH2xH" if old else "<ii2xH", data, 18)
    return Header("bmp", (abs(width), abs(height)), lossy=False, packed=bits <= 8)


def bmp_palette(data: bytes) -> int:
    """Where a BMP's palette begins, if it has one: behind its two headers."""
    return 14 + int(struct.unpack_from("<I", data, 14)[0])


def _gif(data: bytes) -> Header:
    if len(data) < 10:
        return Header("gif", whole=False)
    width, height = struct.unpack_from("<HH", data, 6)
    return Header("gif", (width, height), lossy=False, packed=True)


def _netpbm(data: bytes) -> Header | None:
    """Bits, where 1 is black, or values up to a number of the file's choice; None: another kind."""
    start = _NETPBM.match(data)
    if start is None:
        return None
    kind, width, height = map(int, start.groups())
    peak, end = 1, start.end() + 1
    if kind not in (1, 4):
        found = _NETPBM_PEAK.match(data, start.end())
        if found is None:
            return None
        peak, end = int(found[1]), found.end()
    row = (width + 7) // 8 if kind == 4 else width * (3 if kind == 6 else 1) * (1 + (peak > 255))
    whole = kind < 4 or len(data) >= end + row * height
    return Header(
        "netpbm",
        (width, height),
        whole=whole,
        lossy=False,
        packed=peak < 255,
        inverted=kind in (1, 4),
        peak=peak,
    )


def _other(data: bytes) -> Header:
    """Formats that few datasets have: what Pillow knows of them."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = str(image.format).lower()
            # Other formats are not turned; AVIF is, in newer versions of OpenCV and Pillow.
            turn = image.getexif().get(ORIENTATION, 1) if kind == "avif" else 1
            return Header(kind, image.size, valid(turn))
    except Image.DecompressionBombError:
        return Header(size=(MOST_PIXELS, 2))
    # What a foreign file raises is up to Pillow; whether it can be decoded shows later.
    except Exception:
        return Header()
