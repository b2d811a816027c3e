"""Runs that are stopped, resumed and replaced: the same bits, nothing lost, nothing unpickled."""

import io
import json
import logging
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
import torch

from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import beside, locked
from revt_hf.core.outputs import atomic_folder, file_sha256
from revt_hf.models.recorded import read_metrics
from revt_hf.training import run_folder, saving, setup
from revt_hf.training.run_folder import newest_checkpoint, training_folder, whole_checkpoint
from tests.helpers.command_line import revt, until
from tests.helpers.tiny import NIGHT, NO_SIZES, run, same_weights, tiny_recipe

TRAIN = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 2, "validate_every": 2}
AVERAGES = {"ema": 0.5, "swad": {"patience": 1}, "validate_every": 2}
RECIPE = tiny_recipe(train={**TRAIN, **AVERAGES})
NEW = tiny_recipe(train={"steps": 3, "checkpoint_every": 1})
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


def _step(folder, number):
    return folder / "checkpoints" / f"step-{number:08d}"


def _contents(folder):
    """The content of each file; without speeds."""
    files = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    found = {str(path.relative_to(folder)): content for path, content in files.items()}
    rows = read_metrics(folder)
    found["metrics.jsonl"] = [{**row, "images_per_second": None} for row in rows]
    return found


def _beside(folder):
    return sorted(path.name for path in folder.parent.iterdir())


@contextmanager
def _killed_after(monkeypatch, step):
    """The folders of checkpoints, until Ctrl-C after that of ``step``."""
    real, begun = run_folder.save_checkpoint, []

    def killed(state, where, now, keep):
        real(state, where, now, keep)
        begun.append(where)
        if now == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_folder, "save_checkpoint", killed)
        yield begun


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


FOREIGN = ["custom_checkpoint_0.pkl", "random_states_0.pkl", "model.bin"]
DAMAGED = [*product(DAMAGES, FILES), *(("a pickle", name) for name in FOREIGN)]


@pytest.mark.parametrize(("damage", "name"), DAMAGED)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_taken(folder, caplog, name, damage):
    assert sorted(path.name for path in _step(folder, 4).iterdir()) == sorted(FILES)
    DAMAGES[damage](_step(folder, 4) / name)
    with caplog.at_level(logging.WARNING, logger="revt_hf"):
        assert whole_checkpoint(folder) == (_step(folder, 2), 2)
    (said,) = caplog.messages
    # A changed digest in the list is one of the file that it is of.
    listed = (damage, name) == ("a bit", "checkpoint.json")
    assert f"step-00000004/{'' if listed else name}" in said
    assert ("does not belong to this checkpoint" in said) is (name in FOREIGN)
    assert "resuming from" in said
    shutil.rmtree(_step(folder, 2))
    with pytest.raises(UserError, match=r"step-00000004/.* no whole checkpoint before it"):
        whole_checkpoint(folder)


def test_other_names_and_other_steps_do_not_count(folder):
    for name in ("step-zzz", "step-5", "step-", ".revt-step-00000006", "step-00000006.bak"):
        (folder / "checkpoints" / name).mkdir()
    _step(folder, 8).write_text("a file")
    assert whole_checkpoint(folder)[1] == newest_checkpoint(folder)[1] == 4
    # Another step's checkpoint is foreign.
    shutil.rmtree(_step(folder, 4))
    shutil.copytree(_step(folder, 2), _step(folder, 4))
    assert whole_checkpoint(folder)[1] == 2


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("damage", ["a pickle", "torch's pickle", "foreign", "other tensors"])
def test_a_manifest_that_fits_does_not_help_a_hostile_file(folder, name, damage):
    other = {"model": 1, "state": {0: {}}, "param_groups": []}
    write = DAMAGES.get(damage, lambda path: torch.save(other, path))
    file, path = _step(folder, 4) / name, _step(folder, 4) / "checkpoint.json"
    write(file)
    manifest = json.loads(path.read_text())
    manifest["files"][name] = {"size": file.stat().st_size, "sha256": file_sha256(file)}
    path.write_text(json.dumps(manifest))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=f"step-00000004/{name}"):
        run(folder, RECIPE, resume=True)


def test_no_name_in_a_run_folder_is_unpickled(folder):
    (folder / "model.safetensors").unlink()
    names = [path for path in folder.rglob("*") if path.is_file()]
    extra = [_step(folder, 4) / name for name in ("scheduler.bin", "sampler.bin", "scaler.pt")]
    for path in (*names, *extra):
        if path.name != "recipe.yaml":
            path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError):
        run(folder, RECIPE, resume=True)


