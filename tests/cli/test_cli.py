"""Commands end to end: JSON results, one sentence for every mistake, and what stays untouched."""

import json

import cv2
import numpy as np
import pytest
import yaml

from revt_hf.cli.main import main
from revt_hf.evaluation.result import read_results
from tests.helpers.command_line import refused, revt, words_of
from tests.helpers.tiny import TINY


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def members(recipe, tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for seed in range(2):
        with pytest.raises(SystemExit) as caught:
            output, override = str(root / str(seed)), f"train.seed={seed}"
            main(["train", str(recipe), "--output", output, "--quiet", "--set", override])
        assert not caught.value.code
    return [root / "0", root / "1"]


@pytest.fixture
def words(members, recipe, tmp_path):
    """Command lines in which MODEL, OTHER, RECIPE, OUT and FULL stand for paths."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("precious")
    paths = {"MODEL": members[0], "OTHER": members[1], "RECIPE": recipe}
    paths |= {"OUT": tmp_path / "out", "FULL": tmp_path / "full"}
    return lambda text: words_of(text, paths)


def test_train_merge_evaluate(capsys, members, tmp_path):
    code, _, error = revt(capsys, "merge", *members, "--output", tmp_path / "revt", "--quiet")
    assert code == 0, error
    code, out, error = revt(
        *(capsys, "evaluate", *members, f"ours={tmp_path / 'revt'}"),
        *("--domain", "streets", "--config", "fog", "--option", "val_images=2"),
        *("--option", "size=[64, 128]", "--json", tmp_path / "r.json", "--quiet"),
    )
    assert code == 0, error
    assert "fog/val" in out
    results = read_results([tmp_path / "r.json"])
    assert [one.model for one in results] == [*map(str, members), "ours"]
    for one in results:
        (score,) = one.scores
        assert (score.domain, score.config, score.images) == ("streets", "fog", 2)
        # The members' recipe says native size; the merge remembers it.
        assert one.protocol.max_size is None
        values = [value for value in score.iou.values() if value is not None]
        assert score.miou == pytest.approx(sum(values) / len(values))
        assert 0 <= score.aacc <= 100


def test_a_recipe_names_source_val_and_all_targets(capsys, words, tmp_path):
    evaluate = words("evaluate MODEL --recipe RECIPE --json OUT --max-size")
    accuracies = []
    for max_size, expected in {"64x64": (64, 64), "native": None}.items():
        code, out, error = revt(capsys, *evaluate, max_size)
        assert code == 0, error
        assert "source/val" in out
        (result,) = read_results([tmp_path / "out"])
        assert result.scores[0].is_source
        assert result.protocol.max_size == expected
        accuracies.append(result.scores[0].aacc)
    assert accuracies[0] != accuracies[1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("evaluate MODEL", "--domain"),
        ("evaluate MODEL --domain kitty", "unknown domain 'kitty'"),
        ("evaluate MODEL --domain streets --config sun", "unknown config 'sun'"),
        ("evaluate MODEL --domain streets --split tset", "'tset'"),
        ("evaluate MODEL --domain streets --option images", "key=value"),
        ("evaluate MODEL --domain streets --option picturs=3", "picturs"),
        ("evaluate MODEL --domain streets --data-dir /tmp", "no data_dir"),
        ("evaluate MODEL --domain streets --max-size big", "--max-size big"),
        ("evaluate MODEL --domain folder", "data_dir"),
        ("evaluate MODEL --domain folder --data-dir /nowhere", "/nowhere"),
        ("merge MODEL --output OUT", "at least two"),
        ("merge MODEL OTHER --output FULL", "exists already"),
        ("train /nowhere.yaml --output OUT", "/nowhere.yaml"),
        ("train RECIPE --output FULL", "exists already"),
        ("train RECIPE --output OUT --set train.stepz=3", "train.stepz"),
        ("train RECIPE --output OUT --set train.steps=x", "train.steps"),
        ("train RECIPE --output OUT --set augmentation.method=9", "method '9'"),
        ("train RECIPE --output OUT --resume", "nothing to resume"),
        ("demo --output FULL", "exists already"),
        ("recipe show /nowhere.yaml", "/nowhere.yaml"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(capsys, words, tmp_path, line, problem):
    assert problem in refused(capsys, *words(line))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["keep.txt"]


@pytest.fixture
def data(tmp_path):
    """A folder dataset of two images."""
    for kind, shape in (("img_dir", (64, 96, 3)), ("ann_dir", (64, 96))):
        (tmp_path / "data" / kind / "val").mkdir(parents=True)
        for name in "ab":
            cv2.imwrite(f"{tmp_path}/data/{kind}/val/{name}.png", np.zeros(shape, np.uint8))
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("kind", "damage", "problem"),
    [
        ("ann_dir", lambda path: path.unlink(), "has no label"),
        ("ann_dir", lambda path: cv2.imwrite(str(path), np.zeros((64, 95), np.uint8)), "95x64"),
        ("ann_dir", lambda path: cv2.imwrite(str(path), np.full((64, 96), 40, np.uint8)), "40"),
        ("img_dir", lambda path: path.write_bytes(path.read_bytes()[:-20]), "truncated"),
    ],
    ids=["missing", "size", "value", "truncated"],
)
@pytest.mark.parametrize(
    "line",
    [
        "evaluate MODEL --domain folder --data-dir DATA --json OUT --quiet",
        # Two workers: the sentence must survive the trip from another process.
        "train RECIPE --output OUT --quiet --set source.domain=folder --set source.data_dir=DATA "
        "--set source.train=val --set source.options={} --set train.workers=2",
    ],
    ids=["evaluate", "train"],
)
def test_broken_data_name_the_file(capsys, words, data, tmp_path, kind, damage, problem, line):
    damage(data / kind / "val" / "b.png")
    error = refused(capsys, *words(line.replace("DATA", str(data))))
    assert problem in error
    assert "b.png" in error
    assert not (tmp_path / "out").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("line", ["merge MODEL OTHER", "demo", "train RECIPE"])
@pytest.mark.parametrize("output", [".", ".."])
def test_overwrite_never_takes_the_working_directory(
    capsys, monkeypatch, words, tmp_path, line, output
):
    monkeypatch.chdir(tmp_path / "full")
    error = refused(capsys, *words(line), "--output", output, "--overwrite")
    assert "working directory" in error
    assert (tmp_path / "full" / "keep.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "line",
    [
        "evaluate MODEL --domain streets",
        "evaluate MODEL --recipe RECIPE",
        "predict MODEL --input OTHER --output OUT",
        "inspect MODEL",
        "recalibrate MODEL --recipe RECIPE --output OUT",
        "refit MODEL --recipe RECIPE --output OUT",
        "diagnose similarity MODEL OTHER --output OUT",
        "diagnose path MODEL OTHER --recipe RECIPE --output OUT",
        "choose soup MODEL OTHER --recipe RECIPE --output OUT",
        "merge MODEL OTHER --output OUT",
        "data verify folder --data-dir MODEL",
        "run RECIPE --output OUT",
        "submit RECIPE --output OUT --print",
        "report MODEL OTHER --recipe RECIPE --output OUT",
        "benchmark MODEL",
    ],
)
def test_results_never_replace_an_input(capsys, words, members, recipe, tmp_path, line):
    config, out = members[0] / "config.json", tmp_path / "out"
    file = recipe if "RECIPE" in line else config
    before = file.read_bytes(), config.read_bytes()
    error = refused(capsys, *words(line), "--json", file)
    # A file of a model is refused before the inputs are known.
    known = ("is the input {}", "is a file of {1}", "lies in the input {1}", "{} exists already")
    assert any(text.format(file, members[0]) in error for text in known)
    assert (file.read_bytes(), config.read_bytes()) == before
    command = line.split()[0]
    if "MODEL" in line:
        error = refused(capsys, *words(line), "--json", members[0] / "new.json")
        assert f"lies in the input {members[0]}" in error
    if "OUT" in line and command not in ("run", "submit"):
        place = out if command in ("choose", "report") else out / "new.json"
        assert f"the output {out}" in refused(capsys, *words(line), "--json", place)
    assert not out.exists()


@pytest.mark.parametrize("command", ["run --dry-run", "submit --print"])
def test_a_plan_does_not_make_a_folder_that_no_experiment_may_have(
    capsys, words, tmp_path, command
):
    file, out = tmp_path / "experiment.yaml", tmp_path / "out"
    file.write_text("{}")
    error = refused(capsys, *words(f"{command} {file} --output OUT --json {out}/plan.json"))
    assert f"lies in the output {out}" in error


def test_recipe_commands(capsys, words):
    code, out, _ = revt(capsys, "recipe", "schema")
    assert code == 0 and "properties" in json.loads(out)
    code, out, _ = revt(capsys, *words("recipe show RECIPE --set train.steps=7"))
    assert code == 0 and yaml.safe_load(out)["train"]["steps"] == 7


@pytest.mark.parametrize("line", ["data show streets", "report MODEL OTHER --recipe RECIPE"])
def test_an_image_or_page_that_exists_stays(capsys, words, tmp_path, line):
    place = tmp_path / "holiday.png"
    place.write_bytes(b"precious")
    assert "pass --overwrite" in refused(capsys, *words(line), "--output", place)
    assert place.read_bytes() == b"precious"


def test_a_member_is_not_taken_for_the_repository(capsys, monkeypatch, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path.parent)
    there = [tmp_path / name for name in "abc"]
    for members in (there, [f"{tmp_path.name}/{name}" for name in "abx"]):
        error = refused(capsys, "merge-and-push", *members, "--output", tmp_path / "out")
        assert "not a repository" in error
