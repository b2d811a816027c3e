"""Photometric distortion and bilateral filtering: the original's results, and what is drawn."""

import random

import cv2
import numpy as np
import pytest
from benchmarks.augment import plain_photometric

from revt_hf.data.augment.transforms import (
    BilateralFilter,
    PhotometricDraws,
    apply_photometric,
    draw_photometric,
)
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def golden():
    return np.load(golden_file("photometric.npz"))


def test_steps_match_the_original(golden):
    steps = [key for key in golden if key.startswith(("brightness", "contrast", "satur", "hue"))]
    assert len(steps) == 12
    for key in steps:
        name, _, value = key.rpartition("_")
        result = apply_photometric(golden["image_rgb"], PhotometricDraws(**{name: float(value)}))
        assert result.dtype == np.uint8
        difference = np.abs(result.astype(int) - golden[key])
        # OpenCV turns HSV to RGB in float32. Without AVX2 some values fall to the other side of a
        # half: 0.6 % of those of one hue. A wrong rounding or hue would be seen in most of them.
        assert difference.max() <= 1, key
        assert np.count_nonzero(difference) <= 0.01 * difference.size, key


@pytest.mark.parametrize("d", [1, 5, 9, 14])
def test_bilateral_matches_the_original(golden, d):
    result = BilateralFilter((d, d), p=1.0)(image=golden["image_rgb"])["image"]
    assert np.abs(result.astype(int) - golden[f"bilateral_{d}"]).max() <= 1


@pytest.mark.parametrize("first", [True, False])
def test_tables_equal_the_steps_in_turn(golden, first):
    image = golden["image_rgb"]
    np.testing.assert_array_equal(apply_photometric(image, PhotometricDraws()), image)
    for step, value in (("saturation", 1.3), ("hue", -11), ("brightness", 3.7)):
        fields = {"brightness": 17.3, "contrast": 0.7, "contrast_first": first, step: value}
        draws = PhotometricDraws(**fields)
        np.testing.assert_array_equal(
            apply_photometric(image, draws), plain_photometric(image, draws)
        )
    together = PhotometricDraws(-9.0, 1.4, 0.6, 14, first)
    difference = apply_photometric(image, together).astype(int) - plain_photometric(image, together)
    # The plain way rounds once more, between saturation and hue.
    assert np.abs(difference).mean() < 0.5
    swapped = apply_photometric(image, PhotometricDraws(-9.0, 1.4, 0.6, 14, not first))
    assert np.abs(swapped.astype(int) - apply_photometric(image, together)).mean() > 0.05


def test_draws_have_the_papers_ranges():
    draws = [draw_photometric(random.Random(seed)) for seed in range(4000)]
    ranges = {"brightness": (-32, 32), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5)}
    for name, (low, high) in {**ranges, "hue": (-18, 18)}.items():
        values = [v for d in draws if (v := getattr(d, name)) is not None]
        assert 0.46 < len(values) / len(draws) < 0.54, name
        assert low <= min(values) < low + 0.05 * (high - low), name
        assert high - 0.05 * (high - low) < max(values) <= high, name
    assert 0.46 < np.mean([d.contrast_first for d in draws]) < 0.54


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set(range(1, 15))),
        ({"paper_code": True}, set(range(15))),
        ({"diameter": (3, 5), "paper_code": True}, {3, 4, 5}),
    ],
)
def test_bilateral_diameters_and_probability(monkeypatch, options, expected):
    asked = []
    monkeypatch.setattr(cv2, "bilateralFilter", lambda img, d, *sigma: asked.append(d) or img)
    transform = BilateralFilter(**options, p=0.25)
    transform.set_random_seed(0)
    for _ in range(2000):
        transform(image=np.zeros((2, 2, 3), np.uint8))
    assert set(asked) == expected
    assert 420 < len(asked) < 580
