"""A killed run goes on and ends with the same bits as one that was not killed."""

import subprocess
import sys

import pytest
from safetensors.torch import load_file

from revt_hf.core.errors import UserError
from revt_hf.models.recorded import read_metrics
from tests.helpers.tiny import run, same_weights, tiny_recipe
from tests.helpers.waiting import until

RECIPE = {
    "model": {"drop_path": 0.3},
    "train": {
        "steps": 20,
        "checkpoint_every": 5,
        "gradient_accumulation": 2,
        "ema": 0.9,
        "swad": {"patience": 1},
        "validate_every": 3,
        "keep_checkpoints": 2,
    },
}


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(**RECIPE).to_yaml())
    command = [sys.executable, "-m", "revt_hf.cli.main", "train", str(recipe), "--quiet"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([*command, "--output", str(killed)])
    until(lambda: process.poll() is not None or list(killed.glob("checkpoints/step-*")))
    process.kill()
    process.wait()
    assert list(killed.glob("checkpoints/step-*"))
    assert not (killed / "model.safetensors").exists(), "the run ended before it could be killed"
    subprocess.run([*command, "--output", str(killed), "--resume"], check=True)
    subprocess.run([*command, "--output", str(whole)], check=True)
    kept = ("model.safetensors", "ema/model.safetensors", "swad/model.safetensors", "config.json")
    for part in kept:
        assert (killed / part).read_bytes() == (whole / part).read_bytes(), part
    rows = [read_metrics(folder) for folder in (killed, whole)]
    for row in (*rows[0], *rows[1]):
        row.pop("images_per_second", None)
    assert rows[0] == rows[1]


def test_the_newest_checkpoints_are_kept(tmp_path):
    recipe = tiny_recipe(train={"steps": 6, "checkpoint_every": 1, "keep_checkpoints": 2})
    run(tmp_path / "run", recipe)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000005", "step-00000006"]
    run(tmp_path / "none", tiny_recipe())
    assert not (tmp_path / "none" / "checkpoints").exists()


def test_resuming_before_the_first_checkpoint_starts_over(tmp_path):
    recipe = tiny_recipe()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 2, "loss": 9}\n{"step": 3, "lo')
    resumed = run(tmp_path / "run", recipe, resume=True)
    assert same_weights(resumed, run(tmp_path / "other", recipe))
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]


def test_resume_needs_a_run_and_its_recipe(tmp_path):
    with pytest.raises(UserError, match="nothing to resume"):
        run(tmp_path / "none", tiny_recipe(), resume=True)
    run(tmp_path / "run", tiny_recipe())
    with pytest.raises(UserError, match="another recipe"):
        run(tmp_path / "run", tiny_recipe(train={"seed": 5}), resume=True)


def test_overwrite_removes_what_the_old_run_left(tmp_path):
    first = tiny_recipe(train={"steps": 6, "checkpoint_every": 3, "ema": 0.5})
    run(tmp_path / "run", first)
    again = run(tmp_path / "run", tiny_recipe(), overwrite=True)
    assert same_weights(again, run(tmp_path / "other", tiny_recipe()))
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "ema").exists()
    assert same_weights(load_file(tmp_path / "run" / "model.safetensors"), again)
