"""Training on several sources: draws by weight, validation on each, results that name each."""

import json
from collections import Counter

import numpy as np
import pytest

from revt_hf.config.recipe import parse_recipe
from revt_hf.core.errors import UserError
from revt_hf.data.augment import PipelineSpec, build_pipeline
from revt_hf.evaluation.splits import splits_of
from revt_hf.merging.recalibration import (
    RecalibrateOptions,
    recalibrate_on_sources,
    spread_images,
)
from revt_hf.training.data import TrainingCrops
from tests.helpers.tiny import TINY, run, same_weights, tiny_recipe


def _images(count, first):
    return [
        {
            "image": np.full((32, 32, 3), 9, np.uint8),
            "label": np.full((32, 32), first + number, np.uint8),
        }
        for number in range(count)
    ]


def _drawn(weights, positions=2000, seed=0, counts=(4, 3)):
    spec = PipelineSpec(method=3, max_size=None, crop=None)
    sources = [_images(counts[0], 0), _images(counts[1], 10)]
    crops = TrainingCrops(sources, weights, build_pipeline(spec), seed, positions)
    return [int(crops[n]["labels"][0, 0]) for n in range(positions)]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.1, 0.9)])
def test_sources_are_drawn_by_weight(weights):
    labels = _drawn(weights)
    share = np.mean([label < 10 for label in labels])
    assert abs(share - weights[0] / sum(weights)) < 0.04


def test_each_source_goes_through_all_its_images():
    labels = _drawn((1.0, 1.0))
    for first, count in ((0, 4), (10, 3)):
        mine = [label for label in labels if first <= label < first + count]
        epochs = [mine[n : n + count] for n in range(0, len(mine) - count, count)]
        assert all(len(set(epoch)) == count for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_seed_decides_and_the_length_does_not():
    assert _drawn((1.0, 1.0), 50) == _drawn((1.0, 1.0), 2000)[:50]
    assert _drawn((1.0, 1.0), 50) != _drawn((1.0, 1.0), 50, seed=1)


NIGHT = {**TINY["source"], "config": "night"}


def test_the_weight_changes_the_run(tmp_path):
    usual = run(tmp_path / "a", tiny_recipe(more_sources=[NIGHT]))
    again = run(tmp_path / "b", tiny_recipe(more_sources=[NIGHT]))
    other = run(tmp_path / "c", tiny_recipe(more_sources=[{**NIGHT, "weight": 50}]))
    assert same_weights(usual, again)
    assert not same_weights(usual, other)


def test_validation_and_results_name_each_source(tmp_path):
    recipe = tiny_recipe(more_sources=[NIGHT], train={"validate_every": 3})
    run(tmp_path / "run", recipe)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    scores = next(line for line in lines if "val_mIoU" in line)
    each = [scores["val_mIoU of source/val"], scores["val_mIoU of night/val"]]
    assert scores["val_mIoU"] == pytest.approx(sum(each) / 2)
    labels = Counter((split.label, split.is_source) for split in splits_of(recipe))
    assert labels == {("source/val", True): 1, ("night/val", True): 1}


def test_recalibration_uses_all_sources(tmp_path):
    run(tmp_path / "run", tiny_recipe())
    files = []
    for number, sources in enumerate(([], [NIGHT])):
        recipe = tiny_recipe(more_sources=sources)
        output = tmp_path / f"r{number}"
        options = RecalibrateOptions(images=4)
        scores = recalibrate_on_sources(
            tmp_path / "run", output, recipe.sources, recipe.evaluation, options
        )
        assert [score.label for score in scores] == ["source/val", "night/val"][: number + 1]
        files.append((output / "model.safetensors").read_bytes())
    assert files[0] != files[1]


def test_no_source_may_be_a_target():
    values = {
        **TINY,
        "more_sources": [NIGHT],
        "targets": [{**NIGHT, "split": "val"}],
    }
    with pytest.raises(UserError, match=r"more_sources\.0\.val is 'val', which is also a target"):
        parse_recipe(values, "recipe")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"weight": 0}, "more_sources.0.weight"), ({"wieght": 1}, "did you mean 'weight'")],
)
def test_mistakes(change, words):
    with pytest.raises(UserError, match=words):
        tiny_recipe(more_sources=[{**NIGHT, **change}])


def test_recalibration_images_are_spread_over_the_split():
    (source,) = tiny_recipe(source={"options": {"images": 9, "size": [64, 128]}}).sources
    rows = spread_images([source], 3)
    assert [row["name"] for row in rows] == [f"source-{scene:08d}" for scene in (0, 4, 8)]
    assert len(spread_images([source], 50)) == 9
