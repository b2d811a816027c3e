"""Every training recipe that is shipped can be read, and the paper's are what the paper did."""

from pathlib import Path

import pytest
import yaml

from revt_hf.checkpoints.architecture import SIZES as NETWORKS
from revt_hf.config.recipe import load_recipe
from revt_hf.data.augment import build_pipeline, method
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
    splits_of_domain,
)

METHODS = {"base": 1, "no-photometric": 2, "no-photometric-no-flip": 3}
METHODS |= {"pixmix": 4, "bilateral": 5, "pixmix-bilateral": 6}
GRID = [(source, size, name) for source in SOURCES for size in SIZES for name in METHODS]

FLIP, PHOTOMETRIC, PIXMIX = ("HorizontalFlip", 0.5), ("PhotoMetricDistortion", 1), ("PixMix", 1)
BILATERAL = ("BilateralFilter", 0.5)
# The original's table: what stands between crop and normalisation, with its probability.
STEPS = {
    "base": [FLIP, PHOTOMETRIC],
    "no-photometric": [FLIP],
    "no-photometric-no-flip": [],
    "pixmix": [FLIP, PIXMIX],
    "bilateral": [FLIP, BILATERAL],
    "pixmix-bilateral": [FLIP, BILATERAL, PIXMIX],
}
STEPS_B5 = {**STEPS, "pixmix": [PIXMIX], "bilateral": [BILATERAL, FLIP, PHOTOMETRIC]}
AROUND = {"BoundedResize", "RandomCropMaxRatio", "Normalize", "PadIfNeeded"}


def _paper_recipe(source, size, name):
    return load_recipe(RECIPES / source / size / f"{name}.yaml")


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_the_recipe_is_valid(path, monkeypatch):
    monkeypatch.setenv("CAMVID", "/data/camvid")
    monkeypatch.setenv("MOBILENET", "/models/mobilenet")
    recipe = load_recipe(path)
    read = [(source, split) for source in recipe.sources for split in (source.train, source.val)]
    for spec, split in [*read, *((target, target.split) for target in recipe.targets)]:
        # A folder's splits are what lies in it.
        if spec.domain != "folder":
            assert split in splits_of_domain(spec)
    assert build_pipeline(pipeline_spec(recipe.augmentation))


def test_every_part_is_used(monkeypatch):
    monkeypatch.setenv("CAMVID", "/data/camvid")
    monkeypatch.setenv("MOBILENET", "/models/mobilenet")
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


PROTOCOL = {
    "optimizer": {"lr": 6e-5, "head_lr_factor": 10, "weight_decay": 0.01, "betas": (0.9, 0.999)},
    "schedule": {"power": 1, "min_lr": 0, "warmup_steps": 1500, "warmup_ratio": 1e-6},
    "train": {"steps": 40_000, "batch_size": 2},
    "augmentation": {"max_size": (1280, 720), "crop": 512, "cat_max_ratio": 0.75}
    | {"pixmix_k": 4, "pixmix_beta": 3},
    "model": {"drop_path": 0.1, "dropout": 0.1},
    "evaluation": {"max_size": (1024, 512)},
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_protocol_is_the_originals(source):
    recipe = _paper_recipe(source, "b3", "base")
    for section, values in PROTOCOL.items():
        assert getattr(recipe, section).model_dump().items() >= values.items()
    # Validation while training is on the source.
    assert (recipe.source.domain, recipe.source.val) == (source, "val")
    targets = ["cityscapes", "bdd100k", "mapillary", "acdc", "kitti2015"]
    assert [target.domain for target in recipe.targets] == targets
