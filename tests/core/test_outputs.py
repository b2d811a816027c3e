"""Outputs are complete or not there, whatever happens; there is one writer at a time."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from revt_hf.core import output_folders
from revt_hf.core.errors import UserError, readable_os_errors
from revt_hf.core.output_folders import MARKER_FILE, beside, locked, mark_output, scratch_file
from revt_hf.core.outputs import atomic_file, atomic_folder, folder_in_place, write_json


def _write(folder, text, **options):
    with atomic_folder(folder, **options) as scratch:
        (scratch / "a.txt").write_text(text)


def _full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _full_of_torch():
    torch.save({"a": torch.zeros(100)}, SimpleNamespace(write=_full, flush=lambda: None))


def _full_of_safetensors():
    raise SafetensorError("while serializing: I/O error: No space left on device (os error 28)")


def _stream_writer():
    raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")


@pytest.mark.parametrize("fail", [_full, _full_of_torch, _full_of_safetensors, _stream_writer])
def test_a_full_disk_is_one_sentence_and_the_old_output_stays(tmp_path, fail):
    out, file = tmp_path / "out", tmp_path / "file"
    _write(out, "old")
    file.write_text("old")
    for path, writing in ((out, atomic_folder(out, overwrite=True)), (file, atomic_file(file))):
        with pytest.raises(UserError, match=f"cannot write {path}: ") as refusal, writing:
            fail()
        said = str(refusal.value)
        assert said.lower().count("no space left on") == 1
        assert "\n" not in said and "(os error" not in said
    assert (out / "a.txt").read_text() == file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out"]


def test_a_full_disk_leaves_the_old_marker(tmp_path, monkeypatch):
    _write(tmp_path / "out", "old")
    monkeypatch.setattr(Path, "replace", _full)
    with pytest.raises(OSError, match="No space left"):
        mark_output(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARKER_FILE, "a.txt"}


def test_the_output_is_named_not_the_hidden_folder(tmp_path):
    named = pytest.raises(UserError, match=f"cannot write {tmp_path / 'out' / 'a.json'}: ")
    with named, atomic_folder(tmp_path / "out") as scratch:
        (scratch / "a.json").mkdir()
        write_json(scratch / "a.json", {})
    hidden = beside(tmp_path / "run", "training") / "checkpoints" / "step-00000001"
    named = pytest.raises(UserError, match=f"cannot write {tmp_path}/run/checkpoints/step-0+1: ")
    with named, readable_os_errors(hidden):
        _full_of_torch()


HOLD = """
import sys, time
from pathlib import Path
from revt_hf.core.output_folders import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_and_a_dead_one_does_not_count(tmp_path):
    output = tmp_path / "deep" / "out"
    command = [sys.executable, "-c", HOLD, str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    (tmp_path / "link").symlink_to(tmp_path / "deep", target_is_directory=True)
    try:
        for path in (output, tmp_path / "link" / "out"):
            with pytest.raises(UserError, match="is being written by another process"):
                _write(path, "mine")
        assert not output.exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert beside(output, "lock").exists()
    _write(output, "mine")
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_a_thread_may_lock_again_and_another_thread_may_not(tmp_path):
    out = tmp_path / "out"
    with locked(out), ThreadPoolExecutor(1) as pool:
        _write(out, "mine")
        with pytest.raises(UserError, match="is being written by another process"):
            pool.submit(_write, out, "other", overwrite=True).result()
    assert (out / "a.txt").read_text() == "mine"
    _write(out, "again", overwrite=True)


def test_locks_taken_in_a_hurry_exclude_each_other(tmp_path):
    inside, most = [], []

    def work(_):
        for _ in range(30):
            try:
                with locked(tmp_path / "out"):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.001)
                    inside.pop()
            except UserError:
                time.sleep(0.0005)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert set(most) == {1}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("swap", [True, False])
def test_leftovers_beside_an_output_go_with_the_next_call(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(output_folders, "_swap", lambda first, second: False)
    out = tmp_path / "out"
    _write(out, "old")
    for what in ("new", "old"):
        _write(beside(out, what), "half")
    _write(out, "new", overwrite=True)
    assert (out / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # Killed between the two steps where names cannot be swapped.
    out.rename(beside(out, "old"))
    with pytest.raises(UserError, match="exists already"):
        _write(out, "newer")
    assert (out / "a.txt").read_text() == "new"


def test_files_that_a_dead_process_left_go(tmp_path):
    dead = subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"])
    left, kept = (tmp_path / f".revt-{int(pid)}-abcd.json" for pid in (dead, os.getppid()))
    for path in (left, kept):
        path.write_text("half")
    write_json(tmp_path / "out.json", {})
    assert (left.exists(), kept.exists()) == (False, True)


def test_long_names_and_links_can_be_written_and_devices_are_not_replaced(tmp_path):
    name = "x" * 250 + ".json"
    write_json(tmp_path / name, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(scratch_file(tmp_path / name).name) < 60
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        write_json(tmp_path / "pipe", {})
    (tmp_path / "link.json").symlink_to(name)
    write_json(tmp_path / "link.json", [])
    assert (tmp_path / name).read_text() == "[]\n"
    assert (tmp_path / "link.json").is_symlink()


@pytest.mark.parametrize("killed", [False, True])
def test_a_folder_in_place_comes_back(tmp_path, killed):
    out = tmp_path / "out"
    _write(out, "old")
    with pytest.raises(KeyboardInterrupt), folder_in_place(out, True, ["*"]):
        (out / "a.txt").write_text("half")
        if killed:
            shutil.copytree(out, tmp_path / "half", dirs_exist_ok=True)
            shutil.copytree(beside(out, "kept"), tmp_path / "kept")
        raise KeyboardInterrupt
    assert (out / "a.txt").read_text() == "old"
    if killed:
        shutil.rmtree(out)
        (tmp_path / "half").rename(out)
        (tmp_path / "kept").rename(beside(out, "kept"))
        with pytest.raises(UserError, match="exists already"):
            _write(out, "other")
        _write(out, "new", overwrite=True)
        assert (out / "a.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with folder_in_place(out, True, ["*"]):
        (out / "b.txt").write_text("whole")
    assert sorted(path.name for path in out.glob("[!.]*")) == ["b.txt"]
