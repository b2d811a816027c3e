"""Sliding windows, scales and flip: against networks whose result is known, and by hand."""

import numpy as np
import pytest
import torch

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.evaluation.predictor import (
    model_segmenter,
    network_sizes,
    predict,
    prepare,
    sliding_logits,
)
from tests.helpers.networks import full_size, random_image, same_but_ties, tiny_model

pytestmark = pytest.mark.numeric

SLIDE = Protocol(max_size=None, window=32, stride=24)


@pytest.fixture(scope="module")
def model():
    return tiny_model(0)


def _windows_of(size, protocol):
    """Corners of each window that the network sees (top, left, bottom, right)."""
    grid = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    seen = []

    def network(pixels):
        corners = pixels[0, :, 0, 0].tolist() + pixels[0, :, -1, -1].tolist()
        seen.append(tuple(int(corner) for corner in corners))
        return pixels

    sliding_logits(network, torch.stack(grid).float()[None], protocol)
    return seen


def test_windows_lie_where_mmsegmentation_puts_them():
    # 32 every 24: 0..32, 24..56, 48..80; 75 and 56 are the image's ends.
    rows = [(0, 31), (24, 55), (43, 74)]
    columns = [(0, 31), (24, 55)]
    expected = [(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    assert _windows_of((75, 56), SLIDE) == expected


@pytest.mark.parametrize("size", [(32, 32), (20, 30), (31, 33), (20, 100), (75, 56)])
def test_images_of_any_size_are_covered_and_networks_without_context_see_no_windows(size):
    seen = np.zeros(size, int)
    for top, left, bottom, right in _windows_of(size, SLIDE):
        assert bottom - top == min(31, size[0] - 1)
        assert right - left == min(31, size[1] - 1)
        seen[top : bottom + 1, left : right + 1] += 1
    assert seen.min() >= 1
    pixels = torch.randn(2, 3, *size)
    torch.testing.assert_close(sliding_logits(lambda part: part * 2, pixels, SLIDE), pixels * 2)


def test_overlaps_are_the_mean_of_their_windows():
    numbers = iter(range(1, 100))

    def network(pixels):
        # A quarter of the size, as a SegFormer's; each window returns its number.
        return torch.full((1, 1, pixels.shape[2] // 4, pixels.shape[3] // 4), next(numbers) * 1.0)

    result = sliding_logits(network, torch.zeros(1, 3, 32, 56), SLIDE)[0, 0]
    assert result.shape == (32, 56)
    for columns, value in ((slice(24), 1), (slice(24, 32), 1.5), (slice(32, 56), 2)):
        assert (result[:, columns] == value).all()


def test_a_window_as_large_as_the_image_changes_nothing(model):
    image = random_image(48, 64)
    whole = predict(model, image, Protocol(max_size=None))
    assert (predict(model, image, Protocol(max_size=None, window=64, stride=32)) == whole).all()
    # Windows are cut from the resized image.
    image, protocol = random_image(64, 128), Protocol(max_size=(64, 32), window=32, stride=24)
    assert network_sizes((64, 128), protocol) == ((32, 64),)
    small = predict(model, image, protocol)
    assert small.shape == (64, 128)
    assert (small != predict(model, image, SLIDE)).any()


def test_scales_multiply_the_max_size_or_the_image():
    sizes = network_sizes((1024, 2048), PROTOCOLS["multi-scale"])
    assert sizes == ((256, 512), (384, 768), (512, 1024), (640, 1280), (768, 1536), (896, 1792))
    native = Protocol(max_size=None, scales=(0.5, 1, 1.5))
    assert network_sizes((100, 80), native) == ((50, 40), (100, 80), (150, 120))
    assert prepare(random_image(100, 80), native, 1.5).shape[2:] == (150, 120)


@pytest.mark.parametrize("window", [None, 48])
def test_multi_scale_and_flip_average_the_probabilities_of_all_views(model, window):
    image, stride = random_image(60, 90), window and 32
    views = {"scales": (0.5, 1.0, 1.75), "flip": True}
    protocol = Protocol(max_size=(128, 64), window=window, stride=stride, **views)
    segmenter = model_segmenter(model)
    total = torch.zeros(19, 60, 90)
    with torch.inference_mode():
        for scale in protocol.scales:
            for flip in (False, True):
                pixels = prepare(image, protocol, scale)
                pixels = pixels.flip(-1) if flip else pixels
                logits = sliding_logits(segmenter.networks[0], pixels, protocol)[0]
                logits = full_size(logits, tuple(pixels.shape[2:]), (60, 90))
                total += (logits.flip(-1) if flip else logits).softmax(0)
    assert same_but_ties(segmenter.class_map(image, protocol), total / 6)


def test_flip_makes_the_result_equivariant(model):
    image = random_image(64, 96)
    mirrored = np.ascontiguousarray(image[:, ::-1])

    def differ(protocol):
        there, back = predict(model, image, protocol), predict(model, mirrored, protocol)
        return (there != back[:, ::-1]).mean()

    assert differ(Protocol(max_size=None, flip=True)) < 1e-3
    assert differ(Protocol(max_size=None)) > 0.05


def test_each_field_changes_the_class_map(model):
    image = random_image(64, 96)
    windows = {"window": 32, "stride": 16}
    changes = [{}, {"scales": (0.5, 1.0)}, {"flip": True}, windows, {**windows, "stride": 32}]
    maps = [predict(model, image, Protocol(max_size=None, **change)) for change in changes]
    assert len({one.tobytes() for one in maps}) == len(changes)
