"""Encodings to train ids."""

import json

import numpy as np
import pytest
from conftest import ROOT

from revt_hf.errors import UserError
from revt_hf.labels import CLASSES, PALETTE, colourise, label_table


def test_cityscapes_ids_of_known_classes():
    raw = np.array([[7, 8, 11, 23, 26, 33, 0, 34, 255]], dtype=np.uint8)
    assert label_table("cityscapes_ids")(raw).tolist() == [[0, 1, 2, 10, 13, 18, 255, 255, 255]]


def test_camvid_order_is_segnets():
    raw = np.arange(12, dtype=np.uint8)[None]
    mapped = label_table("camvid_11")(raw)[0]
    assert [CLASSES[i] for i in mapped[:4]] == ["sky", "building", "pole", "road"]
    assert mapped[11] == 255


@pytest.mark.parametrize(
    ("ours", "theirs"), [("cityscapes_ids", "cityscapes"), ("camvid_11", "camvid11_segnet")]
)
def test_encodings_agree_with_the_collected_facts(ours, theirs):
    path = ROOT.parent / "shared" / "facts" / "label_maps.json"
    if not path.exists():
        pytest.skip("the collected label maps are not here")
    facts = json.loads(path.read_text())[theirs]
    if "labels" in facts:
        mapping = {row["id"]: row["train_id"] for row in facts["labels"] if row["id"] >= 0}
    else:
        mapping = {int(k): v for k, v in facts["id_to_cityscapes_trainid_suggested"].items()}
    raw = np.array([list(mapping)], dtype=np.uint8)
    assert label_table(ours)(raw)[0].tolist() == list(mapping.values())


def test_unknown_values_are_refused_by_value():
    with pytest.raises(UserError, match=r"label value 19 \(3 pixels\).*train_ids"):
        label_table("train_ids")(np.array([[0, 19, 19, 19]], dtype=np.uint8))


def test_own_tables():
    table = label_table({3: 0, 4: 255})
    assert table(np.array([[3, 4]], dtype=np.uint8)).tolist() == [[0, 255]]
    with pytest.raises(UserError, match="70000"):
        label_table({70_000: 0})
    with pytest.raises(UserError, match="40"):
        label_table({3: 40})


def test_unknown_encoding_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'camvid'.*camvid_11.*train_ids"):
        label_table("camvid")


def test_colours():
    picture = colourise(np.array([[0, 18, 255]], dtype=np.uint8))
    assert picture[0, 0].tolist() == [128, 64, 128]
    assert picture[0, 1].tolist() == PALETTE[18].tolist()
    assert picture[0, 2].tolist() == [0, 0, 0]
