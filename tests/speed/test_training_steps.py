"""Training steps: the same training by all ways, complete rows, and what does not run."""

import copy

import cv2
import numpy as np
import pytest
import torch

from revt_hf.config.network import Model
from revt_hf.config.recipe import Optimizer
from revt_hf.core.errors import UserError
from revt_hf.data_tools.prepare import prepare
from revt_hf.models.folded_head import is_folded
from revt_hf.models.load import build_model
from revt_hf.speed import training
from revt_hf.speed.measuring import patch_labels, smooth_pixels
from revt_hf.speed.training import (
    FIRST,
    STEPS,
    StepKind,
    TrainingOptions,
    TrainingStep,
    measure_loaders,
    measure_steps,
)
from revt_hf.training import loss
from revt_hf.training.optim import parameter_groups
from tests.helpers.benchmarking import BAR, CPU, NO_COMPILER, compile_without_code
from tests.helpers.tiny import TINY, tiny_recipe

QUICK = TrainingOptions(crop=(64, 96), batch=2, steps=3, warm_up=1)


@pytest.fixture
def model():
    return build_model(Model.model_validate(TINY["model"]), seed=0)


def _step(model, kind):
    return TrainingStep(
        copy.deepcopy(model), kind, smooth_pixels(2, 64, 96), patch_labels(2, 64, 96)
    )


def test_all_ways_train_alike(model, monkeypatch):
    compile_without_code(monkeypatch)
    losses = {}
    for name, kind in STEPS.items():
        step = _step(model, kind)
        losses[name] = [step() for _ in range(3)]
    usual = losses.pop(FIRST)
    assert usual[2] < usual[0]
    for name, found in losses.items():
        assert found == pytest.approx(usual, rel=2e-2 if "bf16" in name else 1e-4), name


def test_the_fields_are_used(model, monkeypatch):
    strips, really = [], loss.summed_in_strips
    monkeypatch.setattr(
        loss, "summed_in_strips", lambda *given: strips.append(given[2]) or really(*given)
    )
    for kind, folded in (
        (StepKind({"folded_head": True, "loss_rows": 8}), True),
        (StepKind(), False),
    ):
        step = _step(model, kind)
        step()
        assert (is_folded(step.model), step.model.training) == (folded, True)
    assert strips == [8]


@pytest.mark.parametrize("kind", ["fused", "foreach", "for-loop"])
def test_adamw_updates_in_its_way(model, kind):
    step = _step(model, StepKind(adamw=kind))
    step()
    groups = step.optimizer.param_groups
    assert {(bool(group["fused"]), bool(group["foreach"])) for group in groups} == {
        (kind == "fused", kind == "foreach")
    }
    usual = parameter_groups(model, Optimizer())
    assert [group["lr"] for group in groups] == [group["lr"] for group in usual]


def test_a_row_has_everything(model, monkeypatch):
    compile_without_code(monkeypatch)
    monkeypatch.setattr(training, "cuda_peak_mib", lambda step, device, held: held / 2**20)
    weights = sum(parameter.nbytes for parameter in model.parameters()) / 2**20
    rows = measure_steps("tiny", model, QUICK, CPU, BAR)
    assert [row.step for row in rows] == list(STEPS)
    for row in rows:
        assert (row.model, row.failure, row.steps, row.kind) == ("tiny", None, 3, STEPS[row.step])
        # Parameters and the two moments of AdamW.
        assert row.peak_mib == pytest.approx(3 * weights)
        assert row.images_per_second == pytest.approx(2 * row.steps_per_second)
        assert row.ratio == pytest.approx(row.steps_per_second / rows[0].steps_per_second)


def test_what_does_not_run_is_a_row(model, monkeypatch):
    compile_without_code(monkeypatch, fails=True)
    really = TrainingStep.__call__

    def small_gpu(self):
        if self.kind.labels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return really(self)

    monkeypatch.setattr(TrainingStep, "__call__", small_gpu)
    kinds = {FIRST: STEPS[FIRST], "compile": StepKind({"compile": True}), "ours": STEPS["ours"]}
    first, compiled, ours = measure_steps("tiny", model, QUICK, CPU, BAR, kinds)
    assert (first.failure, compiled.failure) == ("out of memory", NO_COMPILER)
    assert (compiled.steps_per_second, compiled.ratio, compiled.peak_mib) == (None, None, None)
    assert (ours.failure, ours.ratio) == (None, None)
    assert ours.steps_per_second > 0


def test_loaders_with_and_without_workers_and_prepared_images(tmp_path):
    folder = tmp_path / "prepared"
    prepare(tiny_recipe().source, "train", folder, (160, 80), "raw", quiet=True)
    rows = measure_loaders(tiny_recipe(source={"prepared": str(folder)}), 1, quiet=True)
    loaders = [(row.prepared, row.workers) for row in rows]
    assert loaders == [(False, 0), (False, 1), (True, 0), (True, 1)]
    for row in rows:
        assert (row.failure, row.batches) == (None, 8)
        assert row.ratio == pytest.approx(row.images_per_second / rows[0].images_per_second)


def test_prepared_images_do_without_the_source(tmp_path):
    root, image = tmp_path / "data", np.zeros((80, 160, 3), np.uint8)
    for kind, content in (("img_dir", image), ("ann_dir", image[..., 0])):
        (root / kind / "train").mkdir(parents=True)
        for number in range(3):
            cv2.imwrite(str(root / kind / "train" / f"{number}.png"), content)
    source = {"domain": "folder", "data_dir": str(root), "options": {}, "val": "train"}
    folder = tmp_path / "prepared"
    prepare(tiny_recipe(source=source).source, "train", folder, (160, 80), "png", quiet=True)
    alone = {**source, "data_dir": None, "prepared": str(folder)}
    rows = measure_loaders(tiny_recipe(source=alone), 0, quiet=True)
    assert [bool(row.failure) for row in rows] == [True, False]
    assert rows[1].images_per_second > 0
    assert rows[1].ratio is None
    with pytest.raises(UserError, match="data_dir"):
        measure_loaders(tiny_recipe(source={**alone, "prepared": None}), 0, quiet=True)
