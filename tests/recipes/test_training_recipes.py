"""Every training recipe that is shipped can be read, and the paper's are what the paper did."""

from pathlib import Path

import pytest
import yaml

from revt_hf.checkpoints.architecture import SIZES as NETWORKS
from revt_hf.config.recipe import load_recipe
from revt_hf.data.augment import build_pipeline, method
from revt_hf.data.domains import checked_options, get_domain
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.training.data import pipeline_spec
from tests.helpers.recipe_tree import (
    EXPERIMENTS,
    FILES,
    PARTS,
    RECIPES,
    SIZES,
    SOURCES,
    TRAINING,
    name_of,
)

METHODS = {
    "base": 1,
    "no-photometric": 2,
    "no-photometric-no-flip": 3,
    "pixmix": 4,
    "bilateral": 5,
    "pixmix-bilateral": 6,
}
GRID = [(source, size, name) for source in SOURCES for size in SIZES for name in METHODS]

# The original's table: what stands between crop and normalisation, with its probability.
STEPS = {
    "base": [("HorizontalFlip", 0.5), ("PhotoMetricDistortion", 1)],
    "no-photometric": [("HorizontalFlip", 0.5)],
    "no-photometric-no-flip": [],
    "pixmix": [("HorizontalFlip", 0.5), ("PixMix", 1)],
    "bilateral": [("HorizontalFlip", 0.5), ("BilateralFilter", 0.5)],
    "pixmix-bilateral": [("HorizontalFlip", 0.5), ("BilateralFilter", 0.5), ("PixMix", 1)],
}
STEPS_B5 = {
    **STEPS,
    "pixmix": [("PixMix", 1)],
    "bilateral": [
        ("BilateralFilter", 0.5),
        ("HorizontalFlip", 0.5),
        ("PhotoMetricDistortion", 1),
    ],
}
AROUND = {"BoundedResize", "RandomCropMaxRatio", "Normalize", "PadIfNeeded"}


def _paper_recipe(source, size, name):
    return load_recipe(RECIPES / source / size / f"{name}.yaml")


def _check_split(spec, split):
    domain = get_domain(spec.domain)
    options = checked_options(domain, spec.options)
    config = domain.chosen_config(spec.config)
    # A folder's splits are what lies in it.
    if domain.name != "folder":
        assert split in domain.splits(None, config, options)


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_the_recipe_is_valid(path, monkeypatch):
    monkeypatch.setenv("CAMVID", "/data/camvid")
    recipe = load_recipe(path)
    for source in recipe.sources:
        _check_split(source, source.train)
        _check_split(source, source.val)
    for target in recipe.targets:
        _check_split(target, target.split)
    assert build_pipeline(pipeline_spec(recipe.augmentation))


def test_every_part_is_used(monkeypatch):
    monkeypatch.setenv("CAMVID", "/data/camvid")
    used = set()
    for path in FILES:
        parents = yaml.safe_load(path.read_text()).get("extends", [])
        names = [parents] if isinstance(parents, str) else parents
        used.update((path.parent / name).resolve() for name in names)
    for path in EXPERIMENTS:
        members = load_experiment(path).members.values()
        used.update(Path(member.recipe).resolve() for member in members if member.recipe)
    assert {path.resolve() for path in PARTS} <= used


@pytest.mark.parametrize(("source", "size", "name"), GRID)
def test_a_recipe_differs_from_its_neighbours_in_size_source_and_method_only(source, size, name):
    values = _paper_recipe("gta5", "b2", "base").model_dump()
    values["model"] |= {
        "init": f"nvidia/mit-{size}",
        "decoder_hidden_size": NETWORKS[size].decoder_hidden_size,
    }
    values["source"] |= {"domain": source, "data_dir": f"data/{source}"}
    values["augmentation"]["method"] = METHODS[name]
    if size == "b5" and name == "pixmix":
        values["augmentation"]["flip_probability"] = 0
    if size == "b5" and name == "bilateral":
        values["augmentation"] |= {"flip_first": False, "photometric": True}
    assert _paper_recipe(source, size, name).model_dump() == values


@pytest.mark.parametrize(("source", "size", "name"), GRID)
def test_the_augmentation_is_that_of_the_originals_table(source, size, name):
    recipe = _paper_recipe(source, size, name)
    pipeline = build_pipeline(pipeline_spec(recipe.augmentation))
    steps = [(type(t).__name__, t.p) for t in pipeline if type(t).__name__ not in AROUND]
    assert steps == (STEPS_B5 if size == "b5" else STEPS)[name]
    assert method(recipe.augmentation.method).name == name


def test_no_method_stands_twice_or_is_left_out():
    files = {path for path in TRAINING if path.relative_to(path.parents[2]).parts[0] in SOURCES}
    expected = {RECIPES / source / size / f"{name}.yaml" for source, size, name in GRID}
    assert files == expected


def test_the_protocol_is_the_originals():
    recipe = _paper_recipe("synthia", "b3", "base")
    optimizer = {"lr": 6e-5, "head_lr_factor": 10, "weight_decay": 0.01, "betas": (0.9, 0.999)}
    assert recipe.optimizer.model_dump() == optimizer
    schedule = {"power": 1, "min_lr": 0, "warmup_steps": 1500, "warmup_ratio": 1e-6}
    assert recipe.schedule.model_dump() == schedule
    assert (recipe.train.steps, recipe.train.batch_size) == (40_000, 2)
    augmentation = recipe.augmentation
    assert (augmentation.max_size, augmentation.crop) == ((1280, 720), 512)
    assert augmentation.cat_max_ratio == 0.75
    assert (augmentation.pixmix_k, augmentation.pixmix_beta) == (4, 3)
    assert (recipe.model.drop_path, recipe.model.dropout) == (0.1, 0.1)
    assert recipe.evaluation.max_size == (1024, 512)
    targets = ["cityscapes", "bdd100k", "mapillary", "acdc", "kitti2015"]
    for source in SOURCES:
        recipe = _paper_recipe(source, "b5", "base")
        # Validation while training is on the source.
        assert (recipe.source.domain, recipe.source.val) == (source, "val")
        assert [target.domain for target in recipe.targets] == targets
