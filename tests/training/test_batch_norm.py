"""The decode head's BatchNorm: live, frozen, or of all processes together."""

import pytest
import torch

from revt_hf.models.load import build_model
from revt_hf.training.setup import apply_statistics, statistics
from tests.helpers.tiny import run, tiny_recipe

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("batch_norm", "device", "processes", "expected"),
    [
        ("live", "cuda", 1, "process"),
        ("live", "cuda", 2, "all processes"),
        ("live", "cpu", 2, "process"),
        ("live", "mps", 1, "process"),
        ("frozen", "cuda", 8, "frozen"),
        ("frozen", "cpu", 1, "frozen"),
    ],
)
def test_whose_statistics(batch_norm, device, processes, expected):
    assert statistics(batch_norm, device, processes) == expected


def test_synchronised_batch_norm_keeps_names_and_parameters(tmp_path):
    model = build_model(tiny_recipe().model, 0)
    before = model.state_dict(keep_vars=True)
    apply_statistics(model, "all processes")
    assert isinstance(model.decode_head.batch_norm, torch.nn.SyncBatchNorm)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["process", "frozen"])
def test_other_kinds_keep_the_module(kind):
    model = build_model(tiny_recipe().model, 0)
    apply_statistics(model, kind)
    assert type(model.decode_head.batch_norm) is torch.nn.BatchNorm2d


@pytest.mark.parametrize(("batch_norm", "moves"), [("live", True), ("frozen", False)])
def test_frozen_statistics_stay_while_weight_and_bias_learn(tmp_path, batch_norm, moves):
    # Validation in between puts the model into eval mode and back.
    recipe = tiny_recipe(model={"batch_norm": batch_norm}, train={"validate_every": 1})
    weights = run(tmp_path / "run", recipe)
    start = build_model(recipe.model, recipe.train.seed).decode_head.batch_norm
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        stayed = weights[f"decode_head.batch_norm.{name}"].equal(getattr(start, name))
        assert stayed is not moves, name
    assert not weights["decode_head.batch_norm.weight"].equal(start.weight.data)
