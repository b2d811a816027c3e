"""Domains from outside: registered by a decorator, or by the entry points of another package."""

import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from revt_hf.core.errors import DataWarning, UserError
from revt_hf.data.domains import (
    DOMAINS,
    Facts,
    Layout,
    PairedDomain,
    Sharing,
    load_domain,
    opening,
)


class Town(PairedDomain):
    name = "town"
    facts = Facts("real", "CC0-1.0", "nowhere", Sharing("yes", "it is free", "cc0-1.0"))
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


def test_a_domain_of_another_package_is_found_by_name(entry_points, monkeypatch, town, tmp_path):
    monkeypatch.setitem(sys.modules, "town_package", SimpleNamespace(Town=Town))
    asked = entry_points("town_package:Town")
    assert opening.get_domain("gta5").name == "gta5"
    assert asked == []  # nothing of other packages is imported before it is needed
    assert len(load_domain("town", "val", town, cache_dir=tmp_path / "cache")) == 1
    assert list(opening.DOMAINS) == sorted([*DOMAINS.registered, "town"])
    assert len(opening.DOMAINS) == 13 + 1
    assert asked == ["revt_hf.domains"]


def test_a_package_that_is_broken_does_not_stop_the_others(entry_points, monkeypatch):
    monkeypatch.setitem(sys.modules, "town_package", SimpleNamespace(Town=Town))
    entry_points("no_such_package:Village", "town_package:Town")
    with pytest.warns(DataWarning, match=r"cannot load the domain Village from no_such_package"):
        names = list(opening.DOMAINS)
    assert "town" in names
    with pytest.raises(UserError, match=r"unknown domain 'village': use one of .*gta5.*town"):
        opening.get_domain("village")
