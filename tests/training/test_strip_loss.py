"""The loss in strips of rows against the loss at once."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from revt_hf.training.loss import segmentation_loss, summed_in_strips
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric


def _case(small, large, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((2, 19, *small), dtype=dtype, generator=generator)
    labels = torch.randint(0, 19, (2, *large), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    labels[1, : large[0] // 2] = 255
    return logits, labels


def _at_once(logits, labels):
    upsampled = functional.interpolate(logits, labels.shape[-2:], mode="bilinear")
    return functional.cross_entropy(upsampled, labels, ignore_index=255, reduction="sum")


def _value_and_gradient(loss, logits):
    logits = logits.clone().requires_grad_()
    value = loss(logits)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("rows", [1, 7, 16, 1000])
@pytest.mark.parametrize(
    ("small", "large"),
    [
        ((16, 24), (64, 96)),
        ((17, 23), (65, 90)),
        ((5, 7), (5, 7)),
        ((1, 1), (3, 2)),
        ((9, 9), (4, 5)),
    ],
)
def test_value_and_gradient_are_exact(small, large, rows):
    logits, labels = _case(small, large)
    expected = _value_and_gradient(lambda x: _at_once(x, labels), logits)
    ours = _value_and_gradient(lambda x: summed_in_strips(x, labels, rows), logits)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("averaging", ["valid", "paper_code"])
def test_both_averages(averaging):
    logits, labels = _case((32, 48), (128, 192), torch.float32)
    expected = _value_and_gradient(lambda x: segmentation_loss(x, labels, averaging), logits)
    ours = _value_and_gradient(lambda x: segmentation_loss(x, labels, averaging, rows=24), logits)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-8)


def test_published_average_is_the_originals():
    values = np.load(golden_file("loss.npz"))
    labels = torch.from_numpy(values["labels"].astype(np.int64))
    loss = segmentation_loss(torch.from_numpy(values["logits"]), labels, "paper_code", rows=10)
    assert loss.item() == pytest.approx(float(values["loss_seg"]), abs=1e-6)


def test_a_batch_without_labels_is_no_nan():
    logits, labels = _case((16, 24), (64, 96), torch.float32)
    labels[:] = 255
    value, gradient = _value_and_gradient(
        lambda x: segmentation_loss(x, labels, "valid", rows=16), logits
    )
    assert value == 0
    assert not gradient.any()


def test_autocast_does_not_round_it():
    logits, labels = _case((16, 24), (64, 96), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = summed_in_strips(logits, labels, 16)
    assert rounded.equal(summed_in_strips(logits, labels, 16))


def test_nothing_of_the_labels_size_is_made():
    """No tensor on the way is as large as all logits at label size."""
    logits, labels = _case((64, 64), (256, 256), torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            result = function(*arguments, **(keywords or {}))
            parts = result if isinstance(result, tuple | list) else [result]
            sizes = [part.numel() for part in parts if isinstance(part, torch.Tensor)]
            largest = max(largest, *sizes, 0)
            return result

    full = logits.shape[1] * labels.numel()
    with Watch():
        _value_and_gradient(lambda x: summed_in_strips(x, labels, 32), logits)
    assert largest == full // 4
    with Watch():
        _value_and_gradient(lambda x: _at_once(x, labels), logits)
    assert largest == full