def test_a_resumed_run_ends_with_the_same_bits_beside_a_damaged_checkpoint(finished, folder):
    _cut(_step(folder, 4) / "optimizer.pt")
    before = _contents(_step(folder, 2))
    (folder / "model.safetensors").unlink()
    (folder / ".revt-result").mkdir()
    (folder / ".revt-result" / "config.json").write_text("half")
    (folder / "checkpoints" / ".revt-step-00000004").mkdir()
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"step": Infinity}\n{"step": 4, "lo')
    assert same_weights(finished[1], run(folder, RECIPE, resume=True))
    assert whole_checkpoint(folder)[1] == 4
    assert _contents(_step(folder, 2)) == before
    assert not list(folder.rglob(".revt-*"))


def test_a_damaged_newer_one_never_pushes_out_a_whole_one(folder):
    recipe = tiny_recipe(train={**RECIPE.train.model_dump(), "keep_checkpoints": 1})
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    _step(folder, 4).rename(_step(folder, 9))
    (folder / "model.safetensors").unlink()
    run(folder, recipe, resume=True)
    assert whole_checkpoint(folder)[1] == 4


STOPPED = {
    "accumulated": {"train": {"gradient_accumulation": 2}, "model": {"drop_path": 0.3}},
    "averaged": {"train": {**AVERAGES, "validate_every": 1}},
    "a mixture": {"more_sources": [NIGHT]},
    "frozen": {"model": {"batch_norm": "frozen"}, "train": {"validate_every": 2}},
    "rounded": {"train": {"precision": "bf16", "folded_head": True, "loss_rows": 24}},
}


@pytest.mark.parametrize("sections", STOPPED.values(), ids=STOPPED)
def test_a_run_that_stops_after_every_step_ends_with_the_same_bits(tmp_path, monkeypatch, sections):
    train = {"steps": 3, "checkpoint_every": 1, **sections.get("train", {})}
    recipe = tiny_recipe(**{**sections, "train": train})
    for step in (1, 2):
        with _killed_after(monkeypatch, step):
            run(tmp_path / "stopped", recipe, resume=step > 1)
    run(tmp_path / "stopped", recipe, resume=True)
    run(tmp_path / "whole", recipe)
    assert _contents(tmp_path / "stopped") == _contents(tmp_path / "whole")


def test_a_killed_run_ends_with_the_same_bits(tmp_path, capsys):
    recipe = tiny_recipe(train={**TRAIN, **AVERAGES, "steps": 20, "checkpoint_every": 5})
    path, killed, whole = (tmp_path / name for name in ("recipe.yaml", "killed", "whole"))
    path.write_text(recipe.to_yaml())
    arguments = ["train", str(path), "--quiet", "--output", str(killed)]
    process = subprocess.Popen([sys.executable, "-m", "revt_hf.cli.main", *arguments])
    until(lambda: process.poll() is not None or list(killed.glob("checkpoints/step-*")))
    process.kill()
    process.wait()
    assert list(killed.glob("checkpoints/step-*"))
    assert not (killed / "model.safetensors").exists(), "the run ended before it could be killed"
    assert not revt(capsys, *arguments, "--resume")[0]
    run(whole, recipe)
    assert _contents(killed) == _contents(whole)


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


@pytest.mark.parametrize("kept", [True, False], ids=["checkpoints", "none"])
def test_a_finished_run_is_not_trained_again(folder, kept, caplog):
    if not kept:
        shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.jsonl").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with caplog.at_level(logging.INFO, logger="revt_hf"):
        run(folder, RECIPE, resume=True)
    assert f"{folder} is finished, so nothing is trained" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_finished_run_takes_the_place_that_it_was_to_take(folder, monkeypatch):
    recipe = tiny_recipe(train={"steps": 1})
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run_folder, "replace_folder", _interrupted)
        run(folder, recipe, overwrite=True)
    trained = (beside(folder, "training") / "model.safetensors").stat()
    run(folder, recipe, resume=True)
    assert _beside(folder) == ["run"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == trained.st_mtime_ns
    assert whole_checkpoint(folder) is None


def test_overwrite_removes_what_the_old_run_left(folder):
    train = {"steps": 6, "checkpoint_every": 1, "keep_checkpoints": 2}
    run(folder, tiny_recipe(train=train), overwrite=True)
    # The newest checkpoints are kept.
    assert set((folder / "checkpoints").iterdir()) == {_step(folder, 5), _step(folder, 6)}
    run(folder, tiny_recipe(), overwrite=True)
    run(folder.with_name("new"), tiny_recipe())
    assert _contents(folder) == _contents(folder.with_name("new"))


def test_the_old_result_stays_until_the_new_one_is_complete(folder, monkeypatch):
    before = _contents(folder)
    with _killed_after(monkeypatch, 2) as begun:
        run(folder, NEW, overwrite=True)
    assert _contents(folder) == before
    assert begun == [beside(folder, "training")] * 2
    assert newest_checkpoint(training_folder(folder))[1] == 2
    assert len(read_metrics(training_folder(folder))) == 2
    with pytest.raises(UserError, match="another recipe"):
        run(folder, RECIPE, resume=True)
    resumed = run(folder, NEW, resume=True)
    assert same_weights(resumed, run(folder.with_name("whole"), NEW))
    assert _beside(folder) == ["run", "whole"]


def test_a_run_replaces_only_what_it_was_to_replace(folder, monkeypatch):
    with _killed_after(monkeypatch, 1):
        run(folder, NEW, overwrite=True)
    with atomic_folder(folder, overwrite=True) as scratch:
        (scratch / "model.safetensors").write_text("a merge of that name")
    assert training_folder(folder) == folder
    with pytest.raises(UserError, match=r"run is not what the unfinished run in .* was to replace"):
        run(folder, NEW, resume=True)
    assert (folder / "model.safetensors").read_text() == "a merge of that name"
    folder.rename(folder.with_name("merge"))
    with pytest.raises(UserError, match="holds an unfinished run"):
        run(folder, NEW)
    run(folder, NEW, resume=True)
    assert _beside(folder) == ["merge", "run"]
    assert not list(folder.glob(".revt-*"))


def test_beginning_anew_takes_an_unfinished_run_away(folder, monkeypatch):
    with _killed_after(monkeypatch, 1):
        run(folder, NEW, overwrite=True)
    (folder / "model.safetensors").touch()
    run(folder, tiny_recipe(train={"steps": 1}), overwrite=True)
    assert (_beside(folder), len(read_metrics(folder))) == (["run"], 1)
    # Without a result, in its place.
    (folder / "model.safetensors").unlink()
    run(folder, NEW, overwrite=True)
    assert (_beside(folder), len(read_metrics(folder))) == (["run"], 3)


def test_what_others_put_into_a_result_is_not_deleted(folder, monkeypatch):
    real = run_folder.save_checkpoint

    def noted(*arguments):
        real(*arguments)
        (folder / "notes.txt").write_text("precious")

    monkeypatch.setattr(run_folder, "save_checkpoint", noted)
    # What was there before is noticed at once.
    for words in ("was changed while its replacement was trained", r"holds notes\.txt"):
        with pytest.raises(UserError, match=words):
            run(folder, NEW, overwrite=True)
        assert (folder / "notes.txt").read_text() == "precious"
        assert (beside(folder, "training") / "model.safetensors").is_file()


def _interrupted(*_):
    raise KeyboardInterrupt


def _full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_the_old_result(folder, monkeypatch):
    before = _contents(folder)
    monkeypatch.setattr(saving, "open_up", _full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        run(folder, tiny_recipe(train={"steps": 2}), overwrite=True)
    assert _contents(folder) == before
    assert _beside(folder) == ["run"]


def test_a_full_disk_keeps_the_checkpoints(tmp_path, monkeypatch):
    digest = run_folder.file_sha256
    monkeypatch.setattr(
        run_folder, "file_sha256", lambda path: _full() if "3" in path.parent.name else digest(path)
    )
    with pytest.raises(UserError, match=r"cannot write .*step-00000003: No space left on device"):
        run(tmp_path / "run", NEW)
    assert newest_checkpoint(tmp_path / "run")[1] == 2
    assert not list((tmp_path / "run" / "checkpoints").glob(".revt-*"))


def test_torch_says_why_a_checkpoint_cannot_be_written(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        write = _full

    real = Path.open

    def opened(path, *how, **more):
        return Full() if path.suffix == ".pt" else real(path, *how, **more)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(UserError, match=r"cannot write .*step-00000001: No space left on device$"):
        run(tmp_path / "run", NEW)


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_two_trainings_do_not_share_a_folder(folder, options):
    def other():
        with pytest.raises(UserError, match="being written by another process"):
            run(folder, RECIPE, **options)
        return True

    with locked(folder), ThreadPoolExecutor() as threads:
        assert threads.submit(other).result()


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("place", ["init", ".", "init/tuned"])
def test_init_is_never_the_output(folder, options, place):
    init = folder.rename(folder.with_name("init"))
    before = _contents(init)
    recipe = tiny_recipe(model={"init": str(init), "size": None, **NO_SIZES})
    with pytest.raises(UserError, match="input"):
        run(init.parent / place, recipe, **options)
    assert _contents(init) == before


GARBAGE = [
    *(b"\xff\x00\xfe", b'{"step": 3, "lo', b"[1, 2]", b"null", b'{"loss": 1.0}', b'{"step": "3"}'),
    *(b'{"step": Infinity}', b'{"step": 1e400}', b'{"step": -1}', b'{"step": true}'),
    *(b'{"step": 1, "loss": "low"}', b'{"step": 1, "loss": [1]}'),
    *(b'{"step": 1' + b"0" * 400 + b"}", b"[" * 100_000, b""),
]


def test_lines_that_are_not_whole_are_passed_over(tmp_path):
    assert read_metrics(tmp_path) == []
    whole = [b'{"step": 1, "loss": 0.5}', b'{"step": 2, "loss": Infinity, "lr": 1}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([whole[0], *GARBAGE, whole[1]]))
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    assert f"{rows[1]['loss']:.3f}" == "inf"
    setup.MetricsLog(tmp_path, 1).write(2, {"loss": 0.25})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 2
