"""Properties of listing files and decoding them: whatever lies on disk, however broken."""

import io
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from revt_hf.core.errors import UserError
from revt_hf.data.decoding import decode_raw, open_image
from revt_hf.data.domains import load_domain, open_domain
from revt_hf.data.domains.files import list_files, read_split_file
from revt_hf.data.labels import label_table
from revt_hf.data.reading import read_image, read_label
from tests.helpers.on_disk import CASE, random_image, save_image

PROPERTY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
FEW = settings(PROPERTY, max_examples=12)

# All of Unicode but what a path or UTF-8 cannot hold.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
PARTS = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=12),
    st.text("abc -_é#%,;'\"\\", min_size=1, max_size=6),
).filter(lambda part: not part.startswith("."))
# No folder may have a file's name.
NAMES = st.builds(
    lambda folders, stem: "/".join([*(f"{folder}_" for folder in folders), stem]),
    st.lists(PARTS, max_size=2),
    PARTS,
)
SETS_OF_NAMES = st.lists(NAMES, min_size=1, max_size=8, unique=True)


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@given(SETS_OF_NAMES, st.randoms(use_true_random=False))
@PROPERTY
def test_any_files_are_listed(names, order):
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"{name}.png" for name in names]
        order.shuffle(wanted)
        for path in wanted:
            write(Path(folder, path))
        found = list_files(Path(folder))
        assert sorted(found) == sorted(wanted)
        for path, file in found.items():
            assert (file.path, file.size) == (f"{folder}/{path}", 1)


@given(SETS_OF_NAMES, st.randoms(use_true_random=False))
@FEW
def test_the_order_of_creation_does_not_matter(names, order):
    with tempfile.TemporaryDirectory() as place:
        contents = []
        for turn in ("first", "second"):
            root = Path(place, turn)
            for name in order.sample(names, len(names)):
                for folder in ("img_dir", "ann_dir"):
                    path = root / folder / "train" / f"{name}.png"
                    write(path)
                    os.utime(path, (1, 1))  # a date is part of the content
            contents.append(open_domain("folder", "train", root).content)
            images = load_domain("folder", "train", root, cache_dir=Path(place, "cache"))
            assert images.with_format(None)["name"][:] == sorted(names)
        assert contents[0] == contents[1]


@given(SETS_OF_NAMES, st.data())
@PROPERTY
def test_links_are_followed_and_hidden_files_left_out(names, data):
    with tempfile.TemporaryDirectory() as place:
        folder, store = Path(place, "folder"), Path(place, "store")
        folder.mkdir()
        store.mkdir()
        for number, name in enumerate(names):
            path = folder / f"{name}.png"
            kind = data.draw(st.sampled_from(["file", "link", "linked folder"]))
            if kind == "file" or (kind == "linked folder" and path.parent == folder):
                write(path)
            elif kind == "link":
                write(store / f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(store / f"{number}.png")
            else:
                top = folder / Path(name).parts[0]
                if not top.exists():
                    (store / f"folder {number}").mkdir()
                    top.symlink_to(store / f"folder {number}")
                write(path)
            if data.draw(st.booleans()):
                write(path.with_name("._hidden.png"))
            if data.draw(st.booleans()) and not path.with_name("dangling").is_symlink():
                path.with_name("dangling").symlink_to(store / "nothing here.png")
        assert sorted(list_files(folder)) == sorted(f"{name}.png" for name in names)


def test_hidden_folders_are_left_out(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.png")
    write(tmp_path / "city" / ".thumbnails" / "b.png")
    assert list(list_files(tmp_path)) == ["a.png"]


def test_a_link_to_a_folder_above(tmp_path):
    write(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "here").symlink_to(".")
    assert sorted(list_files(tmp_path)) == ["a/b/x.png"]


def test_links_in_a_circle_between_folders(tmp_path):
    write(tmp_path / "data" / "one" / "x.png")
    write(tmp_path / "data" / "two" / "y.png")
    (tmp_path / "data" / "one" / "other").symlink_to("../two")
    (tmp_path / "data" / "two" / "other").symlink_to("../one")
    found = sorted(list_files(tmp_path / "data"))
    assert {"one/x.png", "two/y.png"} <= set(found)
    assert len(found) <= 4


def test_a_link_to_a_folder_beside(tmp_path):
    """Only links to a folder above lead in circles: both names are there."""
    write(tmp_path / "z" / "x.png")
    (tmp_path / "a").symlink_to("z")
    assert sorted(list_files(tmp_path)) == ["a/x.png", "z/x.png"]


@pytest.mark.parametrize("target", ["loop.png", "other.png", "a.png/b.png", "missing.png"])
def test_links_to_nothing(target, tmp_path):
    """To itself, in a circle, through a file, and to what is not there."""
    write(tmp_path / "a.png")
    (tmp_path / "loop.png").symlink_to(target)
    (tmp_path / "other.png").symlink_to("loop.png")
    assert sorted(list_files(tmp_path)) == ["a.png"]


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(5, "input/output")])
def test_a_folder_that_cannot_be_read_is_not_passed_over(error, tmp_path, monkeypatch):
    """Otherwise its images would be missing without a word."""
    write(tmp_path / "aachen" / "x.png")
    write(tmp_path / "bremen" / "y.png")
    scandir = os.scandir

    def failing(folder):
        if str(folder).endswith("bremen"):
            raise error
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises((UserError, OSError)):
        list_files(tmp_path)


