"""No two splits that are scored share a label."""

import pytest

from revt_hf.config.recipe import DomainSpec, parse_recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import SplitSpec, check_labels, source_splits, splits_of


def _split(domain, data_dir="data", split="val", config=None, **options):
    spec = DomainSpec(domain=domain, data_dir=data_dir, config=config, options=options)
    return SplitSpec(spec, split, is_source=False)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_split("folder", "one/city"), _split("folder", "two/city")),
        (_split("gta5"), _split("gta5", split="val", data_dir="other")),
        (_split("folder", encoding="camvid_11"), _split("folder", encoding="train_ids")),
        (_split("mapillary", map="rein"), _split("mapillary", "other", map="rein")),
    ],
)
def test_splits_of_one_label_are_refused_with_both(first, second):
    with pytest.raises(UserError, match=f"'{first.label}'.*{first.spec.data_dir}.*and.*"):
        check_labels([first, second])


def test_maps_and_versions_of_mapillary_have_labels_of_their_own():
    splits = [
        _split("mapillary"),
        _split("mapillary", map="rein"),
        _split("mapillary", config="v2.0"),
        _split("mapillary", config="v2.0", map="rein"),
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
