"""``revt diagnose`` and ``revt choose`` on the command line: files, numbers, refusals."""

import shutil

import cv2
import pytest
import yaml

from revt_hf.core.outputs import read_json_object
from revt_hf.evaluation.result import read_results
from tests.helpers.command_line import refused, revt
from tests.helpers.networks import STREETS
from tests.helpers.tiny import TINY

NATIVE = ["--max-size", "native", "--quiet"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    source = {"domain": "streets", "options": STREETS}
    target = {**source, "config": "fog"}
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "source": source, "targets": [target]}))
    return path


def _run(capsys, *arguments):
    code, out, error = revt(capsys, *arguments)
    assert code == 0, error
    return out


def _is_drawn(path):
    image = cv2.imread(str(path))
    return image.shape[0] > 200 and image.shape[1] > 400 and image.std() > 5


def test_similarity(capsys, members, tmp_path):
    command = ["diagnose", "similarity", *members[:2], "--output", tmp_path / "out"]
    more = ["--base", members[2], "--json", tmp_path / "s.json", "--quiet"]
    out = _run(capsys, *command, *more)
    result = read_json_object(tmp_path / "s.json")
    assert result == read_json_object(tmp_path / "out" / "similarity.json")
    assert f"{result['wholes'][-1]['cosine'][0]:.6f}" in out.splitlines()[-1]
    assert _is_drawn(tmp_path / "out" / "similarity.png")
    assert "exists already" in refused(capsys, *command)


def test_path(capsys, members, recipe, tmp_path):
    named = [f"mild={members[0]}", members[1]]
    arguments = ["--recipe", recipe, "--points", "2", "--init", members[2], *NATIVE]
    out = _run(capsys, "diagnose", "path", *named, "--output", tmp_path / "out", *arguments)
    result = read_json_object(tmp_path / "out" / "path.json")
    lines = [(line["from"], line["to"], line["head"]) for line in result["lines"]]
    assert lines == [(1, 2, 1), (1, 2, 2), ("init", 1, 1), ("init", 2, 2)]
    # Source-val alone, though the recipe has a target.
    assert [split["is_source"] for split in result["data"]["splits"]] == [True]
    assert len(result["members"][0]["sha256"]) == 64
    assert out.count("barrier 0.0000") == 4
    assert f"mild to {members[1]}, head mild" in out
    assert _is_drawn(tmp_path / "out" / "path.png")


def test_plane_resumes_in_its_folder(capsys, members, recipe, tmp_path):
    arguments = ["--recipe", recipe, "--images", "1", "--output", tmp_path / "out", *NATIVE]
    for steps, points in (("1", 3), ("1,2", 6)):
        out = _run(capsys, "diagnose", "plane", *members, *arguments, "--steps", steps)
        assert len(read_json_object(tmp_path / "out" / "plane.json")["points"]) == points
    assert out.count("best mIoU") == 3
    assert len(list((tmp_path / "out" / "points").iterdir())) == 1
    assert all(_is_drawn(tmp_path / "out" / f"plane-head-{head}.png") for head in (1, 2, 3))


def test_norm_and_disagreement_of_a_merge(capsys, members, recipe, tmp_path):
    merge = tmp_path / "revt"
    _run(capsys, "merge", *members, "--output", merge, "--quiet")
    arguments = ["--output", tmp_path / "n", "--recipe", recipe, *NATIVE]
    out = _run(capsys, "diagnose", "norm", merge, *members, *arguments)
    models = read_json_object(tmp_path / "n" / "norm.json")["models"]
    assert [row["kind"] for row in models] == ["merge", "recalibrated", *["member"] * 3]
    assert models[1]["log_variance_ratio_rms"] < models[0]["log_variance_ratio_rms"]
    assert out.count("running standard deviations") == 5
    assert _is_drawn(tmp_path / "n" / "norm.png")
    # A diagnosis may look at a target.
    fog = ["--domain", "streets", "--config", "fog", "--option", "val_images=2", *NATIVE]
    fog += ["--option", "size=[64, 128]", "--output", tmp_path / "d"]
    out = _run(capsys, "diagnose", "disagreement", *members, "--merge", merge, *fog)
    result = read_json_object(tmp_path / "d" / "disagreement.json")
    assert sum(result["merge_on_disputed"].values()) == pytest.approx(100)
    assert [split["is_source"] for split in result["data"]["splits"]] == [False]
    assert len(result["images"]) == 2
    assert f"{result['disputed']:.2f} %" in out
    assert _is_drawn(tmp_path / "d" / "disagreement.png")


@pytest.mark.parametrize(
    ("method", "arguments", "tried"),
    [("soup", [], 5), ("weights", ["--evaluations", "6"], 6), ("leave-one-out", [], 4)],
)
def test_a_choice_is_a_merge_recipe_that_scores_as_promised(
    capsys, members, recipe, tmp_path, method, arguments, tried
):
    chosen, done, rows = (tmp_path / name for name in ("merge.yaml", "revt", "rows.json"))
    command = ["choose", method, *members, "--recipe", recipe, "--output", chosen, *arguments]
    out = _run(capsys, *command, "--json", tmp_path / "c.json", *NATIVE)
    choice = read_json_object(tmp_path / "c.json")
    assert 1 < len(choice["tried"]) <= tried
    promised = choice["chosen"]["mIoU"]
    assert promised == max(candidate["mIoU"] for candidate in choice["tried"])
    assert f"{promised:.2f}" in out
    assert f"{promised:.2f}" in chosen.read_text()
    _run(capsys, "merge", "--recipe", chosen, "--output", done, "--quiet")
    _run(capsys, "evaluate", done, "--recipe", recipe, "--json", rows, *NATIVE)
    assert read_results([rows])[0].scores[0].miou == pytest.approx(promised, rel=1e-6)
    assert "exists already" in refused(capsys, *command)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("diagnose path A B --points 2", "either --domain NAME or --recipe FILE"),
        ("diagnose path A B C --recipe R", "a path has two ends, not 3"),
        ("diagnose path A B --recipe R --interpolate x", "--interpolate x"),
        ("diagnose plane A B --recipe R", "a plane has three corners, not 2"),
        ("diagnose plane A B C --recipe R --steps 4;8", "--steps 4;8"),
        ("diagnose plane A B C --recipe R --steps 0", "--steps: give whole numbers from 1"),
        ("diagnose disagreement A --merge B --recipe R", "name at least two"),
        ("choose soup A B --recipe R --on fog/val", "is a target"),
        ("choose soup A B --recipe R --on x", "--on x: the recipe's sources"),
        ("choose stew A B --recipe R", "unknown method 'stew': use one of soup, weights"),
        ("choose soup A B --recipe R --evaluations 9", "--evaluations is an option of weights"),
    ],
)
def test_mistakes_are_one_sentence(capsys, members, recipe, tmp_path, arguments, words):
    given = {"A": members[0], "B": members[1], "C": members[2], "R": recipe}
    command = [given.get(word, word) for word in arguments.split()]
    assert words in refused(capsys, *command, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_name_of_a_member_stays_in_its_comment(capsys, members, recipe, tmp_path):
    odd = shutil.copytree(members[0], tmp_path / "a\nhead: 2\nb")
    chosen = tmp_path / "merge.yaml"
    arguments = ["--recipe", recipe, "--output", chosen, *NATIVE]
    _run(capsys, "choose", "soup", odd, members[1], *arguments)
    written = [line for line in chosen.read_text().splitlines() if line.startswith("head:")]
    assert len(written) == 1
    assert str(odd) in yaml.safe_load(chosen.read_text())["members"]
