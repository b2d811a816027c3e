"""The drawn streets: reproducible, one layout in all styles, real differences between them."""

import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_domain, open_domain
from revt_hf.data.domains.streets.paint import render
from revt_hf.data.domains.streets.street import build_street
from revt_hf.data.domains.streets.styles import MATERIALS, STYLES, UNSEEN_STYLES
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, NUM_CLASSES, TRAIN_ID
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
    monkeypatch.setitem(STYLES, style, replace(STYLES[style], **change))
    difference = (
        drawn.street_values()[f"streets/{style}"] - np.load(drawn.GOLDEN)[f"streets/{style}"]
    )
    assert np.abs(difference).max() > drawn.TOLERANCE


def test_another_process_draws_the_same_image() -> None:
    code = (
        "import zlib; from revt_hf.data.domains.streets.paint import render;"
        "print(*[zlib.crc32(a.tobytes()) for a in render(7, 'pretext', 128, 256)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    expected = [zlib.crc32(a.tobytes()) for a in render(7, "pretext", *SIZE)]
    assert [int(value) for value in run.stdout.split()] == expected


def test_styles_share_a_label_and_differ_in_their_images() -> None:
    drawings = {style: render(11, style, *SIZE) for style in STYLES}
    for first, (image, label) in drawings.items():
        np.testing.assert_array_equal(label, drawings["source"][1], err_msg=first)
        for second in set(STYLES) - {first}:
            assert np.abs(image.astype(float) - drawings[second][0]).mean() > 8, (first, second)


def test_no_two_seeds_share_a_layout() -> None:
    labels = [build_street(seed, *SIZE).label for seed in range(12)]
    for first in range(12):
        for second in range(first):
            assert np.mean(labels[first] != labels[second]) > 0.05


def test_classes_over_a_hundred_scenes() -> None:
    scenes = np.zeros(256, dtype=np.int64)
    pixels = np.zeros(256, dtype=np.int64)
    for seed in range(100):
        counts = np.bincount(build_street(seed, *SIZE).label.ravel(), minlength=256)
        scenes += counts > 0
        pixels += counts
    assert set(np.flatnonzero(pixels)) <= {*range(NUM_CLASSES), IGNORE_INDEX}
    expected = set(CLASSES) - {"train", "truck", "motorcycle"}
    assert {name for name in CLASSES if scenes[TRAIN_ID[name]] >= 25} == expected
    most = ("road", "sidewalk", "building", "pole", "vegetation", "terrain", "sky", "car")
    assert min(scenes[TRAIN_ID[name]] for name in most) >= 80
    assert 0.005 < pixels[IGNORE_INDEX] / pixels.sum() < 0.15


@pytest.mark.parametrize("size", [(64, 128), (97, 203), (256, 512)])
def test_sizes_and_types(size: tuple[int, int]) -> None:
    image, label = render(3, "night", *size)
    assert image.shape == (*size, 3)
    assert label.shape == size
    assert image.dtype == label.dtype == np.uint8
    small, large = build_street(4, *size).label, build_street(4, 2 * size[0], 2 * size[1]).label
    assert np.mean(small == large[1::2, 1::2]) > 0.85


def test_styles_have_their_marks() -> None:
    def mean(style: str, measure: str) -> float:
        values = []
        for seed in range(6):
            image, label = render(seed, style, *SIZE)
            image = image.astype(float)
            assert image.max() > 180
            assert image.min() < 60
            spread = np.ptp(image, axis=2).mean()
            # The sky has no texture of its own.
            sky = (label == TRAIN_ID["sky"])[:, 1:] & (label == TRAIN_ID["sky"])[:, :-1]
            grain = np.abs(np.diff(image, axis=1))[sky].mean()
            values.append({"light": image.mean(), "colour": spread, "grain": grain}[measure])
        return float(np.mean(values))

    assert mean("night", "light") < 0.65 * mean("source", "light")
    assert mean("overcast", "colour") < 0.7 * mean("source", "colour")
    assert mean("noise", "grain") > 4 * mean("source", "grain")
    assert mean("pretext", "colour") > 0.8 * mean("source", "colour")
    assert set(UNSEEN_STYLES) == set(STYLES) - {"source", "pretext"}
    for name, style in STYLES.items():
        assert set(style.palette) == set(MATERIALS), name


def test_fog_hides_far_objects_first() -> None:
    losses: dict[str, list[float]] = {"near": [], "far": []}
    for seed in range(6):
        image, label = render(seed, "fog", *SIZE)
        clear, _ = render(seed, "source", *SIZE)
        row, column = np.argwhere(label == TRAIN_ID["road"]).T
        for name, chosen in (("far", row < row.min() + 6), ("near", row > 105)):
            at = row[chosen], column[chosen]
            losses[name].append(image[at].mean() - clear[at].mean())
    assert np.mean(losses["far"]) > np.mean(losses["near"]) + 10


@pytest.mark.parametrize(
    ("seed", "style", "size", "words"),
    [
        (0, "sunset", SIZE, "'sunset'.*source, pretext, overcast, night, fog, noise"),
        (-1, "source", SIZE, "street seed"),
        (0, "source", (32, 256), "street size"),
        (0, "source", (128, 64), "street size"),
    ],
)
def test_bad_styles_seeds_and_sizes_are_refused(seed, style, size, words) -> None:
    with pytest.raises(UserError, match=words):
        render(seed, style, *size)


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
    assert train[0]["image"].shape == (64, 128, 3)
    assert val[0]["name"].startswith("source-")
    np.testing.assert_array_equal(load(config="night")[0]["label"], val[0]["label"])
    assert not np.array_equal(load(seed=1)[0]["label"], val[0]["label"])


def test_the_cache_belongs_to_the_version(load, monkeypatch):
    def white(seed, style, height, width):
        return np.full((height, width, 3), 255, np.uint8), np.zeros((height, width), np.uint8)

    first, content = load()[1]["image"], open_domain("streets", "val", options=OPTIONS).content
    builder = "revt_hf.data.domains.streets"
    monkeypatch.setattr(f"{builder}.render", white)
    np.testing.assert_array_equal(load()[1]["image"], first)
    monkeypatch.setattr(f"{builder}.STREETS_VERSION", drawn.VERSIONS["streets"] + 1)
    assert (load()[1]["image"] == 255).all()
    assert open_domain("streets", "val", options=OPTIONS).content != content


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": "sunny"}, "unknown config 'sunny'.*night"),
        ({"split": "test"}, "unknown split 'test'"),
        ({"images": 0}, "images"),
        ({"size": [8, 8]}, "size"),
        ({"colour": "red"}, "options.colour"),
    ],
)
def test_mistakes(load, arguments, words):
    with pytest.raises(UserError, match=words):
        load(**arguments)
