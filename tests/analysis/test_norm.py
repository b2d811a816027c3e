"""BatchNorm statistics that were moved by a known amount."""

import numpy as np
import pytest
import torch

from revt_hf.analysis.merge_comparison import norm_shift, norm_shifts
from revt_hf.merging.recalibration import recalibrate_model
from tests.helpers.networks import data_of, rows, tiny_model

pytestmark = pytest.mark.numeric


def test_a_mean_that_is_off_by_k_standard_deviations_is_reported_as_k():
    model, data = tiny_model(0), data_of(rows(2))
    recalibrate_model(model, data.rows[0], data.protocol)
    layer = model.decode_head.batch_norm
    true = norm_shift(model, "true", "member", data)
    assert max(true["mean_shift_max"], true["log_variance_ratio_max"]) < 1e-3
    k = torch.linspace(-2, 3, layer.num_features)
    layer.running_mean -= k * torch.sqrt(layer.running_var + layer.eps)
    moved = norm_shift(model, "moved", "member", data)
    np.testing.assert_allclose(moved["mean_shift"], k.numpy(), atol=1e-3)
    assert moved["mean_shift_max"] == pytest.approx(3, abs=1e-3)
    # Four times the variance: the mean is off by half as many standard deviations.
    layer.running_var.copy_(4 * (layer.running_var + layer.eps) - layer.eps)
    wider = norm_shift(model, "wider", "member", data)
    np.testing.assert_allclose(wider["mean_shift"], k.numpy() / 2, atol=1e-3)
    np.testing.assert_allclose(wider["log_variance_ratio"], -np.log(4), atol=1e-3)


def test_a_merge_is_measured_before_and_after_recalibration(members):
    data, calls = data_of(rows(2)), []
    shifts = norm_shifts(*(members[0], members[:2], data, data.rows[0]), lambda: calls.append(1))
    assert [shift["kind"] for shift in shifts] == ["merge", "recalibrated", "member", "member"]
    before, after, same, other = (shift["mean_shift_rms"] for shift in shifts)
    # Recalibrated on the very images that are measured.
    assert after < 1e-3 < before
    assert same == before != other
    assert len(calls) == 4 * 2 + 2
