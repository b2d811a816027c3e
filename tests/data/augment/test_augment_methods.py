"""The paper's methods as pipelines: order, fields, seeds; and methods from outside."""

import hashlib
import multiprocessing
import pickle
import re
from types import SimpleNamespace

import albumentations as A
import cv2
import numpy as np
import pytest

from revt_hf.config.recipe import parse_recipe
from revt_hf.core.errors import UserError
from revt_hf.data import augment as methods
from revt_hf.data.augment import (
    METHODS,
    PipelineSpec,
    augment,
    build_pipeline,
    method,
    register_augmentation,
)
from revt_hf.data.domains.streets import render
from revt_hf.data.normalisation import MEAN as IMAGENET_MEAN
from revt_hf.data.normalisation import STD as IMAGENET_STD
from revt_hf.hub.cards import method_name

SMALL = PipelineSpec(max_size=(160, 90), crop=64)
SEEDS = range(12)
NUMBERS = range(1, 7)
START = ["BoundedResize", "RandomCropMaxRatio"]
END = ["Normalize", "PadIfNeeded"]
RECIPE = {"model": {"size": "b0"}, "source": {"domain": "streets"}}
IMAGE, LABEL = render(5, "source", 120, 200)


def _results(seeds=SEEDS, sample=(IMAGE, LABEL), **fields):
    pipeline = build_pipeline(SMALL.model_copy(update=fields))
    return [augment(pipeline, *sample, seed) for seed in seeds]


def _digest(results):
    digest = hashlib.sha256()
    for result in results:
        digest.update(result["image"].tobytes() + result["mask"].tobytes())
    return digest.hexdigest()


def _in_worker(pipeline, seed):
    return _digest([augment(pipeline, IMAGE, LABEL, seed)])


def _names(**fields):
    return [type(t).__name__ for t in build_pipeline(PipelineSpec(**fields)).transforms]


def test_lookup():
    assert {str(method(asked)) for asked in (4, "4", "pixmix")} == {"4 (pixmix)"}
    known = ", ".join(str(method(number)) for number in NUMBERS)
    for unknown in (0, 7, "pix", "", "None"):
        with pytest.raises(UserError, match=re.escape(known)):
            method(unknown)


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"method": 1}, ["HorizontalFlip", "PhotoMetricDistortion"]),
        ({"method": 2}, ["HorizontalFlip"]),
        ({"method": 3}, []),
        ({"method": 4}, ["HorizontalFlip", "PixMix"]),
        ({"method": 5}, ["HorizontalFlip", "BilateralFilter"]),
        ({"method": 6}, ["HorizontalFlip", "BilateralFilter", "PixMix"]),
        (
            {"method": 5, "photometric": True, "flip_first": False},
            ["BilateralFilter", "HorizontalFlip", "PhotoMetricDistortion"],
        ),
        ({"method": 1, "photometric": False}, ["HorizontalFlip"]),
        ({"method": 4, "flip_probability": 0.0}, ["PixMix"]),
        ({"method": 3, "flip_probability": 0.5}, ["HorizontalFlip"]),
        ({"method": 4, "photometric": True}, ["HorizontalFlip", "PhotoMetricDistortion", "PixMix"]),
    ],
)
def test_order_of_steps(fields, steps):
    assert _names(**fields) == [*START, *steps, *END]
    assert _names(**fields, max_size=None, crop=None) == [*steps, "Normalize"]


@pytest.mark.parametrize("number", NUMBERS)
def test_shapes_types_values_and_untouched_inputs(number):
    image, label = IMAGE.copy(), LABEL.copy()
    low, high = (np.subtract(end, IMAGENET_MEAN) / IMAGENET_STD for end in (0, 255))
    for result in _results(method=number, sample=(image, label)):
        assert (result["image"].dtype, result["mask"].dtype) == (np.float32, np.uint8)
        assert (result["image"].shape, result["mask"].shape) == ((64, 64, 3), (64, 64))
        assert set(np.unique(result["mask"])) <= set(np.unique(LABEL))
        assert ((result["image"] >= low - 1e-5) & (result["image"] <= high + 1e-5)).all()
        assert result["image"].std() > 0.2
    _results(method=number, sample=(image, label), max_size=None, crop=None)
    _results(method=number, sample=(image, label[:, :-1]))  # the resize brings them together
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_seed_alone_decides(number):
    pipeline = build_pipeline(SMALL.model_copy(update={"method": number}))
    forward = [augment(pipeline, IMAGE, LABEL, seed) for seed in SEEDS]
    backward = [augment(pipeline, IMAGE, LABEL, seed) for seed in reversed(SEEDS)][::-1]
    assert _digest(forward) == _digest(backward) == _digest(_results(method=number))
    assert len({r["image"].tobytes() for r in forward}) > 8
    assert len(pickle.dumps(pipeline)) < 100_000
    others = [other for other in NUMBERS if other != number]
    assert _digest(forward) not in {_digest(_results(method=other)) for other in others}


