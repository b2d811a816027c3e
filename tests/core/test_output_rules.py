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


def _refused(words, path, *inputs, check=check_output, overwrite=True, **options):
    with pytest.raises(UserError, match=words) as refusal:
        check(path, overwrite, inputs, **options)
    assert "\n" not in str(refusal.value)


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
    words = f"lies in the input {member}" if place.endswith("merged") else "is or holds"
    _refused(words, output, None, "me/on-the-hub", member, overwrite=overwrite)
    assert member.is_dir()


def test_an_input_that_is_a_link_counts_where_it_leads(tmp_path, ours):
    (tmp_path / "member").mkdir()
    (tmp_path / "member" / "model.safetensors").symlink_to(ours / "a.txt")
    (tmp_path / "link").symlink_to(ours)
    for given in (tmp_path / "member", str(tmp_path / "link")):
        _refused("holds the input", ours, given)


@pytest.mark.parametrize("overwrite", [False, True])
def test_working_directory_and_home_stay(monkeypatch, tmp_path, overwrite):
    home = tmp_path / "home"
    mark_output(home)
    for path in (home / "here", home, tmp_path, Path("/")):
        _refused("working directory", path, overwrite=overwrite)
    monkeypatch.chdir("/")
    for path in (home, tmp_path):
        _refused("home directory", path, overwrite=overwrite)


def test_what_we_did_not_write_is_not_overwritten(tmp_path, ours):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("precious")
    _refused("was not written by revt", tmp_path / "theirs")
    _refused("exists already", ours, overwrite=False)
    check_output(ours, True)
    (ours / "sub" / "mine.txt").write_text("precious")
    _refused("holds sub/mine.txt", ours)
    (ours / "sub" / "mine.txt").unlink()
    (ours / "sub" / "link").symlink_to(tmp_path / "theirs", target_is_directory=True)
    _refused("holds sub/link", ours)
    mine = '{"format": "revt_hf.output/1"}'
    for marker in ("", "{", "[]", "[" * 5000, '{"format": "other"}', mine):
        (ours / MARKER_FILE).write_text(marker)
        _refused("was not written by revt", ours)


def test_new_and_empty_folders_are_fine_links_stay_links_and_files_are_refused(tmp_path, ours):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name, words in (("file", "not a f"), ("file/below", "cannot write"), ("circle", "not a f")):
        _refused(words, tmp_path / name)
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
    _refused("exists already", folder, overwrite=False, patterns=["maps/*"])
    check_output(folder, True, patterns=["maps/*"])
    (folder / "maps" / "mine.png").write_text("precious")
    _refused(r"maps/mine\.png, which revt did not write", folder, patterns=["maps/*"])


def _file_refused(words, path, *inputs, overwrite=None, **options):
    _refused(words, path, *inputs, check=check_output_file, overwrite=overwrite, **options)


def test_output_files(tmp_path, ours):
    old, out = tmp_path / "old.json", tmp_path / "out"
    old.write_text("{}")
    for path in (None, tmp_path / "new" / "out.json", old, ours / "new.json"):
        check_output_file(path)
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path, "is a folder: name a file"),
        (old / "out.json", "cannot write"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (ours / "a.txt", "lies in the input"),
        (ours / "new.json", "lies in the input"),
    ):
        _file_refused(words, path, ours)
    _file_refused("exists already", old, overwrite=False)
    (tmp_path / "link.json").symlink_to(old)
    _file_refused("is the input", tmp_path / "link.json", old)
    for path in (out / "new.json", out):
        words = r"(lies in|is) the output .*out: choose another"
        _file_refused(words, path, outputs=[None, out])
    check_output_file(tmp_path / "out.json", outputs=[out])


def test_an_output_file_takes_no_file_of_a_model_or_of_an_output(tmp_path, ours):
    model, snapshot = tmp_path / "model", tmp_path / "snapshot"
    mark_output(ours, ["points/*.json"], ["a.txt", "sub/*"])
    for folder in (model, snapshot, ours / "points"):
        folder.mkdir()
    of_model = [model / name for name in ("config.json", "x.bin", "README.md", "recipe.yaml")]
    of_ours = [ours / name for name in ("points/1.json", "run.json")]
    free = [tmp_path / "README.md", model / "mine.json", ours / "mine.json"]
    for path in (*of_model, *of_ours, *free):
        path.write_text("precious")
    of_ours += [ours / name for name in ("a.txt", "sub/b.txt", MARKER_FILE)]
    (snapshot / "config.json").symlink_to(model / "mine.json")
    (tmp_path / "link.json").symlink_to(model / "config.json")
    for folder, paths in (
        (model, [*of_model, tmp_path / "link.json"]),
        (snapshot, [snapshot / "config.json"]),
        (ours, of_ours),
    ):
        for path in paths:
            _file_refused(f"is a file of {folder}: choose another", path, overwrite=True)
    for path in (*free, ours / "new.json"):
        check_output_file(path, overwrite=True)


def test_results_replace_older_results_and_nothing_of_another_kind(tmp_path):
    for name, content in (("a.json", b'\n [{"mIoU": 1}]'), ("b.json", b"{}"), ("c.json", b"")):
        (tmp_path / name).write_bytes(content)
        check_output_file(tmp_path / name)
    for name, content in (("notes.txt", b"years of work"), ("photo.json", b"\x89PNG\r\n")):
        (tmp_path / name).write_bytes(content)
        _file_refused(f"{name} exists already and is not JSON", tmp_path / name)
        _file_refused("pass --overwrite", tmp_path / name, overwrite=False)
        check_output_file(tmp_path / name, overwrite=True)


def test_a_name_of_another_format_is_refused():
    for name in ("sheet.jpg", "sheet", "sheet.png.txt"):
        with pytest.raises(UserError, match=r"sheet.*: PNG is written, .* end in \.png"):
            check_suffix(Path(name), ".png")
    check_suffix(Path("a/SHEET.PNG"), ".png")
    check_suffix(Path("page.htm"), ".html", ".htm")