@given(SETS_OF_NAMES, st.data())
@PROPERTY
def test_split_files_list_what_is_there(names, data):
    """Names as they stand, apart from what a line of text cannot hold."""
    names = [" ".join(name.split()).replace("# ", "#") for name in names]
    fitting = sorted({name for name in names if is_line(name)})
    listed = [name for name in fitting if data.draw(st.booleans())]
    ends = data.draw(st.sampled_from(["\n", "\r\n"]))
    suffix = data.draw(st.sampled_from(["", ".png"]))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "list.txt")
        path.write_bytes(ends.join(["# a comment", "", *(f"{n}{suffix}" for n in listed)]).encode())
        if listed:
            assert read_split_file(path, fitting, ".png") == (listed, [])
        else:
            with pytest.raises(UserError, match="lists nothing"):
                read_split_file(path, fitting, ".png")


def is_line(name):
    return (
        name.splitlines() == [name]
        and name.strip() == name
        and not name.startswith(("#", "\ufeff"))
        and "\\" not in name
    )


# Decoding

SHAPE = (9, 14)
TRAIN_IDS = label_table("train_ids")


def png_bytes(values, **how):
    return cv2.imencode(".png", values, **how)[1].tobytes()


def valid_files():
    """Of every kind: (name, content, how to read it)."""
    labels = (np.arange(SHAPE[0] * SHAPE[1]) % 19).astype(np.uint8).reshape(SHAPE)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rgb = random_image(SHAPE, 1)
        save_image(folder / "image.png", rgb)
        save_image(folder / "image.jpg", random_image(SHAPE, 1, lossy=True))
        np.save(folder / "image.npy", rgb)
        np.save(folder / "label.npy", labels)
        (folder / "grey.png").write_bytes(png_bytes(labels))
        (folder / "sixteen.png").write_bytes(png_bytes(labels.astype(np.uint16)))
        for case, name in (
            ("gta5-palette", "palette.png"),
            ("synthia-16bit", "synthia.png"),
            ("camvid-full", "colours.png"),
            ("idd-polygons-png", "polygons.json"),
        ):
            CASE[case].encoding.write(folder / name, CASE[case].encoding.raw(0))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files["few.json"] = json.dumps(
        {
            "imgWidth": 12,
            "imgHeight": 10,
            "objects": [{"label": "road", "polygon": [[0, 0], [11.5, 0], [0, 9]], "deleted": 0}],
        }
    ).encode()
    return files


VALID = valid_files()
TABLES = {
    "palette.png": label_table("gta5_ids"),
    "synthia.png": label_table("synthia_ids"),
    "colours.png": label_table("camvid_32"),
    "polygons.json": label_table("idd_ids"),
    "few.json": label_table("idd_ids"),
}


