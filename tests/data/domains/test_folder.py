"""The original's folder layout, and everything that can be wrong with it."""

import os
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import load_domain


@pytest.fixture
def root(tmp_path):
    """Three images in split ``train``, one in a sub-folder."""
    for number, name in enumerate(["a", "b", "city/c"]):
        image = tmp_path / "img_dir" / "train" / f"{name}.png"
        label = tmp_path / "ann_dir" / "train" / f"{name}.png"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((6, 8, 3), np.uint8)
        pixels[..., 0] = 200 + number  # red
        Image.fromarray(pixels).save(image)
        Image.fromarray(np.full((6, 8), number, np.uint8)).save(label)
    return tmp_path


@pytest.fixture
def load(root, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(split="train", **options):
        return load_domain("folder", split, root, options=options, cache_dir=cache)

    return run


def test_rows_are_rgb_and_train_ids(load):
    rows = list(load())
    assert [row["name"] for row in rows] == ["a", "b", "city/c"]
    assert rows[2]["image"].shape == (6, 8, 3)
    assert rows[2]["image"][0, 0].tolist() == [202, 0, 0]
    assert (rows[1]["label"] == 1).all()
    assert rows[1]["label"].dtype == np.uint8


def test_arrow_holds_paths_only(load):
    row = load().with_format(None)[0]
    assert row["image"]["bytes"] is None
    assert row["image"]["path"].endswith("a.png")


def test_suffixes_and_encoding(load, root):
    for path in (root / "ann_dir" / "train").rglob("*.png"):
        path.rename(path.with_name(f"{path.stem}_ids.png"))
    rows = list(load(label_suffix="_ids.png", encoding={0: 13, 1: 255, 2: 8}))
    assert [int(row["label"][0, 0]) for row in rows] == [13, 255, 8]


@pytest.mark.parametrize("lines", ["b\nc ity", "b.png", "b"])
def test_split_files_of_stems_or_names(load, root, lines):
    (root / "list.txt").write_text(lines.split("\n")[0] + "\n")
    rows = load("train", split_files={"train": "list.txt"})
    assert [row["name"] for row in rows] == ["b"]


def test_folders_of_another_layout(load, root):
    (root / "img_dir" / "train").rename(root / "images")
    (root / "ann_dir" / "train").rename(root / "labels")
    assert len(load(image_dir="images", label_dir="labels")) == 3


def test_palette_labels_give_their_indices(load, root):
    label = Image.fromarray(np.full((6, 8), 5, np.uint8), mode="P")
    label.putpalette([255, 0, 0] * 256)
    label.save(root / "ann_dir" / "train" / "a.png")
    assert (load()[0]["label"] == 5).all()


def test_sixteen_bit_labels(load, root):
    path = str(root / "ann_dir" / "train" / "a.png")
    cv2.imwrite(path, np.full((6, 8), 9, np.uint16))
    assert (load()[0]["label"] == 9).all()
    cv2.imwrite(path, np.full((6, 8), 2600, np.uint16))
    with pytest.raises(UserError, match=r"a\.png.*2600"):
        load()[0]


def test_changes_in_the_folder_are_seen(load, root):
    assert len(load()) == 3
    for kind in ("img_dir", "ann_dir"):
        source = root / kind / "train" / "a.png"
        (root / kind / "train" / "d.png").write_bytes(source.read_bytes())
    assert len(load()) == 4
    (root / "img_dir" / "train" / "b.png").unlink()
    assert [row["name"] for row in load()] == ["a", "city/c", "d"]


def test_missing_folders_are_named(load, root, tmp_path):
    with pytest.raises(UserError, match=r"split 'val'.*img_dir/val"):
        load("val")
    with pytest.raises(UserError, match="nowhere"):
        load_domain("folder", "train", tmp_path / "nowhere")
    with pytest.raises(UserError, match="needs data_dir"):
        load_domain("folder", "train")


def test_a_image_without_label_is_named(load, root):
    (root / "ann_dir" / "train" / "b.png").unlink()
    with pytest.raises(UserError, match=r"img_dir/train/b\.png has no label.*ann_dir/train/b\.png"):
        load()


def test_a_listed_image_that_is_missing_is_named(load, root):
    (root / "list.txt").write_text("zebra\n")
    with pytest.raises(UserError, match=r"list\.txt lists 'zebra'"):
        load(split_files={"train": "list.txt"})
    with pytest.raises(UserError, match=r"absent\.txt"):
        load(split_files={"train": "absent.txt"})


def test_no_images_of_that_suffix(load):
    with pytest.raises(UserError, match=r"\*\.jpg"):
        load(image_suffix=".jpg")


def test_a_label_of_another_size_is_refused(load, root):
    Image.fromarray(np.zeros((6, 7), np.uint8)).save(root / "ann_dir" / "train" / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*7x6.*8x6"):
        load()[0]


def test_a_label_value_outside_the_map_is_refused(load, root):
    Image.fromarray(np.full((6, 8), 77, np.uint8)).save(root / "ann_dir" / "train" / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*77.*train_ids"):
        load()[0]


def test_a_colour_label_is_refused(load, root):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(root / "ann_dir" / "train" / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*3"):
        load()[0]


@pytest.mark.parametrize("kind", ["img_dir", "ann_dir"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_pngs_are_refused(load, root, kind, keep):
    path = root / kind / "train" / "a.png"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"a\.png.*truncated"):
        load()[0]


def test_a_file_that_is_no_image_is_refused(load, root):
    (root / "img_dir" / "train" / "a.png").write_text("hello")
    with pytest.raises(UserError, match=r"a\.png.*not an image"):
        load()[0]


def test_unknown_options_are_refused(load):
    with pytest.raises(UserError, match=r"options\.image_sufix.*image_suffix"):
        load(image_sufix=".png")
    with pytest.raises(UserError, match="nonsense"):
        load(encoding="nonsense")


def test_unknown_domain_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'kitty'.*folder.*streets"):
        load_domain("kitty", "train")


def _both(root, image, label, split="train"):
    """Write an image and its label under names of their own."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    for kind, name, data in (("img_dir", image, pixels), ("ann_dir", label, pixels[..., 0])):
        path = root / kind / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_jpeg = name.lower().endswith((".jpg", ".jpeg"))
        Image.fromarray(data).save(path, "JPEG" if is_jpeg else "PNG")


def test_suffixes_match_whatever_their_case_and_spelling(load, root):
    for image in ("d.jpg", "e.JPG", "f.jpeg", "g.Jpeg"):
        _both(root, image, f"{image[0]}.PNG", "mixed")
    for suffix in (".jpg", ".JPEG"):
        assert [row["name"] for row in load("mixed", image_suffix=suffix)] == ["d", "e", "f", "g"]


def test_several_suffixes_make_one_split(load, root):
    _both(root, "d.jpg", "d.png")
    assert [row["name"] for row in load(image_suffix=[".png", ".jpg"])] == ["a", "b", "city/c", "d"]


def test_two_images_of_one_name_are_refused(load, root):
    _both(root, "a.jpg", "a.png")
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same name"):
        load(image_suffix=[".png", ".jpg"])
    _both(root, "d.png", "d.png")
    _both(root, "d.png", "d.PNG")
    with pytest.raises(UserError, match=r"d\.PNG and .*d\.png have the same name"):
        load()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: _both(root, "d.jpg", "x.txt"), r"suffix is not \.png.*img_dir/train/d\.jpg"),
        (
            lambda root: (root / "img_dir" / "train" / "a.png").unlink(),
            r"a label without an image.*ann_dir/train/a\.png",
        ),
        (
            lambda root: (root / "img_dir" / "train" / "d.png").symlink_to(root / "nowhere"),
            r"a link to nothing.*img_dir/train/d\.png",
        ),
        (
            lambda root: os.mkfifo(root / "img_dir" / "train" / "d.png"),
            r"not a regular file.*img_dir/train/d\.png",
        ),
    ],
)
def test_what_is_left_out_is_named(load, root, change, words):
    change(root)
    with pytest.warns(DataWarning, match=words):
        load()


def _turned(root, label_turn=None):
    """An image that EXIF turns upside down, beside its label."""
    tags = Image.Exif()
    tags[0x0112] = 3
    image = root / "img_dir" / "train" / "a.png"
    label = root / "ann_dir" / "train" / "a.png"
    values = np.arange(48).reshape(6, 8).astype(np.uint8) % 19
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(image, exif=tags)
    tags[0x0112] = label_turn or 1
    Image.fromarray(values).save(label, exif=tags)
    return values


def test_a_label_beside_a_turned_image_is_warned_of(load, root):
    values = _turned(root)
    with pytest.warns(DataWarning, match=r"a\.png.*EXIF orientation 3.*labels_follow_exif"):
        label = load()[0]["label"]
    assert (label == values).all()


@pytest.mark.parametrize(("follow", "turned"), [(True, True), (False, False)])
def test_labels_follow_exif_or_not(load, root, follow, turned):
    values = _turned(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label = load(labels_follow_exif=follow)[0]["label"]
        assert (label == (values[::-1, ::-1] if turned else values)).all()


@pytest.mark.parametrize("follow", [None, True])
def test_a_label_with_its_images_orientation_is_turned_once(load, root, follow):
    values = _turned(root, label_turn=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (load(labels_follow_exif=follow)[0]["label"] == values[::-1, ::-1]).all()


def test_a_size_that_differs_by_a_turn_names_exif(load, root):
    tags = Image.Exif()
    tags[0x0112] = 6
    pixels = np.zeros((6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(root / "img_dir" / "train" / "a.png", exif=tags)
    with pytest.raises(UserError, match=r"8x6.*6x8.*EXIF orientation 6"):
        load()[0]
    assert load(labels_follow_exif=True)[0]["label"].shape == (8, 6)


def test_images_and_labels_in_one_folder_are_not_taken_for_each_other(load, root):
    for number, name in enumerate(("d.jpg", "d.png", "e.jpg", "e.png")):
        mode = "L" if number % 2 else "RGB"
        (root / "all").mkdir(exist_ok=True)
        Image.new(mode, (8, 6)).save(root / "all" / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = load("all", image_dir="all", label_dir="all", image_suffix=".jpg")
    assert [row["name"] for row in rows] == ["d", "e"]
