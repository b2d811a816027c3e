"""Outputs that would destroy something are refused, with or without --overwrite, link or not."""

import json
import os
from pathlib import Path

import pytest

from revt_hf.core.errors import UserError
from revt_hf.core.output_folders import MARKER_FILE, mark_output
from revt_hf.core.outputs import atomic_folder, check_output, check_output_file, check_suffix


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    (tmp_path / "home" / "here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home" / "here")


@pytest.fixture
def ours(tmp_path):
    """A folder that we wrote."""
    with atomic_folder(tmp_path / "ours") as scratch:
        (scratch / "a.txt").write_text("old")
        (scratch / "sub").mkdir()
        (scratch / "sub" / "b.txt").write_text("old")
    marker = json.loads((tmp_path / "ours" / MARKER_FILE).read_text())
    assert marker["files"] == ["a.txt", "sub/b.txt"]
    return tmp_path / "ours"


def _refused(path, *inputs, overwrite=True):
    with pytest.raises(UserError) as refusal:
        check_output(path, overwrite, inputs)
    message = str(refusal.value)
    assert message.count("\n") == 0
    return message


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["runs/a", "runs", ".", "runs/a/merged"])
@pytest.mark.parametrize("linked", [False, True])
def test_an_input_is_never_the_output(tmp_path, place, overwrite, linked):
    member = tmp_path / "runs" / "a"
    member.mkdir(parents=True)
    output = tmp_path / place
    if linked:
        (tmp_path / "link").symlink_to(output, target_is_directory=True)
        output = tmp_path / "link"
    message = _refused(output, None, "me/on-the-hub", member, overwrite=overwrite)
    lies = place.endswith("merged")
    assert (f"lies in the input {member}" if lies else "is or holds") in message
    assert member.is_dir()


def test_an_input_that_is_a_link_counts_where_it_leads(tmp_path, ours):
    (tmp_path / "member").mkdir()
    (tmp_path / "member" / "model.safetensors").symlink_to(ours / "a.txt")
    assert "holds the input" in _refused(ours, tmp_path / "member")
    (tmp_path / "link").symlink_to(ours)
    assert "holds the input" in _refused(ours, str(tmp_path / "link"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_working_directory_and_home_stay(monkeypatch, tmp_path, overwrite):
    home = tmp_path / "home"
    mark_output(home)
    for path in (home / "here", home, tmp_path, Path("/")):
        assert "working directory" in _refused(path, overwrite=overwrite)
    monkeypatch.chdir("/")
    for path in (home, tmp_path):
        assert "home directory" in _refused(path, overwrite=overwrite)


def test_what_we_did_not_write_is_not_overwritten(tmp_path, ours):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("precious")
    assert "was not written by revt" in _refused(tmp_path / "theirs")
    assert "exists already" in _refused(ours, overwrite=False)
    check_output(ours, True)
    (ours / "sub" / "mine.txt").write_text("precious")
    assert "holds sub/mine.txt" in _refused(ours)
    (ours / "sub" / "mine.txt").unlink()
    (ours / "sub" / "link").symlink_to(tmp_path / "theirs", target_is_directory=True)
    assert "holds sub/link" in _refused(ours)
    mine = '{"format": "revt_hf.output/1"}'
    for marker in ("", "{", "[]", "[" * 5000, '{"format": "other"}', mine):
        (ours / MARKER_FILE).write_text(marker)
        assert "was not written by revt" in _refused(ours)


def test_new_and_empty_folders_are_fine_links_stay_links_and_files_are_refused(tmp_path, ours):
    (tmp_path / "file").write_text("precious")
    assert "not a folder" in _refused(tmp_path / "file")
    assert "cannot write" in _refused(tmp_path / "file" / "below")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert "not a folder" in _refused(tmp_path / "circle")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "new" / "deeper", False)
    (tmp_path / "link").symlink_to(ours)
    for folder, overwrite in (("empty", False), ("link", True)):
        with atomic_folder(tmp_path / folder, overwrite) as scratch:
            (scratch / "a.txt").write_text("new")
        assert (tmp_path / folder / "a.txt").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


def test_a_folder_that_grows_keeps_what_others_put_there(tmp_path):
    folder = tmp_path / "out"
    (folder / "maps").mkdir(parents=True)
    (folder / "mine.png").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        check_output(folder, False, patterns=["maps/*"])
    check_output(folder, True, patterns=["maps/*"])
    (folder / "maps" / "mine.png").write_text("precious")
    with pytest.raises(UserError, match=r"maps/mine\.png, which revt did not write"):
        check_output(folder, True, patterns=["maps/*"])


def test_output_files(tmp_path, ours):
    (tmp_path / "old.json").write_text("{}")
    check_output_file(None)
    check_output_file(tmp_path / "new" / "out.json")
    check_output_file(tmp_path / "old.json")
    check_output_file(ours / "new.json")
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a folder: name a file"),
        (tmp_path / "old.json" / "out.json", "cannot write"),
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
        (ours / "a.txt", "lies in the input"),
        (ours / "new.json", "lies in the input"),
    ):
        with pytest.raises(UserError, match=words):
            check_output_file(tmp_path / path, inputs=[ours])
    with pytest.raises(UserError, match="exists already"):
        check_output_file(tmp_path / "old.json", overwrite=False)
    (tmp_path / "link.json").symlink_to(tmp_path / "old.json")
    with pytest.raises(UserError, match="is the input"):
        check_output_file(tmp_path / "link.json", inputs=[tmp_path / "old.json"])
    for path in (tmp_path / "out" / "new.json", tmp_path / "out"):
        with pytest.raises(UserError, match=r"(lies in|is) the output .*out: choose another"):
            check_output_file(path, outputs=[None, tmp_path / "out"])
    check_output_file(tmp_path / "out.json", outputs=[tmp_path / "out"])


