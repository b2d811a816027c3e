"""The experiments that are shipped: all can be read, and the paper's are complete."""

import re
from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.checkpoints.architecture import SIZES as NETWORKS
from revt_hf.checkpoints.names import disk_name, original_name
from revt_hf.experiments.execution import plan_experiment
from revt_hf.experiments.experiment_recipe import load_experiment, member_recipe
from revt_hf.merging.selection import select
from revt_hf.results.published import ROWS
from tests.helpers.recipe_tree import (
    EXPERIMENTS,
    PAPER_EXPERIMENTS,
    RECIPES,
    SIZES,
    SOURCES,
    name_of,
    splits_of_domain,
)

B5 = RECIPES / "gta5" / "b5"
PYRAMIDS = [path for path in PAPER_EXPERIMENTS if path.name == "pyramid.yaml"]


def _tensor_names(size):
    config = SegformerConfig(
        depths=list(NETWORKS[size].depths),
        hidden_sizes=[8] * 4,
        num_attention_heads=[1] * 4,
        decoder_hidden_size=8,
    )
    with torch.device("meta"):
        model = SegformerForSemanticSegmentation(config)
    return sorted(map(disk_name, model.state_dict()))


def _merges(name):
    return load_experiment(B5 / "ablations" / f"{name}.yaml").merges


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_every_experiment_and_its_members_plan(path, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMVID", str(tmp_path / "camvid"))
    monkeypatch.setenv("MOBILENET", "/models/mobilenet")
    experiment = load_experiment(path)
    for name, member in experiment.members.items():
        for seed in experiment.seeds_of(name) if member.recipe else ():
            assert member_recipe(experiment, name, seed).train.seed == seed
    for target in experiment.evaluate.targets or ():
        # A folder's splits are what lies in it.
        if target.options.get("base") != "folder":
            assert target.split in splits_of_domain(target)
    _, rows = plan_experiment(path, tmp_path / "run")
    assert {row["state"] for row in rows} == {"missing"}
    done = set()
    for row in rows:
        assert set(row["needs"]) <= done
        done.add(row["step"])
    built_in = "streets" in path.parts or "demo" in path.parts
    scores = [row for row in rows if row["step"].startswith("results/")]
    assert all(bool(row["note"]) is not built_in for row in scores)
    assert not (tmp_path / "run").exists()


def test_every_size_and_source_has_the_main_table():
    merges = {"revt-1-1-1", "revt-4-4-4", "revt-5-5-5", "revt-6-6-6", "revt-1-4-6", "revt-4-5-6"}
    for source in SOURCES:
        for size in SIZES:
            assert set(load_experiment(RECIPES / source / size / "paper.yaml").merges) == merges


@pytest.mark.parametrize("path", PAPER_EXPERIMENTS, ids=name_of)
def test_members_are_used_and_merges_are_what_their_names_tell(path):
    experiment = load_experiment(path)
    methods = {
        name: member_recipe(experiment, name, None).augmentation.method
        for name in experiment.members
    }
    parts = {**experiment.merges, **experiment.ensembles}
    used = {reference for part in parts.values() for reference in part.members}
    for name, member in experiment.members.items():
        seeds = experiment.seeds_of(name)
        assert name in used or {f"{name}/{seed}" for seed in seeds} <= used
        # A baseline of the paper's table is three networks.
        assert not member.paper or (len(seeds), methods[name]) == (3, 1)
    for name, part in parts.items():
        merged = [methods[reference.partition("/")[0]] for reference in part.members]
        if found := re.match(r"(?:revt|ensemble)-(\d)-(\d)-(\d)", name):
            assert merged == list(map(int, found.groups()))
        assert not part.paper or merged == list(part.paper.methods)


def test_the_papers_rows_have_one_model_each():
    found = []
    for path in PAPER_EXPERIMENTS:
        # What extends the main table has its keys too.
        if path.name != "paper.yaml":
            continue
        experiment = load_experiment(path)
        for part in (*experiment.members.values(), *experiment.merges.values()):
            if part.paper:
                assert path.parent == RECIPES / part.paper.source / part.paper.size
                found.append((part.paper.source, part.paper.size, part.paper.methods))
    assert sorted(found) == sorted((row.source, row.size, row.methods) for row in ROWS)


def test_seeds_are_the_originals():
    assert load_experiment(B5 / "paper.yaml").seeds_of("base") == (12, 13, 14)
    assert load_experiment(B5 / "paper.yaml").seeds_of("pixmix") == (0, 1, 2)
    assert load_experiment(RECIPES / "gta5/b2/paper.yaml").seeds_of("base") == (0, 1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_native_size_is_in_windows_on_b3_only(size):
    evaluate = load_experiment(RECIPES / "gta5" / size / "native.yaml").evaluate
    assert evaluate.protocols == (("slide",) if size == "b3" else ("native",))


@pytest.mark.parametrize("path", PYRAMIDS, ids=name_of)
def test_the_pyramid_goes_through_the_whole_encoder(path):
    assert len(PYRAMIDS) == 4
    experiment = load_experiment(path)
    size = member_recipe(experiment, "base", None).model.init.rpartition("-")[2]
    names = _tensor_names(size)
    selections = experiment.merges["pyramid"].select
    chosen = [len(select(text, names)) for text in selections]
    assert len(selections) == {"b2": 24, "b5": 60}[size] == sum(NETWORKS[size].depths) + 8
    assert chosen == sorted(set(chosen))
    assert select(selections[-1], names) == select("backbone", names)


def test_parts_of_the_network_are_those_of_the_originals_expressions():
    names = _tensor_names("b5")
    expressions = [
        "backbone.*attn.*",
        "backbone.*((block.*mlp.*dwconv)|patch_embed).*",
        "backbone.*block.*mlp.*",
        "backbone.*block.*mlp.*fc.*",
        "backbone.patch_embed.*",
    ]
    parts, norms = _merges("parts-of-the-network"), _merges("norm-layers")
    selections = [
        *parts["layer-types"].select,
        *(merge.select[0] for merge in (parts["network"], parts["head"], norms["norm"])),
    ]
    expressions += [".*", "decode_head.*", ".*norm.*"]
    for text, expression in zip(selections, expressions, strict=True):
        original = [name for name in names if re.match(expression, original_name(name))]
        assert select(text, names) == original
    assert sorted([*select("norm", names), *select(norms["no-norm"].select[0], names)]) == select(
        "backbone", names
    )


def test_head_tensors_are_merged_one_at_a_time():
    names = _tensor_names("b5")
    whole, *single = _merges("head-tensors")["head-tensors"].select
    counts = {"decode_head.batch_norm.num_batches_tracked"}
    chosen = [select(text, names) for text in single]
    assert all(len(found) == 1 for found in chosen)
    assert {found[0] for found in chosen} == set(select(whole, names)) - counts


def test_two_to_seven_members_are_merged_and_put_together():
    experiment = load_experiment(B5 / "ablations" / "number-of-members.yaml")
    for parts in (experiment.merges, experiment.ensembles):
        sets = [part.members for part in parts.values()]
        assert [len(members) for members in sets] == [2, 2, 2, 3, 4, 5, 6, 7]
        assert len(set(sets)) == 8
    assert {ensemble.combine for ensemble in experiment.ensembles.values()} == {
        ("logits", "product", "features")
    }


def test_the_ternary_grid_has_190_points():
    (merge,) = _merges("ternary").values()
    steps = merge.weights.steps
    assert merge.method == "weighted_mean" and len(merge.members) == 3
    assert (steps + 1) * (steps + 2) // 2 == 190


def test_weight_decays_are_the_originals_seven():
    experiment = load_experiment(B5 / "ablations" / "weight-decay.yaml")
    decays = {
        name: member_recipe(experiment, name, 0).optimizer.weight_decay
        for name in experiment.members
    }
    assert list(decays.values()) == [0.1, 0.05, 0.005, 0.001, 0.0005, 0.0001, 0.00005]
    for name, merge in experiment.merges.items():
        decay = name.removeprefix("merge-")
        assert merge.members == (f"decay-{decay}/0", f"decay-{decay}/1")
        assert decays[f"decay-{decay}"] == float(decay)


@pytest.mark.parametrize("source", SOURCES)
def test_the_long_schedule_is_120000_steps_of_the_base_recipe(source):
    experiment = load_experiment(RECIPES / source / "b5" / "ablations" / "schedule-120k.yaml")
    long, base = member_recipe(experiment, "base-120k", 0), RECIPES / source / "b5" / "base.yaml"
    assert long.train.steps == 120_000
    assert Path(experiment.members["base-120k"].recipe).resolve() == base


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", SIZES)
def test_experiments_of_one_size_can_share_an_output_folder(source, size):
    """What has the same name in two files is the same, so that neither undoes the other's work."""
    meanings = {}

    def check(key, meaning):
        assert meanings.setdefault(key, meaning) == meaning, key

    folder = RECIPES / source / size
    for path in PAPER_EXPERIMENTS:
        if folder not in path.parents:
            continue
        experiment = load_experiment(path)
        evaluate = experiment.evaluate
        protocols = [p if isinstance(p, str) else p.name for p in evaluate.protocols]
        for name, member in experiment.members.items():
            check(("member", name), member_recipe(experiment, name, None).model_dump())
            for seed, protocol in product(experiment.seeds_of(name), protocols):
                check(("row of the table", protocol, name, seed), member.title or name)
        for name, part in {**experiment.merges, **experiment.ensembles}.items():
            check(("merge or ensemble", name), part)
        for protocol in protocols:
            check(protocol, (evaluate.targets, evaluate.source, evaluate.cost, evaluate.recipe))
