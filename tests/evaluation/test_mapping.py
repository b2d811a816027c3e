"""Models of other classes than the domain's: scored and drawn through a mapping, never silently."""

import json

import cv2
import numpy as np
import pytest
import torch

from revt_hf.config.network import Model
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.data.class_mapping import read_mapping
from revt_hf.data.domains import load_domain
from revt_hf.data.label_space import CITYSCAPES, CITYSCAPES_ID, CLASSES, space_of
from revt_hf.evaluation.ensembles import ensemble_segmenter
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
from revt_hf.evaluation.metric import confusion_matrix, scores_from
from revt_hf.evaluation.predictor import predict
from revt_hf.evaluation.result import SplitSpec, read_results
from revt_hf.models.load import build_model, load_model
from revt_hf.results.formats import print_scores
from revt_hf.results.tables import TableOptions, build_tables
from tests.helpers.ade20k import SHORT
from tests.helpers.command_line import refused, revt
from tests.helpers.made_up_results import evaluated, score, written
from tests.helpers.networks import STREETS, row, saved
from tests.helpers.tiny import TINY

SPEC = ["--domain", "streets", "--option", "val_images=2", "--option", "size=[64, 128]"]
NATIVE = Protocol(max_size=None)
SPLIT = SplitSpec(DomainSpec(domain="streets", options=STREETS), "val", is_source=False)


def _other(folder, names, seed=0):
    model = build_model(Model.model_validate(TINY["model"]), seed, space_of(names, "the model"))
    with torch.no_grad():
        # Class maps hold many classes, those of streets among them.
        model.decode_head.classifier.weight.mul_(30)
        wanted = [SHORT.index(name) for name in ("road", "car", "sky", "wall", "bed")]
        model.decode_head.classifier.bias[wanted] += 8
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ade(tmp_path_factory):
    return _other(tmp_path_factory.mktemp("ade") / "a", SHORT)


def test_predictions_without_a_counterpart_are_wrong_by_hand():
    label = np.array([[0, 0, 0, 1, 1, 255, 2]], dtype=np.uint8)
    prediction = np.array([[0, 255, 1, 1, 255, 255, 2]], dtype=np.uint8)
    space = space_of(["a", "b", "c", "d"], "s")
    matrix = confusion_matrix(label, prediction, 4, 5)
    assert matrix.tolist() == [[1, 1, 0, 0, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0] * 5]
    scores = scores_from(matrix, space)
    # Each union has the lost pixels; they are no false positives of any class.
    assert scores.iou == pytest.approx({"a": 100 / 3, "b": 100 / 3, "c": 100, "d": None})
    assert scores.accuracy == pytest.approx({"a": 100 / 3, "b": 50, "c": 100, "d": None})
    assert scores.aacc == pytest.approx(50)
    assert scores.lost == pytest.approx(100 * 2 / 6)
    assert scores_from(matrix[:, :4], space).lost is None
    with pytest.raises(ValueError, match="a prediction is 4"):
        confusion_matrix(label, np.full_like(label, 4), 4, 5)
    with pytest.raises(ValueError, match="a prediction is 255"):
        confusion_matrix(label, prediction, 4)


def test_a_model_of_other_classes_is_scored_through_the_mapping(ade, tmp_path, capsys):
    path = tmp_path / "out.json"
    code, out, error = revt(
        capsys,
        *("evaluate", f"ade={ade}", *SPEC, "--map", "ade20k", "--max-size", "native"),
        *("--json", path, "--quiet"),
    )
    assert code == 0, error
    (result,) = read_results([path])
    mapping, found = result.mapping, result.scores[0]
    assert (mapping.name, mapping.missing) == ("ade20k", ("rider", "train"))
    assert mapping.classes["minibike"] == "motorcycle"
    # The same from the model's own class maps, name by name.
    model = load_model(ade)
    labels, predicted = [], []
    for one in load_domain("streets", "val", options=STREETS):
        labels.append(one["label"].reshape(-1))
        predicted.append(predict(model, one["image"], NATIVE).reshape(-1))
    labels, predicted = np.concatenate(labels), np.concatenate(predicted)
    names = np.array([mapping.classes.get(name, "-") for name in SHORT])[predicted]
    truth = np.array([*CLASSES, *["?"] * 237])[labels]
    ious = {}
    for name in CLASSES:
        union = (truth == name) | ((names == name) & (labels != 255))
        hit = (truth == name) & (names == name)
        ious[name] = 100 * hit.sum() / union.sum() if union.any() else None
    assert found.iou == pytest.approx(ious)
    assert found.lost == pytest.approx(100 * (names[labels != 255] == "-").mean())
    assert 0 < found.lost < 100
    assert found.iou["rider"] == 0
    # What a reader has to know stands below the table.
    assert "ade (mapping ade20k)" in out
    assert "IoU 0 where labelled: rider, train." in out
    assert f"on source/val: {found.lost:.1f} % of the labelled pixels" in out


