"""The command line: exit codes, one sentence for every mistake, JSON results."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from revt_hf.cli.main import main
from revt_hf.evaluation.result import read_results
from tests.helpers.command_line import refused, revt
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


def test_train_merge_evaluate(capsys, members, tmp_path):
    code, _, error = revt(capsys, "merge", *members, "--output", tmp_path / "revt", "--quiet")
    assert code == 0, error
    code, out, error = revt(
        capsys,
        "evaluate",
        *members,
        tmp_path / "revt",
        "--domain",
        "streets",
        "--config",
        "fog",
        "--option",
        "val_images=2",
        "--option",
        "size=[64, 128]",
        "--json",
        tmp_path / "r.json",
        "--quiet",
    )
    assert code == 0, error
    assert "fog/val" in out
    results = read_results([tmp_path / "r.json"])
    assert [one.model for one in results] == [str(m) for m in [*members, tmp_path / "revt"]]
    for one in results:
        (score,) = one.scores
        assert (score.domain, score.config, score.images) == ("streets", "fog", 2)
        # The members' recipe says native size; the merge remembers it.
        assert one.protocol.max_size is None
        values = [value for value in score.iou.values() if value is not None]
        assert score.miou == pytest.approx(sum(values) / len(values))
        assert 0 <= score.aacc <= 100


def test_a_recipe_names_source_val_and_all_targets(capsys, members, recipe, tmp_path):
    code, out, error = revt(
        capsys,
        "evaluate",
        members[0],
        "--recipe",
        recipe,
        "--json",
        tmp_path / "r.json",
        "--max-size",
        "64x64",
    )
    assert code == 0, error
    assert "source/val" in out
    (result,) = read_results([tmp_path / "r.json"])
    assert result.scores[0].is_source
    assert result.protocol.max_size == (64, 64)


def test_the_bound_matters(capsys, members, tmp_path):
    scores = []
    for max_size in ("native", "96x48"):
        revt(
            capsys,
            "evaluate",
            members[0],
            "--domain",
            "streets",
            "--option",
            "val_images=3",
            "--max-size",
            max_size,
            "--json",
            tmp_path / f"{max_size}.json",
            "--quiet",
        )
        scores.append(read_results([tmp_path / f"{max_size}.json"])[0].scores[0].aacc)
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "MEMBER"], "--domain"),
        (["evaluate", "MEMBER", "--domain", "kitty"], "unknown domain 'kitty'"),
        (["evaluate", "MEMBER", "--domain", "streets", "--config", "sun"], "unknown config 'sun'"),
        (["evaluate", "MEMBER", "--domain", "streets", "--split", "tset"], "'tset'"),
        (["evaluate", "MEMBER", "--domain", "streets", "--option", "images"], "key=value"),
        (["evaluate", "MEMBER", "--domain", "streets", "--option", "picturs=3"], "picturs"),
        (["evaluate", "MEMBER", "--domain", "streets", "--data-dir", "/tmp"], "no data_dir"),
        (["evaluate", "MEMBER", "--domain", "streets", "--max-size", "big"], "--max-size big"),
        (["evaluate", "/nowhere", "--domain", "streets"], "/nowhere"),
        (["evaluate", "MEMBER", "--domain", "folder"], "data_dir"),
        (["evaluate", "MEMBER", "--domain", "folder", "--data-dir", "/nowhere"], "/nowhere"),
        (["merge", "MEMBER", "--output", "OUT"], "at least two"),
        (["merge", "MEMBER", "/nowhere", "--output", "OUT"], "/nowhere"),
        (["merge", "MEMBER", "MEMBER", "--output", "FULL"], "exists already"),
        (["train", "/nowhere.yaml", "--output", "OUT"], "/nowhere.yaml"),
        (["train", "RECIPE", "--output", "FULL"], "exists already"),
        (["train", "RECIPE", "--output", "OUT", "--set", "train.stepz=3"], "train.stepz"),
        (["train", "RECIPE", "--output", "OUT", "--set", "train.steps=x"], "train.steps"),
        (["train", "RECIPE", "--output", "OUT", "--set", "augmentation.method=9"], "method '9'"),
        (["train", "RECIPE", "--output", "OUT", "--resume"], "nothing to resume"),
        (["demo", "--output", "FULL"], "exists already"),
        (["recipe", "show", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    capsys, members, recipe, tmp_path, arguments, words
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("precious")
    names = {
        "MEMBER": members[0],
        "RECIPE": recipe,
        "OUT": tmp_path / "out",
        "FULL": tmp_path / "full",
    }
    error = refused(capsys, *(names.get(argument, argument) for argument in arguments))
    assert words in error
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["keep.txt"]


@pytest.fixture
def data(tmp_path):
    """A folder dataset of two images."""
    for name in "ab":
        for kind, shape in (("img_dir", (64, 96, 3)), ("ann_dir", (64, 96))):
            path = tmp_path / "data" / kind / "val" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros(shape, np.uint8))
    return tmp_path / "data"


def _missing_label(data):
    (data / "ann_dir" / "val" / "b.png").unlink()


def _other_size(data):
    cv2.imwrite(str(data / "ann_dir" / "val" / "b.png"), np.zeros((64, 95), np.uint8))


def _other_value(data):
    cv2.imwrite(str(data / "ann_dir" / "val" / "b.png"), np.full((64, 96), 40, np.uint8))


def _truncated(data):
    path = data / "img_dir" / "val" / "b.png"
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_missing_label, "has no label"),
        (_other_size, "95x64"),
        (_other_value, "40"),
        (_truncated, "truncated"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_broken_data_name_the_file(capsys, members, recipe, data, tmp_path, damage, words, command):
    damage(data)
    out = tmp_path / "out"
    if command == "evaluate":
        arguments = ["evaluate", members[0], "--domain", "folder", "--data-dir", data]
        arguments += ["--json", out, "--quiet"]
    else:
        arguments = ["train", recipe, "--output", out, "--quiet", "--set", "source.domain=folder"]
        arguments += ["--set", f"source.data_dir={data}", "--set", "source.train=val"]
        # Two workers: the sentence must survive the trip from another process.
        arguments += ["--set", "source.options={}", "--set", "train.workers=2"]
    error = refused(capsys, *arguments)
    assert words in error
    assert "b.png" in error
    assert not (out if command == "evaluate" else out / "model.safetensors").exists()


@pytest.mark.parametrize("command", ["merge", "demo", "train"])
@pytest.mark.parametrize("output", [".", ".."])
def test_overwrite_never_takes_the_working_directory(
    capsys, monkeypatch, members, recipe, tmp_path, command, output
):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "keep.txt").write_text("precious")
    monkeypatch.chdir(tmp_path / "here")
    arguments = {"merge": members, "demo": [], "train": [recipe]}[command]
    error = refused(capsys, command, *arguments, "--output", output, "--overwrite")
    assert "working directory" in error
    assert (tmp_path / "here" / "keep.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "MODEL", "--domain", "streets"],
        ["evaluate", "MODEL", "--recipe", "FILE"],
        ["predict", "MODEL", "--input", "MODEL", "--output", "OUT"],
        ["inspect", "MODEL"],
        ["recalibrate", "MODEL", "--recipe", "FILE", "--output", "OUT"],
        ["diagnose", "similarity", "MODEL", "MODEL", "--output", "OUT"],
        ["diagnose", "path", "MODEL", "MODEL", "--recipe", "FILE", "--output", "OUT"],
        ["choose", "soup", "MODEL", "MODEL", "--recipe", "FILE", "--output", "OUT"],
        ["merge", "MODEL", "MODEL", "--output", "OUT"],
        ["data", "verify", "folder", "--data-dir", "MODEL"],
        ["run", "FILE", "--output", "OUT"],
        ["submit", "FILE", "--output", "OUT", "--print"],
        ["report", "--recipe", "FILE", "--member", "MODEL", "--revt", "MODEL", "--output", "OUT"],
    ],
)
def test_results_never_replace_an_input(capsys, members, recipe, tmp_path, arguments):
    config = members[0] / "config.json"
    file = recipe if "FILE" in arguments else config
    before = file.read_bytes(), config.read_bytes()
    names = {"MODEL": members[0], "FILE": recipe, "OUT": tmp_path / "out"}
    words = [names.get(word, word) for word in arguments]
    error = refused(capsys, *words, "--json", file)
    # What is a model's is refused before anything else is known of it.
    assert any(
        words in error
        for words in (
            f"is the input {file}",
            f"is a file of {members[0]}",
            f"lies in the input {members[0]}",
            f"{file} exists already and is not JSON",
        )
    )
    assert (file.read_bytes(), config.read_bytes()) == before
    if "MODEL" in arguments and arguments[0] != "report":
        error = refused(capsys, *words, "--json", members[0] / "new.json")
        assert f"lies in the input {members[0]}" in error
    if "OUT" in arguments and arguments[0] not in ("run", "submit"):
        places = [tmp_path / "out"] if arguments[0] in ("choose", "report") else []
        for place in places or [tmp_path / "out" / "new.json"]:
            assert f"the output {tmp_path / 'out'}" in refused(capsys, *words, "--json", place)
    assert not (tmp_path / "out").exists()


def test_results_never_replace_a_file_of_another_model(capsys, members, tmp_path):
    config = members[1] / "config.json"
    before = config.read_bytes()
    out = tmp_path / "out"
    error = refused(capsys, "merge", *[members[0]] * 2, "--output", out, "--json", config)
    assert f"config.json is a file of {members[1]}" in error
    assert config.read_bytes() == before
    assert not out.exists()


def test_a_plan_does_not_make_a_folder_that_no_experiment_may_have(capsys, tmp_path):
    out, file = tmp_path / "out", tmp_path / "experiment.yaml"
    file.write_text("{}")
    for words in (["run", "--dry-run"], ["submit", "--print"]):
        error = refused(capsys, *words, file, "--output", out, "--json", out / "plan.json")
        assert f"lies in the output {out}" in error


def test_mismatched_checkpoints_are_named(capsys, members, tmp_path):
    state = load_file(members[1] / "model.safetensors")
    state.pop("segformer.encoder.layer_norm.0.bias")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((members[1] / "config.json").read_bytes())
    save_file(state, other / "model.safetensors")
    error = refused(capsys, "merge", members[0], other, "--output", tmp_path / "out")
    assert "segformer.encoder.layer_norm.0.bias is missing" in error
    assert not (tmp_path / "out").exists()


def test_unknown_flags_are_usage_errors(capsys):
    code, _, error = revt(capsys, "merge", "--outputs", "x")
    assert code == 2
    assert "Traceback" not in error


def test_recipe_commands(capsys, recipe):
    code, out, _ = revt(capsys, "recipe", "schema")
    assert code == 0
    assert "properties" in json.loads(out)
    code, out, _ = revt(capsys, "recipe", "show", recipe, "--set", "train.steps=7")
    assert code == 0
    assert yaml.safe_load(out)["train"]["steps"] == 7


@pytest.mark.parametrize("script", ["train", "evaluate_models", "merge", "benchmark"])
def test_scripts_start(script):
    done = subprocess.run(
        [sys.executable, f"scripts/{script}.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "sage" in done.stdout


def test_help_needs_no_torch():
    code = (
        "import sys; from revt_hf.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: "
    )
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "show", "streets"],
        ["report", "--recipe", "RECIPE", "--member", "MODEL", "--revt", "MODEL"],
    ],
)
def test_a_image_or_page_that_is_there_stays(capsys, members, recipe, tmp_path, arguments):
    place = tmp_path / "holiday.png"
    place.write_bytes(b"precious")
    names = {"MODEL": members[0], "RECIPE": recipe}
    words = [names.get(word, word) for word in arguments]
    assert "pass --overwrite" in refused(capsys, *words, "--output", place)
    assert place.read_bytes() == b"precious"