def read_both(name, content):
    """Read a file of some content: right arrays, or a message that names it."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, name)
        path.write_bytes(content)
        cell = {"path": str(path), "bytes": None}
        if name.startswith("image"):
            readers = [(read_image, 3, {"uint8"})]
        else:
            table = TABLES.get(name, TRAIN_IDS)
            readers = [
                (
                    lambda cell: decode_raw(open_image(cell), table),
                    2,
                    {"uint8", "uint16", "uint32"},
                ),
                (lambda cell: read_label(cell, table), 2, {"uint8"}),
            ]
        found = None
        for reader, dimensions, kinds in readers:
            try:
                found = reader(cell)
            except UserError as error:
                assert str(path) in str(error)
                assert "\n" not in str(error)
                found = None
                continue
            assert isinstance(found, np.ndarray)
            assert found.ndim == dimensions
            assert found.dtype.name in kinds
            if dimensions == 3:
                assert found.shape[2] == 3
            if reader is readers[-1][0] and dimensions == 2:
                assert set(np.unique(found)) <= {*range(19), 255}
        return found


@pytest.mark.parametrize("name", VALID)
def test_valid_files_are_read(name):
    found = read_both(name, VALID[name])
    assert found is not None
    if name in ("grey.png", "sixteen.png", "label.npy"):
        assert found.reshape(-1)[:20].tolist() == [*range(19), 0]


@st.composite
def damaged(draw, content):
    """Some bytes replaced, put in or taken out, or the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
        some = draw(st.binary(min_size=1, max_size=3))
        if kind == "replace":
            data[place : place + len(some)] = some
        elif kind == "insert":
            data[place:place] = some
        elif kind == "delete":
            del data[place : place + len(some)]
        else:
            del data[place:]
    return bytes(data)


def claims_too_much(content):
    """Whether a chunk of a PNG is longer than the file; OpenCV makes room for it, up to 4 GB."""
    place = 8
    while content.startswith(b"\x89PNG") and place + 8 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        if length > len(content):
            return True
        place += 12 + length
    return False


@pytest.mark.parametrize("name", VALID)
@given(data=st.data())
@PROPERTY
def test_damaged_files(name, data):
    content = data.draw(damaged(VALID[name]))
    assume(not claims_too_much(content))
    read_both(name, content)


@pytest.mark.parametrize("name", VALID)
@given(st.binary(max_size=200))
@example(b"")
@FEW
def test_random_bytes(name, content):
    assert read_both(name, content) is None


@pytest.mark.parametrize("name", VALID)
def test_every_truncation_is_noticed(name):
    """But that of a checksum or a line break at the very end."""
    content = VALID[name]
    harmless = 4 if name.endswith(".png") else 0
    for length in sorted({0, 1, 8, *range(0, len(content), 1 + len(content) // 40)}):
        assert read_both(name, content[:length]) is None, f"{length} of {len(content)} bytes"
    assert read_both(name, content[: len(content) - harmless - 1]) is None


@pytest.mark.parametrize("name", [name for name in VALID if name.endswith(".png")])
def test_files_of_another_kind_are_refused(name):
    """The content decides, not the name."""
    for other in ("polygons.json", "label.npy"):
        assert read_both(name, VALID[other]) is None


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.booleans(),
            st.floats(),
            st.integers(-100, 100),
            st.sampled_from([10**30, -(10**30), 10**400]),
            st.sampled_from(["road", "cargroup", "spaceship", ""]),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.fixed_dictionaries(
                {"label": inner, "polygon": st.lists(st.lists(inner, max_size=2), max_size=4)}
            ),
        ),
        max_leaves=12,
    ),
    st.one_of(st.integers(-3, 30), st.floats(0, 30), st.sampled_from([None, "9", [], 1e20])),
)
@PROPERTY
@example([], 1e20)
@example([], float("inf"))
@example([], float("nan"))
@example([], 0)
@example([{"label": "road", "polygon": [[0, 0], [10**400, 0], [0, 2]]}], 9)
@example([{"label": "road", "polygon": [[0, 0], [float("inf"), float("nan")], [0, 2]]}], 9)
@example([{"label": "road", "polygon": [[0, 0], [1e300, -1e300], [0, 2]]}], 9)
@example([{"label": "road", "polygon": [[0, 0]]}], 9)
def test_json_of_any_content(objects, width):
    content = json.dumps({"imgWidth": width, "imgHeight": 9, "objects": objects})
    read_both("polygons.json", content.encode())


