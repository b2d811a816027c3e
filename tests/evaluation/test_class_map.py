"""Logits to class map: the fast route gives exactly what interpolate and arg max give."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from revt_hf.evaluation.class_maps import MeanProbabilities, _class_map_torch, class_map
from tests.helpers.networks import full_size, same_but_ties

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("logits_size", "network_size", "image_size"),
    [
        ((32, 64), (128, 256), (128, 256)),
        ((32, 64), (128, 256), (256, 512)),
        ((128, 171), (512, 683), (360, 480)),
        ((30, 41), (120, 161), (97, 131)),
        ((16, 16), (16, 16), (16, 16)),
    ],
)
def test_equals_interpolate_and_argmax(logits_size, network_size, image_size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(19, 6, 8, generator=generator) * 5
    logits = functional.interpolate(coarse[None], size=logits_size, mode="bicubic")[0]
    before = logits.clone()
    full = full_size(logits, network_size, image_size)
    expected = full.argmax(0).numpy().astype(np.uint8)
    # Where a route differs at all, the two best logits are equal to rounding.
    top = full.topk(2, dim=0).values
    margin = (top[0] - top[1]).numpy()
    for route in (class_map, _class_map_torch):
        ours = route(logits, network_size, image_size)
        assert ours.dtype == np.uint8
        different = ours != expected
        assert different.mean() < 1e-4
        assert (margin[different] < 1e-5).all()
    assert torch.equal(logits, before)


def test_ties_go_to_the_lower_class():
    logits = torch.zeros(19, 4, 4)
    assert (class_map(logits, (8, 8), (8, 8)) == 0).all()
    logits[18] = 1
    assert (class_map(logits, (8, 8), (16, 16)) == 18).all()


@pytest.mark.parametrize("image_size", [(97, 131), (16, 16)])
def test_mean_probabilities_are_those_of_all_channels_at_full_size(image_size):
    # At 16x16 the logits outgrow the image's channels, and are summed there.
    generator = torch.Generator().manual_seed(0)
    means = MeanProbabilities(image_size)
    total = torch.zeros(19, *image_size)
    for size, network_size in (((30, 41), (120, 161)), ((8, 9), (30, 33)), ((64, 64), (64, 64))):
        logits = torch.randn(19, *size, generator=generator) * 5
        total += full_size(logits, network_size, image_size).softmax(0)
        means.add(logits, network_size)
    ours = means.class_map()
    assert ours.dtype == np.uint8
    assert same_but_ties(ours, total)
