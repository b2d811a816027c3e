"""Rare class sampling: probabilities as in DAFormer, draws a function of seed and position."""

import logging

import cv2
import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader

from revt_hf.config.recipe import RareClasses
from revt_hf.core.errors import UserError
from revt_hf.data.augment import PipelineSpec, augment, build_pipeline
from revt_hf.data.augment.transforms import WANTED, WANTED_TRIES, RandomCropMaxRatio
from revt_hf.data_tools.prepare import prepare
from revt_hf.speed import training as speed
from revt_hf.training import data as module
from revt_hf.training.data import ClassDraws, TrainingCrops, training_loader
from revt_hf.training.run_folder import newest_checkpoint
from tests.helpers.image_files import write_pairs
from tests.helpers.networks import random_image
from tests.helpers.tiny import NIGHT, run, same_weights, tiny_recipe

NAMES = ["road", "car", "rider", "train", "sky"]
# Pixels of five classes in four images.
COUNTS = np.array([[500, 40, 0, 0, 0], [400, 60, 9, 0, 0], [300, 0, 30, 2, 0], [600, 50, 10, 0, 0]])
HERE = PipelineSpec(method=3, max_size=None, crop=32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _draws(**fields):
    return module._class_draws(COUNTS, RareClasses(**{"min_pixels": 9, **fields}), NAMES, "a/train")


def _probabilities(draws):
    return np.diff(draws.bounds, prepend=0.0)


def test_probabilities_are_the_papers():
    """P(c) = exp((1 - f_c) / T) / sum, over the classes that an image may be drawn for."""
    draws = _draws(temperature=0.1)
    assert draws.classes.tolist() == [0, 1, 2]
    frequencies = np.array([1800, 150, 49]) / 2001
    expected = np.exp((1 - frequencies) / 0.1)
    np.testing.assert_allclose(_probabilities(draws), expected / expected.sum(), rtol=1e-12)
    assert [one.tolist() for one in draws.images] == [[0, 1, 2, 3], [0, 1, 3], [1, 2, 3]]
    assert draws.crop_pixels == 4.5
    # Only differences count: a temperature at which exp(1 / T) overflows has its limits.
    np.testing.assert_allclose(_probabilities(_draws(temperature=1e-6)), [0, 0, 1])
    np.testing.assert_allclose(_probabilities(_draws(temperature=1e6)), np.ones(3) / 3, rtol=1e-5)


def test_daformers_settings_are_the_defaults():
    assert RareClasses() == RareClasses(temperature=0.01, min_pixels=3000, min_crop_ratio=0.5)


def test_classes_are_drawn_by_their_probability_and_images_uniformly():
    draws = _draws(temperature=0.7)
    drawn = np.array([draws.draw(3, position) for position in range(6000)])
    for place, known in enumerate(draws.classes):
        mine = drawn[drawn[:, 0] == known, 1]
        assert len(mine) / 6000 == pytest.approx(_probabilities(draws)[place], abs=0.02)
        images, numbers = np.unique(mine, return_counts=True)
        assert images.tolist() == draws.images[place].tolist()
        np.testing.assert_allclose(numbers / len(mine), 1 / len(images), atol=0.04)
    assert [draws.draw(4, position) for position in range(50)] != drawn[:50].tolist()


@pytest.mark.parametrize(
    "fields", [{"temperature": 0.2}, {"min_pixels": 50}, {"min_crop_ratio": 0.1}]
)
def test_each_field_changes_the_draws(fields):
    usual, other = _draws(temperature=0.5), _draws(**{"temperature": 0.5, **fields})
    drawn = [
        [(*one.draw(0, position), one.crop_pixels) for position in range(100)]
        for one in (usual, other)
    ]
    assert drawn[0] != drawn[1]


def test_what_is_drawn_is_told_the_likeliest_first():
    rider, car, road = (100 * one for one in _probabilities(_draws(temperature=0.1))[::-1])
    listed = (
        f"rider {rider:.1f} % (3 images), car {car:.1f} % (3 images), road {road:.1f} % (4 images)"
    )
    assert _draws(temperature=0.1).listed(NAMES) == listed


def test_a_class_that_no_image_has_enough_of_is_named(caplog):
    with caplog.at_level(logging.WARNING, logger="revt_hf"):
        _draws(min_pixels=10)
        assert "a/train: no image has train.rare_classes.min_pixels (10) pixels of train: " in (
            caplog.text
        )
        caplog.clear()
        _draws(min_pixels=2)
    # The sky does not occur at all.
    assert not caplog.text


def test_no_class_with_enough_pixels_is_refused():
    with pytest.raises(UserError, match=r"min_pixels is 601, .* of a/train .*\(the most is 600 of"):
        _draws(min_pixels=601)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"temperature": 0}, r"train\.rare_classes\.temperature"),
        ({"temperature": -0.01}, r"train\.rare_classes\.temperature"),
        ({"temperature": float("nan")}, r"train\.rare_classes\.temperature"),
        ({"min_pixels": 0}, r"train\.rare_classes\.min_pixels"),
        ({"min_crop_ratio": 1.5}, r"train\.rare_classes\.min_crop_ratio"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        (True, r"train\.rare_classes"),
    ],
)
def test_wrong_values_are_refused(value, words):
    with pytest.raises(UserError, match=words):
        tiny_recipe(train={"rare_classes": value})


