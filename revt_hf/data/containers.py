"""An image file's own structure, as OpenCV's way to turn and expand it depends on its version."""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

# More than any camera has: a broken file, or one made to exhaust memory.
MOST_PIXELS = 1 << 28

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM = re.compile(rb"P([1-6])" + 2 * rb"(?:\s|#[^\n]*\n)+(\d{1,9})")
_NETPBM_PEAK = re.compile(rb"(?:\s|#[^\n]*\n)+(\d{1,5})\s")
# JPEG markers that a length follows; the others stand alone.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd9]")
_NO_FRAME, _START_OF_SCAN, _APP1 = (0xC4, 0xC8, 0xCC), 0xDA, 0xE1
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _XMP_PACKET = 274, 339, 700
_SAMPLE_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE = 0, 1, 3
# None, CCITT (three numbers), LZW, Deflate (two numbers), PackBits, LZMA and Zstandard.
_LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)

_EXIF = b"Exif\0\0"
_XMP = re.compile(rb'tiff:Orientation(?:="|>)\s*([1-8])')
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
# Text in a PNG: more than any EXIF or XMP needs.
_MOST_TEXT = 1 << 24


@dataclass(frozen=True)
class Header:
    """An image file's structure; ``size`` is (width, height) in pixels as stored, not turned."""

    kind: str = ""  # "png", "jpeg", ..., Pillow's name of a rare format, empty if unknown
    size: tuple[int, int] | None = None
    orientation: int = 1  # EXIF's, 1 (as stored) to 8
    whole: bool = True  # false if the file is truncated
    lossy: bool = True
    bits: int = 8  # per grey value, as far as it is known
    packed: bool = False  # only Pillow gives the stored values: indices, or fewer than eight bits
    inverted: bool = False  # zero is white, so that decoders change the values
    tag: tuple[int, int] | None = None  # the orientation's (offset, bytes) in a TIFF
    peak: int | None = None  # the value of white in a Netpbm file
    unusual: str = ""  # describes values other than whole numbers from 0 of at most 16 bits

    @property
    def displayed(self) -> tuple[int, int] | None:
        """(height, width) once turned; None if only decoding can tell."""
        if self.size is None:
            return None
        return self.size if self.orientation > 4 else self.size[::-1]


def _orientation(exif: Sequence[bytes], xmp: Sequence[bytes]) -> int:
    """EXIF wins over XMP, as in Pillow's exif_transpose."""
    for block in exif:
        found = _tiff_tags(block.removeprefix(_EXIF)).get(_ORIENTATION)
        if found is not None:
            return _valid(found[0])
    matches = (_XMP.search(text) for text in xmp)
    return next((int(match[1]) for match in matches if match), 1)


