"""Samples are a function of their position in the run, with one source and with several."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader

from revt_hf.config.recipe import Augmentation, parse_recipe
from revt_hf.core.errors import UserError
from revt_hf.data.augment import PipelineSpec, build_pipeline
from revt_hf.data.domains import load_domain
from revt_hf.evaluation.result import splits_of
from revt_hf.merging.recalibration import RecalibrateOptions, recalibrate, spread_images
from revt_hf.models.networks import InputLimits
from revt_hf.models.recorded import read_metrics
from revt_hf.training.data import TrainingCrops, check_crops, training_loader
from tests.helpers.image_files import write_pairs
from tests.helpers.networks import random_image
from tests.helpers.tiny import NIGHT, TINY, run, same_weights, tiny_recipe

ONE = PipelineSpec(method=6, max_size=None, crop=32)
PLAIN = PipelineSpec(method=3, max_size=None, crop=None)


def _images(count, first=0):
    """Images whose label is their number."""
    return [
        {"image": random_image(40, 48, n), "label": np.full((40, 48), first + n, np.uint8)}
        for n in range(count)
    ]


def _crops(seed=0):
    return TrainingCrops([_images(5)], [1.0], build_pipeline(ONE), seed, positions=40)


def _which(sample):
    return int(sample["labels"][0, 0])


def _drawn(weights, positions=2000, seed=0):
    sources = [_images(4), _images(3, first=10)]
    crops = TrainingCrops(sources, weights, build_pipeline(PLAIN), seed, positions)
    return [_which(crops[n]) for n in range(positions)]


def _pixels(samples):
    return torch.stack([sample["pixel_values"] for sample in samples])


def test_samples_depend_on_seed_and_position_only():
    sample, crops = _crops()[0], _crops()
    kinds = [(tuple(sample[name].shape), sample[name].dtype) for name in ("pixel_values", "labels")]
    assert kinds == [((3, 32, 32), torch.float32), ((32, 32), torch.int64)]
    forwards = _pixels(crops[n] for n in range(8))
    assert forwards.equal(_pixels(crops[n] for n in reversed(range(8))).flip(0))
    assert not forwards.equal(_pixels(_crops(seed=1)[n] for n in range(8)))
    # A later start gives the same rest.
    whole = _pixels(training_loader(crops, 4, 0, first_position=0))
    assert whole[3:].equal(_pixels(training_loader(crops, 4, 0, first_position=12)))


def test_every_epoch_has_all_images_in_another_order_and_other_draws():
    crops = _crops()
    epochs = [[_which(crops[5 * epoch + n]) for n in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    first, second, *_ = (crops[n]["pixel_values"] for n in range(40) if _which(crops[n]) == 3)
    assert not torch.equal(first, second)


def test_what_is_drawn_stays_the_same_from_version_to_version():
    rows, columns = np.mgrid[:40, :48]
    labels = [((7 * rows + 13 * columns + 31 * n) % 200).astype(np.uint8) for n in range(13)]
    images = [{"image": random_image(40, 48, n), "label": label} for n, label in enumerate(labels)]
    spec = PipelineSpec(method=3, max_size=None, crop=32, cat_max_ratio=0.02)
    crops = TrainingCrops([images[:4], images[10:]], [1, 2], build_pipeline(spec), 5, positions=60)
    drawn = np.stack([crops[n]["labels"].numpy().astype(np.uint8) for n in range(60)])
    assert hashlib.sha256(drawn.tobytes()).hexdigest().startswith("2dafd784a18c3fba")


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(processes):
    alone = list(training_loader(_crops(), 2 * processes, 0, first_position=4 * processes))
    settings = {"num_processes": processes, "put_on_device": False, "even_batches": False}
    loaders = [training_loader(_crops(), 2, 0, 4 * processes) for _ in range(processes)]
    shards = [
        list(prepare_data_loader(loader, process_index=index, **settings))
        for index, loader in enumerate(loaders)
    ]
    steps = (40 - 4 * processes) // (2 * processes)
    for step in range(steps):
        together = torch.cat([shard[step]["pixel_values"] for shard in shards])
        assert torch.equal(together, alone[step]["pixel_values"])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A split of two images that have the same size only within a max size, and a thin one."""
    root = tmp_path_factory.mktemp("mixed")
    sizes = {"a": (48, 64), "b": (96, 128), "thin": (20, 90)}
    black = {
        name: (np.zeros((*s, 3), np.uint8), np.zeros(s, np.uint8)) for name, s in sizes.items()
    }
    write_pairs(root, "train", black)
    rows = load_domain("folder", "train", root, cache_dir=root / "cache")
    return [rows.select([0, 1]), rows.select([0, 2])]


