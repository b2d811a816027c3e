"""Running confusion matrix and mean IoU against the original's values and by hand."""

import evaluate
import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.label_space import CITYSCAPES, CLASSES
from revt_hf.evaluation.metric import MeanIoU, confusion_matrix, scores_from
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric


def test_scores_are_the_originals():
    golden, metric = np.load(golden_file("metric.npz")), MeanIoU()
    assert isinstance(metric, evaluate.Metric)
    labels, predictions = (golden[name].astype(np.uint8) for name in ("labels", "predictions"))
    for label, prediction in zip(labels, predictions, strict=True):
        metric.add(prediction=prediction, reference=label)
    result = metric.compute()
    for name, expected in (("IoU", golden["out1"] * 100), ("Acc", golden["out2"] * 100)):
        ours = [np.nan if value is None else value for value in result[name].values()]
        np.testing.assert_allclose(ours, expected, atol=1e-10, rtol=1e-12)
    assert result["aAcc"] == pytest.approx(float(golden["out0"]) * 100, abs=1e-10)
    assert result["mIoU"] == pytest.approx(np.nanmean(golden["out1"] * 100), abs=1e-10)
    # Batches and single images count the same.
    metric.add_batch(predictions=predictions, references=labels)
    assert metric.compute() == result
    assert metric.compute(predictions=predictions, references=labels) == result
    # And it starts again.
    with pytest.raises(UserError, match="no labelled pixel"):
        metric.compute()


def test_absent_classes_by_hand():
    label = np.array([[0, 0, 1, 255]], dtype=np.uint8)
    prediction = np.array([[0, 2, 1, 5]], dtype=np.uint8)
    scores = scores_from(confusion_matrix(label, prediction, 19), CITYSCAPES)
    # Class 2 is only predicted: IoU 0, counted. Class 5 only on an ignored pixel: no IoU.
    assert scores.iou[CLASSES[2]] == 0
    assert scores.iou[CLASSES[5]] is None
    assert scores.accuracy[CLASSES[2]] is None
    assert scores.miou == pytest.approx((50 + 100 + 0) / 3)
    assert scores.aacc == pytest.approx(200 / 3)
    # 0 and 1 are in both subsets, 2 is too.
    assert scores.subsets == {"synthia16": scores.miou, "synthia13": scores.miou}


@pytest.mark.parametrize(
    ("label", "prediction", "words"),
    [(19, 0, "19"), (100, 0, "100"), (254, 0, "254"), (0, 19, "19"), (0, 255, "255")],
)
def test_values_out_of_range_are_refused(label, prediction, words):
    with pytest.raises(ValueError, match=words):
        confusion_matrix(
            np.full((4, 4), label, np.uint8), np.full((4, 4), prediction, np.uint8), 19
        )
    with pytest.raises(ValueError, match="differ"):
        confusion_matrix(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), 19)


def test_counts_stay_exact_beyond_float32():
    # 2**24 + 8 pixels of one class: a single float32 counter would stop at 2**24.
    label = np.zeros((4097, 4096), np.uint8)
    assert confusion_matrix(label, label, 19)[0, 0] == label.size
