"""Mutated files of every kind that a user may write or download: read, or one sentence."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import yaml

from revt_hf.checkpoints.description import read_normalisation
from revt_hf.cli.options import key_values, parse_max_size
from revt_hf.config.network import Model
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import load_recipe
from revt_hf.data.class_mapping import read_mapping
from revt_hf.data.label_space import space_of
from revt_hf.evaluation.predictor import prepare
from revt_hf.evaluation.result import FORMAT, read_results, write_results
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.experiments.graph import build_graph
from revt_hf.experiments.slurm_settings import load_settings
from revt_hf.merging.merge_recipe import load_merge_recipe
from revt_hf.models.load import build_model, load_model
from revt_hf.models.recorded import recorded_protocol, recorded_recipe
from revt_hf.results.figures import build_curves
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.tables import TableOptions, build_tables
from revt_hf.training.saving import image_processor
from tests.helpers.made_up_results import result
from tests.helpers.mutate import (
    COUNT,
    SCALARS,
    cases,
    mutated_bytes,
    mutated_json,
    mutated_text,
    reads_or_refuses,
)
from tests.helpers.networks import saved
from tests.helpers.tiny import TINY

TRAINING = {
    **copy.deepcopy(TINY),
    "more_sources": [{"domain": "folder", "data_dir": "x", "weight": 2.0, "val": "held"}],
    "targets": [{"domain": "streets", "config": "fog", "options": {"size": [64, 128]}}],
}
EXPERIMENT = yaml.safe_load("""
title: tiny
seeds: [0, 1]
members:
  base: {recipe: member.yaml, title: 1 base}
  other: {recipe: member.yaml, set: {augmentation.method: 1}}
merges:
  revt: {members: [base, other], method: weighted_mean, weights: {steps: 4}, recalibrate: 10,
    select: ["blocks:1..3", head]}
ensembles: {both: {members: [base, other], combine: [logits, features]}}
selections: {best: {among: [base, other, revt]}}
evaluate: {protocols: [recipe, {name: own, window: 64, stride: 32}]}
""")
MERGE = yaml.safe_load("""
members: [a, b]
rules: [{select: backbone, method: ties, weights: [1, 2]}]
head: 2
base: c
""")
SLURM = yaml.safe_load("""
{partition: gpu, time: "12:00:00", gpus: "a100:1", cpus: 4, memory: 32G, setup: [module load x],
 extra: [--qos=low], launcher: accelerate launch, train: {gpus: 2, at_once: 3}}
""")
RECORDED = {"model": {"size": "b0"}, "source": {"domain": "streets"}}
PROTOCOL = {"max_size": [64, 32], "window": 64, "stride": 32, "scales": [1.0, 0.5]}
SCORES = {"town/val": 70.0, "fog-1/val": 40.0}
EVALUATIONS = [
    result("members/base/0", SCORES, seed=0),
    result("merges/revt/0", SCORES, kind="merge", seed=0, head="base"),
]
FOG = {f"camvid-fog-{severity}/val": 50.0 - severity for severity in range(1, 6)}
CURVE = result("members/base/0", {"camvid/val": 60.0, **FOG})
for row in CURVE["scores"][1:]:
    row["domain"] = "corruptions"
MAPPING = {"street, way": "road", "house": "building", "air": "sky", "floor": None}
FORMATS = (TableFormat.markdown, TableFormat.latex, TableFormat.csv, TableFormat.html)


def _yaml(content, rng):
    """Damaged as a text, in its values, or in its bytes."""
    values, kind = yaml.safe_load(content), rng.randrange(3)
    if kind == 0:
        return mutated_text(content.decode(), rng).encode("utf-8", "surrogatepass")
    mutated = yaml.safe_dump(mutated_json(values, rng), sort_keys=False)
    mutated = mutated.encode("utf-8", "surrogatepass")
    return mutated if kind == 1 else mutated_bytes(mutated, rng)


def _json(content, rng):
    if rng.random() < 0.7:
        return json.dumps(mutated_json(json.loads(content), rng)).encode()
    return mutated_bytes(content, rng)


def _header(content, rng):
    """The header of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    if rng.random() < 0.5:
        return mutated_bytes(content[:end], rng) + content[end:]
    text = json.dumps(mutated_json(json.loads(content[8:end]), rng)).encode()
    return len(text).to_bytes(8, "little") + text + content[end:]


