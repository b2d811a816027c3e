"""Encodings to train ids."""

import json
import pickle

import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.label_space import (
    CITYSCAPES,
    CLASSES,
    SUBSETS,
    parse_classes,
    space_of,
    standard_order,
)
from revt_hf.data.labels import ENCODINGS, id_table, label_table
from tests.helpers.golden import golden_file

MAPS = {
    "dg_standard": "id_to_trainid_dg_standard",
    "segformer_as_run": "id_to_trainid_segformer_MaillaryHack_effective",
    "rein": "id_to_trainid_rein",
    "ifn": "id_to_trainid_ifn_def_by_name",
    "ifn_as_run": "id_to_trainid_ifn_def_effective_color_script",
}


@pytest.fixture(scope="module")
def facts():
    return json.loads(golden_file("label_maps.json").read_text())


@pytest.mark.parametrize(
    ("ours", "theirs", "key"),
    [
        ("cityscapes_ids", "cityscapes", "id_to_trainid"),
        ("cityscapes_ids", "acdc", "labelIds_to_trainid"),
        ("cityscapes_ids", "kitti2015_semantic", "id_to_trainid"),
        ("cityscapes_ids", "wilddash1", "id_to_trainid"),
        ("gta5_ids", "gta", "id_to_trainid"),
        ("synthia_ids", "synthia_rand_cityscapes", "id_to_trainid"),
        ("train_ids", "bdd100k_sem_seg", "id_to_trainid"),
        ("urbansyn_ids", "urbansyn", "id_to_trainid"),
        ("cityscapes_ids", "synscapes", "id_to_trainid"),
        ("cityscapes_ids", "dark_zurich", "labelIds_to_trainid"),
        ("train_ids", "acdc", "labelTrainIds"),
        ("camvid_11", "camvid11_segnet", "id_to_cityscapes_trainid_suggested"),
        ("idd_ids", "idd40", "id_to_trainid_by_equal_name"),
        *((f"mapillary_v1.2/{name}@1", "mapillary_v1_2", key) for name, key in MAPS.items()),
        ("mapillary_v2.0/rein@1", "mapillary_v2_0", "id_to_trainid_rein_rules"),
    ],
)
def test_encodings_agree_with_the_collected_facts(ours, theirs, key, facts):
    mapping = {int(raw): wanted for raw, wanted in facts[theirs][key].items() if int(raw) >= 0}
    raw = np.array([list(mapping)], dtype=np.uint8)
    assert label_table(ours)(raw)[0].tolist() == list(mapping.values())


@pytest.mark.parametrize("chosen", [name for name in MAPS if name != "rein"])
def test_mapillary_v2_0_follows_the_class_it_was_split_from(chosen, facts):
    """By equal name; what became of lights, signs and lane markings is given by hand."""
    v1_2, new = facts["mapillary_v1_2"], facts["mapillary_v2_0"]["names"]
    old = dict(zip(v1_2["names"], v1_2[MAPS[chosen]].values(), strict=True))
    wanted = {name: old[name] for name in new if name in old} | {
        "Traffic Light - General (Upright)": old["Traffic Light"],
        "Lane Marking - Dashed Line": old["Lane Marking - General"],
        "Traffic Sign - Direction (Front)": old["Traffic Sign (Front)"],
        "Unlabeled": 255,
    }
    assert len(wanted) > 60
    mapping = label_table(f"mapillary_v2.0/{chosen}@1").mapping
    assert {name: mapping[new.index(name)] for name in wanted} == wanted


def test_no_encoding_knows_more_than_the_facts(facts):
    """What is added to them: plates (34), the id -1 as 255, and ignored pixels."""
    sizes = {"cityscapes_ids": 34 + 2, "gta5_ids": 34 + 1, "idd_ids": 40 + 1, "train_ids": 19 + 1}
    sizes |= {"urbansyn_ids": 20 + 1}
    sizes |= {"synthia_ids": 23, "camvid_11": 12, "camvid_32": 32}
    for version, key in (("v1.2", "mapillary_v1_2"), ("v2.0", "mapillary_v2_0")):
        names = [name for name in ENCODINGS if name.startswith(f"mapillary_{version}/")]
        assert len(names) == 5
        sizes |= {name: len(facts[key]["names"]) for name in names}
    assert {name: len(table.mapping) for name, table in ENCODINGS.items()} == sizes


