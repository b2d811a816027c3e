"""Logits to class map: the fast route gives exactly what interpolate and arg max give."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from revt_hf.evaluation.class_maps import _class_map_torch, class_map


def _reference(logits, network_size, picture_size):
    full = logits[None]
    for size in (network_size, picture_size):
        full = functional.interpolate(full, size=size, mode="bilinear", align_corners=False)
    return full[0].argmax(0).numpy().astype(np.uint8), full[0]


@pytest.mark.parametrize(
    ("logits_size", "network_size", "picture_size"),
    [
        ((32, 64), (128, 256), (128, 256)),
        ((32, 64), (128, 256), (256, 512)),
        ((128, 171), (512, 683), (360, 480)),
        ((30, 41), (120, 161), (97, 131)),
        ((16, 16), (16, 16), (16, 16)),
    ],
)
def test_equals_interpolate_and_argmax(logits_size, network_size, picture_size):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(19, 6, 8, generator=generator) * 5
    logits = functional.interpolate(coarse[None], size=logits_size, mode="bicubic")[0]
    before = logits.clone()
    expected, full = _reference(logits, network_size, picture_size)
    for route in (class_map, _class_map_torch):
        ours = route(logits, network_size, picture_size)
        assert ours.dtype == np.uint8
        different = ours != expected
        # Where the two differ at all, the two best logits are equal to rounding.
        top = full.topk(2, dim=0).values
        margin = (top[0] - top[1]).numpy()
        assert different.mean() < 1e-4
        assert (margin[different] < 1e-5).all()
    assert torch.equal(logits, before)


def test_ties_go_to_the_lower_class():
    logits = torch.zeros(19, 4, 4)
    assert (class_map(logits, (8, 8), (8, 8)) == 0).all()


def test_last_class_can_win():
    logits = torch.zeros(19, 4, 4)
    logits[18] = 1
    assert (class_map(logits, (8, 8), (16, 16)) == 18).all()
