"""The one door for images and labels: how they are turned, what labels store, what is refused."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from revt_hf.core.errors import UserError
from revt_hf.data.containers import read_header
from revt_hf.data.decoding import image_size, open_image
from revt_hf.data.labels import LabelTable
from revt_hf.data.reading import read_image, read_label

# Wide and without any symmetry, so that no two orientations look alike.
PIXELS = (np.arange(5 * 7 * 3).reshape(5, 7, 3) * 2).astype(np.uint8)
VALUES = (np.arange(5 * 8).reshape(5, 8) % 19).astype(np.uint8)
ANY = LabelTable({value: value % 19 for value in range(256)}, "any")
# EXIF's orientations in Pillow's words.
DISPLAYED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
every_turn = pytest.mark.parametrize("turn", range(1, 9))


def encoded(kind, pixels=PIXELS, mode=None, **options):
    image = Image.fromarray(pixels)
    data = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(data, kind, **options)
    return data.getvalue()


def image_of(data):
    return read_image({"path": None, "bytes": data})


def label_of(data):
    return read_label({"path": None, "bytes": data}, ANY)


def displayed(pixels, orientation):
    image = Image.fromarray(pixels)
    if orientation in DISPLAYED:
        image = image.transpose(DISPLAYED[orientation])
    return np.array(image)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_profile(orientation, pixels=PIXELS):
    """As ImageMagick writes it: the EXIF block in hexadecimal digits, in compressed text."""
    block = exif(orientation).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    return encoded("PNG", pixels, pnginfo=info)


def png_xmp(orientation):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x tiff:Orientation="{orientation}"/>')
    return encoded("PNG", pnginfo=info)


def png_late(orientation):
    """Behind the pixels, where the format allows it, too."""
    data = encoded("PNG")
    body = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    return data[:-12] + chunk(b"eXIf", body) + data[-12:]


def webp(orientation, prefix):
    data = encoded("WEBP", lossless=True, exact=True, exif=exif(1).tobytes())
    block = prefix + exif(orientation).tobytes().removeprefix(b"Exif\0\0")
    data = data[: data.index(b"EXIF")]
    data += struct.pack("<4sI", b"EXIF", len(block)) + block + bytes(len(block) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


def motorola_tiff(orientation):
    """Pixels as they are, most significant bytes first."""
    tags = [
        *((256, 4, 1, 7), (257, 4, 1, 5), (258, 3, 3, 200), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, 1, 300), (274, 3, 1, orientation), (277, 3, 1, 3), (278, 4, 1, 5)),
        (279, 4, 1, PIXELS.size),
    ]
    entries = b""
    for tag, kind, count, value in tags:
        held = struct.pack(">HH", value, 0) if (kind, count) == (3, 1) else struct.pack(">I", value)
        entries += struct.pack(">HHI", tag, kind, count) + held
    data = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    data = data.ljust(200, b"\0") + struct.pack(">HHH", 8, 8, 8)
    return data.ljust(300, b"\0") + PIXELS.tobytes()


TURNED = {
    "png": lambda turn: encoded("PNG", exif=exif(turn)),
    "png behind its pixels": png_late,
    "png with a profile": png_profile,
    "png with XMP": png_xmp,
    "webp": lambda turn: webp(turn, b""),
    "webp with a prefix": lambda turn: webp(turn, b"Exif\0\0"),
    "tiff": lambda turn: encoded("TIFF", exif=exif(turn)),
    "tiff, lzw": lambda turn: encoded("TIFF", exif=exif(turn), compression="tiff_lzw"),
    "tiff, big-endian": motorola_tiff,
    "jpeg": lambda turn: encoded("JPEG", exif=exif(turn)),
}


@every_turn
@pytest.mark.parametrize("kind", TURNED)
def test_images_are_turned_as_they_are_displayed(kind, turn):
    data = TURNED[kind](turn)
    stored = image_of(encoded("JPEG")) if kind == "jpeg" else PIXELS
    assert (image_of(data) == displayed(stored, turn)).all()
    assert image_size({"path": None, "bytes": data}) == displayed(PIXELS, turn).shape[:2]


@pytest.mark.parametrize("turn", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(turn):
    assert (image_of(TURNED["tiff"](turn)) == PIXELS).all()
    assert (image_of(TURNED["png"](turn)) == PIXELS).all()


@every_turn
@pytest.mark.parametrize(
    "write",
    [
        *(
            lambda turn, kind=kind, mode=mode: encoded(kind, VALUES, mode, exif=exif(turn))
            for kind in ("PNG", "TIFF")
            for mode in ("L", "P")
        ),
        lambda turn: png_profile(turn, VALUES),
    ],
    ids=["png", "palette png", "tiff", "palette tiff", "png with a profile"],
)
def test_labels_are_turned_by_their_own_orientation(write, turn):
    assert (label_of(write(turn)) == displayed(VALUES, turn)).all()


def packed_rows(values, bits):
    """Rows of values of that many bits."""
    shifts = np.arange(bits)[::-1]
    rows = ((row[:, None] >> shifts & 1).astype(np.uint8).reshape(-1) for row in values)
    return [np.packbits(row).tobytes() for row in rows]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packed_grey_labels_are_read_as_stored(bits):
    values = VALUES % (1 << bits)
    header = struct.pack(">IIBBBBB", 8, 5, bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in packed_rows(values, bits)))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    assert (label_of(b"\x89PNG\r\n\x1a\n" + chunks) == values).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette_labels_give_their_indices(kind):
    image = Image.fromarray(VALUES)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    data = io.BytesIO()
    image.save(data, kind)
    assert (label_of(data.getvalue()) == VALUES).all()
    if kind != "GIF":  # black and white
        assert (label_of(encoded(kind, (VALUES % 2).astype(bool))) == VALUES % 2).all()


BLACK_AND_WHITE, GREYS = [(0,) * 3, (255,) * 3], [(value,) * 3 for value in range(256)]


@pytest.mark.parametrize(
    ("bits", "palette"),
    [
        (1, BLACK_AND_WHITE),
        (1, BLACK_AND_WHITE[::-1]),
        (4, BLACK_AND_WHITE),
        (8, BLACK_AND_WHITE),
        (4, GREYS[:16]),
        (8, GREYS[:16]),
        (8, GREYS),
    ],
)
def test_bmp_labels_give_their_indices_whatever_the_palette_looks_like(bits, palette):
    values = VALUES % min(len(palette), 19)
    # From the last row to the first, rows of whole words.
    rows = packed_rows(values[::-1], bits)
    body = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
    colours = b"".join(bytes((*colour, 0)) for colour in palette)
    start = 54 + len(colours)
    head = struct.pack("<IHHI", start + len(body), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 5, 1, bits, 0, 0, 0, 0, len(palette), 0)
    assert (label_of(b"BM" + head + info + colours + body) == values).all()


def netpbm(kind, values, peak):
    head = f"P{kind}\n# made by hand\n{values.shape[1]} {values.shape[0]}\n"
    head += "" if kind in (1, 4) else f"{peak}\n"
    if kind == 4:
        return head.encode() + np.packbits(values, axis=1).tobytes()
    if kind in (5, 6):
        return head.encode() + values.astype(">u2" if peak > 255 else "u1").tobytes()
    return head.encode() + b" ".join(b"%d" % value for value in values.reshape(-1)) + b"\n"


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("peak", [1, 18, 100, 255, 1000, 4095, 65535])
def test_netpbm_labels_are_read_as_stored_and_images_as_bright_as_their_white_says(kind, peak):
    shape = (5, 7, 1) if kind in (2, 5) else (5, 7, 3)
    values = np.linspace(0, peak, int(np.prod(shape))).astype(int).reshape(shape)
    shown = image_of(netpbm(kind, values, peak))
    assert np.abs(shown - values / peak * 255).max() <= 1
    if kind in (2, 5):
        values = VALUES.astype(int) % (peak + 1)
        assert (label_of(netpbm(kind, values, peak)) == values).all()


@pytest.mark.parametrize("kind", [1, 4])
def test_bitmaps_are_black_where_their_bits_are_set(kind):
    data = netpbm(kind, VALUES % 2, 1)
    assert (image_of(data) == (1 - VALUES[..., None] % 2) * 255).all()
    tiff = bytearray(encoded("TIFF", VALUES))
    at = tiff.index(struct.pack("<HHI", 262, 3, 1)) + 8  # which value is white
    tiff[at : at + 2] = struct.pack("<H", 0)
    for label, name in ((data, "netpbm"), (bytes(tiff), "tiff")):
        with pytest.raises(UserError, match=f"a {name} file whose zero is white: save the label"):
            label_of(label)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (PIXELS.astype(np.float32), "32-bit floating-point pixels: save it as 8 or 16 bits"),
        (PIXELS.astype(np.float64), "64-bit floating-point"),
        (PIXELS[..., 0].astype(np.int32), "32-bit signed"),
        (PIXELS[..., 0].astype(np.int16), "16-bit signed"),
    ],
)
def test_what_opencv_cannot_read_is_said_by_the_error_alone(pixels, words, capfd):
    data = cv2.imencode(".tif", pixels)[1].tobytes()
    for read in (image_of, label_of):
        with pytest.raises(UserError, match=words):
            read(data)
    with pytest.raises(UserError, match="a damaged one"):
        image_of(COMPLETE["tiff"][:-500])
    with pytest.raises(UserError, match="not an image"):
        image_of(b"Pf\n2 2\n-1.0\n" + np.ones(4, np.float32).tobytes())
    assert capfd.readouterr().err == ""  # the errors say it all


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG", VALUES),
        encoded("WEBP", VALUES, "RGB"),
        encoded("TIFF", VALUES, compression="jpeg"),
        encoded("JPEG2000", VALUES),
        *([encoded("AVIF", VALUES, "RGB")] if features.check("avif") else []),
    ],
)
def test_labels_that_may_have_lost_something_are_refused(tmp_path, data):
    path = tmp_path / "label.png"  # by content, whatever it is called
    path.write_bytes(data)
    words = r"label\.png: (a label.*(one channel|may change values)|not a label)"
    with pytest.raises(UserError, match=words):
        read_label({"path": str(path), "bytes": None}, ANY)
    assert read_header(data).lossy


LARGE = np.tile(PIXELS, (20, 20, 1))
COMPLETE = {
    "progressive jpeg": encoded("JPEG", LARGE, progressive=True),
    "webp": encoded("WEBP", LARGE, exif=exif(1).tobytes()),
    **{kind: encoded(kind.upper(), LARGE) for kind in ("jpeg", "png", "tiff", "bmp")},
}


@pytest.mark.parametrize("kind", COMPLETE)
def test_cut_images_are_refused_and_bytes_behind_one_are_no_damage(kind):
    """Motion photos of phones and padded frames of recorders have such bytes."""
    data, noise = COMPLETE[kind], np.random.default_rng(3).bytes(70_000)
    assert (image_of(data + noise) == image_of(data)).all()
    for kept in (0.3, 0.6, 0.9, 0.99):
        with pytest.raises(UserError):
            image_of(data[: int(len(data) * kept)])


@pytest.mark.parametrize(
    "data",
    [
        # Its thumbnail's end must not be taken for its own.
        encoded("JPEG", LARGE, exif=exif(1).tobytes() + encoded("JPEG"))[:-300],
        netpbm(4, VALUES % 2, 1)[:-1],
        netpbm(5, VALUES % 2, 255)[:-1],
    ],
)
def test_a_truncated_file_is_told_as_such(data):
    for read in (image_of, label_of):
        with pytest.raises(UserError, match="truncated"):
            read(data)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.png"))
    for name in ("pipe.png", "device.png", "folder.png", "socket.png"):
        for path in (tmp_path / name, (tmp_path / name).with_suffix(".npy")):
            if path.suffix == ".npy":
                path.symlink_to(tmp_path / name)
            with pytest.raises(UserError, match=rf"{path.stem}.*not a regular file"):
                open_image({"path": str(path), "bytes": None})
    listening.close()


def test_images_that_would_fill_the_memory_are_refused(tmp_path):
    data = encoded("PNG")
    with pytest.raises(UserError, match="65536x65536 pixels are more"):
        image_of(data[:16] + struct.pack(">II", 1 << 16, 1 << 16) + data[24:])
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(UserError, match=r"sparse\.png.*too many"):
        read_image({"path": str(path), "bytes": None})


def test_the_door_can_be_imported_first():
    """It does not depend on the domains, which read through it."""
    code = "import sys, revt_hf.data.reading; assert 'revt_hf.data.domains' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
