"""The drawn streets as a domain: splits, options, and a cache that follows the code."""

import numpy as np
import pytest

from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_domain
from revt_hf.data.domains.streets import UNSEEN_STYLES

OPTIONS = {"images": 3, "val_images": 2, "size": [64, 128]}


@pytest.fixture
def load(tmp_path):
    def run(split="val", config=None, **options):
        return load_domain(
            "streets", split, config=config, options={**OPTIONS, **options}, cache_dir=tmp_path
        )

    return run


def test_splits_have_their_own_number_of_other_scenes(load):
    train, val = load("train"), load("val")
    assert (len(train), len(val)) == (3, 2)
    assert not {row["name"] for row in train} & {row["name"] for row in val}
    assert train[0]["image"].shape == (64, 128, 3)


def test_source_is_the_default_and_unseen_looks_share_its_scenes(load):
    source = load()[0]
    assert source["name"].startswith("source-")
    for style in UNSEEN_STYLES:
        unseen = load(config=style)[0]
        np.testing.assert_array_equal(unseen["label"], source["label"])
        assert not np.array_equal(unseen["image"], source["image"])


def test_another_seed_gives_other_scenes(load):
    assert not np.array_equal(load(seed=1)[0]["label"], load(seed=2)[0]["label"])


def test_a_second_load_reads_the_cache(load, monkeypatch):
    first = load()[1]["image"]

    def fail(*_):
        raise AssertionError("rendered again")

    monkeypatch.setattr("revt_hf.data.domains.streets.builder.render", fail)
    np.testing.assert_array_equal(load()[1]["image"], first)


def test_the_cache_follows_the_code(load, monkeypatch, tmp_path):
    load()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "builder.py").write_text("changed")
    monkeypatch.setattr(
        "revt_hf.data.domains.streets.builder.__file__", str(tmp_path / "code" / "builder.py")
    )

    def white(seed, style, height, width):
        return np.full((height, width, 3), 255, np.uint8), np.zeros((height, width), np.uint8)

    monkeypatch.setattr("revt_hf.data.domains.streets.builder.render", white)
    assert (load()[0]["image"] == 255).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": "sunny"}, "unknown config 'sunny'.*night"),
        ({"split": "test"}, "unknown split 'test'"),
        ({"images": 0}, "images"),
        ({"size": [8, 8]}, "size"),
        ({"colour": "red"}, "options.colour"),
    ],
)
def test_mistakes(load, arguments, words):
    with pytest.raises(UserError, match=words):
        load(**arguments)
