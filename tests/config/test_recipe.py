"""Recipes: what is accepted, what is refused, and with which words."""

import json

import pytest
import yaml

from revt_hf.config.recipe import Recipe, load_recipe, parse_recipe, recipe_schema
from revt_hf.core.errors import UserError
from revt_hf.experiments.experiment_recipe import load_experiment
from tests.helpers.golden import ROOT

MINIMAL = {"model": {"size": "b0"}, "source": {"domain": "streets"}}


def _write(path, text):
    path.write_text(text)
    return path


@pytest.fixture
def minimal(tmp_path):
    return _write(tmp_path / "r.yaml", yaml.safe_dump(MINIMAL))


def test_defaults_are_the_originals_protocol():
    recipe = parse_recipe(MINIMAL, "test")
    assert (recipe.optimizer.lr, recipe.schedule.warmup_steps) == (6e-5, 1500)
    assert (recipe.train.steps, recipe.evaluation.max_size) == (40_000, (1024, 512))


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = parse_recipe({**MINIMAL, "train": {"trackers": ["wandb"]}}, "test")
    assert load_recipe(_write(tmp_path / "r.yaml", recipe.to_yaml())) == recipe


def test_extends_merges_nested_keys_and_the_child_wins(tmp_path):
    _write(tmp_path / "far.yaml", "train: {steps: 5, seed: 7}\nmodel: {size: b1}\n")
    (tmp_path / "sub").mkdir()
    _write(tmp_path / "near.yaml", "extends: far.yaml\ntrain: {steps: 6}\n")
    child = _write(
        tmp_path / "sub" / "child.yaml",
        "extends: [../near.yaml]\nsource: {domain: streets}\nmodel: {size: b2}\n",
    )
    recipe = load_recipe(child)
    assert (recipe.train.steps, recipe.train.seed, recipe.model.size) == (6, 7, "b2")


def test_overrides_come_last_and_are_yaml(minimal):
    overrides = ["train.steps=9", "evaluation.max_size=null", "source.options.size=[64, 128]"]
    recipe = load_recipe(minimal, overrides)
    assert (recipe.train.steps, recipe.evaluation.max_size) == (9, None)
    assert recipe.source.options == {"size": [64, 128]}


WHOLE = "model: {size: b0}\nsource: {domain: a}\n"
TARGET = "targets: [{domain: a, split: dusk}]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{WHOLE}train: {{stepz: 3}}", ["train.stepz", "'steps'"]),
        (f"{WHOLE}foo: 3", ["foo: unknown key", "known keys"]),
        (f"{WHOLE}train: {{steps: many}}", ["train.steps", "many"]),
        (f"{WHOLE}train: {{ema: 1}}", ["train.ema"]),
        (f"{WHOLE}targets: [{{domain: b, splits: x}}]", ["targets.0.splits", "'split'"]),
        ("model: {size: b9}\nsource: {domain: a}", ["model.size", "b9"]),
        ("model: {size: b0}", ["source: required"]),
        ("model: {}\nsource: {domain: a}", ["model: give a size"]),
        ("model: {init: x, size: b0}\nsource: {domain: a}", ["model: the encoder's size"]),
        ("model: {size: b0, head: init}\nsource: {domain: a}", ["head: init needs"]),
        ("model: {size: b0}\nmodel: {size: b1}", ["'model' appears twice"]),
        ("- a\n- b", ["mapping"]),
        ("a: [", ["broken YAML", "line"]),
        ("extends: nowhere.yaml", ["nowhere.yaml", "No such file"]),
        ("extends: 3", ["extends"]),
        ("extends: r.yaml", ["circle"]),
        (
            f"model: {{size: b0}}\nsource: {{domain: a, val: dusk}}\n{TARGET}",
            ["source.val", "dusk"],
        ),
        (
            f"model: {{size: b0}}\nsource: {{domain: a, train: dusk}}\n{TARGET}",
            ["source.train", "dusk", "target"],
        ),
        (
            "model: {size: b0}\nsource: {domain: a, data_dir: $NOT_SET_ANYWHERE/x}",
            ["source.data_dir", "NOT_SET_ANYWHERE"],
        ),
    ],
)
def test_bad_recipes_are_refused_in_one_sentence(tmp_path, text, words):
    path = _write(tmp_path / "r.yaml", text)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in [*words, ".yaml"]), message


BREAKING = {
    "train.seed": [10**26, -1],
    "train.steps": [10**12, "true-ish"],
    "train.workers": [10**6],
    "train.batch_size": [10**9],
    "train.ema": [".nan"],
    "source.weight": [".inf", ".nan", "1e-320"],
    "optimizer.lr": [".nan", ".inf"],
    "optimizer.betas": ["[0.9, 1]"],
    "optimizer.weight_decay": [".inf"],
    "schedule.power": [".inf"],
    "schedule.min_lr": [".nan"],
    "schedule.warmup_steps": [10**30],
    "augmentation.crop": [31, "[512, 16]", 10**6],
    "augmentation.max_size": ["[1000000, 1000000]"],
    "augmentation.pixmix_k": [10**6],
    "augmentation.pixmix_beta": [".inf"],
    "evaluation": ["{window: 1, stride: 1}", "{window: 64, stride: 0}", "{window: 64, stride: 65}"],
    "evaluation.max_size": ["[1000000, 1]"],
    "evaluation.scales": ["[.inf]", "[1.0e-9]"],
    "model.depths": ["[1000000, 1, 1, 1]"],
    "model.hidden_sizes": ["[32, 65, 160, 256]"],
}


@pytest.mark.parametrize("key", BREAKING)
def test_numbers_that_would_break_later_are_refused(minimal, key):
    for value in BREAKING[key]:
        with pytest.raises(UserError, match=key.split(".")[0]):
            load_recipe(minimal, [f"{key}={value}"])


def test_a_mixture_fits_into_memory(minimal):
    overrides = ["train.steps=10000000", "train.batch_size=64"]
    assert load_recipe(minimal, overrides).train.steps == 10**7
    with pytest.raises(UserError, match="mixture"):
        load_recipe(minimal, [*overrides, "more_sources=[{domain: folder}]"])


def test_an_experiment_in_a_recipes_place_is_told_and_the_reverse():
    with pytest.raises(UserError, match="is an experiment, not a training recipe: use revt run"):
        load_recipe(ROOT / "recipes/camvid/paper.yaml")
    with pytest.raises(UserError, match="is a training recipe, not an experiment: use revt train"):
        load_experiment(ROOT / "recipes/camvid/base.yaml")


def test_paths_expand_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_DATA", "/data/x")
    source = {"domain": "folder", "data_dir": "${MY_DATA}/y"}
    recipe = parse_recipe({**MINIMAL, "source": source}, "test")
    assert recipe.source.data_dir == "/data/x/y"


def test_schema_names_every_field_and_is_json():
    schema = json.loads(json.dumps(recipe_schema()))
    assert set(Recipe.model_fields) | {"extends"} == set(schema["properties"])
    assert "warmup_steps" in schema["$defs"]["Schedule"]["properties"]