def test_without_a_mapping_other_classes_are_refused_before_the_images_are_read(
    ade, tmp_path, capsys, monkeypatch
):
    error = refused(capsys, "evaluate", ade, *SPEC)
    assert "source/val names 19 classes, the model has 150: it names 'traffic sign'" in error
    assert "and no 'floor'" in error
    assert "--map" in error
    monkeypatch.setattr("revt_hf.evaluation.evaluate.load_labelled", pytest.fail)
    file = tmp_path / "m.yaml"
    for text, words in (
        ("roads: road", "the model has no class 'roads'"),
        ("road: street", "cityscapes19 only has 'road'"),
        ("road: road", "leaves out 'wall', 'building', 'sky' and 9 more"),
    ):
        file.write_text(text)
        assert words in refused(capsys, "evaluate", ade, *SPEC, "--map", file)
    assert "no such file" in refused(capsys, "evaluate", ade, *SPEC, "--map", tmp_path / "none")
    error = refused(capsys, "evaluate", ade, *SPEC, "--map", file, "--json", file)
    assert str(file) in error
    assert file.read_text() == "road: road"


def test_ensembles_vote_among_the_models_classes_and_models_agree_on_them(ade, tmp_path):
    second = _other(tmp_path / "b", SHORT, seed=1)
    options = EvaluateOptions(ensembles=("logits",), quiet=True, mapping=read_mapping("ade20k"))
    results = evaluate({"a": ade, "b": second}, [SPLIT], NATIVE, options)
    assert [one.mapping for one in results] == [results[0].mapping] * 3
    # The arg max is over the model's 150 classes: class maps of the mean of logits, then mapped.
    table = options.mapping.between(space_of(SHORT, "m"), CITYSCAPES).table(
        space_of(SHORT, "m"), CITYSCAPES
    )
    total = np.zeros((19, 20), np.int64)
    together = ensemble_segmenter([load_model(folder) for folder in (ade, second)], "logits")
    for one in load_domain("streets", "val", options=STREETS):
        predicted = table[together.class_map(one["image"], NATIVE)]
        total += confusion_matrix(one["label"], predicted, 19, 20)
    expected = scores_from(total, CITYSCAPES)
    assert results[2].scores[0].iou == pytest.approx(expected.iou)
    assert expected.miou > 0
    # Heads of different classes are not averaged, with or without a mapping.
    with pytest.raises(UserError, match=r"(names 19 classes|other classes)"):
        evaluate({"a": ade, "b": saved(tmp_path / "c")}, [SPLIT], NATIVE, options)


def test_domains_of_different_classes_are_scored_apart(ade, tmp_path):
    classes = {"options": {"classes": ["house", "sky"], "encoding": {0: "sky"}}}
    other = DomainSpec(domain="folder", data_dir=str(tmp_path), **classes)
    splits = [SPLIT, SplitSpec(other, "val", is_source=False)]
    options = EvaluateOptions(quiet=True, mapping=read_mapping("ade20k"))
    with pytest.raises(UserError, match=r"names 2 classes.*score these apart"):
        evaluate({"a": ade}, splits, NATIVE, options)


def test_predictions_are_in_the_mapped_classes(ade, tmp_path, capsys):
    image = tmp_path / "i.png"
    cv2.imwrite(str(image), row(64, 96, 3)["image"][..., ::-1])
    own = predict(load_model(ade), row(64, 96, 3)["image"], NATIVE)
    mapping = read_mapping("ade20k")
    found = []
    for ids in ("train", "cityscapes"):
        output = tmp_path / ids
        command = ("predict", ade, "--input", image, "--output", output, "--map", "ade20k")
        more = ("--ids", ids, "--max-size", "native", "--json", tmp_path / "o.json", "--quiet")
        code, _, error = revt(capsys, *command, *more)
        assert code == 0, error
        found.append(cv2.imread(str(output / "maps" / "i.png"), cv2.IMREAD_UNCHANGED))
    train, raw = found
    between = mapping.between(space_of(SHORT, "m"), mapping.space)
    names = np.array([between.classes.get(name, "") for name in SHORT])[own]
    assert (train == np.vectorize(lambda n: CLASSES.index(n) if n else 255)(names)).all()
    assert {255, 0} < set(np.unique(train))
    assert (raw == np.vectorize(lambda t: CITYSCAPES_ID.get(t, 0))(train)).all()
    told = json.loads((tmp_path / "o.json").read_text())
    assert told["mapping"]["missing"] == ["rider", "train"]
    ((shares),) = (one["shares"] for one in told["images"][0]["models"].values())
    assert shares["ignored"] == pytest.approx((train == 255).mean())


def _mapped(name="m", **changes):
    values = {"name": name, "classes": {"a": "road"}, "missing": ["sky"], **changes}
    scores = [score("rain/val", 40.0)]
    return evaluated("net", scores, mapping=values)


def test_tables_keep_mappings_apart(tmp_path):
    plain = evaluated("net", [score("rain/val", 50.0)])
    paths = written(tmp_path, plain, _mapped(), _mapped("other"))
    (table,) = build_tables(read_results(paths))
    assert [one[0].text for one in table.rows] == [
        "net",
        "net (mapping m)",
        "net (mapping other)",
    ]
    assert any("mapping m: 1 of the model's classes" in note for note in table.notes)
    (each,) = build_tables(read_results(paths), TableOptions(per_model=True))
    assert [one[0].text for one in each.rows] == [one[0].text for one in table.rows]
    # One name for two mappings is one too many, also on different domains.
    other = _mapped(classes={"b": "road"})
    other["scores"] = [score("night/val", 30.0)]
    with pytest.raises(UserError, match="two mappings of one name"):
        build_tables(read_results(written(tmp_path / "twice", _mapped(), other)))


def test_results_keep_their_mapping(tmp_path, capsys):
    (read,) = read_results(written(tmp_path, _mapped()))
    assert read.compact().mapping == read.mapping
    print_scores([read])
    assert "IoU 0 where labelled: sky." in capsys.readouterr().out