def _map(path):
    mapping = read_mapping(path)
    mapping.between(space_of([*MAPPING], "the model"), mapping.space)


def _load(path):
    """As a trained model, or as the start of a training."""
    if path.stat().st_size % 5:
        load_model(path.parent)
    else:
        build_model(Model(init=str(path.parent)), 0)


def _prepare(path):
    normalisation, image = read_normalisation(path.parent), np.zeros((32, 32, 3), np.uint8)
    if normalisation is not None:
        assert prepare(image, Protocol(max_size=None), 1.0, normalisation).isfinite().all()


def _tables(path):
    found = read_results([path])
    write_results(path.with_suffix(".copy"), [one.compact() for one in found])
    tables = build_tables(found, TableOptions())
    for one in FORMATS:
        formatted(tables, one)


# File, its content (None: that of a tiny model), how it is damaged, what reads it.
KINDS = {
    "recipe": ("mutated.yaml", TRAINING, _yaml, load_recipe),
    "experiment": ("mutated.yaml", EXPERIMENT, _yaml, lambda p: build_graph(load_experiment(p))),
    "merge": ("mutated.yaml", MERGE, _yaml, load_merge_recipe),
    "mapping": ("mutated.yaml", MAPPING, _yaml, _map),
    "slurm": ("mutated.yaml", SLURM, _yaml, lambda p: load_settings(p, {})),
    "recorded recipes": ("recipe.yaml", RECORDED, _yaml, lambda p: recorded_recipe(p.parent)),
    "records": (
        "merge.json",
        {"evaluation": PROTOCOL},
        _json,
        lambda p: recorded_protocol([p.parent]),
    ),
    "evaluations": ("some.json", {"format": FORMAT, "results": EVALUATIONS}, _json, _tables),
    "curves": (
        "some.json",
        {"format": FORMAT, "results": [CURVE]},
        _json,
        lambda p: build_curves(read_results([p]), None, None),
    ),
    "config.json": ("config.json", None, _json, _load),
    "preprocessor_config.json": ("preprocessor_config.json", None, _json, _prepare),
    "safetensors header": ("model.safetensors", None, _header, _load),
}


@pytest.mark.filterwarnings("ignore::revt_hf.DataWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(tmp_path, kind):
    name, values, damaged, load = KINDS[kind]
    path = tmp_path / name
    (tmp_path / "member.yaml").write_text(yaml.safe_dump(TRAINING))
    if values is None:
        saved(tmp_path)
        image_processor(None, (64, 128)).save_pretrained(tmp_path)
    elif name.endswith("yaml"):
        path.write_text(yaml.safe_dump(values, sort_keys=False))
    else:
        path.write_text(json.dumps(values))
    content = path.read_bytes()
    load(path)
    read = 0
    for rng, where in cases(kind):
        path.write_bytes(damaged(content, rng))
        read += reads_or_refuses(lambda: (load(path),), where) is not None
    # Not everything is refused, nor is everything taken.
    assert 0 < read < COUNT


def test_mutated_overrides(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(TRAINING))
    keys = [f"{section}.{key}" for section, inner in TINY.items() for key in inner]
    keys += ["train.seed", "source.weight", "evaluation.scales", "evaluation", "targets", "a.b", ""]
    for rng, where in cases("--set"):
        override = f"{rng.choice(keys)}={rng.choice(SCALARS)}"
        if rng.random() < 0.3:
            override = mutated_text(override, rng)
        where = f"{where}: {override[:80]!r}"
        reads_or_refuses(partial(load_recipe, path, [override]), where)
        reads_or_refuses(partial(key_values, [override]), where)
        reads_or_refuses(partial(parse_max_size, override.partition("=")[2]), where)
