"""Properties of listing files: whatever lies on disk, however named, linked or unreadable."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_domain, open_domain
from revt_hf.data.domains.files import list_files, read_split_file

PROPERTY = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
FEW = settings(PROPERTY, max_examples=12)

# All of Unicode but what a path or UTF-8 cannot hold.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
PARTS = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=12),
    st.text("abc -_é#%,;'\"\\", min_size=1, max_size=6),
).filter(lambda part: not part.startswith("."))
# No folder may have a file's name.
NAMES = st.builds(
    lambda folders, stem: "/".join([*(f"{folder}_" for folder in folders), stem]),
    st.lists(PARTS, max_size=2),
    PARTS,
)
SETS_OF_NAMES = st.lists(NAMES, min_size=1, max_size=8, unique=True)


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@given(SETS_OF_NAMES, st.randoms(use_true_random=False))
@FEW
def test_the_order_of_creation_does_not_matter(names, order):
    with tempfile.TemporaryDirectory() as place:
        contents = []
        for turn in ("first", "second"):
            root = Path(place, turn)
            for name in order.sample(names, len(names)):
                for folder in ("img_dir", "ann_dir"):
                    path = root / folder / "train" / f"{name}.png"
                    write(path)
                    os.utime(path, (1, 1))  # a date is part of the content
            contents.append(open_domain("folder", "train", root).content)
            images = load_domain("folder", "train", root, cache_dir=Path(place, "cache"))
            assert images.with_format(None)["name"][:] == sorted(names)
        assert contents[0] == contents[1]


@given(SETS_OF_NAMES, st.data())
@PROPERTY
def test_links_are_followed_and_hidden_files_left_out(names, data):
    with tempfile.TemporaryDirectory() as place:
        folder, store = Path(place, "folder"), Path(place, "store")
        folder.mkdir()
        store.mkdir()
        for number, name in enumerate(names):
            path = folder / f"{name}.png"
            kind = data.draw(st.sampled_from(["file", "link", "linked folder"]))
            if kind == "file" or (kind == "linked folder" and path.parent == folder):
                write(path)
            elif kind == "link":
                write(store / f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(store / f"{number}.png")
            else:
                top = folder / Path(name).parts[0]
                if not top.exists():
                    (store / f"folder {number}").mkdir()
                    top.symlink_to(store / f"folder {number}")
                write(path)
            if data.draw(st.booleans()):
                write(path.with_name("._hidden.png"))
            if data.draw(st.booleans()) and not path.with_name("dangling").is_symlink():
                path.with_name("dangling").symlink_to(store / "nothing here.png")
        found, _ = list_files(folder)
        assert list(found) == sorted(f"{name}.png" for name in names)
        for path, file in found.items():
            assert (file.path, file.size) == (f"{folder}/{path}", 1)


@pytest.mark.parametrize(
    ("files", "links", "found"),
    [
        (["a.png", ".ipynb_checkpoints/a.png", "city/.thumbnails/b.png"], {}, ["a.png"]),
        (["a/b/x.png"], {"a/b/up": "../..", "a/here": "."}, ["a/b/x.png"]),
        (
            ["one/x.png", "two/y.png"],
            {"one/other": "../two", "two/other": "../one"},
            ["one/other/y.png", "one/x.png", "two/other/x.png", "two/y.png"],
        ),
        # Only links to a folder above lead in circles: here both names are there.
        (["z/x.png"], {"a": "z"}, ["a/x.png", "z/x.png"]),
        # To nothing: to itself, in a circle, through a file, and to what is not there.
        *(
            (["a.png"], {"loop.png": target, "other.png": "loop.png"}, ["a.png"])
            for target in ("loop.png", "other.png", "a.png/b.png", "missing.png")
        ),
    ],
)
def test_links_and_hidden_folders(files, links, found, tmp_path):
    for name in files:
        write(tmp_path / name)
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    assert list(list_files(tmp_path)[0]) == found


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path, monkeypatch):
    """Otherwise its images would be missing without a word."""
    write(tmp_path / "aachen" / "x.png")
    write(tmp_path / "bremen" / "y.png")
    scandir = os.scandir

    def failing(folder):
        if str(folder).endswith("bremen"):
            raise OSError(5, "input/output")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(UserError, match=r"cannot read .*bremen: input/output"):
        list_files(tmp_path)


@given(SETS_OF_NAMES, st.data())
@PROPERTY
def test_split_files_list_what_is_there(names, data):
    """Names as they stand, apart from what a line of text cannot hold."""
    names = [" ".join(name.split()).replace("# ", "#") for name in names]
    fitting = sorted({name for name in names if is_line(name)})
    listed = [name for name in fitting if data.draw(st.booleans())]
    ends = data.draw(st.sampled_from(["\n", "\r\n"]))
    suffix = data.draw(st.sampled_from(["", ".png"]))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "list.txt")
        path.write_bytes(ends.join(["# a comment", "", *(f"{n}{suffix}" for n in listed)]).encode())
        if listed:
            assert read_split_file(path, fitting, ".png") == (listed, [])
        else:
            with pytest.raises(UserError, match="lists nothing"):
                read_split_file(path, fitting, ".png")


def is_line(name):
    return (
        name.splitlines() == [name]
        and name.strip() == name
        and not name.startswith(("#", "\ufeff"))
        and "\\" not in name
    )


def test_names_that_are_not_utf_8(tmp_path):
    """As old archives leave them behind: refused by name, in files and in folders."""
    for number, name in enumerate((b"stra\xdfe.png", b"stra\xdfe/a.png")):
        for folder in ("img_dir", "ann_dir"):
            path = Path(
                os.fsdecode(os.fsencode(tmp_path / str(number) / folder / "val") + b"/" + name)
            )
            write(path)
        with pytest.raises(UserError, match=r"the file name stra.*is not UTF-8: rename it"):
            load_domain("folder", "val", tmp_path / str(number))