def test_an_output_file_takes_no_file_of_a_model_or_of_an_output(tmp_path, ours):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "x.bin", "README.md", "recipe.yaml", "mine.json"):
        (model / name).write_text("precious")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").symlink_to(model / "mine.json")
    (tmp_path / "link.json").symlink_to(model / "config.json")
    mark_output(ours, ["points/*.json"], ["a.txt", "sub/*"])
    (ours / "points").mkdir()
    for name in ("points/1.json", "run.json", "mine.json"):
        (ours / name).write_text("precious")
    snapshot = tmp_path / "snapshot"
    of_model = [model / name for name in ("config.json", "x.bin", "README.md", "recipe.yaml")]
    names = ("a.txt", "sub/b.txt", "points/1.json", "run.json", MARKER_FILE)
    for path, folder in (
        *((path, model) for path in (*of_model, tmp_path / "link.json")),
        (snapshot / "config.json", snapshot),
        *((ours / name, ours) for name in names),
    ):
        with pytest.raises(UserError, match=f"is a file of {folder}: choose another"):
            check_output_file(path, overwrite=True)
    for path in (model / "mine.json", ours / "mine.json", ours / "new.json"):
        check_output_file(path, overwrite=True)
    (tmp_path / "README.md").write_text("of no model")
    check_output_file(tmp_path / "README.md", overwrite=True)


def test_results_replace_older_results_and_nothing_of_another_kind(tmp_path):
    for name, content in (("a.json", b'\n [{"mIoU": 1}]'), ("b.json", b"{}"), ("c.json", b"")):
        (tmp_path / name).write_bytes(content)
        check_output_file(tmp_path / name)
    for name, content in (("notes.txt", b"years of work"), ("photo.json", b"\x89PNG\r\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} exists already and is not JSON"):
            check_output_file(tmp_path / name)
        with pytest.raises(UserError, match="pass --overwrite"):
            check_output_file(tmp_path / name, overwrite=False)
        check_output_file(tmp_path / name, overwrite=True)


def test_a_name_of_another_format_is_refused():
    for name in ("sheet.jpg", "sheet", "sheet.png.txt"):
        with pytest.raises(UserError, match=r"sheet.*: PNG is written, .* end in \.png"):
            check_suffix(Path(name), ".png")
    check_suffix(Path("a/SHEET.PNG"), ".png")
    check_suffix(Path("page.htm"), ".html", ".htm")
