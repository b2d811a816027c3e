"""Every recipe field does something: it changes the weights, or only speed and memory."""

import json
from collections import Counter

import pytest
import torch
from pydantic import BaseModel
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from revt_hf.config.recipe import Recipe
from revt_hf.models.folded_head import FoldedDecodeHead, is_folded
from revt_hf.models.load import load_model
from revt_hf.models.recorded import read_metrics
from revt_hf.training import loss
from tests.helpers.benchmarking import compile_without_code
from tests.helpers.tiny import run, same_weights, tiny_recipe

# Values other than the tiny recipe's.
CHANGES = {
    "model": {"depths": [2, 1, 1, 1], "hidden_sizes": [8, 16, 20, 64], "decoder_hidden_size": 8}
    | {"drop_path": 0.9, "dropout": 0.9, "batch_norm": "frozen"},
    "source": {"config": "night", "options": {"images": 4, "size": [64, 128]}, "train": "val"},
    "more_sources": {None: [{"domain": "streets", "config": "night"}]},
    "augmentation": {"method": 1, "max_size": None, "crop": 32, "cat_max_ratio": 0.2}
    | {"flip_probability": 1.0, "flip_first": False, "photometric": True, "pixmix_k": 1}
    | {"bilateral_diameter": [9, 9], "bilateral_probability": 1.0, "pixmix_beta": 0.5}
    | {"paper_code": True},
    "optimizer": {"lr": 2e-3, "head_lr_factor": 1.0, "weight_decay": 0.5, "betas": [0.5, 0.9]},
    "schedule": {"power": 3.0, "min_lr": 1e-3, "warmup_steps": 0, "warmup_ratio": 0.9},
    "train": {"steps": 2, "batch_size": 1, "gradient_accumulation": 2, "seed": 1}
    | {"loss": "paper_code", "precision": "bf16", "rare_classes": {"min_pixels": 50}},
}
CHANGES_WEIGHTS = [
    (section, *item) for section, fields in CHANGES.items() for item in fields.items()
]

# Their effect is tested where it belongs.
TESTED_ELSEWHERE = {
    *("model.size", "model.init", "model.head", "model.family", "model.config", "model.freeze"),
    "adapter",
    *("source.domain", "source.data_dir"),
    *("source.weight", "source.prepared", "source.val", "targets", "augmentation.mixing"),
    *("train.effective_batch", "train.folded_head", "train.loss_rows", "train.compile"),
    *("train.ema", "train.swad", "train.workers", "train.log_every", "train.validate_every"),
    *("train.checkpoint_every", "train.keep_checkpoints", "train.trackers"),
    *("evaluation.max_size", "evaluation.window", "evaluation.stride", "evaluation.scales"),
    "evaluation.flip",
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
    assert set(_all_fields()) == tested | TESTED_ELSEWHERE


def _losses(folder):
    return [row["loss"] for row in read_metrics(folder) if "loss" in row]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Weights and losses."""
    folder = tmp_path_factory.mktemp("usual") / "run"
    return run(folder, tiny_recipe()), _losses(folder)


@pytest.mark.parametrize(("section", "field", "value"), CHANGES_WEIGHTS)
def test_each_field_changes_the_weights(usual, tmp_path, section, field, value):
    recipe = tiny_recipe(**{section: {field: value} if field else value})
    weights = run(tmp_path / "run", recipe)
    assert not same_weights(usual[0], weights), json.dumps([section, field])


@pytest.fixture
def calls(monkeypatch):
    """Calls of both decode heads' ``forward`` and of the loss in strips, by name (and rows)."""
    counted = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def counting(*arguments, **keywords):
            counted[" ".join([original.__qualname__, *map(str, arguments[2:])])] += 1
            return original(*arguments, **keywords)

        monkeypatch.setattr(owner, name, counting)

    count(FoldedDecodeHead, "forward")
    count(SegformerDecodeHead, "forward")
    count(loss, "summed_in_strips")
    return counted


FOLDED, USUAL = "FoldedDecodeHead.forward", "SegformerDecodeHead.forward"
STRIPS = "summed_in_strips 24"


@pytest.mark.parametrize(
    ("train", "expected", "rounding"),
    [
        ({"folded_head": True}, {FOLDED: 3}, 1e-5),
        ({"loss_rows": 24}, {USUAL: 3, STRIPS: 3}, 1e-5),
        # Validation is folded, and training goes on as it was.
        ({"validate_every": 1}, {FOLDED: 3 * 5, USUAL: 3}, 0),
    ],
)
def test_speed_fields_change_the_calls_and_not_the_losses(
    usual, tmp_path, calls, train, expected, rounding
):
    run(tmp_path / "run", tiny_recipe(train=train))
    assert calls == expected
    assert _losses(tmp_path / "run") == pytest.approx(usual[1], rel=rounding, abs=0)
    assert not is_folded(load_model(tmp_path / "run"))


def test_compile(usual, tmp_path, monkeypatch):
    """Its graphs run as they are: making machine code of them is not ours to test."""
    compiled = compile_without_code(monkeypatch)
    torch._dynamo.utils.counters.clear()
    everything = {"compile": True, "folded_head": True, "loss_rows": 24}
    run(tmp_path / "run", tiny_recipe(train=everything))
    assert len(compiled) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert _losses(tmp_path / "run") == pytest.approx(usual[1], rel=1e-5)
    assert load_model(tmp_path / "run")
