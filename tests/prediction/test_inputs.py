"""What is predicted on, and that no two inputs share a name."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.prediction.inputs import find_inputs, unique_names


def _names(*files):
    return unique_names([PurePosixPath(file) for file in files])


def _touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


def _found(*places, output="out"):
    return {str(item.path): item.name for item in find_inputs(places, Path(output))[0]}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b/a.jpg"], ["a", "b/a"]),
        (["a.png", "a.jpg", "b.png"], ["a.png", "a.jpg", "b"]),
        (["a.png", "A.png"], ["a.png", "A.png-2"]),
        (["a.png", "a.png"], ["a.png", "a.png-2"]),
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg-2"]),
        # The frames of a video have a folder of its name.
        (["a.mp4", "a/000000.png"], ["a.mp4", "a/000000"]),
        (["a.mp4", "a/0.png", "a.mp4/0.png"], ["a.mp4-2", "a/0", "a.mp4/0"]),
        (["frame.0001.png", "frame.0002.png"], ["frame.0001", "frame.0002"]),
    ],
)
def test_names_are_the_files_own_where_that_is_unique(files, names):
    assert _names(*files) == names


@given(st.lists(st.lists(st.sampled_from(["a", "A", "a.jpg", "a-2", "b"]), min_size=1, max_size=3)))
def test_no_name_is_another_one_or_its_folder(files):
    names = [PurePosixPath(name.casefold()) for name in _names(*("/".join(f) for f in files))]
    assert len(names) == len(files) == len(set(names))
    assert not {parent for name in names for parent in name.parents} & set(names)


def test_folders_are_searched_with_all_that_is_in_them(tmp_path):
    files = ("b.JPG", "a/x.png", "a/drive.mp4", "notes.txt", ".hidden.png", "a/x.json")
    # Links are images of their own name, and results of an earlier run are no inputs.
    _touch(tmp_path / "in", *files, "out/maps/a.png", "outer/b.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "in" / "a" / "x.png")
    found, _ = find_inputs([tmp_path / "in"], tmp_path / "in" / "out")
    videos = {"a/drive": True, "a/x": False, "b": False, "link": False, "outer/b": False}
    assert {item.name: item.is_video for item in found} == videos


def test_of_several_paths_folders_keep_their_names(tmp_path, monkeypatch):
    _touch(tmp_path, "day/0.png", "day/1.png", "night/0.png", "more/one.xyz")
    day, night, one = tmp_path / "day", tmp_path / "night", tmp_path / "more" / "one.xyz"
    assert list(_found(day, night, one).values()) == ["day/0", "day/1", "night/0", "one"]
    assert list(_found(day).values()) == ["0", "1"]
    # What is named twice is taken once.
    assert list(_found(day / "0.png", day).values()) == ["0", "day/1"]
    monkeypatch.chdir(tmp_path)
    assert list(_found(Path("day"), day).values()) == ["day/0", "day/1"]


def test_images_of_other_formats_are_named(tmp_path):
    _touch(tmp_path, "in/a.jfif", "in/b.GIF", "in/c.HEIC", "in/raw/d.nef", "in/notes.txt")
    with pytest.warns(DataWarning) as said:
        found, left_out = find_inputs([tmp_path / "in"], tmp_path / "out")
    assert [item.name for item in found] == ["a", "b"]
    assert left_out == {}
    names = ", ".join(str(tmp_path / "in" / name) for name in ("c.HEIC", "raw/d.nef"))
    assert [str(one.message) for one in said] == [f"not taken (save them as PNG or JPEG): {names}"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere", "nowhere: there is no such file or folder"),
        ("empty", "empty holds no images or videos (avi, avif, bmp"),
        ("model", "model is a model, not a folder of images: name it without --input"),
        ("out", "out is or holds the input"),
        ("out/a.png", "out is or holds the input"),
    ],
)
def test_places_that_cannot_be_used(tmp_path, place, words):
    _touch(tmp_path, "empty/notes.txt", "model/config.json", "out/a.png")
    with pytest.raises(UserError) as refusal:
        find_inputs([tmp_path / place], tmp_path / "out")
    assert words in str(refusal.value)
