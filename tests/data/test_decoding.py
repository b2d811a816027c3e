"""The one door for images and labels: turned, as stored, or one sentence that names the file."""

import io
import json
import os
import socket
import struct
import subprocess
import sys
import zipfile
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from revt_hf.core.errors import UserError
from revt_hf.data.containers import read_header
from revt_hf.data.decoding import image_size, open_image
from revt_hf.data.labels import TRAIN_IDS, LabelTable, label_table
from revt_hf.data.reading import read_image, read_label
from tests.helpers.mutate import cases, mutated_bytes, mutated_json, reads_or_refuses
from tests.helpers.on_disk import CASE, random_image, save_image

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
PALETTES = ("PNG", "TIFF", "BMP", "GIF")
every_turn = pytest.mark.parametrize("turn", range(1, 9))


def encoded(kind, pixels=PIXELS, mode=None, palette=None, **options):
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    data = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(data, kind, **options)
    return data.getvalue()


def cell(data):
    return {"path": None, "bytes": data}


def image_of(data):
    return read_image(cell(data))


def label_of(data):
    return read_label(cell(data), ANY)


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
    assert image_size(cell(data)) == displayed(PIXELS, turn).shape[:2]


@pytest.mark.parametrize("turn", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(turn):
    for kind in ("tiff", "png"):
        assert (image_of(TURNED[kind](turn)) == PIXELS).all()


@every_turn
@pytest.mark.parametrize("mode", ["L", "P", "profile"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_labels_are_turned_by_their_own_orientation(kind, mode, turn):
    profile = mode == "profile"
    data = png_profile(turn, VALUES) if profile else encoded(kind, VALUES, mode, exif=exif(turn))
    assert (label_of(data) == displayed(VALUES, turn)).all()


def packed_rows(values, bits):
    """Rows of values of that many bits."""
    shifts = np.arange(bits)[::-1]
    rows = ((row[:, None] >> shifts & 1).astype(np.uint8).reshape(-1) for row in values)
    return [np.packbits(row).tobytes() for row in rows]


def packed_png(values, bits):
    header = struct.pack(">IIBBBBB", 8, 5, bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in packed_rows(values, bits)))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def palette_bmp(values, bits, greys):
    """From the last row to the first, rows of whole words, with a palette of these greys."""
    rows = packed_rows(values[::-1], bits)
    body = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in rows)
    colours = b"".join(bytes((grey, grey, grey, 0)) for grey in greys)
    start = 54 + len(colours)
    head = struct.pack("<IHHI", start + len(body), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, 8, 5, 1, bits, 0, 0, 0, 0, len(greys), 0)
    return b"BM" + head + info + colours + body


def netpbm(kind, values, peak):
    head = f"P{kind}\n# made by hand\n{values.shape[1]} {values.shape[0]}\n"
    head += "" if kind in (1, 4) else f"{peak}\n"
    if kind == 4:
        return head.encode() + np.packbits(values, axis=1).tobytes()
    if kind in (5, 6):
        return head.encode() + values.astype(">u2" if peak > 255 else "u1").tobytes()
    return head.encode() + b" ".join(b"%d" % value for value in values.reshape(-1)) + b"\n"


COLOURS = np.random.default_rng(0).integers(0, 256, 768).tolist()
PEAKS = (1, 18, 100, 255, 1000, 4095, 65535)
# Bytes of a label, and the number of its values from 0.
STORED = {
    **{f"{bits} bits": (packed_png(VALUES % (1 << bits), bits), 1 << bits) for bits in (1, 2, 4)},
    **{f"palette {kind}": (encoded(kind, VALUES, palette=COLOURS), 19) for kind in PALETTES},
    **{
        f"black and white {kind}": (encoded(kind, (VALUES % 2).astype(bool)), 2)
        for kind in PALETTES[:3]
    },
    # Whatever the palette looks like.
    **{
        f"bmp of {bits} bits, greys {greys}": (
            palette_bmp(VALUES % min(len(greys), 19), bits, greys),
            len(greys),
        )
        for bits, greys in (
            *((1, (0, 255)), (1, (255, 0)), (4, (0, 255)), (8, (0, 255))),
            *((4, range(16)), (8, range(16)), (8, range(256))),
        )
    },
    **{
        f"netpbm {kind} up to {peak}": (
            netpbm(kind, VALUES.astype(int) % (peak + 1), peak),
            peak + 1,
        )
        for kind in (2, 5)
        for peak in PEAKS
    },
}


@pytest.mark.parametrize(("data", "count"), STORED.values(), ids=STORED)
def test_labels_are_read_as_stored(data, count):
    assert (label_of(data) == VALUES % min(count, 19)).all()


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("peak", PEAKS)
def test_netpbm_images_are_as_bright_as_their_white_says(kind, peak):
    shape = (5, 7, 1) if kind in (2, 5) else (5, 7, 3)
    values = np.linspace(0, peak, int(np.prod(shape))).astype(int).reshape(shape)
    shown = image_of(netpbm(kind, values, peak))
    assert np.abs(shown - values / peak * 255).max() <= 1


LARGE = np.tile(PIXELS, (20, 20, 1))
COMPLETE = {
    "progressive jpeg": encoded("JPEG", LARGE, progressive=True),
    "webp": encoded("WEBP", LARGE, exif=exif(1).tobytes()),
    **{kind: encoded(kind.upper(), LARGE) for kind in ("jpeg", "png", "tiff", "bmp")},
}
BITMAPS = [netpbm(kind, VALUES % 2, 1) for kind in (1, 4)]
LOSSY = [
    encoded("JPEG", VALUES),
    encoded("WEBP", VALUES, "RGB"),
    encoded("TIFF", VALUES, compression="jpeg"),
    encoded("JPEG2000", VALUES),
    *([encoded("AVIF", VALUES, "RGB")] if features.check("avif") else []),
]


def white_is_zero():
    tiff = bytearray(encoded("TIFF", VALUES))
    at = tiff.index(struct.pack("<HHI", 262, 3, 1)) + 8  # which value is white
    tiff[at : at + 2] = struct.pack("<H", 0)
    return bytes(tiff)


def tiff_of(pixels):
    return cv2.imencode(".tif", pixels)[1].tobytes()


IMAGE, LABEL, BOTH = (image_of,), (label_of,), (image_of, label_of)
WHITE = "file whose zero is white: save the label"
MAY = r"(a label.*(one channel|may change values)|not a label)"
PNG = encoded("PNG")
REFUSED = [
    (BOTH, tiff_of(PIXELS.astype(np.float32)), "32-bit floating-point pixels: save it as 8 or 16"),
    (BOTH, tiff_of(PIXELS.astype(np.float64)), "64-bit floating-point"),
    (BOTH, tiff_of(PIXELS[..., 0].astype(np.int32)), "32-bit signed"),
    (BOTH, tiff_of(PIXELS[..., 0].astype(np.int16)), "16-bit signed"),
    (IMAGE, COMPLETE["tiff"][:-500], "a damaged one"),
    (IMAGE, b"Pf\n2 2\n-1.0\n" + np.ones(4, np.float32).tobytes(), "not an image"),
    # Its thumbnail's end must not be taken for its own.
    (BOTH, encoded("JPEG", LARGE, exif=exif(1).tobytes() + encoded("JPEG"))[:-300], "truncated"),
    (BOTH, BITMAPS[1][:-1], "truncated"),
    (BOTH, netpbm(5, VALUES % 2, 255)[:-1], "truncated"),
    *((LABEL, data, f"a netpbm {WHITE}") for data in BITMAPS),
    (LABEL, white_is_zero(), f"a tiff {WHITE}"),
    *((LABEL, data, MAY) for data in LOSSY),
    (
        IMAGE,
        PNG[:16] + struct.pack(">II", 1 << 16, 1 << 16) + PNG[24:],
        "65536x65536 pixels are more",
    ),
]


@pytest.mark.parametrize(("readers", "data", "words"), REFUSED)
def test_files_are_refused_by_content_and_by_the_error_alone(readers, data, words, capfd):
    for read in readers:
        with pytest.raises(UserError, match=words):
            read(data)
    assert capfd.readouterr().err == ""


def test_bitmaps_are_black_where_their_bits_are_set_and_lossy_files_known():
    for data in BITMAPS:
        assert (image_of(data) == (1 - VALUES[..., None] % 2) * 255).all()
    assert all(read_header(data).lossy for data in LOSSY)


@pytest.mark.parametrize("kind", COMPLETE)
def test_cut_images_are_refused_and_bytes_behind_one_are_no_damage(kind):
    """Motion photos of phones and padded frames of recorders have such bytes."""
    data, noise = COMPLETE[kind], np.random.default_rng(3).bytes(70_000)
    assert (image_of(data + noise) == image_of(data)).all()
    for kept in (0.3, 0.6, 0.9, 0.99):
        with pytest.raises(UserError):
            image_of(data[: int(len(data) * kept)])


def test_only_regular_files_of_some_size_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.png"))
    for path in list(tmp_path.iterdir()):
        for suffix in (".jpg", ".npy", ".json"):
            path.with_suffix(suffix).symlink_to(path)
    for path in tmp_path.iterdir():
        with pytest.raises(UserError, match=rf"{path.name}.*not a regular file"):
            open_image({"path": str(path), "bytes": None})
    listening.close()
    for name in ("a.png", "a.jpg", "a.npy", "a.json"):
        with pytest.raises(UserError, match=rf"cannot read .*{name}"):
            open_image({"path": str(tmp_path / name), "bytes": None})
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(UserError, match=r"sparse\.png.*too many"):
        read_image({"path": str(tmp_path / "sparse.png"), "bytes": None})


def test_the_door_can_be_imported_first():
    """It does not depend on the domains, which read through it."""
    code = "import sys, revt_hf.data.reading; assert 'revt_hf.data.domains' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


SHAPE = (9, 14)
LABELS = (np.arange(SHAPE[0] * SHAPE[1]) % 19).astype(np.uint8).reshape(SHAPE)
TABLES = {
    "palette.png": label_table("gta5_ids"),
    "synthia.png": label_table("synthia_ids"),
    "colours.png": label_table("camvid_32"),
    "polygons.json": label_table("idd_ids"),
}


def npy_of(values):
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A file of every kind, by name."""
    folder = tmp_path_factory.mktemp("valid")
    save_image(folder / "image.png", random_image(SHAPE, 1))
    save_image(folder / "image.jpg", random_image(SHAPE, 1, lossy=True))
    np.save(folder / "image.npy", random_image(SHAPE, 1))
    np.save(folder / "label.npy", LABELS)
    cv2.imwrite(str(folder / "grey.png"), LABELS)
    cv2.imwrite(str(folder / "sixteen.png"), LABELS.astype(np.uint16))
    cases = ("gta5-palette", "synthia-16bit", "camvid-full", "idd-polygons-png")
    for case, name in zip(cases, TABLES, strict=True):
        CASE[case].encoding.write(folder / name, CASE[case].encoding.raw(0))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


NAMES = ["image.png", "image.jpg", "image.npy", "label.npy", "grey.png", "sixteen.png", *TABLES]


@pytest.fixture
def read(tmp_path):
    """Read a file of some content; None if it is refused."""

    def run(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        at = {"path": str(path), "bytes": None}
        is_image = name.startswith("image")
        try:
            found = read_image(at) if is_image else read_label(at, TABLES.get(name, TRAIN_IDS))
        except UserError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
            return None
        assert (found.dtype, found.shape[2:]) == (np.uint8, (3,) if is_image else ())
        assert is_image or set(np.unique(found)) <= {*range(19), 255}
        return found

    return run


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(name, valid, read):
    """Whole ones are read; the content decides, not the name."""
    content = valid[name]
    found = read(name, content)
    assert found is not None
    if name in ("grey.png", "sixteen.png", "label.npy"):
        assert (found == LABELS).all()
    for rng, where in cases(name, 40):
        damaged = mutated_bytes(content, rng)
        reads_or_refuses(lambda damaged=damaged: read(name, damaged), where)
        assert read(name, rng.randbytes(rng.randrange(200))) is None
    for length in sorted({0, 1, 8, *range(0, len(content), 1 + len(content) // 40)}):
        assert read(name, content[:length]) is None, f"{length} of {len(content)} bytes"
    # A checksum at the very end is no pixel.
    harmless = 4 if name.endswith(".png") else 0
    assert read(name, content[: len(content) - harmless - 1]) is None
    if name.endswith(".png"):
        for other in ("polygons.json", "label.npy"):
            assert read(name, valid[other]) is None


POLYGONS = {
    "imgWidth": 30,
    "imgHeight": 9,
    "objects": [{"label": "road", "polygon": [[0, 0], [11.5, 0], [0, 9]], "deleted": 0}],
}


def test_polygon_files_that_make_no_sense_are_refused(read):
    def drawn(**change):
        return read("polygons.json", json.dumps({**POLYGONS, **change}).encode())

    for width in (1e20, float("inf"), float("nan"), 0, -3, None, [], "x"):
        assert drawn(imgWidth=width) is None
    labels = [[{"label": label, "polygon": []}] for label in (None, "spaceship", "")]
    refused = ([[0, 0], [10**400, 0], [0, 2]], [[0, 0], [0], [0, 2]])
    shapes = [[{"label": "road", "polygon": polygon}] for polygon in refused]
    for objects in (None, 3, [3], ["road"], [{}], *labels, *shapes):
        assert drawn(objects=objects) is None
    far = ([1e300, -1e300], [float("inf"), float("nan")])
    for polygon in ([[0, 0]], [], *([[0, 0], corner, [0, 2]] for corner in far)):
        drawn(objects=[{"label": "road", "polygon": polygon}])
    for rng, where in cases("polygons", 100):
        content = json.dumps(mutated_json(POLYGONS, rng)).encode()
        reads_or_refuses(lambda content=content: read("polygons.json", content), where)


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.npy", npy_of(LABELS))
    return content.getvalue()


def npy_header(header):
    data = header.encode()
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + bytes(200)


NPY = "{'descr': '|u1', 'fortran_order': False, 'shape': "


def palette_bomb(tmp_path):
    """A palette image that claims 60000 x 60000 pixels, with a right checksum."""
    CASE["gta5-palette"].encoding.write(tmp_path / "a.png", CASE["gta5-palette"].encoding.raw(0))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


HOSTILE = {
    "archive.npy": archive(),
    "archive-cut.npy": archive()[:60],
    "empty-archive.npy": b"PK\x05\x06" + bytes(18),
    "no-rows.npy": npy_of(np.zeros((0, 8), np.uint8)),
    "objects.npy": npy_of(np.array([["a", None]])),
    "floats.npy": npy_of(np.zeros(SHAPE)),
    "flat.npy": npy_of(np.zeros(9, np.uint8)),
    "four-channels.npy": npy_of(np.zeros((*SHAPE, 4), np.uint8)),
    "open-header.npy": npy_header(f"{NPY}(9, 14"),
    "open-string.npy": npy_header(f"{NPY}'''(9, 14)}}"),
    "list-header.npy": npy_header("[1, 2]"),
    "huge.npy": npy_header(f"{NPY}(99999999999, 99999999999)}}"),
    "negative.npy": npy_header(f"{NPY}(-9, -14)}}"),
    "nested.json": b"[" * 100_000,
    "huge.json": b'{"imgWidth": 1000000000, "imgHeight": 1000000000, "objects": []}',
    "no-area.json": b'{"imgWidth": 0, "imgHeight": 9, "objects": []}',
    "latin-1.json": '{"imgWidth": 9, "imgHeight": 9, "objects": ["é"]}'.encode("latin-1"),
    "no-classes.json": b'{"imgWidth": 9, "imgHeight": 9, "objects": [{"polygon": []}]}',
    "floats.tif": cv2.imencode(".tif", np.zeros(SHAPE, np.float32))[1].tobytes(),
    "palette-bomb.png": palette_bomb,
}


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, tmp_path):
    content = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    table = TABLES["polygons.json"] if name.endswith(".json") else TRAIN_IDS
    cell = {"path": str(path), "bytes": None}
    for reader in (read_image, lambda cell: read_label(cell, table)):
        with pytest.raises(UserError) as refusal:
            reader(cell)
        assert str(path) in str(refusal.value)


def test_raw_images_are_no_labels_and_the_other_way_round(read):
    for name, values in (("image.npy", LABELS), ("label.npy", random_image(SHAPE, 1))):
        assert read(name, npy_of(values)) is None