def _valid(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


def read_header(data: bytes) -> Header:
    """The header of an encoded image; never raises, whatever the bytes are."""
    readers = {_PNG: _png, _JPEG: _jpeg, b"BM": _bmp, b"GIF8": _gif, **dict.fromkeys(_TIFF, _tiff)}
    for magic, reader in readers.items():
        if data.startswith(magic):
            return reader(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _webp(data)
    return _netpbm(data) or _other(data)


def _png(data: bytes) -> Header:
    exif: list[bytes] = []
    xmp: list[bytes] = []
    size, depth, packed, whole, position = None, 8, False, False, len(_PNG)
    while position + 12 <= len(data) and not whole:
        length, kind = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 12 + length
        if position > len(data):
            break
        if kind == b"IHDR" and length >= 13:
            width, height, depth, colours = struct.unpack_from(">IIBB", body)
            size = (width, height)
            packed = colours == 3 or (colours == 0 and depth < 8)
        elif kind == b"eXIf":
            exif.insert(0, body)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            _png_text(kind, body, exif, xmp)
        whole = kind == b"IEND"
    return Header("png", size, _orientation(exif, xmp), whole, False, depth, packed)


def _png_text(kind: bytes, body: bytes, exif: list[bytes], xmp: list[bytes]) -> None:
    keyword, _, text = body.partition(b"\0")
    if keyword not in (*_PROFILES, _XMP_KEYWORD):
        return
    compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        text = text[2:].split(b"\0", 2)[-1]
    try:
        if compressed:
            text = zlib.decompressobj().decompress(text, _MOST_TEXT)
        if keyword == _XMP_KEYWORD:
            xmp.append(text)
        else:  # a line with the profile's name, one with its length, then hexadecimal digits
            digits = b"".join(text.split(b"\n")[3:])
            exif.append(bytes.fromhex(digits.decode("ascii")))
    except (ValueError, zlib.error):
        return


def _jpeg(data: bytes) -> Header:
    exif, xmp, size, position = [], [], None, 2
    while found := _MARKER.search(data, position):
        marker, position = data[found.end() - 1], found.end() - 2
        if position + 4 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position + 2)
        body = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == _APP1 and body.startswith(_EXIF):
            exif.append(body)
        elif marker == _APP1 and body.startswith(b"http://ns.adobe.com/xap/"):
            xmp.append(body)
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and len(body) >= 5:
            height, width = struct.unpack_from(">HH", body, 1)
            size = size or (width, height)
        elif marker == _START_OF_SCAN:
            break
    # Behind the scan header these two bytes can only be the end; foreign data may follow it.
    whole = data.rfind(b"\xff\xd9", position) >= 0
    return Header("jpeg", size, _orientation(exif, xmp), whole)


def _webp(data: bytes) -> Header:
    exif, xmp, size, kinds, position = [], [], None, set(), 12
    whole = len(data) >= 8 + struct.unpack_from("<I", data, 4)[0]
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        kinds.add(kind)
        if kind == b"VP8X" and len(body) >= 10:
            width, height = (int.from_bytes(body[at : at + 3], "little") for at in (4, 7))
            size = (width + 1, height + 1)
        elif kind == b"VP8 " and len(body) >= 10:
            width, height = struct.unpack_from("<HH", body, 6)
            size = size or (width & 0x3FFF, height & 0x3FFF)
        elif kind == b"VP8L" and len(body) >= 5:
            (sides,) = struct.unpack_from("<I", body, 1)
            size = size or ((sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1)
        elif kind == b"EXIF":
            exif.append(body)
        elif kind == b"XMP ":
            xmp.append(body)
    # Animations may hold both kinds.
    lossy = b"VP8L" not in kinds or not kinds.isdisjoint((b"VP8 ", b"ANMF"))
    return Header("webp", size, _orientation(exif, xmp), whole, lossy)


def _tiff(data: bytes) -> Header:
    tags = _tiff_tags(data)

    def value(tag: int, default: int) -> int:
        return tags[tag][0] if tag in tags else default

    if _ORIENTATION in tags:
        orientation = _valid(value(_ORIENTATION, 1))
    else:
        packet = value(_XMP_PACKET, len(data))
        orientation = _orientation([], [data[packet : packet + _MOST_TEXT]])
    size = (value(_WIDTH, 0), value(_HEIGHT, 0))
    photometric, bits = value(_PHOTOMETRIC, _BLACK_IS_ZERO), value(_BITS, 1)
    samples = _SAMPLE_KINDS.get(value(_SAMPLES, 1), "unsigned")
    packable = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and bits < 8
    return Header(
        "tiff",
        size if all(size) else None,
        orientation,
        lossy=value(_COMPRESSION, 1) not in _LOSSLESS,
        bits=bits,
        packed=photometric == _PALETTE or packable,
        inverted=photometric == _WHITE_IS_ZERO,
        tag=tags[_ORIENTATION][1:] if _ORIENTATION in tags else None,
        unusual=f"{bits}-bit {samples}" if bits > 16 or samples != "unsigned" else "",
    )


def _tiff_tags(data: bytes) -> dict[int, tuple[int, int, int]]:
    """The first directory's tags: (value, or its offset if it does not fit; offset, bytes)."""
    if data[:4] not in _TIFF:
        return {}
    order, big = (">" if data[:1] == b"M" else "<"), b"+" in data[:4]
    word, length = ("Q", 8) if big else ("I", 4)
    tags: dict[int, tuple[int, int, int]] = {}
    try:
        (start,) = struct.unpack_from(order + word, data, length)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        first, step = start + (8 if big else 2), 20 if big else 12
        for entry in range(first, first + min(count, 0xFFFF) * step, step):
            tag, kind, number = struct.unpack_from(f"{order}HH{word}", data, entry)
            at = entry + 4 + length
            # Short numbers and bytes that fit are in the entry itself; others behind an offset.
            inside = number * {1: 1, 3: 2}.get(kind, 8) <= length
            letter = {1: "B", 3: "H"}.get(kind, "I") if inside else word
            if kind == 3 and not inside and number <= 8:  # bits of each channel
                (at,) = struct.unpack_from(order + word, data, at)
                letter = "H"
            (found,) = struct.unpack_from(order + letter, data, at)
            tags.setdefault(tag, (found, at, struct.calcsize(letter)))
    except (struct.error, OverflowError):
        return tags  # as far as they can be read
    return tags


def _bmp(data: bytes) -> Header:
    if len(data) < 30:
        return Header("bmp", whole=False)
    old = bmp_palette(data) == 26
    width, height, bits = struct.unpack_from("<HH2xH" if old else "<ii2xH", data, 18)
    return Header("bmp", (abs(width), abs(height)), lossy=False, packed=bits <= 8)


def bmp_palette(data: bytes) -> int:
    """The offset of a BMP's palette, if it has one: behind its two headers."""
    return 14 + int(struct.unpack_from("<I", data, 14)[0])


def _gif(data: bytes) -> Header:
    size = struct.unpack_from("<HH", data, 6) if len(data) >= 10 else None
    return Header("gif", size, whole=size is not None, lossy=False, packed=True)


def _netpbm(data: bytes) -> Header | None:
    """Bits with 1 for black, or values up to a peak of the file's choice; None: another format."""
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
    size, packed, inverted = (width, height), peak < 255, kind in (1, 4)
    return Header("netpbm", size, 1, whole, False, 8, packed, inverted, peak=peak)


def _other(data: bytes) -> Header:
    """Formats that few datasets have, as far as Pillow reads them."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = str(image.format).lower()
            # Other formats are not turned; AVIF is, in newer versions of OpenCV and Pillow.
            turn = image.getexif().get(_ORIENTATION, 1) if kind == "avif" else 1
            return Header(kind, image.size, _valid(turn))
    except Image.DecompressionBombError:
        return Header(size=(MOST_PIXELS, 2))
    # Pillow raises anything for foreign files; whether they can be decoded shows later.
    except Exception:  # noqa: BLE001
        return Header()
