"""A run: what it writes, and that its result is an ordinary Hugging Face model."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, SegformerForSemanticSegmentation, pipeline
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import load_recipe
from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_spec
from revt_hf.data.labels import CLASSES
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation.predictor import predict
from revt_hf.models.load import load_model
from revt_hf.models.recorded import read_metrics
from revt_hf.training.loop import TrainOptions, train
from tests.helpers.tiny import NO_SIZES, run, same_weights, tiny_recipe

LABELS = {"encoding": "train_ids"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    recipe = tiny_recipe(train={"steps": 4, "validate_every": 2})
    run(folder, recipe)
    return folder, recipe


def test_the_result_loads_everywhere(trained):
    folder, recipe = trained
    model, report = SegformerForSemanticSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert [model.config.id2label[i] for i in range(19)] == list(CLASSES)
    assert AutoImageProcessor.from_pretrained(folder).do_normalize
    # The pipeline gives our class map.
    image = load_spec(recipe.source, "val")[0]["image"]
    ours = predict(load_model(folder), image, Protocol(max_size=recipe.evaluation.max_size))
    theirs = np.full_like(ours, 255)
    for part in pipeline("image-segmentation", model=str(folder))(Image.fromarray(image)):
        theirs[np.asarray(part["mask"]) > 0] = CLASSES.index(part["label"])
    assert (ours == theirs).mean() > 0.999


def test_the_recipe_and_metrics_stand_beside_the_result(trained, tmp_path):
    assert load_recipe(trained[0] / "recipe.yaml") == trained[1]
    rows = [row for row in read_metrics(trained[0]) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["images_per_second"] > 0 and row["lr"] > 0 for row in rows)
    run(tmp_path / "run", tiny_recipe(train={"steps": 4, "log_every": 2}))
    fine, coarse = ([row["loss"] for row in r] for r in (rows, read_metrics(tmp_path / "run")))
    assert coarse == pytest.approx([sum(fine[:2]) / 2, sum(fine[2:]) / 2], rel=1e-5)


def test_validation_is_on_the_sources_val_split(trained, tmp_path):
    rows = [row for row in read_metrics(trained[0]) if "val_mIoU" in row]
    assert [row["step"] for row in rows] == [2, 4]
    other = tiny_recipe(source={"val": "train"}, train={"steps": 4, "validate_every": 2})
    run(tmp_path / "run", other)
    others = [row for row in read_metrics(tmp_path / "run") if "val_mIoU" in row]
    assert [row["val_mIoU"] for row in rows] != [row["val_mIoU"] for row in others]


def test_validation_uses_the_recipes_workers(tmp_path, monkeypatch):
    from revt_hf.evaluation import evaluate

    asked = []
    really = evaluate.image_batches
    monkeypatch.setattr(
        evaluate, "image_batches", lambda *given: asked.append(given[-1]) or really(*given)
    )
    for workers in (0, 1):
        train = {"steps": 1, "validate_every": 1, "workers": workers}
        run(tmp_path / str(workers), tiny_recipe(train=train))
    assert asked == [0, 1]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_change_nothing(tmp_path, monkeypatch, context):
    alone = run(tmp_path / "alone", tiny_recipe())
    before = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method(context, force=True)
    try:
        helped = run(tmp_path / "helped", tiny_recipe(train={"workers": 2}))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert same_weights(alone, helped)


def test_image_processor_follows_the_max_size(tmp_path):
    run(tmp_path / "run", tiny_recipe(evaluation={"max_size": [64, 64]}))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    pixels = processor(Image.new("RGB", (128, 64)), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 64)


def test_tensorboard_gets_the_numbers(tmp_path):
    run(tmp_path / "run", tiny_recipe(train={"trackers": ["tensorboard"]}))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        train(tiny_recipe(train={"trackers": ["wandb"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"augmentation": {"method": 9}}, "unknown augmentation method '9'"),
        ({"source": {"domain": "kitty"}}, "unknown domain 'kitty'"),
        ({"source": {"config": "sunny"}}, "unknown config 'sunny'"),
        ({"source": {"train": "test"}}, "unknown split 'test'"),
        ({"source": {"options": {"picturs": 3}}}, "picturs"),
        ({"model": {"hidden_sizes": [8, 16, 41, 64]}}, "41"),
        ({"augmentation": {"mixing": "/nowhere/fractals"}}, "/nowhere/fractals"),
    ],
)
def test_bad_values_stop_the_run_before_anything_is_written(tmp_path, sections, words):
    with pytest.raises(UserError, match=words):
        train(tiny_recipe(**sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_labelled_pixels_stops_the_run_before_anything_is_written(tmp_path, split):
    for name in ("train", "val"):
        value = 255 if name == split else 3
        for kind, image in (
            ("img_dir", Image.new("RGB", (128, 64), (90, 120, 200))),
            ("ann_dir", Image.new("L", (128, 64), value)),
        ):
            (tmp_path / "data" / kind / name).mkdir(parents=True)
            image.save(tmp_path / "data" / kind / name / "a.png")
    source = {"domain": "folder", "data_dir": str(tmp_path / "data"), "options": LABELS}
    recipe = tiny_recipe(source=source, train={"validate_every": 2})
    with pytest.raises(UserError, match=f"no labelled pixel in data/{split}"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_init_decides_how_images_are_normalised(trained, tmp_path):
    processor = SegformerImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    init = shutil.copytree(trained[0], tmp_path / "init")
    recipe = tiny_recipe(model={"size": None, **NO_SIZES, "init": str(init)})
    weights = run(tmp_path / "imagenet", recipe)
    processor.save_pretrained(init)
    assert not same_weights(weights, run(tmp_path / "own", recipe))
    saved = json.loads((tmp_path / "own" / "preprocessor_config.json").read_text())
    assert (saved["image_mean"], saved["image_std"]) == ([0.5] * 3, [0.25] * 3)
    assert normalisation_of(load_model(tmp_path / "own")).image_std == (0.25,) * 3


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    recipe = tiny_recipe(optimizer={"lr": 1e6}, train={"steps": 30})
    with pytest.raises(UserError, match=r"the loss is (nan|inf) at step \d+"):
        train(recipe, tmp_path / "run", TrainOptions(quiet=True))
    assert not (tmp_path / "run" / "model.safetensors").exists()
