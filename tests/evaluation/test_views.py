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


def _windows_of(size, protocol):
    """Where the network looks: corners of each window (top, left, bottom, right)."""
    height, width = size
    place = torch.stack(
        torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ).float()[None]
    seen = []

    def network(pixels):
        corners = pixels[0, :, 0, 0].tolist() + pixels[0, :, -1, -1].tolist()
        seen.append(tuple(int(corner) for corner in corners))
        return pixels

    sliding_logits(network, place, protocol)
    return seen


def test_windows_lie_where_mmsegmentation_puts_them():
    # 32 every 24: 0..32, 24..56, 48..80; 75 and 56 are the image's ends.
    rows = [(0, 31), (24, 55), (43, 74)]
    columns = [(0, 31), (24, 55)]
    expected = [(top, left, bottom, right) for top, bottom in rows for left, right in columns]
    assert _windows_of((75, 56), SLIDE) == expected


@pytest.mark.parametrize("size", [(32, 32), (20, 30), (31, 33), (20, 100)])
def test_images_of_any_size_are_covered_once_or_more(size):
    seen = np.zeros(size, int)
    for top, left, bottom, right in _windows_of(size, SLIDE):
        assert bottom - top == min(31, size[0] - 1)
        assert right - left == min(31, size[1] - 1)
        seen[top : bottom + 1, left : right + 1] += 1
    assert seen.min() >= 1


@pytest.mark.parametrize("size", [(75, 56), (32, 32), (20, 100)])
def test_a_network_that_sees_pixels_by_themselves_does_not_notice_windows(size):
    pixels = torch.randn(2, 3, *size)
    result = sliding_logits(lambda window: window * 2, pixels, SLIDE)
    torch.testing.assert_close(result, pixels * 2)


def test_overlaps_are_the_mean_of_their_windows():
    numbers = iter(range(1, 100))

    def network(pixels):
        # A quarter of the size, as a SegFormer's; each window says its number.
        return torch.full((1, 1, pixels.shape[2] // 4, pixels.shape[3] // 4), next(numbers) * 1.0)

    result = sliding_logits(network, torch.zeros(1, 3, 32, 56), SLIDE)[0, 0]
    assert result.shape == (32, 56)
    assert (result[:, :24] == 1).all()
    assert (result[:, 24:32] == 1.5).all()
    assert (result[:, 32:] == 2).all()


def test_a_window_as_large_as_the_image_changes_nothing():
    model, image = tiny_model(0), random_image(48, 64)
    whole = predict(model, image, Protocol(max_size=None))
    assert (predict(model, image, Protocol(max_size=None, window=64, stride=32)) == whole).all()
    assert (predict(model, image, Protocol(max_size=None, window=32, stride=24)) != whole).any()


def test_windows_are_cut_from_the_resized_image():
    image = random_image(64, 128)
    assert network_sizes((64, 128), Protocol(max_size=(64, 32), window=32, stride=24)) == (
        (32, 64),
    )
    small = predict(tiny_model(0), image, Protocol(max_size=(64, 32), window=32, stride=24))
    assert small.shape == (64, 128)
    assert (small != predict(tiny_model(0), image, SLIDE)).any()


def test_scales_multiply_the_bound_or_the_image():
    protocol = PROTOCOLS["multi-scale"]
    sizes = network_sizes((1024, 2048), protocol)
    assert sizes == ((256, 512), (384, 768), (512, 1024), (640, 1280), (768, 1536), (896, 1792))
    native = Protocol(max_size=None, scales=(0.5, 1, 1.5))
    assert network_sizes((100, 80), native) == ((50, 40), (100, 80), (150, 120))
    assert prepare(random_image(100, 80), native, 1.5).shape[2:] == (150, 120)


@pytest.mark.parametrize("window", [None, 48])
def test_multi_scale_and_flip_average_the_probabilities_of_all_views(window):
    model, image = tiny_model(0), random_image(60, 90)
    protocol = Protocol(
        max_size=(128, 64), window=window, stride=window and 32, scales=(0.5, 1.0, 1.75), flip=True
    )
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


def test_flip_makes_the_result_equivariant():
    model, image = tiny_model(0), random_image(64, 96)
    mirrored = np.ascontiguousarray(image[:, ::-1])

    def differ(protocol):
        there, back = predict(model, image, protocol), predict(model, mirrored, protocol)
        return (there != back[:, ::-1]).mean()

    assert differ(Protocol(max_size=None, flip=True)) < 1e-3
    assert differ(Protocol(max_size=None)) > 0.05


@pytest.mark.parametrize(
    "change", [{"scales": (0.5, 1.0)}, {"flip": True}, {"window": 32, "stride": 16}]
)
def test_each_field_changes_the_class_map(change):
    model, image = tiny_model(0), random_image(64, 96)
    usual = predict(model, image, Protocol(max_size=None))
    assert (predict(model, image, Protocol(max_size=None, **change)) != usual).any()


def test_the_stride_changes_the_class_map():
    model, image = tiny_model(0), random_image(64, 96)
    maps = [predict(model, image, Protocol(max_size=None, window=32, stride=n)) for n in (16, 32)]
    assert (maps[0] != maps[1]).any()