def _images(count, first=0):
    """Images of road with a small square of another class, whose id is the image's number."""
    found = []
    for number in range(count):
        label = np.zeros((40, 96), np.uint8)
        label[20:28, 80:88] = first + number + 1
        found.append({"image": random_image(40, 96, number), "label": label})
    return found


def _one_class_each(images, crop_pixels=10.0):
    ids = np.array([row["label"].max() for row in images])
    bounds = np.cumsum(np.ones(len(ids)) / len(ids))
    return ClassDraws(
        ids, bounds / bounds[-1], [np.array([n]) for n in range(len(ids))], crop_pixels
    )


def _crops(seed=0, positions=40):
    images = _images(5)
    rare = [_one_class_each(images)]
    return TrainingCrops([images], [1.0], build_pipeline(HERE), seed, positions, rare)


def _tensors(batches):
    return torch.cat([batch["labels"] for batch in batches])


def test_crops_are_drawn_again_until_they_hold_the_class():
    labels = _tensors(training_loader(_crops(positions=200), 4, 0, 0))
    with_rare = (labels > 0).flatten(1).any(dim=1).float().mean()
    images = _images(5)
    pipeline, once = build_pipeline(HERE), []
    for position in range(200):
        image = images[position % 5]
        once.append((augment(pipeline, image["image"], image["label"], position)["mask"] > 0).any())
    assert np.mean(once) < 0.5
    assert with_rare > 0.9


@pytest.mark.parametrize(
    ("wanted", "windows"), [((1, 64), None), ((1, 65), 1 + WANTED_TRIES), ((0, 1), 1)]
)
def test_a_crop_is_drawn_again_ten_times_at_most(wanted, windows):
    crop = RandomCropMaxRatio(32, 1.0)
    drawn, draw = [], crop._draw
    crop._draw = lambda *size: drawn.append(draw(*size)) or drawn[-1]
    row = _images(1)[0]
    crop.set_random_seed(1)
    result = crop(image=row["image"], mask=row["label"], **{WANTED: wanted})
    held = np.count_nonzero(result["mask"] == wanted[0])
    np.testing.assert_array_equal(result["mask"], row["label"][drawn[-1]])
    if windows is None:
        assert held == 64
        before = [np.count_nonzero(row["label"][window] == 1) for window in drawn[:-1]]
        assert before
        assert max(before) < 64
    else:
        assert len(drawn) == windows


def test_windows_stay_balanced():
    """A window that is drawn for a class is the first balanced one, as without it."""
    crop = RandomCropMaxRatio(10, 0.75, tries=4)
    drawn, draw = [], crop._draw
    crop._draw = lambda *size: drawn.append(draw(*size)) or drawn[-1]
    image = random_image(50, 50, 0)
    crop(image=image, mask=np.zeros((50, 50), np.uint8), **{WANTED: (3, 1)})
    assert len(drawn) == 4 * (1 + WANTED_TRIES)


