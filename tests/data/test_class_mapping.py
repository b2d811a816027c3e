"""Mappings of classes: what a file may hold, the shipped ones, and what is refused by name."""

import numpy as np
import pytest

from revt_hf.core.errors import UserError, plain
from revt_hf.data.class_mapping import SHIPPED, ClassMapping, read_mapping
from revt_hf.data.label_space import CITYSCAPES, CLASSES, parse_classes
from revt_hf.data.labels import LABELS_YAML, mapillary_table
from tests.helpers.ade20k import PANOPTIC, SHORT

MODEL = parse_classes(["floor", "Street-Car", "tree", "lamp, light", "sky"], "the model")
DOMAIN = parse_classes(["Sky", "car", "plant", "rider"], "town")


def written(path, text):
    path.write_text(text)
    return path


def test_names_meet_as_everywhere_and_the_rest_has_no_counterpart(tmp_path):
    text = "street car: CAR\ntree: plant\nlight: plant\nSKY: sky\nfloor:\n"
    mapping = read_mapping(written(tmp_path / "mine.yaml", text))
    found = mapping.between(MODEL, DOMAIN)
    assert found.name == "mine.yaml"
    pairs = {"Street-Car": "car", "tree": "plant", "lamp, light": "plant", "sky": "Sky"}
    assert found.classes == pairs
    assert found.missing == ("rider",)
    table = found.table(MODEL, DOMAIN)
    assert table[:5].tolist() == [255, 1, 2, 2, 0]
    assert (table[5:] == 255).all()
    # A name of both may have no counterpart, if the file says so.
    mapping_without = ClassMapping(name="m", classes={"sky": None, "tree": "plant"})
    assert mapping_without.between(MODEL, DOMAIN).missing == ("Sky", "car", "rider")
    # Without a domain these are the classes, in the order of the file.
    assert mapping.space.classes == ("CAR", "plant", "sky")
    assert ClassMapping(name="m", classes={"a": "Traffic_Light"}).space == CITYSCAPES


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("streetcar: car\nsky: sky\ntrees: plant", "the model has no class 'trees', only 'floor'"),
        ("streetcar: bus\nsky: sky", "'streetcar' counts as 'bus', but town only has 'Sky', 'car'"),
        ("lamp: car\nlight: car\nsky: sky", "maps 'lamp, light' of the model twice"),
        ("streetcar: car", "leaves out 'sky', which the model and town have: .* null"),
    ],
)
def test_names_of_neither_and_doubtful_ones_are_refused(tmp_path, text, words):
    mapping = read_mapping(written(tmp_path / "mine.yaml", text))
    with pytest.raises(UserError, match=words):
        mapping.between(MODEL, DOMAIN)


def test_a_synonym_of_two_classes_is_refused():
    model = parse_classes(["earth, ground", "land, ground"], "the model")
    with pytest.raises(UserError, match="'ground' may be 'earth, ground', 'land, ground'"):
        ClassMapping(name="m", classes={"ground": "car"}).between(model, DOMAIN)
    # A whole name is that class.
    ClassMapping(name="m", classes={"land, ground": "car"}).between(model, DOMAIN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[road, car]", "write lines of"),
        ("road: null", "write lines of"),
        ("road: 3\ncar: car", "'road': 3 are not two names"),
        ("3: road", "3: 'road' are not two names"),
        ("road: road\nroad: car", "'road' appears twice"),
        ("road: [", "broken YAML"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, words):
    path = written(tmp_path / "mine.yaml", text)
    with pytest.raises(UserError, match=words) as caught:
        read_mapping(path)
    assert str(path) in str(caught.value)


def test_a_name_that_is_neither_shipped_nor_a_file_is_refused():
    with pytest.raises(UserError, match="cityscapes: no such file, nor one of ade20k, mapillary65"):
        read_mapping("cityscapes")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_mappings_lead_to_cityscapes(name):
    mapping = read_mapping(name)
    assert mapping.name == name
    assert set(mapping.classes.values()) <= set(CLASSES)
    assert len(set(map(plain, mapping.classes))) == len(mapping.classes)
    assert mapping.space == CITYSCAPES


@pytest.mark.parametrize("names", [SHORT, PANOPTIC])
def test_ade20k_fits_the_names_that_models_have(names):
    """Every class on the left is found among both lists, at the same ids."""
    assert len(names) == 150
    found = read_mapping("ade20k").between(parse_classes(names, "the model"), CITYSCAPES)
    assert found.missing == ("rider", "train")
    ids = {names.index(name): counterpart for name, counterpart in found.classes.items()}
    short = read_mapping("ade20k").between(parse_classes(SHORT, "the model"), CITYSCAPES)
    assert ids == {SHORT.index(name): other for name, other in short.classes.items()}
    assert (ids[6], ids[11], ids[87], ids[116]) == ("road", "sidewalk", "pole", "motorcycle")


def test_mapillary_agrees_with_the_encoding_of_its_labels():
    names = LABELS_YAML["mapillary_names"]["v1.2"][:65]
    space = parse_classes(names, "the model")
    found = read_mapping("mapillary65").between(space, CITYSCAPES)
    assert found.missing == ()
    ours = found.table(space, CITYSCAPES)[:65]
    standard = mapillary_table("v1.2", "dg_standard")(np.arange(65, dtype=np.uint8)[None])[0]
    assert (ours[standard != 255] == standard[standard != 255]).all()
