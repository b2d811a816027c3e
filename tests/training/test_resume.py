"""A killed run goes on and ends with the same bits as one that was not killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

from revt_hf.core.errors import UserError
from revt_hf.models.recorded import read_metrics
from revt_hf.training.loop import TrainOptions, train
from tests.helpers.tiny import run, same_weights, tiny_recipe

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


def _kill_after_first_checkpoint(folder, recipe_file):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "revt_hf.cli.main",
            "train",
            str(recipe_file),
            "--output",
            str(folder),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((folder / "checkpoints").glob("step-*")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    recipe = tiny_recipe(**RECIPE)
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(recipe.to_yaml())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "revt_hf.cli.main", "train", "--quiet"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    _kill_after_first_checkpoint(killed, recipe_file)
    assert not (killed / "model.safetensors").exists()
    for folder, resume in ((killed, ["--resume"]), (whole, [])):
        subprocess.run(
            [*command, str(recipe_file), "--output", str(folder), *resume],
            check=True,
            env=environment,
        )
    kept = ("model.safetensors", "ema/model.safetensors", "swad/model.safetensors", "config.json")
    for part in kept:
        assert (killed / part).read_bytes() == (whole / part).read_bytes(), part

    def without_speed(folder):
        return [
            {key: value for key, value in row.items() if key != "images_per_second"}
            for row in read_metrics(folder)
        ]

    assert without_speed(killed) == without_speed(whole)


def test_the_newest_checkpoints_are_kept(tmp_path):
    recipe = tiny_recipe(train={"steps": 6, "checkpoint_every": 1, "keep_checkpoints": 2})
    run(tmp_path / "run", recipe)
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000005", "step-00000006"]


def test_checkpoint_every_none_writes_none(tmp_path):
    run(tmp_path / "run", tiny_recipe())
    assert not (tmp_path / "run" / "checkpoints").exists()


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
        train(tiny_recipe(), tmp_path / "none", TrainOptions(resume=True, quiet=True))
    run(tmp_path / "run", tiny_recipe())
    with pytest.raises(UserError, match="another recipe"):
        train(
            tiny_recipe(train={"seed": 5}), tmp_path / "run", TrainOptions(resume=True, quiet=True)
        )


def test_overwrite_removes_what_the_old_run_left(tmp_path):
    first = tiny_recipe(train={"steps": 6, "checkpoint_every": 3, "ema": 0.5})
    run(tmp_path / "run", first)
    again = run(tmp_path / "run", tiny_recipe(), overwrite=True)
    assert same_weights(again, run(tmp_path / "other", tiny_recipe()))
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "ema").exists()
    assert same_weights(load_file(tmp_path / "run" / "model.safetensors"), again)
