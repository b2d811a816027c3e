"""The registry, and tables whose cache cannot be used: they are built in memory."""

import sys
import warnings
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import DOMAINS, Facts, Layout, PairedDomain, Sharing, load_domain, opening
from tests.helpers.on_disk import CASE


class Town(PairedDomain):
    name = "town"
    facts = Facts("CC0-1.0", "nowhere", Sharing("yes", "it is free", "cc0-1.0"))
    more_splits = ("val",)
    layouts = (Layout("official", "photos/{split}", "masks/{split}", ".png", ".png"),)


class Other(Town):
    """Another class of the same name."""


@pytest.fixture
def registry(monkeypatch):
    """A registry that is as new, with the domains of this package."""
    fresh = opening._Registry(DOMAINS.registered)
    monkeypatch.setattr(opening, "DOMAINS", fresh)
    return fresh


@pytest.fixture
def entry_points(registry, monkeypatch):
    """Installs entry points, and lists the groups that were asked for."""
    asked = []

    def install(*values):
        monkeypatch.setitem(sys.modules, "town_package", SimpleNamespace(Town=Town))
        found = [EntryPoint(value.rpartition(":")[2], value, "revt_hf.domains") for value in values]
        monkeypatch.setattr(opening, "entry_points", lambda group: asked.append(group) or found)
        return asked

    return install


@pytest.fixture
def town(tmp_path):
    for folder, pixels in (("photos", np.full((4, 6, 3), 9)), ("masks", np.full((4, 6), 13))):
        path = tmp_path / "town" / folder / "val" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "town"


def test_a_registered_domain_can_be_loaded(registry, town, tmp_path):
    assert opening.register_domain(Town) is Town
    row = load_domain("town", "val", town, cache_dir=tmp_path / "cache")[0]
    assert (row["name"], row["image"].shape, row["label"][0, 0]) == ("a", (4, 6, 3), 13)
    with pytest.raises(UserError, match=r"unknown split 'train' of town: use val"):
        load_domain("town", "train", town)
    opening.register_domain(Town)  # as notebooks do
    with pytest.raises(UserError, match=r"the domain 'town' exists already \(.*Town\): rename"):
        opening.register_domain(Other)


def test_a_domain_of_another_package_is_found_by_name(entry_points, town, tmp_path):
    asked = entry_points("town_package:Town")
    assert opening.get_domain("gta5").name == "gta5"
    assert asked == []  # nothing of other packages is imported before it is needed
    assert len(load_domain("town", "val", town, cache_dir=tmp_path / "cache")) == 1
    assert list(opening.DOMAINS) == sorted([*DOMAINS.registered, "town"])
    assert len(opening.DOMAINS) == 18 + 1
    assert asked == ["revt_hf.domains"]


def test_a_package_that_is_broken_does_not_stop_the_others(entry_points):
    entry_points("no_such_package:Village", "town_package:Town")
    with pytest.warns(DataWarning, match=r"cannot load the domain Village from no_such_package"):
        names = list(opening.DOMAINS)
    assert "town" in names
    with pytest.raises(UserError, match=r"unknown domain 'village': use one of .*gta5.*town"):
        opening.get_domain("village")


@pytest.fixture
def load(tmp_path):
    case = CASE["folder-default"]
    written = case.write(tmp_path / "data")

    def run(cache=tmp_path / "cache", **more):
        rows = load_domain("folder", "train", tmp_path / "data", cache_dir=cache, **more)
        assert [row["name"] for row in rows] == sorted(written)
        return rows

    return run


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *(("*.arrow", damage) for damage in (b"", bytes(range(256)) * 3, "half", None)),
        *(("dataset_info.json", damage) for damage in (b'{"a', b'{"splits": 3}')),
    ],
)
def test_a_damaged_table_is_built_anew(load, tmp_path, file, damage):
    load()
    (path,) = (tmp_path / "cache").rglob(file)
    whole = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else damage)
    with pytest.warns(DataWarning, match=r"cache.*HF_DATASETS_CACHE"):
        load()


def test_a_cache_that_cannot_be_written(load, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "x"
    with pytest.warns(DataWarning, match=r"file/x cannot be used"):
        load(cache)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"HF_DATASETS_CACHE or TMPDIR"):
        load(cache)
    with pytest.raises(UserError, match=r"HF_DATASETS_CACHE"):
        load(cache, streaming=True)


def test_progress_bars_stay_as_the_caller_has_them(load, tmp_path):
    setters = (datasets.enable_progress_bars, datasets.disable_progress_bars)
    before = datasets.are_progress_bars_disabled()
    try:
        for disabled, setter in enumerate(setters):
            setter()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                load(tmp_path / setter.__name__)
            assert datasets.are_progress_bars_disabled() is bool(disabled)
    finally:
        setters[before]()
