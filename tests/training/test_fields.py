"""Every recipe field does something: it changes the weights, or only speed and memory."""

import json

import pytest
import torch
from pydantic import BaseModel
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from revt_hf.config.recipe import Recipe
from revt_hf.models.folded_head import FoldedDecodeHead, is_folded
from revt_hf.models.load import load_model
from revt_hf.models.recorded import read_metrics
from revt_hf.training import loss
from tests.helpers.tiny import run, same_weights, tiny_recipe

# section, field, a value other than the tiny recipe's
CHANGES_WEIGHTS = [
    ("model", "depths", [2, 1, 1, 1]),
    ("model", "hidden_sizes", [8, 16, 20, 64]),
    ("model", "decoder_hidden_size", 8),
    ("model", "drop_path", 0.9),
    ("model", "dropout", 0.9),
    ("model", "batch_norm", "frozen"),
    ("source", "config", "night"),
    ("source", "options", {"images": 4, "size": [64, 128]}),
    ("source", "train", "val"),
    ("more_sources", None, [{"domain": "streets", "config": "night"}]),
    ("augmentation", "method", 1),
    ("augmentation", "max_size", None),
    ("augmentation", "crop", 32),
    ("augmentation", "cat_max_ratio", 0.2),
    ("augmentation", "flip_probability", 1.0),
    ("augmentation", "flip_first", False),
    ("augmentation", "photometric", True),
    ("augmentation", "bilateral_diameter", [9, 9]),
    ("augmentation", "bilateral_probability", 1.0),
    ("augmentation", "pixmix_k", 1),
    ("augmentation", "pixmix_beta", 0.5),
    ("augmentation", "paper_code", True),
    ("optimizer", "lr", 2e-3),
    ("optimizer", "head_lr_factor", 1.0),
    ("optimizer", "weight_decay", 0.5),
    ("optimizer", "betas", [0.5, 0.9]),
    ("schedule", "power", 3.0),
    ("schedule", "min_lr", 1e-3),
    ("schedule", "warmup_steps", 0),
    ("schedule", "warmup_ratio", 0.9),
    ("train", "steps", 2),
    ("train", "batch_size", 1),
    ("train", "gradient_accumulation", 2),
    ("train", "seed", 1),
    ("train", "loss", "paper_code"),
    ("train", "precision", "bf16"),
]

# Fields whose effect is tested where it belongs.
TESTED_ELSEWHERE = {
    "model.size": "test_modeling",
    "model.init": "test_start",
    "model.head": "test_start",
    "source.domain": "test_folder",
    "source.data_dir": "test_folder",
    "source.weight": "test_data",
    "source.prepared": "test_prepared",
    "source.val": "test_train::test_validation",
    "targets": "test_recipe",
    "augmentation.mixing": "tests/data/augment",
    "train.effective_batch": "test_setup",
    "train.folded_head": "test_folded_head",
    "train.loss_rows": "test_loss_rows",
    "train.compile": "test_compile",
    "train.ema": "test_weight_averages",
    "train.swad": "test_weight_averages",
    "train.workers": "test_train::test_workers",
    "train.log_every": "test_train::test_metrics",
    "train.validate_every": "test_train::test_validation",
    "train.checkpoint_every": "test_resume",
    "train.keep_checkpoints": "test_resume",
    "train.trackers": "test_train::test_tensorboard",
    "evaluation.max_size": "test_train::test_image_processor",
    "evaluation.window": "tests/evaluation/test_views",
    "evaluation.stride": "tests/evaluation/test_views",
    "evaluation.scales": "tests/evaluation/test_views",
    "evaluation.flip": "tests/evaluation/test_views",
}


def _all_fields():
    for section, info in Recipe.model_fields.items():
        model = info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from (f"{section}.{field}" for field in model.model_fields)
        else:
            yield section


def test_no_field_is_forgotten():
    tested = {f"{section}.{field}" if field else section for section, field, _ in CHANGES_WEIGHTS}
    assert set(_all_fields()) == tested | set(TESTED_ELSEWHERE)


@pytest.fixture(scope="module")
def usual_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual") / "run"
    return folder, run(folder, tiny_recipe())


@pytest.fixture
def usual(usual_run):
    return usual_run[1]


@pytest.fixture
def usual_losses(usual_run):
    return _losses(usual_run[0])


def test_the_same_recipe_gives_the_same_weights(usual, tmp_path):
    assert same_weights(usual, run(tmp_path / "run", tiny_recipe()))


@pytest.mark.parametrize(("section", "field", "value"), CHANGES_WEIGHTS)
def test_each_field_changes_the_weights(usual, tmp_path, section, field, value):
    recipe = tiny_recipe(**{section: {field: value} if field else value})
    weights = run(tmp_path / "run", recipe)
    assert not same_weights(usual, weights), json.dumps([section, field])


def _losses(folder):
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


def _counted(monkeypatch, owner, name):
    """Every call of a function, as it goes on doing its work."""
    calls, original = [], getattr(owner, name)

    def counting(*arguments, **keywords):
        calls.append(arguments)
        return original(*arguments, **keywords)

    monkeypatch.setattr(owner, name, counting)
    return calls


def test_folded_head(usual_losses, tmp_path, monkeypatch):
    ours = _counted(monkeypatch, FoldedDecodeHead, "forward")
    ordinary = _counted(monkeypatch, SegformerDecodeHead, "forward")
    run(tmp_path / "run", tiny_recipe(train={"folded_head": True}))
    assert (len(ours), len(ordinary)) == (3, 0)
    assert _losses(tmp_path / "run") == pytest.approx(usual_losses, rel=1e-5)
    assert not is_folded(load_model(tmp_path / "run"))


def test_loss_rows(usual_losses, tmp_path, monkeypatch):
    calls = _counted(monkeypatch, loss, "summed_in_strips")
    run(tmp_path / "run", tiny_recipe(train={"loss_rows": 24}))
    assert [rows for *_, rows in calls] == [24, 24, 24]
    assert _losses(tmp_path / "run") == pytest.approx(usual_losses, rel=1e-5)


def test_validation_is_folded_and_training_goes_on_as_it_was(usual_losses, tmp_path, monkeypatch):
    ours = _counted(monkeypatch, FoldedDecodeHead, "forward")
    ordinary = _counted(monkeypatch, SegformerDecodeHead, "forward")
    run(tmp_path / "run", tiny_recipe(train={"validate_every": 1}))
    assert (len(ours), len(ordinary)) == (3 * 5, 3)
    assert _losses(tmp_path / "run") == usual_losses


def test_compile(usual_losses, tmp_path, monkeypatch):
    """Its graphs run as they are: making machine code of them is not ours to test."""
    compiled, really = [], torch.compile

    def without_code(function, **options):
        compiled.append(function)
        return really(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", without_code)
    torch._dynamo.utils.counters.clear()
    everything = {"compile": True, "folded_head": True, "loss_rows": 24}
    run(tmp_path / "run", tiny_recipe(train=everything))
    assert len(compiled) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert _losses(tmp_path / "run") == pytest.approx(usual_losses, rel=1e-5)
    assert load_model(tmp_path / "run")
