"""Resuming: the newest whole checkpoint is found, and a run ends as one that was not killed."""

import json
import logging
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.models.recorded import read_metrics
from revt_hf.training.run_folder import newest_checkpoint, whole_checkpoint
from tests.helpers.command_line import until
from tests.helpers.tiny import run, same_weights, tiny_recipe

TRAIN = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 2, "validate_every": 2}
RECIPE = tiny_recipe(train={**TRAIN, "ema": 0.5, "swad": {"patience": 1}})
FILES = ("checkpoint.json", "ema.pt", "model.safetensors", "optimizer.pt", "swad.pt")
CALLED = []


class Hostile:
    """Calls a function when it is unpickled."""

    def __reduce__(self):
        return CALLED.append, ("called",)


@pytest.fixture(autouse=True)
def nothing_is_called():
    CALLED.clear()
    yield
    assert not CALLED


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run(folder, RECIPE)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a run with checkpoints of steps 2 and 4."""
    return shutil.copytree(finished[0], tmp_path / "run")


def _newest(folder):
    return folder / "checkpoints" / "step-00000004"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": _cut,
    "empty": lambda path: path.write_bytes(b""),
    "a bit": _flip,
    "foreign": lambda path: path.write_bytes(b"hello" * 1000),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Hostile())),
    "torch's pickle": lambda path: torch.save(Hostile(), path),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(folder, caplog, name, damage):
    assert sorted(path.name for path in _newest(folder).iterdir()) == sorted(FILES)
    DAMAGES[damage](_newest(folder) / name)
    with caplog.at_level(logging.WARNING, logger="revt_hf"):
        found, step = whole_checkpoint(folder)
    assert (found.name, step) == ("step-00000002", 2)
    (said,) = caplog.messages
    # A changed digest in the list is one of the file that it is of.
    listed = (damage, name) == ("a bit", "checkpoint.json")
    assert f"step-00000004/{'' if listed else name}" in said
    assert "resuming from" in said
    shutil.rmtree(found)
    with pytest.raises(UserError, match=r"step-00000004/.* no whole checkpoint before it"):
        whole_checkpoint(folder)


@pytest.mark.parametrize("name", ["custom_checkpoint_0.pkl", "random_states_0.pkl", "model.bin"])
def test_a_file_that_was_not_saved_is_foreign(folder, name):
    (_newest(folder) / name).write_bytes(pickle.dumps(Hostile()))
    shutil.rmtree(folder / "checkpoints" / "step-00000002")
    with pytest.raises(UserError, match=f"{name} does not belong to this checkpoint"):
        whole_checkpoint(folder)


def test_other_names_and_other_steps_do_not_count(folder):
    for name in ("step-zzz", "step-5", "step-", ".revt-step-00000006", "step-00000006.bak"):
        (folder / "checkpoints" / name).mkdir()
    (folder / "checkpoints" / "step-00000008").write_text("a file")
    assert whole_checkpoint(folder)[1] == 4
    assert newest_checkpoint(folder)[1] == 4
    # Another step's checkpoint is foreign.
    shutil.rmtree(_newest(folder))
    shutil.copytree(folder / "checkpoints" / "step-00000002", _newest(folder))
    assert whole_checkpoint(folder)[1] == 2


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("damage", ["a pickle", "torch's pickle", "foreign", "other tensors"])
def test_a_manifest_that_fits_does_not_help_a_hostile_file(folder, name, damage):
    other = {"model": 1, "state": {0: {}}, "param_groups": []}
    write = DAMAGES.get(damage, lambda path: torch.save(other, path))
    file, path = _newest(folder) / name, _newest(folder) / "checkpoint.json"
    write(file)
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"size": file.stat().st_size, "sha256": file_sha256(file)}
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"step-00000004/{name}"):
        run(folder, RECIPE, resume=True)


def test_no_name_in_a_run_folder_is_unpickled(folder):
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    extra = [_newest(folder) / name for name in ("scheduler.bin", "sampler.bin", "scaler.pt")]
    for path in (*map(folder.joinpath, names), *extra):
        if path.name != "recipe.yaml":
            path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError):
        run(folder, RECIPE, resume=True)


def test_a_resumed_run_ends_with_the_same_bits_beside_a_damaged_checkpoint(finished, folder):
    _cut(_newest(folder) / "optimizer.pt")
    before = (folder / "checkpoints" / "step-00000002" / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / ".revt-result").mkdir()
    (folder / ".revt-result" / "config.json").write_text("half")
    (folder / "checkpoints" / ".revt-step-00000004").mkdir()
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"step": Infinity}\n{"step": 4, "lo')
    assert same_weights(finished[1], run(folder, RECIPE, resume=True))
    assert whole_checkpoint(folder)[1] == 4
    kept = folder / "checkpoints" / "step-00000002"
    assert (kept / "model.safetensors").read_bytes() == before
    assert not list(folder.rglob(".revt-*"))


def test_a_damaged_newer_one_never_pushes_out_a_whole_one(folder):
    recipe = tiny_recipe(train={**RECIPE.train.model_dump(), "keep_checkpoints": 1})
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    _newest(folder).rename(folder / "checkpoints" / "step-00000009")
    run(folder, recipe, resume=True)
    assert whole_checkpoint(folder)[1] == 4


LONG = {"steps": 20, "checkpoint_every": 5, "gradient_accumulation": 2, "keep_checkpoints": 2}
LONG |= {"ema": 0.9, "swad": {"patience": 1}, "validate_every": 3}


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(tiny_recipe(model={"drop_path": 0.3}, train=LONG).to_yaml())
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


def test_resuming_before_the_first_checkpoint_starts_over(tmp_path):
    recipe = tiny_recipe()
    with pytest.raises(UserError, match="nothing to resume"):
        run(tmp_path / "none", recipe, resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 2, "loss": 9}\n{"step": 3, "lo')
    resumed = run(tmp_path / "run", recipe, resume=True)
    assert same_weights(resumed, run(tmp_path / "other", recipe))
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]
    with pytest.raises(UserError, match="another recipe"):
        run(tmp_path / "run", tiny_recipe(train={"seed": 5}), resume=True)


def test_overwrite_removes_what_the_old_run_left(tmp_path):
    train = {"steps": 6, "checkpoint_every": 1, "keep_checkpoints": 2, "ema": 0.5}
    run(tmp_path / "run", tiny_recipe(train=train))
    # The newest checkpoints are kept.
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-00000005", "step-00000006"]
    again = run(tmp_path / "run", tiny_recipe(), overwrite=True)
    assert same_weights(again, run(tmp_path / "other", tiny_recipe()))
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "ema").exists()
    assert same_weights(load_file(tmp_path / "run" / "model.safetensors"), again)
