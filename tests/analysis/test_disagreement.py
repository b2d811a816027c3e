"""Disputed pixels, counted by hand."""

import numpy as np
import pytest

from revt_hf.analysis.disagreement import Counts, different_classes, disagreement, votes_for
from revt_hf.evaluation.predictor import predict
from tests.helpers.tiny_members import NATIVE, data_of, rows, tiny_model

# What members predict on six pixels, then the merge and the truth.
A = np.array([[1, 1, 2, 3, 0, 5]], dtype=np.uint8)
B = np.array([[1, 1, 2, 4, 0, 5]], dtype=np.uint8)
C = np.array([[1, 2, 7, 5, 1, 6]], dtype=np.uint8)
MERGE = np.array([[1, 1, 7, 9, 0, 5]], dtype=np.uint8)
TRUTH = np.array([[1, 2, 2, 9, 255, 5]], dtype=np.uint8)


def test_counts_by_hand():
    assert different_classes([A, B, C]).tolist() == [[1, 2, 2, 3, 2, 2]]
    assert votes_for([A, B, C], MERGE).tolist() == [[3, 2, 1, 0, 2, 2]]
    counts = Counts(3)
    assert counts.add([A, B, C], MERGE, TRUTH) == pytest.approx(5 / 6)
    by_classes = {"1": 100 / 6, "2": 400 / 6, "3": 100 / 6}
    # One disputed pixel has no label.
    disputed = {"labelled_pixels": 4, "a": 50, "b": 50, "c": 25, "merge": 50}
    undisputed = {"labelled_pixels": 1, "a": 100, "b": 100, "c": 100, "merge": 100}
    assert counts.to_json(["a", "b", "c", "merge"]) == {
        "pixels": 6,
        "disputed": pytest.approx(500 / 6),
        "by_different_classes": pytest.approx(by_classes),
        "merge_on_disputed": {"majority": 60, "minority": 20, "none": 20},
        "merge_against_all_on_undisputed": 0,
        "accuracy": {"disputed": disputed, "undisputed": undisputed},
        "any_member_right_on_disputed": 75,
    }


def test_images_add_up_and_a_share_of_nothing_is_none():
    counts = Counts(2)
    counts.add([A, A], A, TRUTH)
    counts.add([A, A], MERGE, TRUTH)
    result = counts.to_json(["a", "a", "merge"])
    assert (result["pixels"], result["disputed"]) == (12, 0)
    assert result["merge_on_disputed"] == {"majority": None, "minority": None, "none": None}
    assert result["merge_against_all_on_undisputed"] == pytest.approx(200 / 12)
    # Two members that differ have no majority.
    counts = Counts(2)
    counts.add([A, C], A, TRUTH)
    followed = counts.to_json(["a", "c", "merge"])["merge_on_disputed"]
    assert followed == {"majority": 0, "minority": 100, "none": 0}


def test_models_on_images(members):
    images, calls = rows(3), []
    found = disagreement(members[:2], members[2], data_of(images), 2, lambda: calls.append(1))
    assert len(calls) == 9
    first, second, merged = (
        [predict(tiny_model(seed), row["image"], NATIVE) for row in images] for seed in range(3)
    )
    shares = [float((a != b).mean()) for a, b in zip(first, second, strict=True)]
    assert found.images == tuple((str(n), share) for n, share in enumerate(shares))
    worst = sorted(range(3), key=lambda image: -shares[image])[:2]
    assert [one.name for one in found.worst] == [str(image) for image in worst]
    assert np.array_equal(found.worst[0].merged, merged[worst[0]])
