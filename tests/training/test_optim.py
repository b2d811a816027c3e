"""Parameter groups and schedule against the original's."""

import json

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.checkpoints.names import memory_names
from revt_hf.config.recipe import Optimizer, Schedule
from revt_hf.training.optim import build_optimizer, learning_rate, set_learning_rate
from tests.helpers.golden import golden_file

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def model():
    return SegformerForSemanticSegmentation(SegformerConfig(num_labels=19))


def _rates_by_name(model, optimizer):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_every_parameter_has_the_originals_rate_and_decay(model):
    expected = json.loads(golden_file("optimizer_b0.json").read_text())
    ours = _rates_by_name(model, build_optimizer(model, Optimizer()))
    seen = set()
    for original, (rate, decay) in expected.items():
        for name in memory_names(original):
            assert ours[name] == pytest.approx((rate, decay), rel=1e-12), (original, name)
            seen.add(name)
    assert seen == set(ours)


@pytest.mark.parametrize(
    ("key", "steps", "warmup"), [("40k_warmup1500", 40_000, 1500), ("12_warmup4", 12, 4)]
)
def test_schedule_is_the_originals(key, steps, warmup):
    expected = json.loads(golden_file("lr_schedule.json").read_text())[key]
    spec = Schedule(warmup_steps=warmup)
    assert len(expected) >= 11
    for step, factor in expected.items():
        assert learning_rate(1.0, int(step), steps, spec) == pytest.approx(factor, abs=1e-9)


def test_all_groups_follow_the_schedule():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([{"params": [weight], "lr": 2.0, "base_lr": 2.0}], fused=True)
    set_learning_rate(optimizer, 50, 100, Schedule(warmup_steps=0))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0)
