"""`revt benchmark`: tables, JSON and Markdown, and what is refused."""

import json
from dataclasses import fields

import pytest
import torch
import yaml

from revt_hf.speed import inference, measuring, training
from revt_hf.speed.training import STEPS
from tests.helpers.benchmarking import NO_COMPILER, compile_without_code
from tests.helpers.command_line import refused, revt
from tests.helpers.networks import saved, tiny_model
from tests.helpers.tiny import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def quick(monkeypatch):
    """No clock for the best batch, and no compiled steps."""
    monkeypatch.setattr(
        inference, "_seconds_and_growth", lambda call: (len(call.args[-1]) ** 1.5, 0.0)
    )
    uncompiled = {name: kind for name, kind in STEPS.items() if "compile" not in kind.fields}
    monkeypatch.setattr(training.measure_steps, "__defaults__", (uncompiled,))


def _benchmark(capsys, *arguments):
    code, out, error = revt(capsys, "benchmark", *arguments, "--device", "cpu", "--quiet")
    assert (code, error) == (0, "")
    return out


def _check_machine(machine):
    threads = torch.get_num_threads()
    assert (machine["device"], machine["type"]) == (f"cpu, {threads} threads", "cpu")
    assert (machine["threads"], machine["versions"]["torch"]) == (threads, torch.__version__)
    assert machine["processor"]
    assert {"python", "transformers", "revt_hf"} < set(machine["versions"])
    assert machine["date"].endswith("+00:00")


def test_inference(capsys, folder, quick, monkeypatch, tmp_path):
    compile_without_code(monkeypatch, fails=True)
    files = tmp_path / "deep" / "b.json", tmp_path / "b.md"
    variants = ("--variant", "compiled", "--variant", "folded", "--variant", "sdpa")
    out = _benchmark(
        *(capsys, f"mine={folder}", *variants, "--image", "192x96", "--max-size", "96x48"),
        *("--images", "3", "--warm-up", "1", "--json", files[0], "--markdown", files[1]),
    )
    result = json.loads(files[0].read_text())
    _check_machine(result["machine"])
    assert result["kind"] == "inference"
    sizes = {"image": [192, 96], "max_size": [96, 48], "network_input": "96x48"}
    counts = {"images": 3, "warm_up": 1, "largest_batch": 1024}
    assert result["protocol"] == {**sizes, **counts, "frame_rate": True, "best_batch": True}
    *rows, compiled = result["rows"]
    assert [row["variant"] for row in rows] == ["sdpa", "folded"]
    for row in rows:
        assert set(row) == {field.name for field in fields(inference.InferenceRow)}
        assert (row["model"], row["peak_mib"], row["failure"]) == ("mine", None, None)
        assert row["tried"].keys() == {"1", "2"}
    assert (compiled["failure"], compiled["best_batch"]) == (NO_COMPILER, None)
    assert compiled["flops"] < rows[0]["flops"]
    text = files[1].read_text()
    for words in ("Prediction of 192x96 images", "best images/s", "x sdpa", "1.00", NO_COMPILER):
        assert words in text
        assert words.partition(" ")[0] in out
    assert f"mine compiled: {NO_COMPILER}" in out
    (line,) = [line for line in text.splitlines() if line.startswith("| mine | folded |")]
    # Parameters, GFLOPs, memory, classes, two rates with their ratios, a batch and its memory.
    assert line.count("|") == 13
    assert f"{rows[1]['ratio_to_sdpa']:.2f}" in line


def test_columns_of_what_is_not_measured_are_not_there(capsys, folder, quick, tmp_path):
    left_out = ("--no-frame-rate", "--no-best-batch", "--json", tmp_path / "b.json")
    out = _benchmark(capsys, folder, "--variant", "folded", *left_out, "--image", "64x64")
    assert "parameters" in out
    assert "images/s" not in out
    (row,) = json.loads((tmp_path / "b.json").read_text())["rows"]
    for field in ("images_per_second", "best_batch", "differing", "ratio_to_sdpa"):
        assert row[field] is None


def test_all_six_sizes_by_default(capsys, quick, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        measuring, "random_network", lambda size: asked.append(size) or tiny_model(0)
    )
    arguments = ("--variant", "sdpa", "--images", "1", "--image", "64x64", "--no-best-batch")
    _benchmark(capsys, *arguments, "--json", tmp_path / "b.json")
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["model"] for row in rows] == asked == ["b0", "b1", "b2", "b3", "b4", "b5"]
    asked.clear()
    _benchmark(capsys, *arguments, "--size", "b5", "--size", "b0")
    assert asked == ["b5", "b0"]