def test_a_later_start_and_workers_give_the_same_rest():
    whole = _tensors(training_loader(_crops(), 4, 0, 0))
    assert not whole.equal(_tensors(training_loader(_crops(seed=1), 4, 0, 0)))
    assert whole[12:].equal(_tensors(training_loader(_crops(), 4, 0, 12)))
    assert whole.equal(_tensors(training_loader(_crops(), 4, 2, 0)))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(processes):
    alone = _tensors(training_loader(_crops(positions=36), 2 * processes, 0, 0))
    settings = {"num_processes": processes, "put_on_device": False, "even_batches": False}
    shards = [
        list(prepare_data_loader(loader, process_index=index, **settings))
        for index in range(processes)
        for loader in [training_loader(_crops(positions=36), 2, 0, 0)]
    ]
    together = [shard[step] for step in range(len(shards[0])) for shard in shards]
    assert alone.equal(_tensors(together))


def test_each_source_keeps_its_weight_and_draws_its_own_classes():
    sources = [_images(4), _images(3, first=10)]
    rare = [_one_class_each(images) for images in sources]
    whole = PipelineSpec(method=3, max_size=None, crop=None)
    crops = TrainingCrops(sources, [3.0, 1.0], build_pipeline(whole), 0, 1200, rare)
    labels = np.array([int(crops[n]["labels"].max()) for n in range(1200)])
    assert np.mean(labels < 10) == pytest.approx(0.75, abs=0.04)
    assert set(labels) == {1, 2, 3, 4, 11, 12, 13}


RARE = {"rare_classes": {"min_pixels": 40}}


def test_a_run_ends_with_the_same_bits_whatever_its_workers_and_resumed(tmp_path, caplog):
    train = {**RARE, "steps": 4, "checkpoint_every": 2, "keep_checkpoints": 2}
    with caplog.at_level(logging.INFO, logger="revt_hf"):
        usual = run(tmp_path / "usual", tiny_recipe(train=train))
    assert "drawn by class" not in caplog.text
    helped = run(tmp_path / "helped", tiny_recipe(train={**train, "workers": 2}))
    assert same_weights(usual, helped)
    folder = tmp_path / "usual"
    (folder / "model.safetensors").unlink()
    last, step = newest_checkpoint(folder)
    assert step == 4
    last.rename(tmp_path / "last")
    assert same_weights(usual, run(folder, tiny_recipe(train=train), resume=True))
    without = {**train, "rare_classes": None}
    assert not same_weights(usual, run(tmp_path / "without", tiny_recipe(train=without)))


def test_several_sources_in_a_run(tmp_path):
    recipe = tiny_recipe(more_sources=[NIGHT], train=RARE)
    weights = run(tmp_path / "run", recipe)
    assert not same_weights(weights, run(tmp_path / "one", tiny_recipe(train=RARE)))


def test_prepared_images_are_drawn_alike(tmp_path):
    root, rng = tmp_path / "data", np.random.default_rng(0)
    pairs = {
        str(number): (
            rng.integers(0, 256, (97, 203, 3), dtype=np.uint8),
            cv2.resize(rng.integers(0, 19, (5, 9), dtype=np.uint8), (203, 97), None, 0, 0, 0),
        )
        for number in range(6)
    }
    write_pairs(root, "train", pairs)
    source = {"domain": "folder", "data_dir": str(root), "options": {}, "val": "train"}
    usual = run(tmp_path / "a", tiny_recipe(source=source, train=RARE))
    spec = tiny_recipe(source=source).source
    prepare(spec, "train", tmp_path / "small", (160, 80), quiet=True)
    prepared = {**source, "prepared": str(tmp_path / "small")}
    assert same_weights(usual, run(tmp_path / "b", tiny_recipe(source=prepared, train=RARE)))


def test_nothing_is_written_if_no_class_can_be_drawn(tmp_path):
    recipe = tiny_recipe(train={"rare_classes": {"min_pixels": 10**7}})
    with pytest.raises(UserError, match=r"no image of source/train has as many pixels"):
        run(tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_the_timed_loader_draws_them_too(monkeypatch):
    given = []

    class Recorded(TrainingCrops):
        def __init__(self, *arguments):
            given.append(arguments[-1])
            super().__init__(*arguments)

    monkeypatch.setattr(speed, "TrainingCrops", Recorded)
    speed.measure_loaders(tiny_recipe(train=RARE), 0, quiet=True)
    assert given
    assert all(isinstance(draws, ClassDraws) for rare in given for draws in rare)
