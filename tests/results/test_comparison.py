"""``revt report``: from model folders to a page."""

import json

import pytest

from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import read_results
from revt_hf.merging.average import merge
from revt_hf.results.report import report_models
from tests.helpers.command_line import refused, revt
from tests.helpers.networks import tiny_model
from tests.helpers.rendered import Rendered
from tests.helpers.tiny import tiny_recipe

SMALL = {"val_images": 2, "size": [64, 128]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Initial weights, two members and their merge."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("init", "a", "b")):
        tiny_model(seed).save_pretrained(root / name)
    merge([root / "a", root / "b"], root / "revt")
    return root


def test_a_report_of_folders(capsys, folders, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    source = {"domain": "streets", "options": SMALL}
    target = {**source, "config": "fog"}
    recipe.write_text(tiny_recipe(source=source, targets=[target]).to_yaml())
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "val_mIoU": 3.0}]
    (folders / "a" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page, numbers = tmp_path / "page.html", tmp_path / "results.json"
    models = [folders / "revt", f"first={folders / 'a'}", folders / "b"]
    arguments = [*models, "--init", folders / "init", "--recipe", recipe, "--max-size", "native"]
    code, out, error = revt(
        capsys, "report", *arguments, "--output", page, "--json", numbers, "--quiet"
    )
    assert code == 0, error
    assert out == f"open {page}\n"
    results = read_results([numbers])
    assert [one.model for one in results] == ["init", "first", "b", "revt"]
    assert [score.label for score in results[0].scores] == ["source/val", "fog/val"]
    shown = Rendered(page.read_text())
    heads = [row[0][0] for row in shown.rows[2:]]
    assert heads == ["init", "first", "b", "Mean of members", "revt"]
    titles = ["input", "ground truth", "first", "b", "revt"]
    assert [text.split(":")[0] for text in shown.attributes("img", "alt")] == titles
    assert "training loss" in shown.text and "source-val mIoU" in shown.text
    assert "Images: native size; logits resized" in shown.text
    assert "is written" in refused(capsys, "report", *arguments, "--output", tmp_path / "page.pdf")


@pytest.mark.parametrize(("names", "lacking"), [(["revt"], "member"), (["a", "b"], "merge")])
def test_a_report_needs_members_and_merges(folders, names, lacking):
    with pytest.raises(UserError, match=f"name at least one {lacking}"):
        report_models({name: str(folders / name) for name in names})
