"""Recipes and their YAML: what is accepted, what is refused, and with which words."""

import json
import time

import pytest
import yaml

from revt_hf.config.recipe import Recipe, load_recipe, parse_recipe, recipe_schema
from revt_hf.config.yaml_files import apply_override, parse_yaml, read_with_parents
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
    _write(tmp_path / "near.yaml", "extends: far.yaml\ntrain: {steps: 6}\n")
    text = "extends: [../near.yaml]\nsource: {domain: streets}\nmodel: {size: b2}\n"
    (tmp_path / "sub").mkdir()
    child = _write(tmp_path / "sub" / "child.yaml", text)
    recipe = load_recipe(child)
    assert (recipe.train.steps, recipe.train.seed, recipe.model.size) == (6, 7, "b2")


def test_overrides_come_last_and_are_yaml(minimal):
    overrides = ["train.steps=9", "evaluation.max_size=null", "source.options.size=[64, 128]"]
    recipe = load_recipe(minimal, overrides)
    assert (recipe.train.steps, recipe.evaluation.max_size) == (9, None)
    assert recipe.source.options == {"size": [64, 128]}


MODEL = "model: {size: b0}\n"
WHOLE = f"{MODEL}source: {{domain: a}}\n"
TARGET = "targets: [{domain: a, split: dusk}]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{WHOLE}train: {{stepz: 3}}", ["train.stepz", "'steps'"]),
        (f"{WHOLE}foo: 3", ["foo: unknown key", "known keys"]),
        (f"{WHOLE}train: {{steps: many}}", ["train.steps", "many"]),
        (f"{WHOLE}train: {{ema: 1}}", ["train.ema"]),
        (f"{WHOLE}train: {{rare_classes: true}}", ["train.rare_classes", "keys of temperature"]),
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
        (f"{MODEL}source: {{domain: a, val: dusk}}\n{TARGET}", ["source.val", "dusk"]),
        (f"{MODEL}source: {{domain: a, train: dusk}}\n{TARGET}", ["source.train", "target"]),
        (f"{MODEL}source: {{domain: a, data_dir: $UNSET_/x}}", ["source.data_dir", "UNSET_"]),
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
    "train.steps": [10**12, "true-ish", "true"],
    "augmentation.method": ["yes"],
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


def test_paths_expand_variables(monkeypatch):
    monkeypatch.setenv("MY_DATA", "/data/x")
    source = {"domain": "folder", "data_dir": "${MY_DATA}/y"}
    assert parse_recipe({**MINIMAL, "source": source}, "test").source.data_dir == "/data/x/y"


def test_schema_names_every_field_and_is_json():
    schema = json.loads(json.dumps(recipe_schema()))
    assert set(Recipe.model_fields) | {"extends"} == set(schema["properties"])
    assert "warmup_steps" in schema["$defs"]["Schedule"]["properties"]


def _aliases(form):
    """Nine levels, each with nine aliases of the one before: nine to the power of nine values."""
    lines = [form.format(name="a", of=",".join("123456789"))]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(form.format(name=name, of=",".join([f"*{before}"] * 9)))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_aliases("{name}: &{name} [{of}]"), "10000 values"),
        (_aliases("{name}: &{name} {{x: [{of}]}}"), "10000 values"),
        (_aliases("{name}: &{name} {{<<: [{of}]}}"), "10000 values"),
        ("[" * 3000, "nested deeper"),
        ("{a: " * 3000, "nested deeper"),
        ("- " * 3000, "nested deeper"),
        ("&a [*a]", "nested deeper"),
        ("{" + ",".join(f"k{n}: 1" for n in range(40_000)) + "}", "KiB"),
        ("{" + ",".join(f"k{n}: 1" for n in range(20_000)) + "}", "10000 values"),
        ("x" * 300_000, "KiB"),
        ("1" * 100_000, "digits"),
        ("1" + ":1" * 100_000, "digits"),
        ("a: 1\na: 2", "twice"),
        ("{<<: {a: 1}, <<: {a: 2}}", "twice"),
        ("{[1]: 2}", "a key is a word"),
        ("2001-99-99", "does not fit its type"),
        ("!!int x", "does not fit its type"),
        ("!!bool q", "does not fit its type"),
        ("!!float z", "does not fit its type"),
        ("!!timestamp 1", "does not fit its type"),
        ("!!set {a}", "tag"),
        ("!!binary aa", "tag"),
        ("!!python/object:os.system x", "tag"),
        ("a: \0", "special characters"),
        ("\ud800", "special characters"),
        ("a: 1\n---\nb: 1", "another document"),
        ("<<: 3", "merging"),
        ("*nowhere", "undefined alias"),
    ],
)
def test_what_is_refused(text, words):
    since = time.perf_counter()
    with pytest.raises(UserError, match=words) as caught:
        parse_yaml(text)
    # A second by itself; tests run beside others.
    assert time.perf_counter() - since < 5
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 2001-01-01", {"a": "2001-01-01"}),
        ("a: &a {x: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1}, "b": {"x": 1, "y": 2}}),
        ("[1, 1.5, true, null, x]", [1, 1.5, True, None, "x"]),
    ],
)
def test_what_is_read(text, value):
    assert parse_yaml(text) == value


def test_an_override_changes_no_alias():
    values = parse_yaml("a: &a {x: 1}\nb: *a")
    apply_override(values, "a.x=2")
    assert values == {"a": {"x": 2}, "b": {"x": 1}}


@pytest.mark.parametrize(
    "override",
    [
        *("a=2001-99-99", "a=" + "[" * 3000, "a=!!int x", ".".join("a" * 5000) + "=1", "a=\0"),
        *("a", "=3", "a..b=3", "x.y=3"),
    ],
)
def test_overrides_that_are_refused(override):
    with pytest.raises(UserError, match="--set") as caught:
        apply_override({"x": 1}, override)
    assert len(str(caught.value)) < 400


def test_each_extended_file_is_read_once(tmp_path):
    for number in range(20):
        parents = ", ".join([f"{number + 1}.yaml"] * 2)
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{parents}]\nk{number}: {number}\n")
    (tmp_path / "20.yaml").write_text("k20: 20")
    seen = []
    values = read_with_parents(tmp_path / "0.yaml", (), lambda own, _: seen.append(list(own)))
    assert values == {f"k{number}": number for number in range(21)}
    assert len(seen) == 21


def test_too_many_files_are_refused(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    (tmp_path / "wide.yaml").write_text(f"extends: [{', '.join(['x.yaml'] * 40)}]")
    for name, words in (("0.yaml", "more than 32 files"), ("wide.yaml", "at most 32 files")):
        with pytest.raises(UserError, match=words):
            read_with_parents(tmp_path / name)


NO_FILES = ('"a\\0b"', "x" * 5000, ".", "/dev/zero", "loop.yaml")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        *((f"extends: {name}".encode(), "cannot read") for name in NO_FILES),
        *((data, r"recipe\.yaml") for data in (b"a: \xff", b"\xff\xfea\0", b"\x80")),
    ],
)
def test_parents_that_are_no_files_and_other_encodings_are_named(tmp_path, data, words):
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "recipe.yaml").write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_with_parents(tmp_path / "recipe.yaml")
