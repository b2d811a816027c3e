"""BatchNorm statistics that were moved by a known amount; disputed pixels, counted by hand."""

import numpy as np
import pytest
import torch

from revt_hf.analysis.merge_comparison import (
    count_pixels,
    disagreement,
    norm_shift,
    norm_shifts,
    shares,
)
from revt_hf.evaluation.predictor import predict
from revt_hf.merging.statistics import recalibrate_model
from tests.helpers.networks import NATIVE, data_of, rows, tiny_model

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


# What members predict on six pixels, then the merge and the truth.
A = np.array([[1, 1, 2, 3, 0, 5]], dtype=np.uint8)
B = np.array([[1, 1, 2, 4, 0, 5]], dtype=np.uint8)
C = np.array([[1, 2, 7, 5, 1, 6]], dtype=np.uint8)
MERGE = np.array([[1, 1, 7, 9, 0, 5]], dtype=np.uint8)
TRUTH = np.array([[1, 2, 2, 9, 255, 5]], dtype=np.uint8)


def test_counts_by_hand():
    # A number of different classes, and of votes for the merge: 1 2 2 3 2 2, and 3 2 1 0 2 2.
    by_classes = {"1": 100 / 6, "2": 400 / 6, "3": 100 / 6}
    # One disputed pixel has no label.
    disputed = {"labelled_pixels": 4, "a": 50, "b": 50, "c": 25, "merge": 50}
    undisputed = {"labelled_pixels": 1, "a": 100, "b": 100, "c": 100, "merge": 100}
    counts = count_pixels([A, B, C], MERGE, TRUTH)
    assert shares(counts, ["a", "b", "c", "merge"]) == {
        "pixels": 6,
        "disputed": pytest.approx(500 / 6),
        "by_different_classes": pytest.approx(by_classes),
        "merge_on_disputed": {"majority": 60, "minority": 20, "none": 20},
        "merge_against_all_on_undisputed": 0,
        "accuracy": {"disputed": disputed, "undisputed": undisputed},
        "any_member_right_on_disputed": 75,
    }


def test_images_add_up_and_a_share_of_nothing_is_none():
    counts = count_pixels([A, A], A, TRUTH)
    counts.update(count_pixels([A, A], MERGE, TRUTH))
    result = shares(counts, ["a", "a", "merge"])
    assert (result["pixels"], result["disputed"]) == (12, 0)
    assert result["merge_on_disputed"] == {"majority": None, "minority": None, "none": None}
    assert result["merge_against_all_on_undisputed"] == pytest.approx(200 / 12)
    # Two members that differ have no majority.
    followed = shares(count_pixels([A, C], A, TRUTH), ["a", "c", "merge"])["merge_on_disputed"]
    assert followed == {"majority": 0, "minority": 100, "none": 0}


def test_models_on_images(members):
    images, calls = rows(3), []
    _, disputed, shown = disagreement(
        *(members[:2], members[2], data_of(images), 2), lambda: calls.append(1)
    )
    assert len(calls) == 9
    first, second, merged = (
        [predict(tiny_model(seed), row["image"], NATIVE) for row in images] for seed in range(3)
    )
    expected = [float((a != b).mean()) for a, b in zip(first, second, strict=True)]
    assert disputed == [(str(n), share) for n, share in enumerate(expected)]
    worst = sorted(range(3), key=lambda image: -expected[image])[:2]
    assert [one.name for one in shown] == [str(image) for image in worst]
    assert np.array_equal(shown[0].merged, merged[worst[0]])
