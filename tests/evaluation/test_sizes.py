"""Images that a network cannot take are found before it runs."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_domain
from revt_hf.evaluation.loading import check_sizes, minimum_side, too_small
from revt_hf.evaluation.predictor import predict
from tests.helpers.networks import tiny_model

NATIVE = Protocol(max_size=None)
CHANGES = [{}, {"sr_ratios": [4, 2, 1, 1]}, {"strides": [8, 2, 2, 2]}]


def _network(**changes):
    config = SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 16, 40, 64], **changes)
    return SegformerForSemanticSegmentation(config).eval()


@pytest.mark.parametrize("changes", CHANGES)
def test_the_minimum_is_the_smallest_side_that_runs(changes):
    model = _network(**changes)
    smallest = minimum_side([model])
    with torch.inference_mode():
        model(pixel_values=torch.zeros(1, 3, smallest, smallest))
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(pixel_values=torch.zeros(1, 3, smallest - 1, smallest))
    # Of several networks the largest minimum counts.
    usual = _network()
    assert minimum_side([usual]) == 29
    assert minimum_side([usual, model]) == max(29, smallest)


@pytest.mark.parametrize(
    ("size", "protocol", "minimum", "fits"),
    [
        ((29, 29), NATIVE, 29, True),
        ((28, 400), NATIVE, 29, False),
        ((1, 1), Protocol(), 29, True),  # enlarged to the max size
        ((20, 2000), Protocol(), 29, False),
        ((200, 200), Protocol(max_size=None, window=32, stride=20), 33, False),
        ((60, 60), Protocol(max_size=None, scales=(1.0, 0.4)), 29, False),
    ],
)
def test_what_reaches_the_network_decides(size, protocol, minimum, fits):
    assert (too_small(size, protocol, minimum) is None) is fits


def test_one_pixel_has_a_class():
    (found,) = predict(tiny_model(0), np.full((1, 1, 3), 90, np.uint8), Protocol())[0]
    assert found < 19


def test_a_split_with_one_such_image_is_refused_by_name(tmp_path):
    for kind, mode in (("img_dir", "RGB"), ("ann_dir", "L")):
        (tmp_path / kind / "val").mkdir(parents=True)
        for name, size in (("good", (64, 64)), ("thin", (64, 9))):
            Image.new(mode, size).save(tmp_path / kind / "val" / f"{name}.png")
    rows = load_domain("folder", "val", tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=r"x/val: .*thin\.png: 64x9 .*at least 29"):
        check_sizes(rows, "x/val", NATIVE, 29)
    check_sizes(rows, "x/val", NATIVE, 9)
