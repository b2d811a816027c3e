"""The loss against the original's value and against its definition."""

import numpy as np
import pytest
import torch

from revt_hf.training.loss import averaged_pixels, segmentation_loss
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def golden():
    values = np.load(golden_file("loss.npz"))
    labels = torch.from_numpy(values["labels"].astype(np.int64))
    return torch.from_numpy(values["logits"]), labels, float(values["loss_seg"])


def test_published_average_is_the_originals(golden):
    logits, labels, expected = golden
    assert segmentation_loss(logits, labels, "paper_code").item() == pytest.approx(
        expected, abs=1e-6
    )


def test_valid_average_leaves_ignored_pixels_out(golden):
    logits, labels, published = golden
    valid = (labels != 255).double().mean().item()
    assert valid < 1
    assert segmentation_loss(logits, labels, "valid").item() == pytest.approx(
        published / valid, rel=1e-5
    )


@pytest.mark.parametrize("averaging", ["valid", "paper_code"])
def test_a_batch_without_labels_is_no_nan(golden, averaging):
    logits, labels, _ = golden
    logits = logits.clone().requires_grad_()
    loss = segmentation_loss(logits, torch.full_like(labels, 255), averaging)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_summed_in_float32(golden):
    logits, labels, _ = golden
    loss = segmentation_loss(logits.bfloat16(), labels, "valid")
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("averaging", ["valid", "paper_code"])
def test_the_parts_of_a_batch_sum_to_its_loss(golden, averaging):
    logits, labels, _ = golden
    logits, labels = torch.cat([logits, logits]), torch.cat([labels, labels])
    labels[0, : labels.shape[1] // 2] = 255
    whole = segmentation_loss(logits, labels, averaging)
    pixels = averaged_pixels(labels, averaging)
    parts = [
        segmentation_loss(logits[part], labels[part], averaging, pixels)
        for part in (slice(0, 1), slice(1, None))
    ]
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-6)
    assert pixels == sum(averaged_pixels(labels[part], averaging) for part in ([0], [1, 2, 3]))
