"""Pixels of classes: those that a training sees, counted once, and never out of date."""

import os
import warnings

import cv2
import datasets
import numpy as np
import pytest
from PIL import Image

from revt_hf.config.recipe import DomainSpec, Source
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data import class_counts as module
from revt_hf.data.augment import PipelineSpec, augment, build_pipeline
from revt_hf.data.class_counts import class_counts
from revt_hf.data.domains import load_domain
from revt_hf.data.domains.prepared import load_prepared
from revt_hf.data_tools.inspection import verify
from revt_hf.data_tools.prepare import prepare
from tests.helpers.image_files import write_pairs

SIZES = [(97, 203), (80, 160), (120, 90), (64, 128)]
BOUND = (160, 80)
_ORIENTATION = 0x112
# A PNG without compression: its size does not depend on its pixels.
STORED = [cv2.IMWRITE_PNG_COMPRESSION, 0]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path, cache):
    """Images of several sizes, one of them turned by EXIF like its label."""
    rng = np.random.default_rng(0)
    pairs = {
        f"town/{number}": (
            rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            rng.choice(np.array([0, 1, 7, 18, 255], np.uint8), size),
        )
        for number, size in enumerate(SIZES)
    }
    write_pairs(tmp_path / "data", "train", pairs)
    for kind in ("img_dir", "ann_dir"):
        path = tmp_path / "data" / kind / "train" / "town" / "0.png"
        exif = Image.Exif()
        exif[_ORIENTATION] = 6
        with Image.open(path) as image:
            image.load()
        image.save(path, exif=exif)
    path = tmp_path / "data" / "ann_dir" / "train" / "town" / "1.png"
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED), STORED)
    return tmp_path / "data"


def _load(root, **options):
    return load_domain("folder", "train", root, options=options)


def _counts(images, max_size=BOUND, **options):
    return class_counts(images, max_size, "data/train", quiet=True, **options)


def _seen(images, max_size):
    """Pixels of each class in the labels that a pipeline without a crop gives."""
    spec = PipelineSpec(method=3, max_size=max_size, crop=None)
    pipeline = build_pipeline(spec)
    masks = [augment(pipeline, row["image"], row["label"], 0)["mask"] for row in images]
    return np.stack([np.bincount(mask.ravel(), minlength=256)[:19] for mask in masks])


@pytest.fixture
def counted(monkeypatch):
    """Names of the images whose labels are counted."""
    names, really = [], module._count

    def count(decode, max_size, row):
        names.append(row["name"])
        return really(decode, max_size, row)

    monkeypatch.setattr(module, "_count", count)
    return names


@pytest.mark.parametrize("max_size", [BOUND, None])
def test_they_are_those_of_the_labels_that_a_training_sees(root, max_size):
    images = _load(root)
    np.testing.assert_array_equal(_counts(images, max_size), _seen(images, max_size))


def test_labels_that_are_fitted_or_turned_like_their_images(tmp_path, cache):
    root = tmp_path / "gta"
    rng = np.random.default_rng(1)
    for kind, size, most in (("images", (90, 170, 3), 256), ("labels", (93, 168), 35)):
        (root / kind).mkdir(parents=True)
        for number in range(1, 4):
            image = rng.integers(0, most, size, dtype=np.uint8)
            cv2.imwrite(str(root / kind / f"{number:05d}.png"), image)
    turned = root / "images" / "00002.png"
    exif = Image.Exif()
    exif[_ORIENTATION] = 3
    Image.open(turned).save(turned, exif=exif)
    options = {"labels_follow_exif": True}
    with pytest.warns(DataWarning, match="officially"):
        images = load_domain("gta5", "full", root, options=options)
    np.testing.assert_array_equal(_counts(images), _seen(images, BOUND))


def test_the_drawn_domain_and_whole_sums_as_verify_has_them(cache):
    options = {"images": 3, "val_images": 1, "size": [64, 128]}
    images = load_domain("streets", "train", options=options)
    counts = _counts(images, None)
    np.testing.assert_array_equal(counts, _seen(images, None))
    val = _counts(load_domain("streets", "val", options=options), None)
    shares = verify(DomainSpec(domain="streets", options=options), quiet=True).class_shares
    whole = counts.sum(axis=0) + val.sum(axis=0)
    assert [*shares.values()] == pytest.approx(whole / whole.sum())


def test_a_prepared_folder_gives_the_same(root, tmp_path):
    spec = DomainSpec(domain="folder", data_dir=str(root))
    prepare(spec, "train", tmp_path / "small", BOUND, "raw", quiet=True)
    prepared = Source(domain="folder", data_dir=str(root), prepared=str(tmp_path / "small"))
    images = load_prepared(prepared, BOUND)
    np.testing.assert_array_equal(_counts(images), _counts(_load(root)))