def npz():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.npy", VALID["label.npy"])
    return content.getvalue()


def npy_of(values):
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def npy_header(header):
    data = header.encode()
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + bytes(200)


def palette_bomb():
    """A palette image that says that it has 60000 x 60000 pixels, with a right checksum."""
    data = bytearray(VALID["palette.png"])
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


HOSTILE = {
    "archive.npy": npz(),
    "archive-cut.npy": npz()[:60],
    "empty-archive.npy": b"PK\x05\x06" + bytes(18),
    "no-rows.npy": npy_of(np.zeros((0, 8), np.uint8)),
    "objects.npy": npy_of(np.array([["a", None]])),
    "floats.npy": npy_of(np.zeros(SHAPE)),
    "flat.npy": npy_of(np.zeros(9, np.uint8)),
    "colours.npy": npy_of(np.zeros((*SHAPE, 3), np.uint8)),
    "open-header.npy": npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (9, 14"),
    "open-string.npy": npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': '''(9, 14)}"),
    "list-header.npy": npy_header("[1, 2]"),
    "huge.npy": npy_header(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 99999999999)}"
    ),
    "negative.npy": npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (-9, -14)}"),
    "nested.json": b"[" * 100_000,
    "huge.json": b'{"imgWidth": 1000000000, "imgHeight": 1000000000, "objects": []}',
    "no-area.json": b'{"imgWidth": 0, "imgHeight": 9, "objects": []}',
    "latin-1.json": '{"imgWidth": 9, "imgHeight": 9, "objects": ["é"]}'.encode("latin-1"),
    "no-classes.json": b'{"imgWidth": 9, "imgHeight": 9, "objects": [{"polygon": []}]}',
    "floats.tif": cv2.imencode(".tif", np.zeros(SHAPE, np.float32))[1].tobytes(),
    "palette-bomb.png": palette_bomb(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_labels_are_refused(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    table = label_table("idd_ids") if name.endswith(".json") else TRAIN_IDS
    with pytest.raises(UserError) as refusal:
        read_label({"path": str(path), "bytes": None}, table)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.endswith(".npy")])
def test_hostile_images_are_refused(name, tmp_path):
    if name == "colours.npy":
        pytest.skip("an image")
    path = tmp_path / name
    path.write_bytes(HOSTILE[name])
    with pytest.raises(UserError) as refusal:
        read_image({"path": str(path), "bytes": None})
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.npy", "a.json"])
def test_what_is_not_a_file_is_named(name, tmp_path):
    missing, folder = tmp_path / name, tmp_path / "folder" / name
    folder.mkdir(parents=True)
    for path in (missing, folder):
        cell = {"path": str(path), "bytes": None}
        for reader in (read_image, lambda cell: read_label(cell, TRAIN_IDS)):
            with pytest.raises(UserError) as refusal:
                reader(cell)
            assert str(path) in str(refusal.value)


def test_names_that_are_not_utf_8(tmp_path):
    """As old archives leave them behind: refused by name or loaded."""
    for folder in ("img_dir", "ann_dir"):
        place = tmp_path / "data" / folder / "train"
        place.mkdir(parents=True)
        path = os.fsencode(place) + b"/stra\xdfe.png"
        Path(os.fsdecode(path)).write_bytes(b"x")
    try:
        images = load_domain("folder", "train", tmp_path / "data", cache_dir=tmp_path / "cache")
    except UserError as error:
        assert "stra" in str(error)
    else:
        assert len(images) == 1