WHOLE = {"crop": None, "max_size": None}


@pytest.mark.parametrize(
    ("split", "augmentation", "batch_size", "minimum", "words"),
    [
        (0, {"crop": 40}, 2, 57, r"augmentation\.crop.*at least 57.*not 40"),
        (0, {"crop": (64, 48)}, 2, 57, r"augmentation\.crop.*not 48"),
        (0, WHOLE, 2, 29, r"a\.png \(64x48\).*b\.png \(128x96\)"),
        (1, WHOLE, 2, 29, r"thin\.png: 90x20 pixels"),
        (0, WHOLE, 1, 29, None),
        (0, {"crop": None, "max_size": (64, 48)}, 2, 29, None),
        (1, {"crop": 32}, 2, 29, None),
    ],
)
def test_crops_and_whole_images_that_cannot_be_trained_on(
    mixed, split, augmentation, batch_size, minimum, words
):
    limits = InputLimits(minimum)
    given = ([mixed[split]], Augmentation(**augmentation), batch_size, limits)
    if words is None:
        check_crops(*given)
        return
    with pytest.raises(UserError, match=words):
        check_crops(*given)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.1, 0.9)])
def test_sources_are_drawn_by_weight(weights):
    share = np.mean([label < 10 for label in _drawn(weights)])
    assert abs(share - weights[0] / sum(weights)) < 0.04


def test_each_source_goes_through_all_its_images():
    labels = _drawn((1.0, 1.0))
    for first, count in ((0, 4), (10, 3)):
        mine = [label for label in labels if first <= label < first + count]
        epochs = [mine[n : n + count] for n in range(0, len(mine) - count, count)]
        assert all(len(set(epoch)) == count for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1
    assert _drawn((1.0, 1.0), 50) == labels[:50] != _drawn((1.0, 1.0), 50, seed=1)


def test_the_weight_changes_the_run_and_results_name_each_source(tmp_path):
    recipe = tiny_recipe(more_sources=[NIGHT], train={"validate_every": 3})
    usual = run(tmp_path / "usual", recipe)
    other = tiny_recipe(more_sources=[{**NIGHT, "weight": 50}])
    assert not same_weights(usual, run(tmp_path / "other", other))
    scores = next(row for row in read_metrics(tmp_path / "usual") if "val_mIoU" in row)
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
        scores = recalibrate(tmp_path / "run", output, recipe.sources, recipe.evaluation, options)
        assert [score.label for score in scores] == ["source/val", "night/val"][: number + 1]
        files.append((output / "model.safetensors").read_bytes())
    assert files[0] != files[1]


def test_recalibration_images_are_spread_over_the_split():
    (source,) = tiny_recipe(source={"options": {"images": 9, "size": [64, 128]}}).sources
    rows = spread_images([source], 3)
    assert [row["name"] for row in rows] == [f"source-{scene:08d}" for scene in (0, 4, 8)]
    assert len(spread_images([source], 50)) == 9


AS_TARGET = {"more_sources": [NIGHT], "targets": [{**NIGHT, "split": "val"}]}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (AS_TARGET, r"more_sources\.0\.val is 'val', which is also a target"),
        ({"more_sources": [{**NIGHT, "weight": 0}]}, "more_sources.0.weight"),
        ({"more_sources": [{**NIGHT, "wieght": 1}]}, "did you mean 'weight'"),
    ],
)
def test_no_source_may_be_a_target(sections, words):
    with pytest.raises(UserError, match=words):
        parse_recipe({**TINY, **sections}, "recipe")


@pytest.mark.parametrize(
    ("crop", "side", "words"),
    [(None, None, "squares only"), ((32, 48), None, "squares only"), (48, 32, "of 32 pixels")],
)
def test_crops_of_networks_that_take_squares_only(mixed, crop, side, words):
    limits = InputLimits(16, squares=True, side=side)
    with pytest.raises(UserError, match=words):
        check_crops([mixed[0]], Augmentation(crop=crop), 1, limits)
    check_crops([mixed[0]], Augmentation(crop=side or 48), 1, limits)