def test_images_are_not_decoded(root, monkeypatch):
    images = _load(root)
    expected = _seen(images, BOUND)
    monkeypatch.setattr(module, "decode_image", None)
    np.testing.assert_array_equal(_counts(images), expected)


def test_they_are_counted_once(root, counted, capsys):
    images = _load(root)
    first = class_counts(images, BOUND, "data/train")
    assert "count classes of data/train: 100%" in capsys.readouterr().err
    assert len(counted) == len(SIZES)
    # The order of a max size's sides does not matter.
    np.testing.assert_array_equal(class_counts(_load(root), BOUND[::-1], "data/train"), first)
    assert len(counted) == len(SIZES)
    assert capsys.readouterr().err == ""
    _counts(images, None)
    assert len(counted) == 2 * len(SIZES)
    assert capsys.readouterr().err == ""


def _swap_classes(root):
    """Another label of as many bytes."""
    path = root / "ann_dir" / "train" / "town" / "1.png"
    before = path.stat()
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    table = np.arange(256, dtype=np.uint8)
    table[[0, 1]] = 1, 0
    cv2.imwrite(str(path), table[label], STORED)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size


def _make_the_image_smaller(root):
    for kind in ("img_dir", "ann_dir"):
        path = root / kind / "train" / "town" / "1.png"
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:60])


def _remove_one(root):
    for kind in ("img_dir", "ann_dir"):
        (root / kind / "train" / "town" / "2.png").unlink()


@pytest.mark.parametrize("change", [_swap_classes, _make_the_image_smaller, _remove_one])
def test_changed_data_are_counted_again(root, counted, change):
    before = _counts(_load(root))
    change(root)
    images = _load(root)
    after = _counts(images)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, _seen(images, BOUND))


@pytest.mark.parametrize(
    "options",
    [
        {"encoding": {0: 3, 1: 1, 7: 7, 18: 18, 255: 255}},
        {"encoding": {0: 0, 1: 1, 7: 2, 18: 2, 255: 255}, "classes": ["road", "sky", "rest"]},
        {"labels_follow_exif": True},
    ],
)
def test_another_reading_of_the_labels_is_counted_anew(root, counted, options):
    _counts(_load(root))
    images = _load(root, **options)
    classes = len(options.get("classes", range(19)))
    np.testing.assert_array_equal(_counts(images), _seen(images, BOUND)[:, :classes])
    assert len(counted) == 2 * len(SIZES)


def test_the_same_files_elsewhere_are_counted_anew(root, counted, tmp_path):
    _counts(_load(root))
    root.rename(tmp_path / "elsewhere")
    _counts(_load(tmp_path / "elsewhere"))
    assert len(counted) == 2 * len(SIZES)


def _wrong_shape(path):
    np.savez(path, counts=np.zeros((len(SIZES), 18), np.int64))


def _negative(path):
    np.savez(path, counts=np.full((len(SIZES), 19), -1))


def _other_name(path):
    np.savez(path, numbers=np.zeros((len(SIZES), 19), np.int64))


def _flipped(path):
    data = bytearray(path.read_bytes())
    # Within the compressed numbers; the checksum tells.
    data[len(data) // 3] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        _flipped,
        _wrong_shape,
        _negative,
        _other_name,
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_text("text"),
        lambda path: path.write_bytes(b""),
    ],
    ids=["flipped", "shape", "negative", "name", "cut", "text", "empty"],
)
def test_a_damaged_file_is_counted_again_and_replaced(root, cache, counted, damage):
    images = _load(root)
    before = _counts(images)
    (path,) = (cache / module._FOLDER).iterdir()
    damage(path)
    np.testing.assert_array_equal(_counts(images), before)
    assert len(counted) == 2 * len(SIZES)
    np.testing.assert_array_equal(_counts(images), before)
    assert len(counted) == 2 * len(SIZES)


def test_an_interrupted_count_leaves_nothing(root, cache, counted, monkeypatch):
    images = _load(root)
    monkeypatch.setattr(module, "class_pixels", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _counts(images)
    assert not (cache / module._FOLDER).exists()


def test_without_a_usable_cache_each_run_counts_and_says_so(root, tmp_path, counted, monkeypatch):
    images = _load(root)
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "x")
    for _ in range(2):
        with pytest.warns(DataWarning, match=r"counted again by the next run.*HF_DATASETS_CACHE"):
            np.testing.assert_array_equal(_counts(images), _seen(images, BOUND))
    assert len(counted) == 2 * len(SIZES)


def test_a_label_that_cannot_be_used_is_named(root):
    images = _load(root)
    path = root / "ann_dir" / "train" / "town" / "3.png"
    cv2.imwrite(str(path), np.full(SIZES[3], 77, np.uint8))
    with warnings.catch_warnings(), pytest.raises(UserError, match=r"3\.png: label value 77"):
        _counts(images)
