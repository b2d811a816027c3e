"""From members to a published model and back, by the command line, over HTTP."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

from revt_hf.cli.main import main
from revt_hf.evaluation.result import read_results
from tests.helpers.golden import ROOT
from tests.helpers.pushed import TOKEN, files_of, local_hub, make_models
from tests.helpers.tiny import same_weights, tiny_recipe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub(monkeypatch):
    with local_hub(monkeypatch) as hub:
        yield hub


@pytest.fixture
def recipe(tmp_path):
    target = {
        "domain": "streets",
        "config": "night",
        "options": {"val_images": 2, "size": [64, 128]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(tiny_recipe(targets=[target]).to_yaml())))
    return path


def _environment(hub, tmp_path):
    return {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }


def _revt(hub, tmp_path, *arguments, script=None):
    command = (
        [sys.executable, str(script)] if script else [sys.executable, "-m", "revt_hf.cli.main"]
    )
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=_environment(hub, tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_one_script_from_members_to_the_hub_and_all_the_way_back(models, hub, recipe, tmp_path):
    arguments = (models.base, models.pixmix, "me/revt", "--output", tmp_path / "revt")
    more = ("--recipe", recipe, "--license", "apache-2.0", "--quiet")
    script = ROOT / "scripts" / "merge_and_push.py"
    done = _revt(hub, tmp_path, *arguments, *more, script=script)
    assert done.returncode == 0, done.stderr
    sent = hub.model("me/revt").files()
    measured = read_results([tmp_path / "revt.results.json"])[0].scores
    card = sent["README.md"].decode()
    assert {score.label for score in measured} == {"source/val", "night/val"}
    for score in measured:
        assert f"{score.miou:.2f}" in card
    # A stranger, with an empty cache: score it, and merge it again.
    options = ("--option", "val_images=2", "--option", "size=[64, 128]", "--max-size", "native")
    scored = _revt(
        *(hub, tmp_path, "evaluate", "me/revt", "--domain", "streets", "--config", "night"),
        *(*options, "--json", tmp_path / "again.json", "--quiet"),
    )
    assert scored.returncode == 0, scored.stderr
    (again,) = read_results([tmp_path / "again.json"])
    (night,) = [score for score in measured if score.label == "night/val"]
    assert again.scores[0].miou == night.miou
    merged = _revt(hub, tmp_path, "merge", "me/revt", models.base, "--output", tmp_path / "second")
    assert merged.returncode == 0, merged.stderr
    record = json.loads((tmp_path / "second" / "merge.json").read_text())
    assert record["members"][0]["path"] == "me/revt"
    local = _revt(hub, tmp_path, "merge", "revt", models.base, "--output", tmp_path / "third")
    assert local.returncode == 0, local.stderr
    states = [load_file(tmp_path / name / "model.safetensors") for name in ("second", "third")]
    assert same_weights(*states)


def test_a_dry_run_writes_what_would_be_sent(models, hub, tmp_path):
    arguments = ("--results", models.results, "--license", "apache-2.0", "--quiet")
    dry = _revt(hub, tmp_path, "push", models.revt, "me/revt", *arguments, "--dry-run", "dry")
    assert dry.returncode == 0, dry.stderr
    assert "would be pushed" in dry.stdout
    done = _revt(hub, tmp_path, "push", models.revt, "me/revt", *arguments)
    assert done.returncode == 0, done.stderr
    sent = hub.model("me/revt").files()
    assert sent.pop(".gitattributes")  # the Hub's own
    written = files_of(tmp_path / "dry")
    assert written.pop(".revt_hf.json")  # so that it may be replaced
    assert written == sent


def _refused(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments)])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_a_dry_run_is_replaced_when_asked(models, capsys, tmp_path):
    dry = tmp_path / "dry"
    arguments = ["push", models.base, "me/base", "--license", "mit", "--quiet"]
    dry_run = [*arguments, "--dry-run", dry]
    for more in ([], ["--overwrite"]):
        with pytest.raises(SystemExit) as caught:
            main([*map(str, dry_run), *more])
        assert not caught.value.code
    assert "exists already: choose another output or pass --overwrite" in _refused(capsys, *dry_run)
    (dry / "notes.txt").write_text("mine")
    assert "holds notes.txt" in _refused(capsys, *dry_run, "--overwrite")
    assert (dry / "notes.txt").read_text() == "mine"
    assert "--overwrite is for the folder of --dry-run" in _refused(
        capsys, *arguments, "--overwrite"
    )


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("out.results.json", (), "out.results.json exists already"),
        ("dry/theirs.txt", ("--dry-run", "dry"), "dry exists already"),
        ("dry/theirs.txt", ("--dry-run", "dry", "--overwrite"), "dry was not written by revt"),
        ("x", ("--dry-run", "out"), "out and out are both written to"),
        ("x", ("--dry-run", "out/dry"), "are both written to"),
        ("x", ("--dry-run", "dry", "--json", "dry/x.json"), "are both written to"),
        ("x", ("--dry-run", "dry", "--dataset", "no"), "not the id of a Hub dataset"),
        ("x", ("--dry-run", "dry", "--base-model", "no"), "not the id of a Hub model"),
    ],
)
def test_what_is_in_the_way_is_told_before_the_merge(
    models, hub, recipe, capsys, tmp_path, monkeypatch, name, more, words
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("theirs")
    arguments = ["merge-and-push", models.base, models.pixmix, "me/revt", "--output", "out"]
    more = ("--recipe", recipe, "--license", "mit", "--quiet", *more)
    assert words in _refused(capsys, *arguments, *more)
    assert path.read_text() == "theirs"
    assert not (tmp_path / "out").exists()
    assert hub.requests == []


def test_all_outputs_of_merge_and_push_are_replaced_together(models, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["merge-and-push", models.base, models.pixmix, "me/revt", "--output", "out"]
    arguments += ["--recipe", recipe, "--license", "mit", "--quiet", "--dry-run", "dry"]
    for more in ([], ["--overwrite"]):
        with pytest.raises(SystemExit) as caught:
            main([*map(str, arguments), *more])
        assert not caught.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["push", "MODEL", "me/revt"], "license"),
        (["push", "MODEL", "a/b/c", "--license", "mit"], "not the id of a Hub model"),
        (["merge-and-push", "MODEL", "me/revt", "--output", "OUT"], "at least two members"),
        (["merge-and-push", "MODEL", "MODEL", "me/revt", "--output", "OUT"], "--license"),
        (
            ["merge-and-push", "MODEL", "MODEL", "me", "--output", "OUT", "--license", "mit"],
            "not the id of a Hub model",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(models, hub, capsys, tmp_path, arguments, words):
    names = {"MODEL": str(models.base), "OUT": str(tmp_path / "out")}
    assert words in _refused(capsys, *(names.get(word, word) for word in arguments))
    assert not (tmp_path / "out").exists()