def test_training(capsys, folder, recipe, quick, tmp_path):
    files = tmp_path / "t.json", tmp_path / "t.md"
    out = _benchmark(
        capsys,
        folder,
        *("--train", "--recipe", recipe, "--steps", "2", "--warm-up", "1", "--crop", "64"),
        *("--json", files[0], "--markdown", files[1]),
    )
    result = json.loads(files[0].read_text())
    _check_machine(result["machine"])
    assert result["kind"] == "training"
    protocol = {"crop": [64, 64], "batch": 2, "steps": 2, "warm_up": 1}
    assert result["protocol"] == {**protocol, "recipe": str(recipe)}
    assert len(result["rows"]) == len(STEPS) - 1
    found = {(row["model"], row["peak_mib"], row["failure"]) for row in result["rows"]}
    assert found == {(str(folder), None, None)}
    (loader,) = result["loaders"]
    assert (loader["prepared"], loader["workers"], loader["failure"]) == (False, 0, None)
    assert loader["images_per_second"] > 0
    text = files[1].read_text()
    assert text.index("Training steps of 2 crops of 64x64") < text.index("Loading training crops")
    assert "transformers labels=" in out
    assert f"cpu, {torch.get_num_threads()} threads" in text


@pytest.mark.parametrize(("more", "batch"), [([], 2), (["--batch-size", "1"], 1)])
def test_a_recipe_brings_its_network_crop_and_batch(capsys, recipe, quick, tmp_path, more, batch):
    arguments = ("--train", "--recipe", recipe, "--steps", "1", "--json", tmp_path / "t.json")
    _benchmark(capsys, *arguments, *more)
    result = json.loads((tmp_path / "t.json").read_text())
    assert (result["protocol"]["crop"], result["protocol"]["batch"]) == ([96, 80], batch)
    assert {row["model"] for row in result["rows"]} == {str(recipe)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variant", "fast"], "--variant fast: use eager, sdpa, folded, bf16, compiled"),
        (["--size", "b9"], "--size b9: use b0, b1"),
        (["--image", "big"], "--image big: write WIDTHxHEIGHT"),
        (["--image", "native"], "--image native"),
        (["--image", "64x16"], "--image and --max-size make 64x16 pixels"),
        (["--max-size", "48x16"], "make 32x16 pixels: the network needs at least 32"),
        (["--max-size", "wide"], "--max-size wide"),
        (["MODEL", "/nowhere/model"], "/nowhere/model"),
        (["--device", "tpu"], "--device tpu: use cpu, cuda or cuda:N"),
        (["--device", "cuda:99"], "--device cuda:99: torch finds"),
        (["--markdown", "TAKEN"], "exists already"),
        (["--markdown", "FOLDER", "--overwrite"], "is a folder"),
        (["--json", "FOLDER"], "is a folder"),
        (["--json", "TAKEN/b.json"], "cannot write"),
        (["--steps", "3"], "--steps goes with --train"),
        (["--recipe", "RECIPE"], "--recipe goes with --train"),
        (["--train", "--variant", "sdpa"], "--variant goes without --train"),
        (["--train", "--no-best-batch"], "--best-batch goes without --train"),
        (["--train", "--crop", "32"], "crop 32x32: a side has at least 64 pixels"),
        (["--train", "--workers", "2"], "--workers goes with --recipe"),
        (["--train", "--recipe", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--train", "--size", "b7"], "--size b7"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    capsys, folder, recipe, tmp_path, arguments, words
):
    taken = tmp_path / "taken.md"
    taken.write_text("precious")
    (tmp_path / "folder").mkdir()
    names = {"MODEL": folder, "RECIPE": recipe, "TAKEN": taken, "FOLDER": tmp_path / "folder"}
    names["TAKEN/b.json"] = taken / "b.json"
    error = refused(capsys, "benchmark", *(names.get(argument, argument) for argument in arguments))
    assert words in error
    assert taken.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "taken.md"]


def test_devices():
    assert measuring.chosen_device("cpu") == torch.device("cpu")
    assert measuring.chosen_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
