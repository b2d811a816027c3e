"""What is scored: splits with labels of their own, whose images the network can take."""

import numpy as np
import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec, parse_recipe
from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_domain
from revt_hf.evaluation.loading import check_sizes, too_small
from revt_hf.evaluation.predictor import predict
from revt_hf.evaluation.result import SplitSpec, check_labels, source_splits, splits_of
from revt_hf.models.networks import InputLimits, input_limits
from tests.helpers.image_files import write_pairs
from tests.helpers.networks import NATIVE, tiny_model


def _split(domain, data_dir="data", split="val", config=None, **options):
    spec = DomainSpec(domain=domain, data_dir=data_dir, config=config, options=options)
    return SplitSpec(spec, split, is_source=False)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_split("folder", "one/city"), _split("folder", "two/city")),
        (_split("gta5"), _split("gta5", "other")),
        (_split("folder", encoding="camvid_11"), _split("folder", encoding="train_ids")),
        (_split("mapillary", map="rein"), _split("mapillary", "other", map="rein")),
    ],
)
def test_splits_of_one_label_are_refused_with_both(first, second):
    with pytest.raises(UserError, match=f"'{first.label}'.*{first.spec.data_dir}.*and.*"):
        check_labels([first, second])


def test_maps_and_versions_of_mapillary_have_labels_of_their_own():
    splits = [
        _split("mapillary", config=config, **options)
        for config in (None, "v2.0")
        for options in ({}, {"map": "rein"})
    ]
    names = ["mapillary", "mapillary-rein", "mapillary-v2.0", "mapillary-v2.0-rein"]
    assert [split.label for split in check_labels(splits)] == [f"{name}/val" for name in names]
    assert _split("mapillary", map="dg_standard").label == "mapillary/val"


def test_a_recipes_sources_and_targets_have_labels_of_their_own():
    def recipe(**sections):
        source = {"domain": "folder", "data_dir": "a/city"}
        return parse_recipe({"model": {"size": "b0"}, "source": source, **sections}, "r")

    target = {"domain": "folder", "data_dir": "b/city"}
    with pytest.raises(UserError, match=r"source folder a/city and the target folder b/city"):
        splits_of(recipe(targets=[target]))
    with pytest.raises(UserError, match="two splits are called 'city/val'"):
        source_splits(recipe(more_sources=[{**target, "val": "val"}]).sources)
    assert len(splits_of(recipe(targets=[{**target, "split": "test"}]))) == 2


def _network(**changes):
    config = SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 16, 40, 64], **changes)
    return SegformerForSemanticSegmentation(config).eval()


@pytest.mark.parametrize("changes", [{}, {"sr_ratios": [4, 2, 1, 1]}, {"strides": [8, 2, 2, 2]}])
def test_the_minimum_is_the_smallest_side_that_runs(changes):
    model = _network(**changes)
    smallest = input_limits([model]).minimum
    with torch.inference_mode():
        model(pixel_values=torch.zeros(1, 3, smallest, smallest))
        with pytest.raises(RuntimeError, match="Kernel size"):
            model(pixel_values=torch.zeros(1, 3, smallest - 1, smallest))
    # Of several networks the largest minimum counts.
    assert input_limits([_network()]) == InputLimits(29)
    assert input_limits([_network(), model]).minimum == max(29, smallest)


@pytest.mark.parametrize(
    ("size", "protocol", "minimum", "fits"),
    [
        ((29, 29), NATIVE, 29, True),
        ((28, 400), NATIVE, 29, False),
        ((1, 1), Protocol(), 29, True),  # enlarged to the max size
        ((20, 2000), Protocol(), 29, False),
        ((200, 200), Protocol(max_size=None, window=32, stride=20), 33, False),
        ((60, 60), Protocol(max_size=None, scales=(1.0, 0.4)), 29, False),
    ],
)
def test_what_reaches_the_network_decides(size, protocol, minimum, fits):
    assert (too_small(size, protocol, InputLimits(minimum)) is None) is fits
    if fits:
        found = predict(tiny_model(0), np.full((*size, 3), 90, np.uint8), protocol)
        assert found.shape == size and found.max() < 19


def test_a_split_with_one_such_image_is_refused_by_name(tmp_path):
    sizes = {"good": (64, 64), "thin": (9, 64)}
    images = {
        name: (np.zeros((*s, 3), np.uint8), np.zeros(s, np.uint8)) for name, s in sizes.items()
    }
    write_pairs(tmp_path, "val", images)
    rows = load_domain("folder", "val", tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match=r"x/val: .*thin\.png: 64x9 .*at least 29"):
        check_sizes(rows, "x/val", NATIVE, InputLimits(29))
    check_sizes(rows, "x/val", NATIVE, InputLimits(9))
