"""Pushing: what arrives, that it loads anywhere, that pushing again is fine, and the commands."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import read_results
from revt_hf.hub.push import push
from revt_hf.merging.average import merge
from revt_hf.models.recorded import recorded_protocol
from tests.helpers.command_line import refused, revt
from tests.helpers.golden import ROOT
from tests.helpers.hub_repository import files_of
from tests.helpers.hub_server import TOKEN
from tests.helpers.pushed import LICENSE
from tests.helpers.tiny import same_weights, tiny_recipe

COMPARE = """
import numpy as np
from transformers import SegformerForSemanticSegmentation

hub_parts, hub_classes = parts, classes
local = pipeline("image-segmentation", model=LOCAL)("street.png")
assert [part["label"] for part in local] == [part["label"] for part in hub_parts]
for mine, theirs in zip(local, hub_parts, strict=True):
    np.testing.assert_array_equal(np.array(mine["mask"]), np.array(theirs["mask"]))
for kind in (SegformerForSemanticSegmentation, AutoModelForSemanticSegmentation):
    model = kind.from_pretrained(LOCAL).eval()
    with torch.inference_mode():
        outputs = model(**AutoImageProcessor.from_pretrained(LOCAL)(image, return_tensors="pt"))
    again = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    assert torch.equal(again, hub_classes)
SegformerForSemanticSegmentation.from_pretrained(REPOSITORY)
print("the same")
"""


def as_stranger(stranger, folder, *arguments):
    """Run in another process, with an empty cache."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=stranger,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_cards_snippets_give_what_the_local_folder_gives(models, hub, stranger, tmp_path):
    assert push(models.revt, "me/revt", LICENSE) == f"{hub.endpoint}/me/revt"
    card = hub.model("me/revt").files()["README.md"].decode()
    code = "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    assert code.count("me/revt") == 3
    noise = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "street.png")
    names = f"LOCAL, REPOSITORY = {str(models.revt)!r}, 'me/revt'\n"
    del stranger["HF_TOKEN"]
    said = as_stranger(stranger, tmp_path, "-c", names + code + COMPARE)
    assert said.endswith("the same\n")


def test_a_dry_run_is_what_is_sent_and_asks_nobody(models, hub, tmp_path, monkeypatch):
    options = replace(LICENSE, with_members=(models.pixmix, models.base))
    with monkeypatch.context() as patched:
        patched.setattr(huggingface_hub, "get_token", lambda: None)
        dry = replace(options, dry_run=tmp_path / "dry")
        assert push(models.revt, "me/revt", dry, models.results) == str(tmp_path / "dry")
    assert hub.requests == []
    push(models.revt, "me/revt", options, models.results)
    sent = dict(hub.model("me/revt").files())
    sent.pop(".gitattributes")
    written = files_of(tmp_path / "dry")
    # What makes it a folder that may be replaced.
    assert written.pop(".revt_hf.json")
    assert sent == written
    model = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert set(written) == {
        *("README.md", *model, "merge.json", "results.json"),
        *(f"members/{name}/{file}" for name in ("base", "pixmix") for file in model),
        *("members/base/recipe.yaml", "members/pixmix/recipe.yaml"),
    }
    for name in model:
        assert written[f"members/base/{name}"] == (models.base / name).read_bytes()
    for name in ("config.json", "preprocessor_config.json"):
        assert written[name] == (models.revt / name).read_bytes()
    weights = tmp_path / "dry" / "model.safetensors"
    assert same_weights(load_file(weights), load_file(models.revt / "model.safetensors"))
    assert weights.stat().st_nlink == 1
    # What is sent records its recipe and protocol.
    member = tmp_path / "dry" / "members" / "base"
    assert load_recipe(member / "recipe.yaml") == load_recipe(models.base / "recipe.yaml")
    assert recorded_protocol([tmp_path / "dry"]) == recorded_protocol([models.revt])
    for name, content in written.items():
        assert str(models.revt.parent).encode() not in content, name
        assert b"/tmp" not in content, name
    record = json.loads(written["merge.json"])
    own = json.loads((models.revt / "merge.json").read_text())
    assert list(record) == list(own)
    named = zip(own["members"], ("base", "pixmix"), strict=True)
    assert record["members"] == [{**member, "path": name} for member, name in named]
    # The weights hold the record, too.
    with safe_open(weights, framework="pt") as file:
        told = json.loads(file.metadata()["revt_hf"])
    assert told == {key: record[key] for key in told}
    results = json.loads(written["results.json"])["results"]
    assert [result["model"] for result in results] == ["me/revt", "members/base"]


def test_pushing_again_changes_nothing_and_deletes_only_files_of_an_earlier_push(models, hub):
    options = replace(LICENSE, with_members=(models.base,))
    for _ in range(2):
        push(models.revt, "me/revt", options, models.results)
    repository = hub.model("me/revt")
    # The first one is the Hub's own.
    assert len(repository.commits) == 2
    repository.commit("main", {**repository.files(), "notes.txt": b"mine", "members/a.txt": b""})
    push(models.revt, "me/revt", LICENSE)
    assert set(repository.files()) == {
        *(".gitattributes", "README.md", "config.json", "members/a.txt", "merge.json"),
        *("model.safetensors", "notes.txt", "preprocessor_config.json"),
    }