def test_classes_and_colours_are_those_of_the_facts(facts):
    assert list(CLASSES) == facts["cityscapes19"]["names"]
    assert CITYSCAPES.palette.tolist() == facts["cityscapes19"]["palette"]
    assert {name: list(ids) for name, ids in SUBSETS.items()} == facts["class_subsets"]
    image = CITYSCAPES.colourise(np.array([[0, 18, 255]], dtype=np.uint8))
    assert image[0].tolist() == [[128, 64, 128], CITYSCAPES.palette[18].tolist(), [0, 0, 0]]
    colours = [red << 16 | green << 8 | blue for red, green, blue in facts["camvid32"]["colors"]]
    assert sorted(label_table("camvid_32").mapping) == sorted(colours)
    assert list(label_table("idd_ids").polygons) == facts["idd40"]["names"]
    assert list(label_table("idd_ids").polygons.values()) == list(range(40))


def test_own_tables_and_unknown_values():
    table = label_table({3: 0, 4: 255}, CITYSCAPES)
    assert table(np.array([[3, 4]], dtype=np.uint8)).tolist() == [[0, 255]]
    with pytest.raises(UserError, match=r"label value 19 \(3 pixels\).*train_ids"):
        label_table("train_ids")(np.array([[0, 19, 19, 19]], dtype=np.uint8))
    with pytest.raises(UserError, match=r"camvid_11.*train"):
        label_table("camvid")
    for wrong, words in WRONG_TABLES:
        with pytest.raises(UserError, match=words):
            label_table(wrong, CITYSCAPES)


WRONG_TABLES = [
    ({70_000: 0}, "70000"),
    ({3: 40}, "40"),
    ({3: "boat"}, "'boat', which is no class of cityscapes19"),
    ({3: 0, "#000000": 1}, "use one kind"),
    ({"black": 1}, "'black' is no colour"),
]


def test_own_tables_have_names_and_colours():
    table = label_table(
        {"#ff0000": "Traffic_Light", "#00FF00": 2, "#000000": "ignored"}, CITYSCAPES
    )
    colours = np.array([[0xFF0000, 0x00FF00, 0]], dtype=np.uint32)
    assert table(colours).tolist() == [[6, 2, 255]]
    assert label_table({0: "road", 255: "car"}, CITYSCAPES)(
        np.array([[255, 0]], np.uint8)
    ).tolist() == [[13, 0]]


def test_a_space_is_its_names_in_order():
    space = parse_classes({"Sky": "#010203", "cow shed": "#0a0b0c"}, "mine")
    assert (
        space
        == parse_classes(["Sky", "cow shed"], "other")
        != parse_classes(["cow shed", "Sky"], "x")
    )
    assert space.palette.tolist() == [[1, 2, 3], [10, 11, 12]]
    assert space.colourise(np.array([[1, 255]], np.uint8)).tolist() == [[[10, 11, 12], [0, 0, 0]]]
    # Cityscapes' colour where the name is Cityscapes', PASCAL VOC's otherwise.
    assert parse_classes(["sky", "cow"], "mine").palette.tolist() == [[70, 130, 180], [0, 128, 0]]
    assert parse_classes(list(CLASSES), "mine") == CITYSCAPES
    assert parse_classes(list(CLASSES[::-1]), "mine") != CITYSCAPES
    turned = space_of(CLASSES[::-1], "a model")
    assert turned != standard_order(turned) == CITYSCAPES
    assert standard_order(space) == space
    for wrong, words in (
        (["road"], "2 to 254"),
        ("road", "2 to 254"),
        ([1, 2], "2 to 254"),
        ([f"c{n}" for n in range(255)], "2 to 254"),
        (["traffic light", "TrafficLight"], "twice"),
        (["a", " "], "empty"),
        (["a", "Ignored"], "no class"),
        ({"a": "red", "b": "#000000"}, "'red' is no colour"),
    ):
        with pytest.raises(UserError, match=words):
            parse_classes(wrong, "mine")


def test_spaces_meet_by_name_whatever_their_order():
    table = id_table(parse_classes(["a b", "c", "d"], "mine"))
    turned = table.in_space(parse_classes(["D", "A_B", "c"], "other"))
    assert turned(np.array([[0, 1, 2, 255]], np.uint8)).tolist() == [[1, 2, 0, 255]]
    assert pickle.loads(pickle.dumps(turned))(np.array([[2]], np.uint8)).tolist() == [[0]]
    for other, words in (
        (["a b", "c"], "names 3 classes, other has 2"),
        (["a b", "c", "e"], "names 'd', which other does not have, and no 'e'"),
    ):
        with pytest.raises(UserError, match=words):
            table.in_space(parse_classes(other, "other"))
