"""Parameter groups and schedule against the original's; EMA, and SWAD's window of weights."""

import itertools
import json
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.checkpoints.names import memory_names
from revt_hf.config.recipe import Optimizer, Schedule
from revt_hf.core.errors import UserError
from revt_hf.models.recorded import read_metrics
from revt_hf.training.optim import MovingAverage, WindowAverage, build_optimizer, set_learning_rate
from tests.helpers.golden import golden_file
from tests.helpers.tiny import run, same_weights, tiny_recipe

pytestmark = pytest.mark.numeric


def test_every_parameter_has_the_originals_rate_and_decay():
    expected = json.loads(golden_file("optimizer_b0.json").read_text())
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(model, Optimizer()).param_groups
        for parameter in group["params"]
    }
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
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [weight], "base_lr": base}
        for weight, base in zip(weights, (1.0, 2.0), strict=True)
    ]
    optimizer = torch.optim.AdamW(groups)
    assert len(expected) >= 11
    for step, factor in expected.items():
        set_learning_rate(optimizer, int(step), steps, Schedule(warmup_steps=warmup))
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([factor, 2 * factor], abs=1e-9)


STEPS = 3


def test_the_average_is_the_formulas():
    layer = torch.nn.BatchNorm1d(2)
    average = MovingAverage(layer, 0.75)
    with torch.no_grad():
        layer.weight.fill_(5)
        layer.running_mean.fill_(7)
    average.update(layer)
    assert average.state_dict()["weight"].tolist() == [2.0, 2.0]  # 0.75 * 1 + 0.25 * 5
    assert average.state_dict()["running_mean"].tolist() == [7.0, 7.0]


def _window_by_the_paper(losses, patience, overfit_patience, tolerance):
    """Algorithm 1 on segments: the first and last one; None if it does not open."""
    first = level = None
    for i in range(len(losses)):
        if level is None:
            recent = losses[i - patience + 1 : i + 1]
            if i >= patience - 1 and recent[0] == min(recent):
                first, level = i - patience + 1, tolerance * sum(recent) / patience
        elif i >= overfit_patience - 1 and level < min(losses[i - overfit_patience + 1 : i + 1]):
            return first, i - overfit_patience
    return None if first is None else (first, len(losses) - 1)


def _after(average, losses, part=slice(None)):
    """The weight is the step's number; a validation after every ``STEPS`` steps."""
    layer = torch.nn.BatchNorm1d(1)
    for number, loss in list(enumerate(losses))[part]:
        for step in range(number * STEPS + 1, (number + 1) * STEPS + 1):
            with torch.no_grad():
                layer.weight.fill_(step)
                layer.running_mean.fill_(-step)
                layer.num_batches_tracked.fill_(step)
            average.update(layer)
        average.validated(loss)
    return average


_LOSSES = st.lists(st.integers(1, 9).map(float), min_size=1, max_size=14)


@settings(max_examples=300, deadline=None)
@given(_LOSSES, st.integers(1, 5), st.integers(1, 5), st.sampled_from([1.0, 1.2, 2.0]))
def test_the_window_is_the_papers(losses, patience, overfit_patience, tolerance):
    average = _after(WindowAverage(patience, overfit_patience, tolerance), losses)
    weights, record = average.result()
    window = _window_by_the_paper(losses, patience, overfit_patience, tolerance)
    # Of a run whose loss kept falling: the last segment.
    first, last = window or (len(losses) - 1, len(losses) - 1)
    steps = range(first * STEPS + 1, (last + 1) * STEPS + 1)
    assert record == {
        "first_step": steps[0],
        "last_step": steps[-1],
        "opened": window is not None,
        "closed": window is not None and last < len(losses) - 1,
    }
    mean = sum(steps) / len(steps)
    assert float(weights["weight"]) == pytest.approx(mean, rel=1e-5)
    assert float(weights["running_mean"]) == pytest.approx(-mean, rel=1e-5)
    assert int(weights["num_batches_tracked"]) == steps[-1]


@settings(max_examples=100, deadline=None)
@given(_LOSSES, st.integers(0, 14))
def test_a_saved_state_goes_on_with_the_same_bits(losses, until):
    whole = _after(WindowAverage(2, 2, 1.2), losses)
    begun = _after(WindowAverage(2, 2, 1.2), losses, slice(until))
    resumed = WindowAverage(2, 2, 1.2)
    resumed.load_state_dict(begun.state_dict())
    _after(resumed, losses, slice(until, None))
    (expected, record), (found, same) = whole.result(), resumed.result()
    assert record == same
    assert same_weights(expected, found)


def test_a_window_that_does_not_open_is_said(caplog):
    with caplog.at_level(logging.WARNING, logger="revt_hf"):
        _after(WindowAverage(3, 6, 1.3), [3.0, 2.0, 1.0]).result()
    assert "did not stop falling" in caplog.text
    assert "steps 7 to 9" in caplog.text


SWAD = {"patience": 1, "overfit_patience": 6, "tolerance": 9.0}


def test_averages_are_kept_beside_the_final_weights(tmp_path):
    plain = run(tmp_path / "plain", tiny_recipe())
    found = []
    # Another decay is another average. With a patience of 3 the window may not open.
    for decay, patience in ((0.5, 1), (0.9, 3)):
        folder, swad = tmp_path / str(decay), {**SWAD, "patience": patience}
        train = {"validate_every": 1, "ema": decay, "swad": swad}
        assert same_weights(plain, run(folder, tiny_recipe(train=train)))
        for name in ("ema", "swad"):
            found.append(load_file(folder / name / "model.safetensors"))
            assert found[-1].keys() == plain.keys()
            assert SegformerForSemanticSegmentation.from_pretrained(folder / name)
        losses = [row["val_loss"] for row in read_metrics(folder) if "val_loss" in row]
        assert min(losses) > 0
        window = _window_by_the_paper(losses, **swad) or (2, 2)
        record = json.loads((folder / "swad" / "window.json").read_text())
        assert (record["first_step"], record["last_step"]) == (window[0] + 1, window[1] + 1)
    for one, other in itertools.combinations([plain, *found[:3]], 2):
        assert not same_weights(one, other)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"swad": {}}, "set validate_every"),
        ({"swad": {}, "validate_every": 2}, "there are only 2 "),
        ({"swad": {"patience": 0}, "validate_every": 1}, "train.swad.patience"),
        ({"swad": {"tolerance": 0.9}, "validate_every": 1}, "train.swad.tolerance"),
        ({"swad": {"tolerence": 2}, "validate_every": 1}, "did you mean 'tolerance'"),
    ],
)
def test_what_cannot_work_is_refused(train, message):
    with pytest.raises(UserError, match=message):
        tiny_recipe(train=train)
