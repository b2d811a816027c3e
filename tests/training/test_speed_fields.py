"""Fields that change speed and memory: the fast way is taken, and the training is the same."""

import pytest
import torch
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from revt_hf.models.folded_head import FoldedDecodeHead, is_folded
from revt_hf.models.load import load_model
from revt_hf.training import loss
from revt_hf.training.loop import TrainOptions, train
from revt_hf.training.tracking import read_metrics
from tests.helpers.tiny import run, tiny_recipe

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usual") / "run"
    run(folder, tiny_recipe())
    return _losses(folder)


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


def test_folded_head(usual, tmp_path, monkeypatch):
    ours = _counted(monkeypatch, FoldedDecodeHead, "forward")
    ordinary = _counted(monkeypatch, SegformerDecodeHead, "forward")
    run(tmp_path / "run", tiny_recipe(train={"folded_head": True}))
    assert (len(ours), len(ordinary)) == (3, 0)
    assert _losses(tmp_path / "run") == pytest.approx(usual, rel=1e-5)
    assert not is_folded(load_model(tmp_path / "run"))


def test_loss_rows(usual, tmp_path, monkeypatch):
    calls = _counted(monkeypatch, loss, "summed_in_strips")
    run(tmp_path / "run", tiny_recipe(train={"loss_rows": 24}))
    assert [rows for *_, rows in calls] == [24, 24, 24]
    assert _losses(tmp_path / "run") == pytest.approx(usual, rel=1e-5)


def test_validation_is_folded_and_training_goes_on_as_it_was(usual, tmp_path, monkeypatch):
    ours = _counted(monkeypatch, FoldedDecodeHead, "forward")
    ordinary = _counted(monkeypatch, SegformerDecodeHead, "forward")
    run(tmp_path / "run", tiny_recipe(train={"validate_every": 1}))
    assert (len(ours), len(ordinary)) == (3 * 5, 3)
    assert _losses(tmp_path / "run") == usual


def test_compile(usual, tmp_path, monkeypatch):
    """Its graphs run as they are: making machine code of them is not ours to test."""
    compiled, really = [], torch.compile

    def without_code(function, **options):
        compiled.append(function)
        return really(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", without_code)
    torch._dynamo.utils.counters.clear()
    everything = {"compile": True, "folded_head": True, "loss_rows": 24}
    train(tiny_recipe(train=everything), tmp_path / "run", TrainOptions(quiet=True))
    assert len(compiled) == 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert _losses(tmp_path / "run") == pytest.approx(usual, rel=1e-5)
    assert load_model(tmp_path / "run")
