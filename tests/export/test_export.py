"""`revt export`: graphs compute what the trained network computes, and are used like a model."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.core.errors import UserError
from revt_hf.data.label_space import CITYSCAPES
from revt_hf.evaluation.evaluate import (
    EvaluateOptions,
    as_segmenter,
    evaluate,
    load_for_evaluation,
)
from revt_hf.evaluation.loading import too_small
from revt_hf.evaluation.predictor import model_segmenter
from revt_hf.evaluation.result import SplitSpec
from revt_hf.export import onnx_export
from revt_hf.export.onnx_export import ExportOptions, export_onnx
from revt_hf.models import onnx_file
from revt_hf.models.load import load_model, network_sha256
from revt_hf.models.networks import InputLimits, family_of_model, input_limits
from revt_hf.models.onnx_file import KEY, read_record
from tests.helpers.command_line import refused, revt
from tests.helpers.families import network, processor_of, save
from tests.helpers.networks import random_image
from tests.helpers.tiny import TINY, run, tiny_recipe

SIZE = (128, 64)
STREETS = {"images": 4, "val_images": 4, "size": SIZE[::-1]}
SPEC = DomainSpec(domain="streets", options=STREETS)
VAL = SplitSpec(SPEC, "val", is_source=True)
NATIVE = Protocol(max_size=None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network that has learnt something: 30 steps on drawn streets."""
    folder = tmp_path_factory.mktemp("export") / "trained"
    section = {**TINY["train"], "steps": 30}
    run(folder, tiny_recipe(optimizer={"lr": 6e-3}, train=section))
    return folder


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Its graph of one size, from RGB images to class maps, and what was found."""
    file = tmp_path_factory.mktemp("graphs") / "model.onnx"
    return export_onnx(trained, file, ExportOptions(size=SIZE), check=VAL)


def _agree(first, second):
    """But for a tie, which processors may break in either way."""
    return first.shape == second.shape and np.count_nonzero(first != second) <= 1


def _stored(file):
    return np.asarray(Image.open(file))


def _on_streets(*arguments):
    options = {**STREETS, "size": list(STREETS["size"])}
    given = [f"--option={key}={value}" for key, value in options.items()]
    return *arguments, "--domain", "streets", *given


def _broken(graph, file):
    """A copy of a graph in which one class has lost its rows of the last layer."""
    model = onnx.load(graph)
    classes = len(read_record(graph).classes)
    (bias,) = [
        one for one in model.graph.initializer if [*one.dims] == [classes] and "bias" in one.name
    ]
    values = onnx.numpy_helper.to_array(bias) + np.eye(classes, dtype=np.float32)[3] * 100
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    onnx.save(model, file)
    return file


def test_no_pixel_of_the_trained_network_differs(exported):
    assert exported.check.differing <= 1
    assert exported.check.pixels == 4 * 64 * 128
    assert exported.check.largest_margin is None
    assert exported.checked_on == VAL.label


def test_the_file_records_what_its_users_need(trained, exported):
    model = onnx.load(exported.output)
    (given,), (result,) = model.graph.input, model.graph.output
    shape = [one.dim_value for one in given.type.tensor_type.shape.dim]
    assert (given.name, given.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert shape == [1, 64, 128, 3]
    assert (result.name, result.type.tensor_type.elem_type) == ("classes", onnx.TensorProto.UINT8)
    (values,) = [json.loads(one.value) for one in model.metadata_props if one.key == KEY]
    assert [*values["classes"]] == [*CITYSCAPES.classes]
    assert values["classes"]["road"] == "#804080"
    assert values["normalisation"]["image_mean"] == [0.485, 0.456, 0.406]
    assert values["model"] == str(trained)
    assert values["network_sha256"] == network_sha256(load_model(trained))
    assert values["protocol"]["max_size"] is None
    assert (values["size"], values["image_size"]) == ([128, 64], [128, 64])
    assert read_record(exported.output) == exported.record


def test_scores_are_those_of_the_network(trained, exported):
    ours, graph = evaluate([trained, exported.output], [VAL], options=EvaluateOptions(quiet=True))
    assert graph.scores[0].miou == pytest.approx(ours.scores[0].miou, abs=0.05)
    assert ours.scores[0].miou > 5
    assert ours.network_sha256 != graph.network_sha256


def test_predict_and_benchmark_take_the_file(capsys, tmp_path, trained, exported):
    Image.fromarray(random_image(64, 128)).save(tmp_path / "image.png")
    named = {"ours": trained, "graph": exported.output}
    models = [f"{name}={path}" for name, path in named.items()]
    code, _, error = revt(
        *(capsys, "predict", *models, "--input", tmp_path / "image.png", "--quiet"),
        *("--output", tmp_path / "out", "--json", tmp_path / "found.json"),
    )
    assert code == 0, error
    first, second = (_stored(tmp_path / "out" / "maps" / m / "image.png") for m in named)
    assert _agree(first, second)
    assert len(np.unique(first)) > 1
    assert json.loads((tmp_path / "found.json").read_text())["images"][0]["differing"] < 1e-3
    code, shown, error = revt(
        *(capsys, "benchmark", f"graph={exported.output}", "--image", "128x64", "--images", "1"),
        *("--no-best-batch", "--quiet", "--json", tmp_path / "speed.json"),
    )
    assert code == 0, error
    (row,) = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert (row["model"], row["variant"], row["flops"]) == ("graph", "onnxruntime", None)
    assert row["images_per_second"] > 0
    assert "onnxruntime" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("evaluate GRAPH --max-size 64x32", "takes 128x64 only"),
        ("evaluate GRAPH --calibration", "without probabilities"),
        ("evaluate GRAPH --cost", "revt benchmark measures its images/s"),
        ("evaluate GRAPH TRAINED --ensemble logits", "makes class maps, which have no mean"),
        ("evaluate GRAPH --protocol multi-scale", "graph takes 128x64 only"),
        (
            "diagnose disagreement GRAPH TRAINED --merge TRAINED --output OUT",
            "is an exported graph",
        ),
        ("recalibrate GRAPH --output OUT", "is an exported graph"),
    ],
)
def test_what_a_graph_cannot_do_is_one_sentence(
    capsys, tmp_path, trained, exported, arguments, sentence
):
    places = {"GRAPH": exported.output, "TRAINED": trained, "OUT": tmp_path / "out"}
    words = [str(places.get(word, word)) for word in arguments.split()]
    error = refused(capsys, *_on_streets(*words))
    assert sentence in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "merge GRAPH TRAINED --output OUT",
        "refit GRAPH --recipe RECIPE --output OUT",
        "export GRAPH --output OUT",
        "benchmark GRAPH --train",
    ],
)
def test_a_graph_is_no_model_to_work_on(capsys, tmp_path, trained, exported, arguments):
    places = {
        "GRAPH": exported.output,
        "TRAINED": trained,
        "OUT": tmp_path / "out.onnx",
        "RECIPE": trained / "recipe.yaml",
    }
    error = refused(capsys, *(places.get(word, word) for word in arguments.split()))
    assert "model.onnx is an exported graph" in error
    assert not (tmp_path / "out.onnx").exists()


def test_class_maps_are_of_whole_images():
    windows = Protocol(max_size=None, window=64, stride=48)
    assert "whole images" in too_small((100, 100), windows, InputLimits(29, whole=True))
    assert too_small((64, 64), windows, InputLimits(29, whole=True)) is None


def test_graphs_of_different_sizes_do_not_run_together(trained, exported):
    graph = as_segmenter(exported.output).models[0]
    other = SimpleNamespace(limits=replace(graph.limits, exact=(32, 32)))
    assert input_limits([load_model(trained), graph]) == replace(graph.limits)
    with pytest.raises(UserError, match="images of different sizes"):
        input_limits([graph, other])


def test_images_of_other_sizes_are_left_out(capsys, tmp_path, exported):
    Image.fromarray(random_image(64, 64)).save(tmp_path / "image.png")
    code, _, error = revt(
        *(capsys, "predict", exported.output, "--input", tmp_path / "image.png", "--quiet"),
        *("--output", tmp_path / "out"),
    )
    assert code == 2
    assert "the graph makes class maps of 128x64 only" in error


def test_files_of_others_are_refused(capsys, tmp_path, exported):
    model = onnx.load(exported.output)
    (mine,) = [one for one in model.metadata_props if one.key == KEY]
    values = json.loads(mine.value)
    files = {}
    for name, value in {
        "missing": None,
        "field": json.dumps({**values, "input": "int8"}),
        "name": json.dumps({**values, "classes": {"road": "red", "sky": "#000000"}}),
        "other": json.dumps({**values, "image_size": None}),
        "size": json.dumps({**values, "size": [64, 32]}),
        "maps": json.dumps({**values, "image_size": [256, 128]}),
        "logits": json.dumps({**values, "output": "logits"}),
        "any": json.dumps({**values, "size": None, "image_size": [128, 64]}),
    }.items():
        del model.metadata_props[:]
        if value is not None:
            model.metadata_props.add(key=KEY, value=value)
        files[name] = tmp_path / f"{name}.onnx"
        onnx.save(model, files[name])
    files["damaged"] = tmp_path / "damaged.onnx"
    files["damaged"].write_bytes(exported.output.read_bytes()[:1000])
    files["absent"] = tmp_path / "absent.onnx"
    expected = {
        "missing": "its metadata has no key 'revt_hf'",
        "field": "revt_hf.input",
        "name": "'red' is no colour",
        "other": "its inputs are not those that it records",
        "size": "its inputs are not those that it records",
        "maps": "its outputs are not those that it records",
        "logits": "its outputs are not those that it records",
        "any": "its inputs are not those that it records",
        "damaged": "onnxruntime cannot load it",
        "absent": "there is no such file",
    }
    for name, sentence in expected.items():
        error = refused(capsys, *_on_streets("evaluate", files[name]))
        assert sentence in error, name
        assert f"{name}.onnx" in error


def test_classes_that_a_file_does_not_record_are_refused(tmp_path, exported):
    model = onnx.load(exported.output)
    (mine,) = [one for one in model.metadata_props if one.key == KEY]
    values = json.loads(mine.value)
    found = as_segmenter(exported.output).class_map(random_image(64, 128), NATIVE)
    assert found.max() > 1
    mine.value = json.dumps({**values, "classes": {"road": "#804080", "sky": "#000000"}})
    onnx.save(model, tmp_path / "few.onnx")
    with pytest.raises(UserError, match=f"it gives class {found.max()}, and records 2 classes"):
        as_segmenter(tmp_path / "few.onnx").class_map(random_image(64, 128), NATIVE)


def test_weights_in_other_files_are_refused(capsys, monkeypatch, tmp_path, exported):
    """The sha256 of a graph would not be that of its weights."""
    model = onnx.load(exported.output)
    places = {"save_as_external_data": True, "location": "weights.data"}
    onnx.save(model, tmp_path / "model.onnx", **places)
    monkeypatch.chdir(tmp_path)
    assert "External data path" in refused(capsys, *_on_streets("evaluate", "model.onnx"))


def test_a_wrong_graph_is_not_written(monkeypatch, tmp_path, trained, exported):
    def wrong(*arguments):
        _broken(exported.output, arguments[2])

    monkeypatch.setattr(onnx_export, "write_graph", wrong)
    target = tmp_path / "model.onnx"
    target.write_text("before")
    with pytest.raises(UserError, match="does not compute what the network does") as caught:
        export_onnx(trained, target, ExportOptions(size=SIZE, overwrite=True), check=VAL)
    assert "pixels differ on 4 images; the logits of both classes are at most" in str(caught.value)
    assert target.read_text() == "before"
    assert [*tmp_path.iterdir()] == [target]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--output x.onnx", "keeps the images' native size: give --size WIDTHxHEIGHT"),
        ("--output x.onnx --size native", "write WIDTHxHEIGHT"),
        ("--output x.onnx --size 16x16", "it needs at least 29 on each side"),
        ("--output x.onnx --size 64x64 --dynamic", "choose one"),
        ("--output x.onnx --dynamic --image-size 64x64", "of a graph of one --size"),
        ("--output x.onnx --size 64x64 --image-size 64x32", "fit into --size it is 64x32"),
        ("--output x.pt --size 64x64", "has to end in .onnx"),
        ("--output MODEL/x.onnx --size 64x64", "lies in the input"),
        ("--output taken.onnx --size 64x64", "exists already"),
        ("--output x.onnx --size 64x64 --int8", "go together"),
        ("--output x.onnx --size 64x64 --calibrate streets", "go together"),
        ("--output x.onnx --size 64x64 --fp16 --int8 --calibrate streets", "choose one"),
        ("--output x.onnx --int8 --calibrate streets --check streets", "leave it out"),
        ("--output x.onnx --size 64x64 --data-dir .", "go with --check or --calibrate"),
        ("--output x.onnx --size 64x64 --to tflite", "choose onnx"),
        ("--output x.onnx --size 64x64 --int8 --calibrate streets", "class maps of 64x64 only"),
    ],
)
def test_mistakes_are_one_sentence(capsys, tmp_path, monkeypatch, trained, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.onnx").write_text("mine")
    monkeypatch.setattr(onnx_export, "write_graph", None)
    arguments = arguments.replace("MODEL", str(trained)).split()
    assert sentence in refused(capsys, "export", trained, *arguments)
    assert [one.name for one in tmp_path.iterdir()] == ["taken.onnx"]


def test_without_the_extra_it_is_named(capsys, monkeypatch, trained, exported):
    monkeypatch.setattr(onnx_file.importlib.util, "find_spec", lambda name: None)
    for arguments in (["export", trained, "--output", "x.onnx"], ["evaluate", exported.output]):
        error = refused(capsys, *_on_streets(*arguments)[: None if "evaluate" in arguments else 4])
        assert "pip install 'revt_hf[onnx]'" in error


@pytest.mark.slow
def test_a_dynamic_graph_takes_any_size(tmp_path, trained):
    file = tmp_path / "any.onnx"
    done = export_onnx(trained, file, ExportOptions(dynamic=True), check=VAL)
    assert done.check.differing <= 1
    # Every second image has a size of its own.
    assert done.check.pixels < 4 * 64 * 128
    ours, graph = model_segmenter(load_model(trained)), as_segmenter(file)
    for height, width, protocol in [
        (40, 200, NATIVE),
        (100, 150, Protocol(max_size=(64, 64))),
        (33, 29, NATIVE),
    ]:
        image = random_image(height, width)
        assert _agree(ours.class_map(image, protocol), graph.class_map(image, protocol))


@pytest.mark.slow
def test_logits_are_those_of_the_network(tmp_path, trained):
    file = tmp_path / "logits.onnx"
    options = ExportOptions(size=(48, 48), input="float", result="logits")
    assert export_onnx(trained, file, options, check=VAL).check.differing <= 1
    ours, graph = load_model(trained), load_for_evaluation(file)
    pixels = torch.randn(3, 3, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(
            graph(pixels).logits, ours(pixel_values=pixels).logits, atol=1e-3, rtol=1e-4
        )
    protocol = Protocol(max_size=None, window=48, stride=32, flip=True)
    results = evaluate(
        {"ours": trained, "graph": file},
        [VAL],
        protocol,
        EvaluateOptions(quiet=True, ensembles=("logits",), calibration=True, batch_size=2),
    )
    first, *others = (result.scores[0].miou for result in results)
    assert others == pytest.approx([first] * len(others), abs=0.05)


@pytest.mark.slow
def test_8_bits_are_calibrated_and_scored(capsys, tmp_path, trained):
    file, found = tmp_path / "int8.onnx", tmp_path / "found.json"
    code, shown, error = revt(
        *(capsys, "export", trained, "--output", file, "--size", "128x64", "--json", found),
        *("--result", "logits", "--input", "float", "--int8", "--calibrate", "streets"),
        *("--option=size=[64, 128]", "--option=images=4", "--option=val_images=4", "--quiet"),
    )
    assert code == 0, error
    values = json.loads(found.read_text())
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert values["record"]["precision"] == "int8"
    scores = values["mIoU"]
    assert abs(scores["fp32"] - scores["int8"]) < 3
    assert f"mIoU {scores['fp32']:.2f} in fp32, {scores['int8']:.2f} in int8" in shown
    (again,) = evaluate([file], [VAL], options=EvaluateOptions(quiet=True))
    assert again.scores[0].miou == scores["int8"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet", {"image_size": (128, 128)}),
        ("upernet-convnext", {"fp16": True}),
        ("eomt", {}),
    ],
)
def test_other_families_export_at_one_size(tmp_path, name, options):
    model = network(name)
    folder = save(model, tmp_path / "model", processor_of(name, model))
    done = export_onnx(
        folder, tmp_path / "x.onnx", ExportOptions(size=(64, 64), **options), check=VAL
    )
    assert done.record.family == family_of_model(model).title
    side = options.get("image_size", (64, 64))[0]
    assert done.check.pixels == 4 * side**2
    if name == "mobilenet":
        assert done.check.differing <= 1
    with pytest.raises(UserError, match="only a SegFormer's graph takes any size"):
        export_onnx(folder, tmp_path / "y.onnx", ExportOptions(dynamic=True))
