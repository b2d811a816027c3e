"""The drawn streets: reproducible, one layout in all styles, real differences between them."""

import subprocess
import sys
import zlib

import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.domains.streets import STYLES, UNSEEN_STYLES, render
from revt_hf.data.domains.streets.materials import MATERIALS
from revt_hf.data.domains.streets.scene import build_scene
from revt_hf.data.labels import CLASSES, IGNORE_INDEX, NUM_CLASSES, TRAIN_ID

SIZE = (128, 256)


@pytest.mark.parametrize("style", STYLES)
def test_the_same_arguments_give_the_same_image(style: str) -> None:
    image, label = render(5, style, *SIZE)
    render(6, style, *SIZE)
    again, label_again = render(5, style, *SIZE)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)


def test_another_process_draws_the_same_image() -> None:
    code = (
        "import zlib; from revt_hf.data.domains.streets import render;"
        "print(*[zlib.crc32(a.tobytes()) for a in render(7, 'pretext', 128, 256)])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    expected = [zlib.crc32(a.tobytes()) for a in render(7, "pretext", *SIZE)]
    assert [int(value) for value in run.stdout.split()] == expected


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_label_is_the_same_in_every_look(seed: int) -> None:
    _, expected = render(seed, "source", *SIZE)
    for style in STYLES:
        np.testing.assert_array_equal(render(seed, style, *SIZE)[1], expected, err_msg=style)


def test_no_two_seeds_share_a_layout() -> None:
    labels = [build_scene(seed, *SIZE).label for seed in range(12)]
    for first in range(12):
        for second in range(first):
            assert np.mean(labels[first] != labels[second]) > 0.05


def test_classes_over_a_hundred_scenes() -> None:
    scenes = np.zeros(256, dtype=np.int64)
    pixels = np.zeros(256, dtype=np.int64)
    for seed in range(100):
        counts = np.bincount(build_scene(seed, *SIZE).label.ravel(), minlength=256)
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
    assert len(np.unique(label)) >= 6


def test_a_larger_image_shows_the_same_street() -> None:
    small = build_scene(4, 128, 256).label
    large = build_scene(4, 256, 512).label[1::2, 1::2]
    assert np.mean(small == large) > 0.93


@pytest.mark.parametrize("style", STYLES)
def test_images_use_the_range_of_values(style: str) -> None:
    images = np.stack([render(seed, style, *SIZE)[0] for seed in range(4)])
    assert images.std() > 20
    assert images.max() > 180
    assert images.min() < 60


def test_looks_differ_from_one_another() -> None:
    images = {style: render(11, style, *SIZE)[0].astype(float) for style in STYLES}
    for first in STYLES:
        for second in STYLES:
            if first != second:
                assert np.abs(images[first] - images[second]).mean() > 8, (first, second)


def test_what_marks_the_unseen_looks() -> None:
    def mean(style: str, measure: str) -> float:
        values = []
        for seed in range(6):
            image, label = render(seed, style, *SIZE)
            image = image.astype(float)
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


def test_fog_hides_far_things_first() -> None:
    near_loss: list[float] = []
    far_loss: list[float] = []
    for seed in range(6):
        image, label = render(seed, "fog", *SIZE)
        clear, _ = render(seed, "source", *SIZE)
        road = np.argwhere(label == TRAIN_ID["road"])
        rows = road[:, 0]
        for bucket, chosen in ((far_loss, rows < rows.min() + 6), (near_loss, rows > 105)):
            row, column = road[chosen].T
            bucket.append(image[row, column].mean() - clear[row, column].mean())
    assert np.mean(far_loss) > np.mean(near_loss) + 10


def test_every_look_has_a_colour_for_every_material() -> None:
    assert set(UNSEEN_STYLES) == set(STYLES) - {"source", "pretext"}
    for name, style in STYLES.items():
        assert set(style.palette) == set(MATERIALS), name


def test_an_unknown_look_is_refused() -> None:
    with pytest.raises(UserError, match=r"'sunset'.*source, pretext, overcast, night, fog, noise"):
        render(0, "sunset", *SIZE)


@pytest.mark.parametrize(("seed", "size"), [(-1, SIZE), (0, (32, 256)), (0, (128, 64))])
def test_bad_seeds_and_sizes_are_refused(seed: int, size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=r"street (seed|size)"):
        render(seed, "source", *size)
