"""Mutated recipes, overrides, experiments, merge recipes and Slurm settings: read or refused."""

import copy
from functools import partial

import pytest
import yaml

from revt_hf.cli.options import key_values, parse_max_size
from revt_hf.config.recipe import load_recipe
from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.experiments.graph import build_graph
from revt_hf.experiments.slurm_settings import load_settings
from revt_hf.merging.merge_recipe import load_merge_recipe
from tests.helpers.mutate import SCALARS, cases, mutated_json, mutated_text, reads_or_refuses
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


def _graph(path):
    return build_graph(load_experiment(path))


@pytest.mark.parametrize(
    ("values", "load"),
    [
        (TRAINING, load_recipe),
        (EXPERIMENT, _graph),
        (MERGE, load_merge_recipe),
        (SLURM, lambda path: load_settings(path, {})),
    ],
    ids=["recipe", "experiment", "merge", "slurm"],
)
def test_mutated_files(tmp_path, request, values, load):
    (tmp_path / "member.yaml").write_text(yaml.safe_dump(TRAINING))
    path = tmp_path / "mutated.yaml"
    text = yaml.safe_dump(values, sort_keys=False)
    path.write_text(text)
    load(path)
    for rng, where in cases(request.node.callspec.id):
        if rng.random() < 0.5:
            mutated = mutated_text(text, rng)
        else:
            mutated = yaml.safe_dump(mutated_json(values, rng), sort_keys=False)
        path.write_bytes(mutated.encode("utf-8", "surrogatepass"))
        reads_or_refuses(lambda: load(path), where)


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
