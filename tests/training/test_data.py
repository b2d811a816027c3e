"""Samples are a function of their position in the run, whoever loads them."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from PIL import Image

from revt_hf.config.recipe import Augmentation
from revt_hf.core.errors import UserError
from revt_hf.data.augment import PipelineSpec, build_pipeline
from revt_hf.data.domains import load_domain
from revt_hf.training.data import TrainingCrops, check_crops, training_loader


def _images(count):
    """Images that tell which one they are by their label."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (40, 48, 3), dtype=np.uint8),
            "label": np.full((40, 48), index, np.uint8),
        }
        for index in range(count)
    ]


def _crops(seed=0, count=5, positions=40):
    spec = PipelineSpec(method=6, max_size=None, crop=32)
    return TrainingCrops([_images(count)], [1.0], build_pipeline(spec), seed, positions)


def _which(sample):
    return int(sample["labels"][0, 0])


def test_shapes_and_types():
    sample = _crops()[0]
    assert sample["pixel_values"].shape == (3, 32, 32)
    assert sample["pixel_values"].dtype == torch.float32
    assert sample["labels"].shape == (32, 32)
    assert sample["labels"].dtype == torch.int64


def test_the_order_of_asking_does_not_matter():
    crops = _crops()
    forwards = [crops[n]["pixel_values"] for n in range(8)]
    backwards = [crops[n]["pixel_values"] for n in reversed(range(8))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_every_epoch_has_all_images_in_another_order_and_other_draws():
    crops = _crops()
    epochs = [[_which(crops[5 * epoch + n]) for n in range(5)] for epoch in range(6)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    same = [n for n in range(40) if _which(crops[n]) == 3]
    first, second = (crops[n]["pixel_values"] for n in same[:2])
    assert not torch.equal(first, second)


def test_the_seed_decides():
    one, again, other = _crops(1)[7], _crops(1)[7], _crops(2)[7]
    assert torch.equal(one["pixel_values"], again["pixel_values"])
    assert not torch.equal(one["pixel_values"], other["pixel_values"])


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(processes):
    alone = list(training_loader(_crops(), 2 * processes, 0, first_position=4 * processes))
    shards = [
        list(
            prepare_data_loader(
                training_loader(_crops(), 2, 0, first_position=4 * processes),
                num_processes=processes,
                process_index=index,
                put_on_device=False,
                even_batches=False,
            )
        )
        for index in range(processes)
    ]
    steps = (40 - 4 * processes) // (2 * processes)
    for step in range(steps):
        together = torch.cat([shard[step]["pixel_values"] for shard in shards])
        assert torch.equal(together, alone[step]["pixel_values"])


def test_a_later_start_gives_the_same_rest():
    whole = list(training_loader(_crops(), 4, 0, first_position=0))
    rest = list(training_loader(_crops(), 4, 0, first_position=12))
    assert len(rest) == len(whole) - 3
    assert all(
        torch.equal(a["pixel_values"], b["pixel_values"])
        for a, b in zip(whole[3:], rest, strict=True)
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A split of two images that have the same size only within a max_size, and a thin one."""
    root = tmp_path_factory.mktemp("mixed")
    for kind, mode in (("img_dir", "RGB"), ("ann_dir", "L")):
        (root / kind / "train").mkdir(parents=True)
        for name, size in (("a", (64, 48)), ("b", (128, 96)), ("thin", (90, 20))):
            Image.new(mode, size).save(root / kind / "train" / f"{name}.png")
    rows = load_domain("folder", "train", root, cache_dir=root / "cache")
    return [rows.select([0, 1]), rows.select([0, 2])]


@pytest.mark.parametrize(
    ("split", "augmentation", "minimum", "words"),
    [
        (0, {"crop": 40}, 57, r"augmentation\.crop.*at least 57.*not 40"),
        (0, {"crop": (64, 48)}, 57, r"augmentation\.crop.*not 48"),
        (0, {"crop": None, "max_size": None}, 29, r"a\.png \(64x48\).*b\.png \(128x96\)"),
        (1, {"crop": None, "max_size": None}, 29, r"thin\.png: 90x20 pixels"),
    ],
)
def test_crops_and_whole_images_that_cannot_be_trained_on(
    mixed, split, augmentation, minimum, words
):
    with pytest.raises(UserError, match=words):
        check_crops([mixed[split]], Augmentation(**augmentation), 2, minimum)


def test_whole_images_that_can_be_trained_on(mixed):
    whole = {"crop": None, "max_size": None}
    check_crops([mixed[0]], Augmentation(**whole), 1, 29)
    check_crops([mixed[0]], Augmentation(crop=None, max_size=(64, 48)), 2, 29)
    check_crops([mixed[1]], Augmentation(crop=32), 2, 29)
