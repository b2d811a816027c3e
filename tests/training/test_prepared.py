"""Training on prepared images sees the same bits as training on the source."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from revt_hf.config.recipe import DomainSpec, Source
from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import locked
from revt_hf.data.domains.prepared import load_prepared
from revt_hf.data_tools import prepare as module
from revt_hf.data_tools.prepare import prepare
from tests.helpers.image_files import write_pairs
from tests.helpers.tiny import run, same_weights, tiny_recipe

MAX_SIZE = (160, 80)
SIZES = [(97, 203), (80, 160), (120, 90), (64, 128), (75, 161)]


@pytest.fixture
def root(tmp_path):
    """Images of several sizes in the original's layout."""
    rng = np.random.default_rng(0)
    pairs = {
        f"town/{number}": (
            rng.integers(0, 256, (*size, 3), dtype=np.uint8),
            rng.integers(0, 19, size, dtype=np.uint8),
        )
        for number, size in enumerate(SIZES)
    }
    write_pairs(tmp_path / "data", "train", pairs)
    return tmp_path / "data"


@pytest.fixture
def make(root, tmp_path):
    """Prepare it into a folder."""

    def made(*arguments, **options):
        spec = DomainSpec(domain="folder", data_dir=str(root))
        prepare(spec, "train", tmp_path / "small", MAX_SIZE, *arguments, quiet=True, **options)
        return tmp_path / "small"

    return made


@pytest.fixture
def small(make):
    return make()


def _source(root, prepared):
    return Source(domain="folder", data_dir=str(root), prepared=str(prepared), val="train")


@pytest.mark.parametrize("format", ["webp", "png", "raw"])
def test_training_sees_the_same_bits(root, make, tmp_path, format):
    source = {"domain": "folder", "data_dir": str(root), "options": {}}
    usual = run(tmp_path / "a", tiny_recipe(source=source))
    prepared = {**source, "prepared": str(make(format))}
    assert same_weights(usual, run(tmp_path / "b", tiny_recipe(source=prepared)))


def test_labels_that_were_fitted_stay_the_same(tmp_path):
    """GTA5's labels of another size go through two nearest resizes either way."""
    root = tmp_path / "gta"
    rng = np.random.default_rng(1)
    for kind, size, most in (("images", (90, 170, 3), 256), ("labels", (93, 168), 35)):
        (root / kind).mkdir(parents=True)
        for number in range(1, 4):
            image = rng.integers(0, most, size, dtype=np.uint8)
            cv2.imwrite(str(root / kind / f"{number:05d}.png"), image)
    source = {"domain": "gta5", "data_dir": str(root), "train": "full", "options": {}}
    spec = DomainSpec(domain="gta5", data_dir=str(root))
    with pytest.warns(UserWarning, match="3 images, officially 24966"):
        prepare(spec, "full", tmp_path / "small", MAX_SIZE, "raw", quiet=True)
        usual = run(tmp_path / "a", tiny_recipe(source=source))
    prepared = {**source, "prepared": str(tmp_path / "small")}
    assert same_weights(usual, run(tmp_path / "b", tiny_recipe(source=prepared)))


def test_raw_images_are_not_read_whole(root, make):
    base = load_prepared(_source(root, make("raw")), MAX_SIZE)[0]["image"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) or "mmap" in type(base).__name__


def test_an_interrupted_run_goes_on(make, tmp_path, monkeypatch):
    written, real = [], module._write

    def counting(path, image):
        written.append(path.name)
        if len(written) == 5:
            raise KeyboardInterrupt
        real(path, image)

    monkeypatch.setattr(module, "_write", counting)
    with pytest.raises(KeyboardInterrupt):
        make(workers=1)
    assert not (tmp_path / "small").exists()
    make(workers=1)
    assert not set(written[:4]) & set(written[5:])
    assert len(list((tmp_path / "small" / "images").rglob("*.webp"))) == len(SIZES)
    assert not list(tmp_path.glob(".small*"))


def test_another_job_does_not_take_over_what_is_left(make, tmp_path):
    left = tmp_path / ".small.revt-preparing" / "images" / "stray.webp"
    left.parent.mkdir(parents=True)
    left.write_text("left over")
    assert not (make() / "images" / "stray.webp").exists()


def _change_the_source(root, small):
    image = root / "img_dir" / "train" / "town" / "0.png"
    cv2.imwrite(str(image), np.zeros((97, 203, 3), np.uint8))


def _delete_one(root, small):
    (small / "images" / "town" / "0.webp").unlink()


def _damage_the_record(root, small):
    (small / "prepared.json").write_text("{")


OTHER_OPTIONS = {"label_suffix": ".png", "encoding": "cityscapes_ids"}


@pytest.mark.parametrize(
    ("changes", "damage", "max_size", "words"),
    [
        ({}, None, (200, 80), r"resized to \(160, 80\).*max_size is \(200, 80\)"),
        ({"train": "val"}, None, MAX_SIZE, "prepared with split train"),
        ({"options": OTHER_OPTIONS}, None, MAX_SIZE, "prepared with options"),
        ({"prepared": "data"}, None, MAX_SIZE, r"not a prepared folder.*prepared\.json"),
        ({}, _change_the_source, MAX_SIZE, "has changed since"),
        ({}, _delete_one, MAX_SIZE, "4 of 5 images"),
        ({}, _damage_the_record, MAX_SIZE, "not a record"),
    ],
)
def test_what_does_not_fit_is_refused(root, small, changes, damage, max_size, words, monkeypatch):
    monkeypatch.chdir(root.parent)
    source = _source(root, small)
    load_prepared(source, MAX_SIZE[::-1])  # a max size has no orientation
    if damage is not None:
        damage(root, small)
    with pytest.raises(UserError, match=words):
        load_prepared(source.model_copy(update=changes), max_size)


def test_only_what_was_prepared_is_replaced(root, make, small):
    make("png", overwrite=True)
    record = json.loads((small / "prepared.json").read_text())
    kept = {"domain": "folder", "max_size": list(MAX_SIZE), "images": len(SIZES)}
    assert record.items() >= (kept | {"label_encoding": "train_ids"}).items()
    precious = small / "images" / "mine.png"
    precious.write_text("precious")
    for options, words in (
        ({}, "exists already"),
        ({"overwrite": True}, r"holds images/mine\.png"),
    ):
        with pytest.raises(UserError, match=words):
            make(**options)
    assert precious.exists()
    spec = DomainSpec(domain="folder", data_dir=str(root))
    with pytest.raises(UserError, match="is or holds the input"):
        prepare(spec, "train", root, MAX_SIZE, overwrite=True, quiet=True)
    assert (root / "img_dir").is_dir()


def test_a_full_disk_is_noticed_early(make, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="GB left"):
        make("raw")
    assert not (tmp_path / "small").exists()


def test_two_jobs_do_not_share_an_output(make, tmp_path):
    def other():
        with pytest.raises(UserError, match="being written by another process"):
            make()
        return True

    with locked(tmp_path / "small"), ThreadPoolExecutor() as threads:
        assert threads.submit(other).result()
    assert not (tmp_path / "small").exists()
