"""The drawn streets: reproducible, one layout in all styles, real differences between them."""

import subprocess
import sys
import zlib
from itertools import combinations

import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_domain, open_domain, streets
from revt_hf.data.domains.streets import STYLES, build_street, render
from revt_hf.data.domains.streets.paint import UNSEEN_STYLES
from revt_hf.data.label_space import CLASSES, IGNORE_INDEX, NUM_CLASSES, TRAIN_ID
from tests.helpers import drawn

SIZE = (128, 256)
OPTIONS = {"images": 3, "val_images": 2, "size": [64, 128]}


@pytest.mark.numeric
def test_drawn_pixels_belong_to_their_version() -> None:
    golden = np.load(drawn.GOLDEN)
    changed = "the pixels of {} changed: raise STREETS_VERSION, then python -m tests.helpers.drawn"
    assert drawn.VERSIONS["streets"] == golden["version/streets"], changed.format("some style")
    for name, values in drawn.street_values().items():
        # Labels exactly; images up to what other processors round to the other side.
        tolerance = 0 if name == "streets/label" else drawn.TOLERANCE
        assert np.abs(values - golden[name]).max() <= tolerance, changed.format(name)


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("style", "change"),
    [("overcast", {"blur": (0.3, 0.65)}), ("night", {"shadow": 0.12}), ("fog", {"texture": 1.1})],
)
def test_a_small_change_of_a_style_is_seen(monkeypatch, style, change) -> None:
    monkeypatch.setitem(STYLES, style, STYLES[style].model_copy(update=change))
    name = f"streets/{style}"
    difference = drawn.street_values()[name] - np.load(drawn.GOLDEN)[name]
    assert np.abs(difference).max() > drawn.TOLERANCE


def test_another_process_draws_the_same_image() -> None:
    code = (
        "import zlib; from revt_hf.data.domains.streets import render;"
        "print([zlib.crc32(a.tobytes()) for a in render(7, 'pretext', 128, 256)])"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120)
    assert printed.strip() == str([zlib.crc32(a.tobytes()) for a in render(7, "pretext", *SIZE)])


def test_styles_share_a_label_and_differ_in_their_images() -> None:
    drawings = {style: render(11, style, *SIZE) for style in STYLES}
    for (first, (image, label)), (second, other) in combinations(drawings.items(), 2):
        np.testing.assert_array_equal(label, other[1], err_msg=second)
        assert np.abs(image.astype(float) - other[0]).mean() > 8, (first, second)


def test_classes_over_a_hundred_scenes() -> None:
    labels = [build_street(seed, *SIZE).label for seed in range(100)]
    counts = np.array([np.bincount(label.ravel(), minlength=256) for label in labels])
    scenes, pixels = (counts > 0).sum(axis=0), counts.sum(axis=0)
    assert min(np.mean(a != b) for a, b in combinations(labels[:12], 2)) > 0.05
    assert set(np.flatnonzero(pixels)) <= {*range(NUM_CLASSES), IGNORE_INDEX}
    expected = set(CLASSES) - {"train", "truck", "motorcycle"}
    assert {name for name in CLASSES if scenes[TRAIN_ID[name]] >= 25} == expected
    most = ("road", "sidewalk", "building", "pole", "vegetation", "terrain", "sky", "car")
    assert min(scenes[TRAIN_ID[name]] for name in most) >= 80
    assert 0.005 < pixels[IGNORE_INDEX] / pixels.sum() < 0.15


def test_styles_have_their_marks() -> None:
    light, colour, grain, far = {}, {}, {}, {}
    for style in STYLES:
        images, labels = map(
            np.stack, zip(*(render(n, style, *SIZE) for n in range(6)), strict=True)
        )
        images = images.astype(float)
        assert (images.max(axis=(1, 2, 3)) > 180).all()
        assert (images.min(axis=(1, 2, 3)) < 70).all()
        light[style], colour[style] = images.mean(), np.ptp(images, axis=3).mean()
        # The sky has no texture of its own.
        sky = (labels == TRAIN_ID["sky"])[:, :, 1:] & (labels == TRAIN_ID["sky"])[:, :, :-1]
        grain[style] = np.abs(np.diff(images, axis=2))[sky].mean()
        road = labels == TRAIN_ID["road"]
        near, horizon = np.arange(128)[:, None] > 105, np.argmax(road.any(axis=2), axis=1)
        distant = np.arange(128)[:, None] < horizon[:, None, None] + 6
        far[style] = images[road & distant].mean() - images[road & near].mean()
    assert light["night"] < 0.65 * light["source"]
    assert colour["overcast"] < 0.7 * colour["source"]
    assert grain["noise"] > 4 * grain["source"]
    assert colour["pretext"] > 0.8 * colour["source"]
    assert far["fog"] > far["source"] + 10
    assert set(UNSEEN_STYLES) == set(STYLES) - {"source", "pretext"}


def test_bad_styles_seeds_and_sizes_are_refused() -> None:
    for seed, style, size, words in (
        (0, "sunset", SIZE, "'sunset'.*source, pretext, overcast, night, fog, noise"),
        (-1, "source", SIZE, "street seed"),
        (0, "source", (32, 256), "street size"),
        (0, "source", (128, 64), "street size"),
    ):
        with pytest.raises(UserError, match=words):
            render(seed, style, *size)


@pytest.mark.parametrize("size", [(64, 128), (97, 203), (256, 512)])
def test_sizes_and_types(size: tuple[int, int]) -> None:
    image, label = render(3, "night", *size)
    assert (image.shape, label.shape) == ((*size, 3), size)
    assert image.dtype == label.dtype == np.uint8
    large = build_street(3, 2 * size[0], 2 * size[1]).label
    assert np.mean(label == large[1::2, 1::2]) > 0.85


@pytest.fixture
def load(tmp_path):
    def run(split="val", config=None, **options):
        return load_domain(
            "streets", split, config=config, options={**OPTIONS, **options}, cache_dir=tmp_path
        )

    return run


def test_splits_have_their_own_number_of_other_scenes(load):
    train, val = load("train"), load("val")
    assert (len(train), len(val)) == (3, 2)
    assert not {row["name"] for row in train} & {row["name"] for row in val}
    assert val[0]["name"].startswith("source-")
    np.testing.assert_array_equal(load(config="night")[0]["label"], val[0]["label"])
    assert not np.array_equal(load(seed=1)[0]["label"], val[0]["label"])


def test_the_cache_belongs_to_the_version(load, monkeypatch):
    def white(seed, style, height, width):
        return np.full((height, width, 3), 255, np.uint8), np.zeros((height, width), np.uint8)

    first, content = load()[1]["image"], open_domain("streets", "val", options=OPTIONS).content
    monkeypatch.setattr(streets, "render", white)
    np.testing.assert_array_equal(load()[1]["image"], first)
    monkeypatch.setattr(streets, "STREETS_VERSION", drawn.VERSIONS["streets"] + 1)
    assert (load()[1]["image"] == 255).all()
    assert open_domain("streets", "val", options=OPTIONS).content != content


def test_mistakes(load):
    for words, arguments in {
        "unknown config 'sunny'.*night": {"config": "sunny"},
        "unknown split 'test'": {"split": "test"},
        "images": {"images": 0},
        "size": {"size": [8, 8]},
        "options.colour": {"colour": "red"},
    }.items():
        with pytest.raises(UserError, match=words):
            load(**arguments)
