"""The original's folder layout, and everything that can be wrong with it."""

import cv2
import numpy as np
import pytest
from PIL import Image

from revt_hf.domains import load_domain
from revt_hf.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Three pictures in split ``train``, one in a sub-folder."""
    for number, name in enumerate(["a", "b", "city/c"]):
        image = tmp_path / "img_dir" / "train" / f"{name}.png"
        label = tmp_path / "ann_dir" / "train" / f"{name}.png"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((6, 8, 3), np.uint8)
        picture[..., 0] = 200 + number  # red
        Image.fromarray(picture).save(image)
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
    (root / "img_dir" / "train").rename(root / "pictures")
    (root / "ann_dir" / "train").rename(root / "labels")
    assert len(load(image_dir="pictures", label_dir="labels")) == 3


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


def test_a_picture_without_label_is_named(load, root):
    (root / "ann_dir" / "train" / "b.png").unlink()
    with pytest.raises(UserError, match=r"img_dir/train/b\.png has no label.*ann_dir/train/b\.png"):
        load()


def test_a_listed_picture_that_is_missing_is_named(load, root):
    (root / "list.txt").write_text("zebra\n")
    with pytest.raises(UserError, match=r"list\.txt lists 'zebra'"):
        load(split_files={"train": "list.txt"})
    with pytest.raises(UserError, match=r"absent\.txt"):
        load(split_files={"train": "absent.txt"})


def test_no_pictures_of_that_suffix(load):
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


def test_a_file_that_is_no_picture_is_refused(load, root):
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
