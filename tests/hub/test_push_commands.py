"""From members to a published model and back, by the command line, over HTTP."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from safetensors.torch import load_file

from revt_hf.evaluation.result import read_results
from tests.helpers.command_line import refused, revt
from tests.helpers.golden import ROOT
from tests.helpers.hub_repository import files_of
from tests.helpers.hub_server import TOKEN
from tests.helpers.tiny import same_weights, tiny_recipe


@pytest.fixture
def recipe(tmp_path):
    options = {"val_images": 2, "size": [64, 128]}
    target = {"domain": "streets", "config": "night", "options": options}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(tiny_recipe(targets=[target]).to_yaml())))
    return path


def _in_another_process(hub, folder, *arguments):
    """Run as a stranger with an empty cache."""
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **own, "HF_HOME": str(folder / "home")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_one_script_from_members_to_the_hub_and_all_the_way_back(
    models, hub, recipe, capsys, tmp_path
):
    _in_another_process(
        *(hub, tmp_path, ROOT / "scripts" / "merge_and_push.py"),
        *(models.base, models.pixmix, "me/revt", "--output", tmp_path / "revt"),
        *("--recipe", recipe, "--license", "apache-2.0", "--quiet"),
    )
    sent = hub.model("me/revt").files()
    scores = read_results([tmp_path / "revt.results.json"])[0].scores
    assert {score.label for score in scores} == {"source/val", "night/val"}
    for score in scores:
        assert f"{score.miou:.2f}" in sent["README.md"].decode()
    # Score what was published, and merge it again.
    _in_another_process(
        *(hub, tmp_path, "-m", "revt_hf.cli.main", "evaluate", "me/revt", "--domain", "streets"),
        *("--config", "night", "--option", "val_images=2", "--option", "size=[64, 128]"),
        *("--max-size", "native", "--json", tmp_path / "again.json", "--quiet"),
    )
    (again,) = read_results([tmp_path / "again.json"])
    assert again.scores[0].miou == next(s.miou for s in scores if s.label == "night/val")
    _in_another_process(
        *(hub, tmp_path, "-m", "revt_hf.cli.main", "merge", "me/revt", models.base),
        *("--output", tmp_path / "second", "--quiet"),
    )
    local = ["merge", tmp_path / "revt", models.base, "--output", tmp_path / "third", "--quiet"]
    assert revt(capsys, *local)[0] == 0
    record = json.loads((tmp_path / "second" / "merge.json").read_text())
    assert record["members"][0]["path"] == "me/revt"
    states = [load_file(tmp_path / name / "model.safetensors") for name in ("second", "third")]
    assert same_weights(*states)


def test_a_dry_run_writes_what_would_be_sent_and_is_replaced_when_asked(
    models, hub, capsys, tmp_path
):
    dry = tmp_path / "dry"
    push = ["push", models.revt, "me/revt", "--license", "mit", "--quiet"]
    for more in ([], ["--overwrite"]):
        code, out, error = revt(capsys, *push, "--dry-run", dry, *more)
        assert (code, out) == (0, f"would be pushed: {dry}\n"), error
    code, out, error = revt(capsys, *push)
    assert (code, out) == (0, f"pushed: {hub.endpoint}/me/revt\n"), error
    # The Hub's own file, and the one that allows to replace the folder.
    sent, written = hub.model("me/revt").files(), files_of(dry)
    assert set(sent) ^ set(written) == {".gitattributes", ".revt_hf.json"}
    assert all(sent[name] == written[name] for name in set(sent) & set(written))
    again = refused(capsys, *push, "--dry-run", dry)
    assert "exists already: choose another output or pass --overwrite" in again
    (dry / "notes.txt").write_text("mine")
    assert "holds notes.txt" in refused(capsys, *push, "--dry-run", dry, "--overwrite")
    assert (dry / "notes.txt").read_text() == "mine"
    assert "--overwrite is for the folder of --dry-run" in refused(capsys, *push, "--overwrite")


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("out.results.json", (), "out.results.json exists already"),
        ("dry/theirs.txt", ("--dry-run", "dry"), "dry exists already"),
        ("dry/theirs.txt", ("--dry-run", "dry", "--overwrite"), "dry was not written by revt"),
        ("x", ("--dry-run", "out"), "out and out are both written to"),
        ("x", ("--dry-run", "out/dry"), "are both written to"),
        ("x", ("--dry-run", "dry", "--json", "dry/x.json"), "are both written to"),
        ("x", ("--dry-run", "dry", "--dataset", "no"), "not the ID of a Hub dataset"),
        ("x", ("--dry-run", "dry", "--base-model", "no"), "not the ID of a Hub model"),
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
    assert words in refused(capsys, *arguments, *more)
    assert path.read_text() == "theirs"
    assert not (tmp_path / "out").exists()
    assert hub.requests == []


def test_all_outputs_of_merge_and_push_are_replaced_together(
    models, recipe, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ["merge-and-push", f"mild={models.base}", models.pixmix, "me/revt"]
    arguments += ["--output", "out", "--recipe", recipe, "--license", "mit", "--quiet"]
    for more in ([], ["--overwrite"]):
        code, _, error = revt(capsys, *arguments, "--dry-run", "dry", *more)
        assert code == 0, error
    assert "every other tensor: that of `mild`" in (tmp_path / "dry" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["push", "MODEL", "me/revt"], "license"),
        (["push", "MODEL", "a/b/c", "--license", "mit"], "not the ID of a Hub model"),
        (["merge-and-push", "MODEL", "me/revt", "--output", "OUT"], "at least two members"),
        (["merge-and-push", "MODEL", "MODEL", "me/revt", "--output", "OUT"], "--license"),
        (
            ["merge-and-push", "MODEL", "MODEL", "me", "--output", "OUT", "--license", "mit"],
            "not the ID of a Hub model",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(models, hub, capsys, tmp_path, arguments, words):
    names = {"MODEL": str(models.base), "OUT": str(tmp_path / "out")}
    assert words in refused(capsys, *(names.get(word, word) for word in arguments))
    assert not (tmp_path / "out").exists()
