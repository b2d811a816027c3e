"""Every recipe that is shipped can be read."""

import pytest
from conftest import ROOT

from revt_hf.augment import build_pipeline
from revt_hf.domains import get_domain
from revt_hf.recipe import load_recipe
from revt_hf.training.result import pipeline_spec

RECIPES = sorted([*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("revt_hf/demo/recipes/*.yaml")])
# What others extend; alone they lack a model.
PARTS = ("protocol.yaml", "member.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_recipe_is_valid(path, monkeypatch):
    monkeypatch.setenv("CAMVID", "/data/camvid")
    overrides = ["model.start=somewhere"] if path.name in PARTS else []
    recipe = load_recipe(path, overrides)
    get_domain(recipe.source.domain)
    assert build_pipeline(pipeline_spec(recipe.augmentation))


def test_there_are_recipes():
    assert len(RECIPES) >= 8


def test_every_family_has_a_readme():
    families = {path.parent for path in ROOT.glob("recipes/*/*.yaml")}
    assert all((family / "README.md").is_file() for family in families)