def test_spawned_workers_agree():
    pipeline = build_pipeline(SMALL.model_copy(update={"method": 6}))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        remote = pool.starmap(_in_worker, [(pipeline, seed) for seed in SEEDS])
    assert remote == [_in_worker(pipeline, seed) for seed in SEEDS]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "none"}, "unknown augmentation method"),
        ({"max_size": (0, 5)}, "max size 0x5"),
        ({"crop": 0}, "at least 1"),
        ({"crop": (5, -1)}, "at least 1"),
        ({"method": 4, "mixing": "/no/such/folder"}, "no folder"),
        ({"method": 4, "pixmix_k": -1}, "PixMix k"),
        ({"method": 4, "pixmix_beta": 0.0}, "PixMix k"),
        ({"method": 5, "bilateral_diameter": (4, 2)}, "bilateral diameter"),
        ({"method": 5, "bilateral_diameter": (-1, 3)}, "bilateral diameter"),
        ({"max_size": None}, "199x120 pixels for an image of 200x120"),
    ],
)
def test_bad_values_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        _results([0], (IMAGE, LABEL[:, :-1]), **fields)


def test_mixing_folder_mean_and_std_change_the_output(tmp_path):
    cv2.imwrite(str(tmp_path / "white.png"), np.full((64, 64, 3), 255, np.uint8))
    changes = {"mixing": tmp_path, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    for field, value in changes.items():
        assert _digest(_results(method=4, **{field: value})) != _digest(_results(method=4)), field


def test_paper_code_reaches_the_bilateral_filter():
    for paper_code, diameter in ((False, (1, 14)), (True, (0, 14))):
        transforms = build_pipeline(PipelineSpec(method=5, paper_code=paper_code)).transforms
        assert [t.diameter for t in transforms if hasattr(t, "diameter")] == [diameter]


def test_normalisation_of_floats_is_on_0_to_255():
    # PixMix without rounds and with copies left out gives the image itself as float32.
    plain = _results(method=3, crop=None)
    mixed = _results(range(40), method=4, pixmix_k=0, flip_probability=0, crop=None)
    assert any(np.abs(m["image"] - plain[0]["image"]).max() < 1e-5 for m in mixed)


def test_short_images_are_padded_below_and_right():
    image, label = IMAGE[:40, :50], LABEL[:40, :50]
    (result,) = _results([0], (image, label), method=3, max_size=None, crop=64)
    expected = (image - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(result["image"][:40, :50], expected, atol=1e-5)
    np.testing.assert_array_equal(result["mask"][:40, :50], label)
    for padding in (np.s_[40:], np.s_[:, 50:]):
        assert (result["mask"][padding] == 255).all()
        assert (result["image"][padding] == 0).all()


def test_flip_takes_image_and_label():
    results = _results(range(40), method=2, crop=None, max_size=None)
    plain = _results([0], method=3, crop=None, max_size=None)[0]
    flipped = 0
    for result in results:
        mirrored = not np.array_equal(result["mask"], plain["mask"])
        for kind in ("image", "mask"):
            expected = plain[kind][:, ::-1] if mirrored else plain[kind]
            np.testing.assert_array_equal(result[kind], expected)
        flipped += mirrored
    assert 10 < flipped < 30


def test_steps_are_drawn_independently():
    pairs = set()
    pipeline = build_pipeline(SMALL.model_copy(update={"method": 5, "crop": None}))
    for seed in range(40):
        augment(pipeline, IMAGE, LABEL, seed)
        flip, filtered = (bool(t.params) for t in pipeline.transforms[1:3])
        pairs.add((flip, filtered))
    assert len(pairs) == 4


@pytest.fixture
def own_method(monkeypatch):
    """Registers a method from outside: built-in steps in another order, and a transform."""
    monkeypatch.setattr(methods, "METHODS", dict(METHODS))

    def register(name="own"):
        @register_augmentation(name)
        def own():
            return ["bilateral", A.InvertImg(p=1.0), "flip"]

    return register


def test_a_registered_method_is_named_by_a_recipe(own_method):
    recipe = parse_recipe({**RECIPE, "augmentation": {"method": "own"}}, "recipe")
    assert method_name(recipe) == "own"  # a card may name a method registered elsewhere only
    own_method()
    own = ["BilateralFilter", "InvertImg"]
    assert _names(**recipe.augmentation.model_dump()) == [*START, *own, "HorizontalFlip", *END]
    settings = {"method": "own", "flip_probability": 0.0, "photometric": True}
    assert _names(**settings) == [*START, *own, "PhotoMetricDistortion", *END]
    inverted = _results(method="own", bilateral_probability=0.0, flip_probability=0.0)
    plain = _results(method=3)
    total = inverted[0]["image"] + plain[0]["image"]
    expected = (255 - 2 * np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(total, np.broadcast_to(expected, total.shape), atol=1e-4)
    assert method_name(recipe) == "own"


@pytest.mark.parametrize("name", ["pixmix", "4", "own"])
def test_a_name_is_taken_once(own_method, name):
    own_method()
    own_method()  # as when a notebook's cell runs again
    with pytest.raises(UserError, match=f"'{name}' exists already"):
        register_augmentation(name)(list)


def test_an_unknown_step_is_refused(own_method):
    register_augmentation("wrong")(lambda: ["flip", "blur"])
    with pytest.raises(UserError, match="'wrong': 'blur' is neither a built-in step"):
        build_pipeline(PipelineSpec(method="wrong"))


def test_methods_of_another_package_are_found_by_their_name(own_method, monkeypatch):
    def broken():
        raise ImportError("no torch")

    entry = SimpleNamespace(name="own", value="package:own", load=broken)

    def entry_points(group, name):
        return [entry] if (group, name) == ("revt_hf.augmentations", "own") else []

    monkeypatch.setattr(methods, "entry_points", entry_points)
    with pytest.raises(UserError, match="method own from package:own: no torch"):
        method("own")
    entry.load = own_method
    assert method("own").name == "own"
    with pytest.raises(UserError, match="unknown augmentation method 'other'"):
        method("other")
