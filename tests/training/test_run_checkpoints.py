"""Checkpoints that are damaged, foreign or hostile; the newest whole one is found."""

import json
import logging
import pickle
import shutil

import pytest
import torch

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.training.run_checkpoints import newest_checkpoint, whole_checkpoint
from tests.helpers.tiny import run, same_weights, tiny_recipe

RECIPE = tiny_recipe(
    train={
        "steps": 4,
        "checkpoint_every": 2,
        "keep_checkpoints": 2,
        "ema": 0.5,
        "swad": {"patience": 1},
        "validate_every": 2,
    }
)
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


def test_these_are_its_files(folder):
    assert sorted(path.name for path in _newest(folder).iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(folder, caplog, name, damage):
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


def test_another_steps_checkpoint_is_foreign(folder):
    shutil.rmtree(_newest(folder))
    shutil.copytree(folder / "checkpoints" / "step-00000002", _newest(folder))
    assert whole_checkpoint(folder)[1] == 2


def test_other_names_are_nobodys_business(folder):
    for name in ("step-zzz", "step-5", "step-", ".revt-step-00000006", "step-00000006.bak"):
        (folder / "checkpoints" / name).mkdir()
    (folder / "checkpoints" / "step-00000008").write_text("a file")
    assert whole_checkpoint(folder)[1] == 4
    assert newest_checkpoint(folder)[1] == 4


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
