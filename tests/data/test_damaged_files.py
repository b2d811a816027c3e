"""Whatever a file of labels or images holds: right arrays, or one sentence that names the file."""

import io
import json
import zipfile
import zlib

import cv2
import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.labels import TRAIN_IDS, label_table
from revt_hf.data.reading import read_image, read_label
from tests.helpers.mutate import cases, mutated_bytes, mutated_json, reads_or_refuses
from tests.helpers.on_disk import CASE, random_image, save_image

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
        cell = {"path": str(path), "bytes": None}
        is_image = name.startswith("image")
        try:
            found = read_image(cell) if is_image else read_label(cell, TABLES.get(name, TRAIN_IDS))
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
