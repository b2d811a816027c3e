"""Disputed pixels, counted by hand."""

import numpy as np
import pytest

from revt_hf.analysis.merge_comparison import count_pixels, disagreement, shares
from revt_hf.evaluation.predictor import predict
from tests.helpers.networks import NATIVE, data_of, rows, tiny_model

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