@pytest.mark.parametrize(
    "there", [{"weights.bin": b"1"}, {"README.md": b"# by hand"}, {"merge.json": b"{}"}], ids=str
)
def test_a_repository_with_other_content_is_left_alone(models, hub, there):
    hub.make("models", "me/other").commit("main", there)
    with pytest.raises(UserError, match=r"me/other exists already and holds other content \("):
        push(models.revt, "me/other", LICENSE)
    assert hub.model("me/other").files() == there


def test_a_pull_request_is_opened_once(models, hub):
    options = replace(LICENSE, create_pr=True)
    for _ in range(2):
        assert push(models.revt, "me/revt", options) == f"{hub.endpoint}/me/revt/discussions/1"
    assert list(hub.model("me/revt").files()) == [".gitattributes"]
    assert "model.safetensors" in hub.model("me/revt").files("refs/pr/1")
    push(models.pixmix, "me/revt", replace(LICENSE, revision="refs/pr/1"))
    assert "recipe.yaml" in hub.model("me/revt").files("refs/pr/1")


def test_a_branch_is_made_and_used(models, hub):
    options = replace(LICENSE, revision="day/night")
    for _ in range(2):
        assert push(models.revt, "me/revt", options) == f"{hub.endpoint}/me/revt/tree/day/night"
    assert list(hub.model("me/revt").files()) == [".gitattributes"]
    assert "model.safetensors" in hub.model("me/revt").files("day/night")
    with pytest.raises(UserError, match=r"no such repository or branch.*status 404"):
        push(models.revt, "me/revt", replace(options, revision="no", create_pr=True))


def test_private_stays_private(models, hub):
    for _ in range(2):
        push(models.revt, "me/private", replace(LICENSE, private=True))
    assert hub.model("me/private").private
    push(models.revt, "me/public", LICENSE)
    with pytest.raises(UserError, match="me/public exists already and is public"):
        push(models.pixmix, "me/public", replace(LICENSE, private=True))
    assert len(hub.model("me/public").commits) == 2


def test_two_members_of_one_name(models, hub, tmp_path):
    for folder, source in (("a/last", models.base), ("b/last", models.pixmix)):
        shutil.copytree(source, tmp_path / folder)
    merged = merge([tmp_path / "a/last", tmp_path / "b/last"], tmp_path / "revt")
    options = replace(LICENSE, with_members=(tmp_path / "b/last", tmp_path / "a/last"))
    push(merged, "me/revt", options)
    files = hub.model("me/revt").files()
    for name, source in (("last", models.base), ("last-2", models.pixmix)):
        weights = (source / "model.safetensors").read_bytes()
        assert files[f"members/{name}/model.safetensors"] == weights
    assert "every other tensor: that of `last`" in files["README.md"].decode()
    names = [member["path"] for member in json.loads(files["merge.json"])["members"]]
    assert names == ["last", "last-2"]


def test_progress_goes_to_the_terminal_unless_quiet(models, hub, capfd):
    push(models.revt, "me/revt", LICENSE)
    assert capfd.readouterr() == ("", "")
    push(models.revt, "me/loud", replace(LICENSE, quiet=False))
    captured = capfd.readouterr()
    assert TOKEN not in captured.out + captured.err


@pytest.fixture
def recipe(tmp_path):
    options = {"val_images": 2, "size": [64, 128]}
    target = {"domain": "streets", "config": "night", "options": options}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(tiny_recipe(targets=[target]).to_yaml())))
    return path


def test_one_script_from_members_to_the_hub_and_all_the_way_back(
    models, hub, stranger, recipe, capsys, tmp_path
):
    script = (ROOT / "scripts" / "merge_and_push.py", models.base, models.pixmix, "me/revt")
    options = ("--output", tmp_path / "revt", "--recipe", recipe, "--license", "apache-2.0")
    as_stranger(stranger, tmp_path, *script, *options, "--collection", "Roads", "--quiet")
    assert [one.items for one in hub.collections.values()] == [[("me/revt", "model")]]
    sent = hub.model("me/revt").files()
    scores = read_results([tmp_path / "revt.results.json"])[0].scores
    assert {score.label for score in scores} == {"source/val", "night/val"}
    assert all(f"{score.miou:.2f}" in sent["README.md"].decode() for score in scores)
    # Score what was published, and merge it again.
    as_stranger(
        *(stranger, tmp_path, "-m", "revt_hf.cli.main", "evaluate", "me/revt"),
        *("--domain", "streets", "--config", "night", "--option", "val_images=2"),
        *("--option", "size=[64, 128]", "--max-size", "native"),
        *("--json", tmp_path / "again.json", "--quiet"),
    )
    (again,) = read_results([tmp_path / "again.json"])
    assert again.scores[0].miou == next(s.miou for s in scores if s.label == "night/val")
    as_stranger(
        *(stranger, tmp_path, "-m", "revt_hf.cli.main", "merge", "me/revt", models.base),
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
        (["merge-and-push", "MODEL", "OTHER", "me/revt", "--output", "OUT"], "--license"),
        (
            ["merge-and-push", "MODEL", "OTHER", "me", "--output", "OUT", "--license", "mit"],
            "not the ID of a Hub model",
        ),
    ],
)
def test_mistakes_are_told_before_any_work(models, hub, capsys, tmp_path, arguments, words):
    names = {"MODEL": str(models.base), "OTHER": str(models.pixmix), "OUT": str(tmp_path / "out")}
    assert words in refused(capsys, *(names.get(word, word) for word in arguments))
    assert not (tmp_path / "out").exists()
