"""The loss against the original's value, its definition, and in strips of rows."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from revt_hf.training.loss import averaged_pixels, segmentation_loss, summed_in_strips
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric

both_averages = pytest.mark.parametrize("averaging", ["valid", "paper_code"])


@pytest.fixture(scope="module")
def golden():
    values = np.load(golden_file("loss.npz"))
    labels = torch.from_numpy(values["labels"].astype(np.int64))
    return torch.from_numpy(values["logits"]), labels, float(values["loss_seg"])


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


@pytest.mark.parametrize("rows", [None, 10])
def test_paper_code_average_is_the_originals(golden, rows):
    logits, labels, expected = golden
    loss = segmentation_loss(logits, labels, "paper_code", rows=rows)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_valid_average_leaves_ignored_pixels_out(golden):
    logits, labels, over_all = golden
    valid = (labels != 255).double().mean().item()
    assert valid < 1
    loss = segmentation_loss(logits, labels, "valid").item()
    assert loss == pytest.approx(over_all / valid, rel=1e-5)
    assert segmentation_loss(logits.bfloat16(), labels, "valid").dtype == torch.float32


@both_averages
@pytest.mark.parametrize("rows", [None, 16])
def test_a_batch_without_labels_is_no_nan(golden, averaging, rows):
    logits, labels, _ = golden
    empty = torch.full_like(labels, 255)
    value, gradient = _value_and_gradient(
        lambda x: segmentation_loss(x, empty, averaging, rows=rows), logits
    )
    assert value == 0
    assert not gradient.any()


@both_averages
def test_the_parts_of_a_batch_sum_to_its_loss(golden, averaging):
    logits, labels, _ = golden
    logits, labels = torch.cat([logits, logits]), torch.cat([labels, labels])
    labels[0, : labels.shape[1] // 2] = 255
    whole = segmentation_loss(logits, labels, averaging)
    pixels = averaged_pixels(labels, averaging)
    pairs = [(logits[part], labels[part]) for part in (slice(0, 1), slice(1, None))]
    parts = [segmentation_loss(*pair, averaging, pixels) for pair in pairs]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    assert pixels == sum(averaged_pixels(pair[1], averaging) for pair in pairs)


@pytest.mark.parametrize("rows", [1, 7, 16, 1000])
@pytest.mark.parametrize("sizes", ["16x24 64x96", "17x23 65x90", "5x7 5x7", "1x1 3x2", "9x9 4x5"])
def test_value_and_gradient_are_exact(sizes, rows):
    small, large = (tuple(map(int, size.split("x"))) for size in sizes.split())
    logits, labels = _case(small, large)
    expected = _value_and_gradient(lambda x: _at_once(x, labels), logits)
    ours = _value_and_gradient(lambda x: summed_in_strips(x, labels, rows), logits)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_autocast_does_not_round_it():
    logits, labels = _case((16, 24), (64, 96), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = summed_in_strips(logits, labels, 16)
    assert rounded.equal(summed_in_strips(logits, labels, 16))


def test_nothing_of_the_labels_size_is_made():
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
