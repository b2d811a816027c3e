"""The original's folder layout, and everything that can be wrong with it."""

import os
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import load_domain


def write(root, image, label, split="train", number=0):
    """An image (6, 8) and its label of one value, under names of their own."""
    pixels = np.zeros((6, 8, 3), np.uint8)
    pixels[..., 0] = 200 + number  # red
    values = np.full((6, 8), number, np.uint8)
    for kind, name, data in (("img_dir", image, pixels), ("ann_dir", label, values)):
        path = root / kind / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        is_jpeg = name.lower().endswith((".jpg", ".jpeg"))
        Image.fromarray(data).save(path, "JPEG" if is_jpeg else "PNG")


@pytest.fixture
def root(tmp_path):
    """Three images in split ``train``, one in a sub-folder."""
    for number, name in enumerate(["a", "b", "city/c"]):
        write(tmp_path, f"{name}.png", f"{name}.png", number=number)
    return tmp_path


@pytest.fixture
def load(root, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def run(split="train", **options):
        return load_domain("folder", split, root, options=options, cache_dir=cache)

    return run


@pytest.fixture
def label(root):
    return root / "ann_dir" / "train" / "a.png"


def names(rows):
    return rows.with_format(None)["name"][:]


def test_rows_and_columns(load):
    rows = load()
    assert names(rows) == ["a", "b", "city/c"]
    assert rows[2]["image"][0, 0].tolist() == [202, 0, 0]
    assert (load().select_columns(["label"])[1]["label"] == 1).all()
    with pytest.raises(UserError, match="labels are turned like their images: select 'image' too"):
        load(labels_follow_exif=True).select_columns(["label"])[0]


def test_folders_suffixes_and_encoding(load, root):
    for path in (root / "ann_dir" / "train").rglob("*.png"):
        path.rename(path.with_name(f"{path.stem}_ids.png"))
    rows = list(load(label_suffix="_ids.png", encoding={0: 13, 1: 255, 2: 8}))
    assert [int(row["label"][0, 0]) for row in rows] == [13, 255, 8]
    (root / "img_dir" / "train").rename(root / "images")
    (root / "ann_dir" / "train").rename(root / "labels")
    assert len(load(image_dir="images", label_dir="labels", label_suffix="_ids.png")) == 3
    for image in ("d.jpg", "e.JPG", "f.jpeg", "g.Jpeg"):
        write(root, image, f"{image[0]}.PNG", "mixed")
    for suffix in (".jpg", ".JPEG"):
        assert names(load("mixed", image_suffix=suffix)) == ["d", "e", "f", "g"]
    write(root, "h.png", "h.png", "mixed")
    assert names(load("mixed", image_suffix=[".png", ".jpg"])) == ["d", "e", "f", "g", "h"]


def test_sixteen_bit_labels(load, label):
    cv2.imwrite(str(label), np.full((6, 8), 9, np.uint16))
    assert (load()[0]["label"] == 9).all()
    for pixels, words in (
        (np.full((6, 8), 2600, np.uint16), "2600"),
        (np.zeros((6, 8, 3), np.uint8), "a label has one channel, this has 3"),
    ):
        cv2.imwrite(str(label), pixels)
        with pytest.raises(UserError, match=rf"a\.png.*{words}"):
            load()[0]


def test_missing_folders_and_images_and_mistakes_are_named(load):
    with pytest.raises(UserError, match=r"split 'val'.*img_dir/val"):
        load("val")
    for words, options in (
        (r"no images \*\.jpg in img_dir/train; but 3 with other", {"image_suffix": ".jpg"}),
        (r"options\.image_sufix.*image_suffix", {"image_sufix": ".png"}),
        ("nonsense", {"encoding": "nonsense"}),
    ):
        with pytest.raises(UserError, match=words):
            load(**options)


def test_unknown_domain_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'kitty'.*folder.*streets"):
        load_domain("kitty", "train")
    with pytest.raises(UserError, match="'streets' is built in: it takes no data_dir"):
        load_domain("streets", "train", "/")


def test_two_images_of_one_name_are_refused(load, root):
    write(root, "a.jpg", "a.png")
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png have the same name"):
        load(image_suffix=[".png", ".jpg"])
    write(root, "d.png", "d.png")
    write(root, "d.png", "d.PNG")
    with pytest.raises(UserError, match=r"d\.PNG and .*d\.png have the same name"):
        load()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images: (images / "d.jpg").touch(), r"suffix is not \.png.*/d\.jpg"),
        (lambda images: (images / "a.png").unlink(), r"label without an image.*ann_dir/.*a\.png"),
        (lambda images: (images / "d.png").symlink_to("nowhere"), r"link to nothing.*/d\.png"),
        (lambda images: os.mkfifo(images / "d.png"), r"not a regular file.*/d\.png"),
    ],
)
def test_what_is_left_out_is_named(load, root, change, words):
    change(root / "img_dir" / "train")
    with pytest.warns(DataWarning, match=words):
        load()


def test_images_and_labels_in_one_folder_are_not_taken_for_each_other(load, root):
    (root / "all").mkdir()
    for name in ("d", "e"):
        Image.new("RGB", (8, 6)).save(root / "all" / f"{name}.jpg")
        Image.new("L", (8, 6)).save(root / "all" / f"{name}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = {"image_dir": "all", "label_dir": "all"}
        assert names(load("all", image_suffix=".jpg", **both)) == ["d", "e"]


@pytest.fixture
def turned(root, label):
    """Let EXIF turn an image, and perhaps its label; gives the label's values."""

    def run(turn=3, label_turn=1):
        values = (np.arange(48).reshape(6, 8) % 19).astype(np.uint8)
        image, black = root / "img_dir" / "train" / "a.png", np.zeros((6, 8, 3), np.uint8)
        for path, one, pixels in ((image, turn, black), (label, label_turn, values)):
            tags = Image.Exif()
            tags[0x0112] = one
            Image.fromarray(pixels).save(path, exif=tags)
        return values

    return run


def test_a_label_beside_a_turned_image_is_warned_of(load, turned):
    values = turned()
    with pytest.warns(DataWarning, match=r"a\.png.*EXIF orientation 3.*labels_follow_exif"):
        label = load()[0]["label"]
    assert (label == values).all()
    turned(turn=6)
    with pytest.raises(UserError, match=r"8x6.*6x8.*EXIF orientation 6"):
        load()[0]
    assert load(labels_follow_exif=True)[0]["label"].shape == (8, 6)


@pytest.mark.parametrize(
    ("follow", "label_turn", "is_turned"),
    [(True, 1, True), (False, 1, False), (None, 3, True), (True, 3, True)],
)
def test_labels_follow_exif_or_not(load, turned, follow, label_turn, is_turned):
    """A label of its image's orientation is turned once."""
    values = turned(label_turn=label_turn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label = load(labels_follow_exif=follow)[0]["label"]
    assert (label == (values[::-1, ::-1] if is_turned else values)).all()
