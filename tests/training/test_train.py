"""A run: what is refused before it, what it writes, and that its result is an ordinary model."""

import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, SegformerForSemanticSegmentation, pipeline
from transformers.models.segformer.image_processing_pil_segformer import (
    SegformerImageProcessorPil,
)

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Training, load_recipe
from revt_hf.core.errors import UserError
from revt_hf.data.domains import load_spec
from revt_hf.data.label_space import CLASSES
from revt_hf.data.normalisation import normalisation_of
from revt_hf.evaluation import evaluate
from revt_hf.evaluation.predictor import predict
from revt_hf.models.load import build_model, load_model
from revt_hf.models.recorded import read_metrics
from revt_hf.training.loop import TrainOptions, train
from revt_hf.training.setup import apply_statistics, effective_batch, statistics
from tests.helpers.golden import ROOT
from tests.helpers.image_files import write_pairs
from tests.helpers.tiny import NO_SIZES, run, same_weights, tiny_recipe


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


def test_validation_is_on_the_sources_val_split_with_the_recipes_workers(
    trained, tmp_path, monkeypatch
):
    asked, really = [], evaluate.image_batches
    monkeypatch.setattr(
        evaluate, "image_batches", lambda *given: asked.append(given[-1]) or really(*given)
    )
    fields = {"steps": 4, "validate_every": 2, "workers": 1}
    run(tmp_path / "run", tiny_recipe(source={"val": "train"}, train=fields))
    assert asked == [1, 1]
    ours, others = (
        {row["step"]: row["val_mIoU"] for row in read_metrics(folder) if "val_mIoU" in row}
        for folder in (trained[0], tmp_path / "run")
    )
    assert list(ours) == list(others) == [2, 4]
    assert ours != others


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


_SAVE = """
import json
from transformers.utils import is_torchvision_available
from tests.helpers.tiny import tiny_recipe
from revt_hf.training.saving import image_processor
processor = image_processor(tiny_recipe().evaluation.max_size, (64, 128))
values = {**processor.to_dict(), "class": type(processor).__name__}
print(json.dumps([is_torchvision_available(), values]))
"""
# Enough of the library to be imported from.
_TORCHVISION = """
from unittest.mock import MagicMock
__version__ = "0.99.0"
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock()
"""


def _saved(*paths):
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", _SAVE],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_image_processor_is_the_same_with_and_without_torchvision(tmp_path):
    for name in ("", "io", "transforms", "transforms/functional", "transforms/v2/functional"):
        for folder in (tmp_path / "torchvision" / name, tmp_path / "torchvision/transforms/v2"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").write_text(_TORCHVISION)
    metadata = tmp_path / "torchvision-0.99.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n")
    available, values = _saved(tmp_path)
    assert available
    assert values == _saved()[1]
    # The name that loads either way; transformers picks its own kind.
    assert values["image_processor_type"] == "SegformerImageProcessor"


def test_tensorboard_gets_the_numbers(tmp_path):
    run(tmp_path / "run", tiny_recipe(train={"trackers": ["tensorboard"]}))
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        train(tiny_recipe(train={"trackers": ["wandb"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _folder_source(tmp_path, **values):
    """A source whose splits have one image each, all of whose pixels have one label."""
    for name, value in values.items():
        pair = np.full((64, 128, 3), 90, np.uint8), np.full((64, 128), value, np.uint8)
        write_pairs(tmp_path / "data", name, {"a": pair})
    options = {"encoding": "train_ids"}
    return {"domain": "folder", "data_dir": str(tmp_path / "data"), "options": options}


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
        ({"train": {"effective_batch": 16}}, r"this run's is 2: .* 1 process$"),
        ({"source": {"train": 255, "val": 3}}, "no labelled pixel in data/train"),
        ({"source": {"train": 3, "val": 255}}, "no labelled pixel in data/val"),
    ],
)
def test_what_cannot_be_trained_stops_the_run_before_anything_is_written(tmp_path, sections, words):
    if "no labelled" in words:
        source = _folder_source(tmp_path, **sections["source"])
        sections = {"source": source, "train": {"validate_every": 2}}
    with pytest.raises(UserError, match=words):
        train(tiny_recipe(**sections), tmp_path / "run")
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


@pytest.mark.parametrize(
    ("batch_norm", "device", "processes", "expected", "layer"),
    [
        ("live", "cuda", 1, "process", torch.nn.BatchNorm2d),
        ("live", "cuda", 2, "all processes", torch.nn.SyncBatchNorm),
        ("live", "cpu", 2, "process", torch.nn.BatchNorm2d),
        ("live", "mps", 1, "process", torch.nn.BatchNorm2d),
        ("frozen", "cuda", 8, "frozen", torch.nn.BatchNorm2d),
        ("frozen", "cpu", 1, "frozen", torch.nn.BatchNorm2d),
    ],
)
def test_whose_statistics(tmp_path, batch_norm, device, processes, expected, layer):
    kind = statistics(batch_norm, device, processes)
    assert kind == expected
    model = build_model(tiny_recipe().model, 0)
    before = model.state_dict(keep_vars=True)
    apply_statistics(model, kind)
    assert type(model.decode_head.batch_norm) is layer
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(("batch_norm", "moves"), [("live", True), ("frozen", False)])
def test_frozen_statistics_stay_while_weight_and_bias_learn(tmp_path, batch_norm, moves):
    # Validation in between puts the model into eval mode and back.
    recipe = tiny_recipe(model={"batch_norm": batch_norm}, train={"validate_every": 1})
    weights = run(tmp_path / "run", recipe)
    init = build_model(recipe.model, recipe.train.seed).decode_head.batch_norm
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        stayed = weights[f"decode_head.batch_norm.{name}"].equal(getattr(init, name))
        assert stayed is not moves, name
    assert not weights["decode_head.batch_norm.weight"].equal(init.weight.data)


def test_an_expected_effective_batch_is_checked():
    settings = Training(batch_size=2, gradient_accumulation=2, effective_batch=16)
    assert effective_batch(settings, 4) == 16
    with pytest.raises(UserError, match=r"effective_batch is 16, but this run's is 8: .* 2 proc"):
        effective_batch(settings, 2)


def test_the_run_says_and_records_its_batch(tmp_path, caplog):
    recipe = tiny_recipe(train={"steps": 1, "gradient_accumulation": 3, "precision": "bf16"})
    with caplog.at_level(logging.INFO, logger="revt_hf"):
        train(recipe, tmp_path / "loud")
        train(recipe, tmp_path / "quiet", TrainOptions(quiet=True))
    assert [text for text in caplog.messages if "effective batch" in text] == [
        "effective batch 6 (batch_size 2 x gradient_accumulation 3 x 1 process) on cpu, bf16"
    ]
    record = {"processes": 1, "effective_batch": 6, "device": "cpu", "precision": "bf16"}
    written = json.loads((tmp_path / "quiet" / "run.json").read_text())
    assert written == {**record, "batch_norm": "process"}


RECORD = {"processes": 2, "effective_batch": 4, "device": "cpu", "precision": "fp32"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "does not record how many processes"),
        ('{"processes": "two"}', "does not record how many processes"),
        ("[1]", "is not a JSON object"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (json.dumps({**RECORD, "batch_norm": "process"}), "started with --num_processes 2"),
    ],
    ids=["empty", "a word", "a list", "cut", "nested", "two"],
)
def test_resume_needs_as_many_processes(tmp_path, content, words):
    recipe = tiny_recipe()
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "run.json").write_text(content)
    with pytest.raises(UserError, match=words):
        run(folder, recipe, resume=True)
