"""A finished result stays until the new one is complete; there is one training at a time."""

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import beside, locked
from revt_hf.core.outputs import atomic_folder
from revt_hf.models.recorded import read_metrics
from revt_hf.training import run_folder, setup
from revt_hf.training.run_folder import newest_checkpoint, training_folder
from revt_hf.training.setup import MetricsLog
from tests.helpers.tiny import NO_SIZES, run, same_weights, tiny_recipe

OLD = tiny_recipe(train={"steps": 1})
NEW = tiny_recipe(train={"steps": 3, "checkpoint_every": 1})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old") / "run"
    run(folder, OLD)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


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


def test_the_old_result_stays_until_the_new_one_is_complete(folder, monkeypatch):
    before = _contents(folder)
    with _killed_after(monkeypatch, 2) as begun:
        run(folder, NEW, overwrite=True)
    assert _contents(folder) == before
    assert begun == [beside(folder, "training")] * 2
    assert newest_checkpoint(training_folder(folder))[1] == 2
    assert len(read_metrics(training_folder(folder))) == 2
    with pytest.raises(UserError, match="another recipe"):
        run(folder, OLD, resume=True)
    resumed = run(folder, NEW, resume=True)
    assert same_weights(resumed, run(folder.with_name("whole"), NEW))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["run", "whole"]


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
    assert sorted(path.name for path in folder.parent.iterdir()) == ["merge", "run"]
    assert not list(folder.glob(".revt-*"))


def test_beginning_anew_takes_an_unfinished_run_away(folder, monkeypatch):
    with _killed_after(monkeypatch, 1):
        run(folder, NEW, overwrite=True)
    (folder / "model.safetensors").touch()
    run(folder, OLD, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert len(read_metrics(folder)) == 1
    # Without a result, in its place.
    (folder / "model.safetensors").unlink()
    run(folder, NEW, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert len(read_metrics(folder)) == 3


def test_what_others_put_into_a_result_is_not_deleted(folder, monkeypatch):
    real = run_folder.save_checkpoint

    def noted(*arguments):
        real(*arguments)
        (folder / "notes.txt").write_text("precious")

    monkeypatch.setattr(run_folder, "save_checkpoint", noted)
    with pytest.raises(UserError, match="was changed while its replacement was trained"):
        run(folder, NEW, overwrite=True)
    assert (folder / "notes.txt").read_text() == "precious"
    assert (beside(folder, "training") / "model.safetensors").is_file()
    # What was there before is noticed at once.
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        run(folder, NEW, overwrite=True)
    assert (folder / "notes.txt").read_text() == "precious"


def _full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_the_old_result(folder, monkeypatch):
    before = _contents(folder)
    monkeypatch.setattr(setup, "open_up", _full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        run(folder, tiny_recipe(train={"steps": 2}), overwrite=True)
    assert _contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


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
        def write(self, _):
            _full()

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *how, **more: Full() if path.suffix == ".pt" else opened(path, *how, **more),
    )
    with pytest.raises(UserError, match=r"cannot write .*step-00000001: No space left on device$"):
        run(tmp_path / "run", NEW)


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_two_trainings_do_not_share_a_folder(folder, options):
    def other():
        with pytest.raises(UserError, match="being written by another process"):
            run(folder, OLD, **options)
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
    lines = [whole[0], *GARBAGE, whole[1]]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    assert f"{rows[1]['loss']:.3f}" == "inf"
    log = MetricsLog(tmp_path, 1)
    log.write(2, {"loss": 0.25})
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 2
